"""One measurement of the operator: a process of its own, beside jobs that are created all at once and then left alone.

What it did is read off its own metrics, what it cost off the kernel's account of its process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from operator_process import OperatorProcess
from prometheus_client.parser import text_string_to_metric_families

from checkdam_operator.metrics import API_REQUESTS, LEADER, RECONCILE_SECONDS, RESYNCS, WATCH_EVENTS
from cluster.control_plane import ControlPlane
from suite.operator_bare import IMAGE, create_jobs, until_none

_POLL_S: Final = 0.2


@dataclass(frozen=True)
class Moment:
    """An operator, as of a moment.

    Attributes:
        at_s: Monotonic clock.
        cpu_s: Processor time of the process so far.
        rss_bytes: Resident memory.
        server_cpu_s: Processor time of the API server and its store so far.
        samples: (metric, labels) → value.
    """

    at_s: float
    cpu_s: float
    rss_bytes: int
    server_cpu_s: float
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def count(self, name: str, **labels: str) -> float:
        """Sum of all samples of a metric that carry these labels."""
        return sum(
            value for (found, has), value in self.samples.items() if found == name and set(labels.items()) <= set(has)
        )

    def labels(self, name: str, label: str) -> list[str]:
        """The values of a label of a metric."""
        return sorted({dict(has)[label] for found, has in self.samples if found == name})


@dataclass(frozen=True)
class Phase:
    """From one moment to another."""

    begin: Moment
    end: Moment

    @property
    def wall_s(self) -> float:
        return self.end.at_s - self.begin.at_s

    @property
    def cpu_s(self) -> float:
        return self.end.cpu_s - self.begin.cpu_s

    @property
    def server_cpu_s(self) -> float:
        return self.end.server_cpu_s - self.begin.server_cpu_s

    def requests(self, verb: str = "") -> float:
        """Requests to the API server, by verb or all of them."""
        return self._more(API_REQUESTS.name, **({"verb": verb} if verb else {}))

    def verbs(self) -> dict[str, float]:
        """verb → requests, where there were any."""
        found = {verb: self.requests(verb) for verb in self.end.labels(API_REQUESTS.name, "verb")}
        return {verb: requests for verb, requests in found.items() if requests}

    def refused(self) -> float:
        """Requests that were not answered with success."""
        codes = self.end.labels(API_REQUESTS.name, "code")
        return sum(self._more(API_REQUESTS.name, code=code) for code in codes if not code.startswith("2"))

    def looks(self) -> float:
        """How often jobs were looked at."""
        return self._more(f"{RECONCILE_SECONDS.name}_count")

    def watched(self) -> float:
        """Changes that the watch has shown."""
        return self._more(WATCH_EVENTS.name)

    def resyncs(self) -> float:
        """Lists of everything."""
        return self._more(RESYNCS.name)

    def look_s(self, share: float) -> float:
        """How long a look took at most, for this share of them; interpolated within the buckets of the histogram."""
        bucket = f"{RECONCILE_SECONDS.name}_bucket"
        bounds = sorted(self.end.labels(bucket, "le"), key=float)
        wanted, lower_s, below = share * self.looks(), 0.0, 0.0
        for bound in bounds:
            within = self._more(bucket, le=bound)
            if within >= wanted:
                upper_s = float(bound) if bound != "+Inf" else lower_s
                return lower_s + (upper_s - lower_s) * ((wanted - below) / (within - below) if within > below else 1.0)
            lower_s, below = float(bound), within
        return lower_s

    def _more(self, name: str, **labels: str) -> float:
        return self.end.count(name, **labels) - self.begin.count(name, **labels)


@dataclass(frozen=True)
class OperatorRun:
    """What one operator did.

    Attributes:
        ramp: From the creation of the first job until all are Ready.
        rest: While nothing happens but checkpoints.
    """

    ramp: Phase
    rest: Phase


def new_operator(plane: ControlPlane, namespace: str, folder: Path, writes_per_s: float) -> OperatorProcess:
    """An operator of one namespace that may send so many writes a second."""
    operator = OperatorProcess(plane, namespace, folder / f"{namespace}.log")
    operator.settings = {
        "CHECKDAM_OPERATOR_RUNTIME_IMAGE": IMAGE,
        "CHECKDAM_OPERATOR_WRITES_PER_SECOND": f"{writes_per_s:g}",
    }
    return operator


async def run_operator(
    operator: OperatorProcess,
    plane: ControlPlane,
    namespace: str,
    jobs: int,
    workers: int,
    settle_s: float,
    rest_s: float,
) -> OperatorRun:
    """Start an operator, give it so many jobs, and watch it work and rest.

    Args:
        settle_s: From when all jobs are Ready until they are called at rest.
        rest_s: How long it is watched then.

    Raises:
        RuntimeError: A job did not become Ready, or the operator has ended, as it does when it cannot keep its Lease.
    """
    await operator.start()
    try:
        while not (begin := await _moment(operator, plane)).count(LEADER.name):
            await asyncio.sleep(_POLL_S)
        await create_jobs(plane, namespace, jobs, workers)
        path = f"/apis/checkdam.dev/v1alpha1/namespaces/{namespace}/streamjobs"
        await until_none(plane, path, "status.state!=Running", lambda: _check_alive(operator))
        ready = await _moment(operator, plane)
        await asyncio.to_thread(_check_ready, plane, path, jobs)
        await asyncio.sleep(settle_s)
        before = await _moment(operator, plane)
        await asyncio.sleep(rest_s)
        return OperatorRun(Phase(begin, ready), Phase(before, await _moment(operator, plane)))
    finally:
        await operator.stop()


def _check_alive(operator: OperatorProcess) -> None:
    if not psutil.pid_exists(operator.pid):
        end = operator.log.read_text()[-1000:]
        raise RuntimeError(
            f"the operator has ended; the machine may be too busy to measure on; the end of {operator.log}:\n{end}"
        )


def _check_ready(plane: ControlPlane, path: str, jobs: int) -> None:
    found = plane.call("GET", f"{path}?resourceVersion=0")["items"]
    ready = sum(_is_ready(job) for job in found)
    if ready != jobs:
        raise RuntimeError(f"{jobs} jobs must be Ready (got {ready} of {len(found)})")


def _is_ready(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


async def _moment(operator: OperatorProcess, plane: ControlPlane) -> Moment:
    """As of now; the scrape that tells it is work of the time after it."""
    process = psutil.Process(operator.pid)
    used_s, at_s, server_s = _cpu_s(process), time.monotonic(), _server_cpu_s(plane)
    _, text = await operator.get("/metrics")
    return Moment(at_s, used_s, process.memory_info().rss, server_s, dict(_samples(text)))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _server_cpu_s(plane: ControlPlane) -> float:
    return sum(_cpu_s(psutil.Process(plane.pids[program])) for program in ("etcd", "kube-apiserver"))


def _samples(text: str) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value
