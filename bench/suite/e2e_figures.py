"""What is measured on a cluster, a round of it at a time, and the rows that the rounds come to.

The clock of all figures is the output: files of a two-phase sink, by the moment at which each became visible. So a figure ends when a record that
was not in the output before is there for good, and has in it the time until the next checkpoint. What was finished before a failure and
becomes visible after it does not count, by the attempt in its name.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from programs.steady_job import KEYS

from cluster.cluster import Cluster
from cluster.image_definitions import RUNTIME
from cluster.images import version
from cluster_s3 import give_s3_keys, s3_of, s3_storage
from installation import OPERATOR_NAMESPACE, until_operator_runs
from outputs import longest_pause_s, pause_after_s
from suite.e2e_job import WORKERS, SteadyJob
from suite.report import Row

INTERVAL_S: Final = 0.1
"""From one checkpoint to the next, of the job with little state."""

LARGE_INTERVAL_S: Final = 0.5
"""The same of the one with much."""

RATE: Final = 2_000
OBSERVED_S: Final = 10.0
"""How long the output is looked at before and after the operator is killed."""

QUIET_S: Final = 3.0
"""How long a job runs before the next thing is done to it."""

_BARE: Final = "bare Python pod, created → Ready"


@dataclass
class Figures:
    """What the rounds have measured; lists have one value for each round, times are in seconds.

    Attributes:
        bare_pod: A bare Python pod, from its creation until it is Ready.
        first_output: From the creation of a StreamJob to its first output.
        task_killed, pod_deleted: From then to the first new output.
        undisturbed: The longest pause in the output before the operator is killed.
        operator_killed: The same after.
        attempts_lost: How often another attempt took over although only the operator was killed.
        upgrade, rescale: From the last output of the attempt before to the first of the next one.
        checkpoint: From the trigger of a checkpoint of everything, to S3, to its journal entry.
        checkpoint_bytes: What was uploaded for it.
    """

    bare_pod: list[float] = field(default_factory=list)
    first_output: list[float] = field(default_factory=list)
    task_killed: list[float] = field(default_factory=list)
    pod_deleted: list[float] = field(default_factory=list)
    undisturbed: list[float] = field(default_factory=list)
    operator_killed: list[float] = field(default_factory=list)
    attempts_lost: int = 0
    upgrade: list[float] = field(default_factory=list)
    rescale: list[float] = field(default_factory=list)
    checkpoint: list[float] = field(default_factory=list)
    checkpoint_bytes: list[int] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """The medians of all rounds."""
        bare = statistics.median(self.bare_pod)
        return [
            self._beside("StreamJob created → first output", self.first_output),
            self._beside("task process killed → first new output", self.task_killed, ("≤ 1.5 s", 1.5)),
            self._beside("worker pod deleted → first new output", self.pod_deleted, ("≤ bare pod + 2 s", bare + 2)),
            self._operator(),
            self._beside("upgrade by savepoint: pause in output", self.upgrade),
            self._beside("rescale 2 → 3: pause in output", self.rescale, ("≤ bare pod + 3 s", bare + 3)),
            self._checkpoint(),
        ]

    def values(self) -> list[str]:
        """All that the medians are made of, a line for each figure."""
        times = {
            "bare pod": self.bare_pod,
            "created → first output": self.first_output,
            "task killed": self.task_killed,
            "pod deleted": self.pod_deleted,
            "operator killed": self.operator_killed,
            "upgrade": self.upgrade,
            "rescale": self.rescale,
            "checkpoint": self.checkpoint,
        }
        return [f"{what}: {', '.join(f'{value:.2f}' for value in values)} s" for what, values in times.items()]

    def _beside(self, what: str, measured: list[float], target: tuple[str, float] | None = None) -> Row:
        """A figure beside a bare pod, and what it is to reach, if anything: a text and the most."""
        own, bare = statistics.median(measured), statistics.median(self.bare_pod)
        text, most = target or ("", 0.0)
        reached = None if target is None else own <= most
        return Row(what, f"{own:.2f} s", _BARE, f"{bare:.2f} s", f"{bare / own:.2f}", text, reached)

    def _operator(self) -> Row:
        own, undisturbed = statistics.median(self.operator_killed), statistics.median(self.undisturbed)
        return Row(
            f"operator killed: longest pause in output within {OBSERVED_S:g} s",
            f"{own:.2f} s",
            "before that",
            f"{undisturbed:.2f} s",
            target="same attempt, < 1 s",
            reached=not self.attempts_lost and own < 1,
        )

    def _checkpoint(self) -> Row:
        own, size_mb = statistics.median(self.checkpoint), statistics.median(self.checkpoint_bytes) / 10**6
        return Row(f"checkpoint of {size_mb:.0f} MB to S3", f"{own:.2f} s, {size_mb / own:.0f} MB/s")


def measure_round(cluster: Cluster, figures: Figures, state_bytes: int, say: Callable[[str], None]) -> None:
    """Measure everything once, in namespaces of its own.

    Args:
        cluster: With the operator on it, and nothing else that runs.
        figures: Added to.
        state_bytes: How much state is rescaled and stored.
        say: Told what is being measured.
    """
    for measure in (_measure_bare_pod, _measure_job, _measure_large_job):
        namespace = cluster.plane.new_namespace("bench")
        try:
            measure(SteadyJob(cluster, namespace), figures, state_bytes, say)
        finally:
            cluster.plane.kubectl("delete", "namespace", namespace, "--wait=false")
            where = f"--namespace={namespace}"
            cluster.plane.kubectl("wait", "pods", "--all", where, "--for=delete", "--timeout=120s")


def _measure_bare_pod(job: SteadyJob, figures: Figures, state_bytes: int, say: Callable[[str], None]) -> None:
    plane, path = job.cluster.plane, f"/api/v1/namespaces/{job.namespace}/pods"
    command = ["python", "-c", "import time; time.sleep(3600)"]
    container = {"name": "python", "image": f"{RUNTIME.name}:{version()}", "command": command}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    began_s = time.monotonic()
    plane.call("POST", path, {"metadata": {"name": "bare"}, "spec": spec})
    job.until(lambda: True if _is_ready(plane.call("GET", f"{path}/bare")) else None, "bare pod")
    figures.bare_pod.append(time.monotonic() - began_s)
    say(f"a bare pod: {figures.bare_pod[-1]:.2f} s")


def _measure_job(job: SteadyJob, figures: Figures, state_bytes: int, say: Callable[[str], None]) -> None:
    """Little state, on a volume; each failure is the first after a quiet time."""
    job.prepare()
    asked_s = job.create(
        {"rate": RATE},
        checkpoint={"interval": f"{INTERVAL_S * 1000:.0f}ms", "storage": {"uri": "file:///results"}},
        restart={"resetAfter": "1s"},
    )
    first = job.until(lambda: next(iter(job.outputs()), None), "first output")
    figures.first_output.append(first.time_s - asked_s)
    say(f"created → first output: {figures.first_output[-1]:.2f} s")
    for what, strike, values in (
        ("task killed", job.kill_task, figures.task_killed),
        ("pod deleted", job.delete_worker, figures.pod_deleted),
    ):
        job.wait("condition=Ready")
        time.sleep(QUIET_S)
        before = job.attempt()
        struck_s = strike()
        values.append(job.until_output_after(before).time_s - struck_s)
        say(f"{what} → first new output: {values[-1]:.2f} s")
    job.wait("condition=Ready")
    _measure_operator(job, figures, say)
    time.sleep(QUIET_S)
    before = job.attempt()
    job.patch(restartNonce="again")
    job.until_output_after(before)
    figures.upgrade.append(pause_after_s(job.outputs(), before))
    say(f"upgrade by savepoint: {figures.upgrade[-1]:.2f} s without output")


def _measure_operator(job: SteadyJob, figures: Figures, say: Callable[[str], None]) -> None:
    """All of its pods at once, without a chance to take leave."""
    time.sleep(OBSERVED_S)
    before, struck_s = job.attempt(), time.time()
    where = f"--namespace={OPERATOR_NAMESPACE}"
    job.cluster.plane.kubectl("delete", "pods", "--all", where, "--force", "--grace-period=0", "--wait=false")
    time.sleep(max(0.0, struck_s + OBSERVED_S - time.time()))
    times_s = [output.time_s for output in job.outputs()]
    figures.undisturbed.append(longest_pause_s(times_s, struck_s - OBSERVED_S, struck_s))
    figures.operator_killed.append(longest_pause_s(times_s, struck_s, struck_s + OBSERVED_S))
    figures.attempts_lost += job.attempt() != before
    until_operator_runs(job.cluster)
    say(f"operator killed: pause of {figures.operator_killed[-1]:.2f} s, before {figures.undisturbed[-1]:.2f} s")


def _measure_large_job(job: SteadyJob, figures: Figures, state_bytes: int, say: Callable[[str], None]) -> None:
    """Much state, in RocksDB, with checkpoints to S3."""
    job.prepare()
    give_s3_keys(job)
    job.create(
        {"rate": RATE, "state_bytes": state_bytes},
        stateBackend={"type": "rocksdb"},
        checkpoint={
            "interval": f"{LARGE_INTERVAL_S * 1000:.0f}ms",
            "storage": s3_storage(s3_of(job.cluster).new_bucket().name),
        },
    )
    job.until(lambda: True if job.numbers() > 2 * KEYS else None, "output of all keys")
    taken = job.full_checkpoint()
    figures.checkpoint.append(taken["durationMs"] / 1000)
    figures.checkpoint_bytes.append(taken["uploadedBytes"])
    say(f"checkpoint of {taken['uploadedBytes'] / 10**6:.0f} MB: {figures.checkpoint[-1]:.2f} s")
    job.wait("condition=Ready")
    time.sleep(QUIET_S)
    before = job.attempt()
    job.patch(parallelism=WORKERS + 1)
    job.until_output_after(before)
    figures.rescale.append(pause_after_s(job.outputs(), before))
    say(f"rescale: {figures.rescale[-1]:.2f} s without output")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)
