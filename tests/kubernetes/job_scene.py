"""A whole job on stage: a namespace with an operator, a kubelet, the program in a ConfigMap and a bucket, and what tests do there.

Operator, coordinators and workers are the real ones, on a real API server and a real S3 server. Only the kubelet is played: pods are processes of this
machine (`process_kubelet`). What the jobs have written is checked row by row.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from mortal_operator import VARIABLE
from operator_process import POLL_S, Body, Jobs, OperatorProcess, eventually, operator_process
from pod_job import MODULE, Row, problems, rows_in
from process_kubelet import ProcessKubelet, process_kubelet
from s3_server import S3Bucket

from checkdam.checkpoint.folders import writer_of
from checkdam.checkpoint.opening import open_job
from checkdam.checkpoint.verification import verify_job
from checkdam.spec import parse_manifest
from cluster.control_plane import ControlPlane

HERE: Final = Path(__file__).resolve().parent
CRDS: Final = (HERE / "widgets.yaml", *sorted((HERE.parents[1] / "crds").glob("*.yaml")))
"""What every control plane of the tests knows from the start."""


@dataclass
class Scene:
    """See the module."""

    jobs: Jobs
    operator: OperatorProcess
    kubelet: ProcessKubelet
    bucket: S3Bucket
    out: Path
    seen: list[Body] = field(default_factory=list)

    # What is done to the job

    def create(self, **spec: Any) -> None:
        """Create the job with two workers and a checkpoint each second."""
        whole: dict[str, Any] = {
            "program": {"entrypoint": "pod_job_program:build", "configMap": "program", "args": {"out": str(self.out)}},
            "checkpoint": {"interval": "1s", "storage": self.bucket.storage("jobs")},
            "restart": {"initialDelay": "100ms"},
        }
        self.jobs.create(**laid_over(whole, spec))

    async def patch(self, **spec: Any) -> None:
        """Change the spec."""
        await asyncio.to_thread(self.jobs.patch, spec)

    async def change_args(self, **args: Any) -> None:
        """Change arguments of the program, which is another version of the job."""
        await self.patch(program={"args": args})

    async def scale(self, workers: int) -> None:
        """As `kubectl scale` does."""
        namespace = self.jobs.namespace
        await asyncio.to_thread(
            self.jobs.plane.kubectl, "-n", namespace, "scale", "sjob/words", f"--replicas={workers}"
        )

    # What is waited for

    def runs(self) -> bool:
        """Whether the condition Ready is true, of the spec as it is now, of a job that runs."""
        job = self.jobs.get()
        status = job.get("status", {})
        ready = next((found for found in status.get("conditions", []) if found["type"] == "Ready"), {})
        return (
            status.get("state") == "Running"
            and ready.get("status") == "True"
            and ready.get("observedGeneration") == job["metadata"]["generation"]
        )

    def rows(self) -> list[Row]:
        """What was committed so far."""
        return rows_in(self.out)

    def files(self, part: str, end: str = "") -> list[str]:
        """What is stored in the bucket and has this in its name, and this at its end."""
        return [key for key in sorted(self.bucket.keys()) if part in key and key.endswith(end)]

    def storage_problems(self) -> list[str]:
        """What is wrong with what the job has stored: what counts must verify, and of attempts that are over nothing else may be left.

        To be asked of a job that is suspended. Each attempt sweeps what attempts before it have left when it begins to run, so of the last one itself
        something may lie about.
        """
        status = self.jobs.status()
        last = (int(status["epoch"]), int(status["attempt"]))
        options = parse_manifest(self.jobs.get()).spec.checkpoint.storage
        uri = f"{self.bucket.uri}/jobs/{self.jobs.namespace}/words"
        found = verify_job(open_job(uri, options=options))
        lying = [file.path for file in found.orphans if (writer_of(file.path) or last) < last]
        return [*found.journal, *(problem for each in found.checkpoints.values() for problem in each), *lying]

    def savepoints(self, state: str = "") -> list[str]:
        """Names of the Savepoints, oldest first; of those in this state alone, if one is given."""
        path = f"/apis/checkdam.dev/v1alpha1/namespaces/{self.jobs.namespace}/savepoints"
        bodies = self.jobs.plane.call("GET", path)["items"]
        there = [body for body in bodies if not state or body.get("status", {}).get("state") == state]
        return sorted(str(body["metadata"]["name"]) for body in there)

    def pod(self, role: str, index: int = 0) -> str:
        """Name of a pod that is not being deleted."""
        label = "checkdam.dev/index"
        found = [
            pod["metadata"]
            for pod in self.jobs.pods(role)
            if role == "coordinator" or pod["metadata"]["labels"][label] == str(index)
        ]
        return str(max(found, key=lambda metadata: str(metadata["creationTimestamp"]))["name"])

    async def until_runs(self, patience_s: float = 60.0) -> None:
        await eventually(self.runs, "the job to run", patience_s)

    async def until_workers(self, count: int, patience_s: float = 60.0) -> None:
        """Wait until the job runs with so many workers."""
        await eventually(
            lambda: self.jobs.status().get("workersText") == f"{count}/{count}" and self.runs(),
            f"{count} workers",
            patience_s,
        )

    async def until_revision(self, number: int, patience_s: float = 60.0) -> None:
        """Wait until that revision, or a later one, runs."""
        await eventually(
            lambda: self.jobs.status()["deployment"]["revision"] >= number and self.runs(),
            f"revision {number}",
            patience_s,
        )

    async def until_state(self, state: str, patience_s: float = 60.0) -> None:
        await eventually(lambda: self.jobs.status().get("state") == state, state, patience_s)

    async def until_more_rows(self, patience_s: float = 60.0) -> None:
        """Wait until more was committed than there is now."""
        before = len(self.rows())
        await eventually(lambda: len(self.rows()) > before, "more output", patience_s)

    async def until_stalled(self, reason: str) -> str:
        """Wait until the condition Stalled has this reason; returns its message."""
        await eventually(lambda: self.jobs.condition("Stalled").get("reason") == reason, f"Stalled: {reason}")
        return str(self.jobs.condition("Stalled")["message"])

    async def suspend(self, patience_s: float = 60.0) -> None:
        """Suspend the job, which commits all that it has read, and check what it has written."""
        await self.patch(suspend=True)
        await eventually(
            lambda: self.jobs.status().get("state") == "Suspended" and not self.jobs.pods(), "Suspended", patience_s
        )
        found = problems(self.rows())
        assert not found, found

    # What is seen all the while

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look at the job's status all the while, and check at the end that nothing in it went back."""
        looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        found = went_back(self.seen)
        assert not found, found

    async def _look(self) -> None:
        while True:
            with suppress(OSError):
                status = await asyncio.to_thread(self.jobs.status)
                if not self.seen or self.seen[-1] != status:
                    self.seen.append(status)
            await asyncio.sleep(POLL_S)

    # Operators that die

    @asynccontextmanager
    async def mortal_operator(self, chance: random.Random, deaths: int) -> AsyncIterator[None]:
        """The operator is killed and started again so many times within the context: at one of its next writes, or after a few seconds.

        Afterwards the last one lives on; the context does not end before.
        """
        await self.operator.kill()
        living = asyncio.create_task(self._lives(chance, deaths))
        try:
            yield
        finally:
            await living

    async def _lives(self, chance: random.Random, deaths: int) -> None:
        for _ in range(deaths):
            await self.let_die_at(f"{chance.choice(('before', 'after'))}:{chance.randrange(1, 10)}")
            await self.operator.until_dead(chance.uniform(3.0, 8.0))
        await self.next_life()

    async def let_die_at(self, wish: str) -> None:
        """Start an operator that dies at one of its writes, as `mortal_operator` says; the one before is dead."""
        self.operator.program = [str(HERE / "mortal_operator.py")]
        self.operator.settings[VARIABLE] = wish
        await self._start_anew()

    async def next_life(self) -> None:
        """Start an operator that lives on; the one before is dead."""
        self.operator.settings[VARIABLE] = ""
        await self._start_anew()

    async def _start_anew(self) -> None:
        # With a Lease of its own: that of the one before is of no use until it ends, ten seconds later.
        self.operator.settings["CHECKDAM_OPERATOR_LEASE_NAME"] = f"lease-{secrets.token_hex(4)}"
        await self.operator.start()

    @asynccontextmanager
    async def frozen(self, pod: str) -> AsyncIterator[None]:
        """The processes of a pod stand still within the context; the node knows nothing of it."""
        self.kubelet.freeze(pod)
        try:
            yield
        finally:
            self.kubelet.thaw(pod)


@asynccontextmanager
async def job_scene(
    plane: ControlPlane, namespace: str, bucket: S3Bucket, folder: Path, module: str = MODULE, **settings: str
) -> AsyncIterator[Scene]:
    """A scene without a job.

    Args:
        plane: The control plane.
        namespace: A namespace that nobody else uses.
        bucket: For checkpoints; its keys are in the environment.
        folder: For the pods' file systems, logs and output.
        module: The program, `pod_job_program`.
        settings: Environment variables of the operator.
    """
    jobs = Jobs(plane, namespace)
    jobs.config_map("program", pod_job_program=module)
    async with (
        process_kubelet(plane, namespace, folder / "pods") as kubelet,
        operator_process(plane, namespace, folder, **settings) as operator,
    ):
        yield Scene(jobs, operator, kubelet, bucket, folder / "out")


def went_back(statuses: list[Body]) -> list[str]:
    """What went back in a row of statuses of one job: the revision, the epoch, restarts, checkpoints, or the generation that was seen."""
    numbers: dict[str, Callable[[Body], int]] = {
        "revision": lambda status: int((status.get("deployment") or {}).get("revision", 0)),
        "checkpoint": lambda status: int((status.get("lastCheckpoint") or {}).get("id", -1)),
        "epoch": lambda status: int(status.get("epoch", 0)),
        "restarts": lambda status: int(status.get("restarts", 0)),
        "observedGeneration": lambda status: int(status.get("observedGeneration", 0)),
    }
    return [
        f"{what} {number(before)} is followed by {number(after)}"
        for what, number in numbers.items()
        for before, after in pairwise(statuses)
        if number(after) < number(before)
    ]


def laid_over(base: Body, changes: Body) -> Body:
    """`base` with `changes`, which replace what is no object in both."""
    both = {
        name: laid_over(base[name], value) for name, value in changes.items() if _are_objects(base.get(name), value)
    }
    return {**base, **changes, **both}


def _are_objects(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)
