"""The operator's own metrics, and a few of each job as the operator sees it.

`METRICS` is the one list of what there is: the registry, the reference page and the checks of dashboards and alerts are made from it. The metrics of what
flows through a job come from its coordinator. A metric is named by its constant: `metrics.count(RECONCILES, "ok")`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from checkdam.spec.status import State

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

Type = Literal["counter", "gauge", "histogram"]

_TURN_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REQUEST_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: As it is exposed; that of a counter ends in `_total`.
        type: Counter, gauge or histogram.
        text: What it tells.
        labels: What tells its samples apart.
        buckets: Upper bounds of a histogram.
    """

    name: str
    type: Type
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"checkdam_operator_{name}_total", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"checkdam_operator_{name}", "gauge", text, labels)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> MetricSpec:
    return MetricSpec(f"checkdam_operator_{name}", "histogram", text, labels, buckets)


def _job(name: str, text: str, *labels: str, type: Type = "gauge") -> MetricSpec:
    return MetricSpec(f"checkdam_streamjob_{name}", type, text, ("namespace", "name", *labels))


BUILD_INFO: Final = _gauge("build_info", "1; the label tells the version.", "version")
LEADER: Final = _gauge("leader", "1 while this replica holds the Lease and acts.")

RECONCILES: Final = _counter("reconciles", "Times that a job was looked at, by how it went: `ok` or `error`.", "result")
RECONCILE_SECONDS: Final = _histogram("reconcile_duration_seconds", "How long one look took.", buckets=_TURN_BUCKETS_S)
QUEUE_DEPTH: Final = _gauge("queue_depth", "Jobs that wait for a worker.")
QUEUE_DELAYED: Final = _gauge("queue_delayed", "Jobs that are to be looked at later.")
QUEUE_WORKING: Final = _gauge("queue_working", "Jobs that are being looked at.")
QUEUE_HEAD_AGE: Final = _gauge(
    "queue_head_age_seconds", "How long the oldest of the waiting jobs has waited; jobs in trouble do not count."
)

API_REQUESTS: Final = _counter(
    "api_requests", "Requests to the API server by their HTTP status; `0` where no answer came.", "verb", "kind", "code"
)
API_SECONDS: Final = _histogram(
    "api_request_duration_seconds", "How long the API server took to answer.", "verb", buckets=_REQUEST_BUCKETS_S
)
API_WRITE_WAIT: Final = _histogram(
    "api_write_wait_seconds", "How long writes were held back by the operator's own limit.", buckets=_REQUEST_BUCKETS_S
)
EVENTS: Final = _counter(
    "events",
    "Kubernetes Events by what became of them: `written`, `limited` (too many of one object) or `failed`.",
    "result",
)

WATCH_EVENTS: Final = _counter("watch_events", "Changes that the watch has shown.", "kind")
WATCH_RESTARTS: Final = _counter("watch_restarts", "Times that the watch had to be started again.")
WATCH_STALE: Final = _gauge("watch_stale", "1 while lists show what the watch has not shown for too long.")
RESYNCS: Final = _counter(
    "resyncs", "Lists of all objects that were to find what the watch missed: `ok` or `error`.", "result"
)
RESYNC_FOUND: Final = _counter(
    "resync_found", "Objects for which a list differed from what was known: `changed` or `deleted`.", "kind", "change"
)
CACHE_OBJECTS: Final = _gauge("cache_objects", "Objects that are held in memory.", "kind")

PODS_CREATED: Final = _counter(
    "pods_created",
    "Pods that were created, by why: `new`, or the reason for which a pod was replaced.",
    "component",
    "cause",
)
PODS_DELETED: Final = _counter("pods_deleted", "Pods that the operator had deleted, by why.", "cause")
DEPLOYMENTS: Final = _counter("deployments", "Deployments of a job that were begun, by why.", "cause")
CHECKPOINT_TRIGGERS: Final = _counter(
    "checkpoint_triggers", "Checkpoints that were asked for, by the coordinator's answer: `ok` or `error`.", "result"
)
SAVEPOINTS: Final = _counter("savepoints", "Savepoints that have ended, by how: `completed` or `failed`.", "result")
COORDINATOR_REQUESTS: Final = _counter(
    "coordinator_requests",
    "Requests to coordinators by their HTTP status; `0` where no answer came.",
    "operation",
    "code",
)

JOBS: Final = _gauge("streamjobs", "StreamJobs by their state.", "state")
JOB_READY: Final = _job("ready", "1 while the condition Ready is true.")
JOB_STALLED: Final = _job("stalled", "1 while the condition Stalled is true.")
JOB_CHECKPOINT_HEALTHY: Final = _job("checkpoint_healthy", "1 while the condition CheckpointHealthy is true.")
JOB_STATE: Final = _job("state", "1 for the state that the job is in.", "state")
JOB_WORKERS: Final = _job("workers", "Workers that the job is to have.")
JOB_WORKERS_READY: Final = _job("workers_ready", "Workers that are connected.")
JOB_RESTARTS: Final = _job("restarts_total", "Times that the job was restarted.", type="counter")
JOB_CHECKPOINT_TIME: Final = _job(
    "last_checkpoint_timestamp_seconds", "When the last completed checkpoint was triggered, since the epoch."
)

METRICS: Final[tuple[MetricSpec, ...]] = (
    BUILD_INFO,
    LEADER,
    RECONCILES,
    RECONCILE_SECONDS,
    QUEUE_DEPTH,
    QUEUE_DELAYED,
    QUEUE_WORKING,
    QUEUE_HEAD_AGE,
    API_REQUESTS,
    API_SECONDS,
    API_WRITE_WAIT,
    EVENTS,
    WATCH_EVENTS,
    WATCH_RESTARTS,
    WATCH_STALE,
    RESYNCS,
    RESYNC_FOUND,
    CACHE_OBJECTS,
    PODS_CREATED,
    PODS_DELETED,
    DEPLOYMENTS,
    CHECKPOINT_TRIGGERS,
    SAVEPOINTS,
    COORDINATOR_REQUESTS,
    JOBS,
    JOB_READY,
    JOB_STALLED,
    JOB_CHECKPOINT_HEALTHY,
    JOB_STATE,
    JOB_WORKERS,
    JOB_WORKERS_READY,
    JOB_RESTARTS,
    JOB_CHECKPOINT_TIME,
)
"""All of them, in the order of the reference page."""

_READ_AT_SCRAPE: Final = frozenset(spec for spec in METRICS if spec.name.startswith("checkdam_streamjob_")) | {JOBS}


@dataclass(frozen=True)
class JobSample:
    """What is told of one job.

    Attributes:
        state: In one word; empty before it has one.
        ready: The condition Ready.
        stalled: The condition Stalled.
        checkpoint_healthy: The condition CheckpointHealthy.
        workers: How many it is to have.
        workers_ready: How many are connected.
        restarts: How often it was restarted.
        last_checkpoint_ms: When its last checkpoint was triggered; `None` without one.
    """

    state: str = ""
    ready: bool = False
    stalled: bool = False
    checkpoint_healthy: bool = False
    workers: int = 0
    workers_ready: int = 0
    restarts: int = 0
    last_checkpoint_ms: int | None = None


class OperatorMetrics:
    """All metrics of one operator process."""

    def __init__(self) -> None:
        self.before_render: list[Callable[[], None]] = []
        """Called before each scrape, to set gauges that are read off something."""
        self._registry = CollectorRegistry()
        self._jobs: dict[tuple[str, str], JobSample] = {}
        self._counters: dict[MetricSpec, Counter] = {}
        self._gauges: dict[MetricSpec, Gauge] = {}
        self._histograms: dict[MetricSpec, Histogram] = {}
        for spec in METRICS:
            if spec in _READ_AT_SCRAPE:
                continue
            if spec.type == "counter":
                self._counters[spec] = Counter(spec.name, spec.text, spec.labels, registry=self._registry)
            elif spec.type == "gauge":
                self._gauges[spec] = Gauge(spec.name, spec.text, spec.labels, registry=self._registry)
            else:
                self._histograms[spec] = Histogram(
                    spec.name, spec.text, spec.labels, buckets=spec.buckets, registry=self._registry
                )
        self._registry.register(_Jobs(self._jobs))
        self.set(BUILD_INFO, 1, version("checkdam"))

    def count(self, spec: MetricSpec, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        counter = self._counters[spec]
        (counter.labels(*labels) if labels else counter).inc(by)

    def set(self, spec: MetricSpec, value: float, *labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[spec]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def observe(self, spec: MetricSpec, value: float, *labels: str) -> None:
        """Add one observation to a histogram."""
        histogram = self._histograms[spec]
        (histogram.labels(*labels) if labels else histogram).observe(value)

    def show_job(self, namespace: str, name: str, sample: JobSample) -> None:
        """Tell this of a job from now on."""
        self._jobs[namespace, name] = sample

    def forget_job(self, namespace: str, name: str) -> None:
        """The job is gone."""
        self._jobs.pop((namespace, name), None)

    def render(self) -> bytes:
        """All metrics as of now, in Prometheus' text format."""
        for update in self.before_render:
            update()
        return generate_latest(self._registry)


class _Jobs(Collector):
    """Reads the metrics of jobs off their samples, so that a job that is gone leaves nothing behind."""

    def __init__(self, jobs: dict[tuple[str, str], JobSample]) -> None:
        self._jobs = jobs

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        states: dict[str, int] = dict.fromkeys(get_args(State), 0)
        for sample in self._jobs.values():
            if sample.state:
                states[sample.state] = states.get(sample.state, 0) + 1
        family = GaugeMetricFamily(JOBS.name, JOBS.text, labels=JOBS.labels)
        for state, count in states.items():
            family.add_metric([state], count)
        yield family
        values: tuple[tuple[MetricSpec, Callable[[JobSample], float | None]], ...] = (
            (JOB_READY, lambda sample: float(sample.ready)),
            (JOB_STALLED, lambda sample: float(sample.stalled)),
            (JOB_CHECKPOINT_HEALTHY, lambda sample: float(sample.checkpoint_healthy)),
            (JOB_WORKERS, lambda sample: sample.workers),
            (JOB_WORKERS_READY, lambda sample: sample.workers_ready),
            (JOB_RESTARTS, lambda sample: sample.restarts),
            (JOB_CHECKPOINT_TIME, _checkpoint_seconds),
        )
        for spec, value_of in values:
            cls = CounterMetricFamily if spec.type == "counter" else GaugeMetricFamily
            one = cls(spec.name, spec.text, labels=spec.labels)
            for key, sample in self._jobs.items():
                if (value := value_of(sample)) is not None:
                    one.add_metric(list(key), value)
            yield one
        family = GaugeMetricFamily(JOB_STATE.name, JOB_STATE.text, labels=JOB_STATE.labels)
        for key, sample in self._jobs.items():
            if sample.state:
                # Only the present one: ten samples a job would be most of what there is to scrape.
                family.add_metric([*key, sample.state], 1.0)
        yield family


def _checkpoint_seconds(sample: JobSample) -> float | None:
    return None if sample.last_checkpoint_ms is None else sample.last_checkpoint_ms / 1000
