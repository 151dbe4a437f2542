"""The job's metrics in Prometheus' text format.

They are read off the coordinator's books at each scrape, so nothing is counted twice and nothing is kept for metrics
alone. Counters of operators come from the running attempt's workers and begin at 0 with each attempt, which is how
Prometheus expects a counter to restart. Units are in the names: seconds, bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from checkdam.coordinator.checkpoints import CheckpointTracker
from checkdam.coordinator.front import Front
from checkdam.coordinator.views import JobState, JobView, OperatorView, WorkerView

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_JOB: Final = ("job_id",)


def render_metrics(front: Front) -> bytes:
    """All metrics of the job as of now; before it has begun, those that there are."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_JobCollector(front))
    return generate_latest(registry)


class _JobCollector(Collector):
    def __init__(self, front: Front) -> None:
        self._front = front

    def collect(self) -> Iterable[Metric]:
        view, job = self._front.view(), self._front.job
        yield from _of_job(view)
        if job is not None:
            yield from _of_checkpoints(job.tracker, view.job_id)
            yield from _of_operators(job.board.operators(), view.job_id)
            yield from _of_workers(job.workers(), view.job_id)

    def describe(self) -> Iterable[Metric]:
        return ()


def _gauge(name: str, text: str, value: float, job_id: str) -> Metric:
    family = GaugeMetricFamily(f"checkdam_job_{name}", text, labels=_JOB)
    family.add_metric([job_id], value)
    return family


def _counter(name: str, text: str, value: float, job_id: str) -> Metric:
    family = CounterMetricFamily(f"checkdam_job_{name}", text, labels=_JOB)
    family.add_metric([job_id], value)
    return family


def _of_job(view: JobView) -> Iterator[Metric]:
    job_id = view.job_id
    states = GaugeMetricFamily("checkdam_job_state", "1 for the state that the job is in.", labels=(*_JOB, "state"))
    for state in get_args(JobState):
        states.add_metric([job_id, state], float(state == view.state))
    yield states
    yield _gauge("uptime_seconds", "How long the coordinator has been running.", view.uptime_ms / 1000, job_id)
    yield _gauge("epoch", "Life of the coordinator, by the journal.", view.epoch, job_id)
    yield _gauge("attempt", "Deployment within the epoch.", view.attempt, job_id)
    yield _counter("restarts", "Attempts of this epoch that were followed by another.", view.restarts, job_id)
    yield _gauge("workers", "Workers that the job is to have.", view.wanted_parallelism, job_id)
    yield _gauge(
        "workers_connected",
        "Workers that are connected, of those that the job is to have.",
        view.workers_connected,
        job_id,
    )
    yield _counter("rejected_peers", "Connections that could not authenticate.", view.rejected_peers, job_id)


def _of_checkpoints(tracker: CheckpointTracker, job_id: str) -> Iterator[Metric]:
    yield _counter("checkpoints_completed", "Checkpoints completed in this epoch.", tracker.completed_total, job_id)
    yield _counter("checkpoints_failed", "Checkpoints failed in this epoch.", tracker.failed_total, job_id)
    failures = tracker.failures_in_a_row
    yield _gauge("checkpoint_consecutive_failures", "Checkpoints that have failed in a row.", failures, job_id)
    yield _gauge(
        "checkpoint_in_progress", "1 while a checkpoint is in flight.", float(tracker.pending is not None), job_id
    )
    last = tracker.last_completed
    if last is None:
        return
    yield _gauge("last_checkpoint_id", "Number of the last completed checkpoint.", last.id, job_id)
    yield _gauge("last_checkpoint_size_bytes", "All files that it names.", last.size_bytes, job_id)
    yield _gauge("last_checkpoint_uploaded_bytes", "What was uploaded for it.", last.uploaded_bytes, job_id)
    seconds = last.triggered_ms / 1000
    yield _gauge("last_checkpoint_timestamp_seconds", "When it was triggered, since the epoch.", seconds, job_id)
    if last.duration_ms is not None:
        seconds = last.duration_ms / 1000
        yield _gauge("last_checkpoint_duration_seconds", "From its trigger to its journal entry.", seconds, job_id)
        seconds = last.alignment_ms / 1000
        yield _gauge(
            "last_checkpoint_alignment_seconds", "Longest time that an input was held back for it.", seconds, job_id
        )
        seconds = last.pause_ms / 1000
        yield _gauge(
            "last_checkpoint_pause_seconds", "Longest time that a task thread stood still for it.", seconds, job_id
        )


def _of_operators(operators: list[OperatorView], job_id: str) -> Iterator[Metric]:
    labels = (*_JOB, "operator")
    counters: tuple[tuple[str, str, Callable[[OperatorView], float]], ...] = (
        ("records_in", "Records that an operator was given, in this attempt.", lambda view: view.records_in),
        ("records_out", "Records that an operator has yielded, in this attempt.", lambda view: view.records_out),
        ("late_records", "Records that came too late for their window.", lambda view: view.late_records),
        ("skipped_records", "Records that could not be parsed and were skipped.", lambda view: view.skipped_records),
        ("busy_seconds", "Time that the task threads spent in an operator.", lambda view: view.busy_ms / 1000),
    )
    for name, text, value in counters:
        family = CounterMetricFamily(f"checkdam_job_operator_{name}", text, labels=labels)
        for view in operators:
            family.add_metric([job_id, view.id], value(view))
        yield family
    marks = GaugeMetricFamily(
        "checkdam_job_operator_watermark_seconds",
        "Event time that an operator has reached in all workers.",
        labels=labels,
    )
    for view in operators:
        if view.watermark_ms is not None:
            marks.add_metric([job_id, view.id], view.watermark_ms / 1000)
    yield marks


def _of_workers(workers: list[WorkerView], job_id: str) -> Iterator[Metric]:
    labels = (*_JOB, "worker")
    gauges: tuple[tuple[str, str, Callable[[WorkerView], float]], ...] = (
        ("connected", "1 while the worker is connected.", lambda view: float(view.connected)),
        ("resident_memory_bytes", "Memory of the worker's task process.", lambda view: view.rss_bytes),
        ("state_entries", "Entries of keyed state that the worker holds, about.", lambda view: view.state_entries),
    )
    for name, text, value in gauges:
        family = GaugeMetricFamily(f"checkdam_job_worker_{name}", text, labels=labels)
        for view in workers:
            family.add_metric([job_id, str(view.index)], value(view))
        yield family


__all__ = ["METRICS_CONTENT_TYPE", "render_metrics"]
