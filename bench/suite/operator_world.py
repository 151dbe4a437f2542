"""The world around the operator that is measured: nodes, and the coordinators of all jobs. One process, so that its CPU is not taken for the operator's.

Nothing is run. Pods become Running by the stub kubelet, and what the operator asks of a coordinator is answered here at the address of its pod, which is one of the
loopback: a job runs as soon as its workers' pods have appeared, and checkpoints complete a moment after they were triggered.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

import msgspec
from aiohttp import web

from checkdam.coordinator.checkpoints import CheckpointRecord
from checkdam.coordinator.views import JobView, TriggerAnswer, TriggerRequest, WorkerPresence
from checkdam.spec.ports import HTTP_PORT
from checkdam_operator.resources.names import COMPONENT_LABEL, INDEX_LABEL, JOB_LABEL, JOB_UID_LABEL
from cluster.control_plane import ControlPlane
from cluster.stub_kubelet import Behaviour, stub_kubelet

CHECKPOINT_MS: Final = 200
"""How long a checkpoint takes."""

_LISTEN_BACKLOG: Final = 16
_START_S: Final = 60.0
_STOP_S: Final = 30.0


@contextmanager
def world(plane: ControlPlane, workers: int) -> Iterator[int]:
    """Plays nodes and coordinators in a process of its own until the context ends; gives its pid.

    Args:
        plane: Whose pods.
        workers: How many each job has.

    Raises:
        RuntimeError: The process did not start.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(plane, workers, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_S) or process.pid is None:
            raise RuntimeError(f"nodes and coordinators were not there after {_START_S:g} s")
        ours.recv()
        yield process.pid
    finally:
        ours.close()  # which ends it
        process.join(_STOP_S)
        process.kill()


def _run(plane: ControlPlane, workers: int, pipe: Connection) -> None:
    asyncio.run(_play(plane, workers, pipe))


async def _play(plane: ControlPlane, workers: int, pipe: Connection) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), over.set)
    async with _coordinators(workers) as coordinators, stub_kubelet(plane, behaviour=coordinators.behaviour):
        pipe.send("ready")
        await over.wait()


@dataclass
class _Coordinator:
    """One job, as its coordinator would tell of it."""

    job: str
    job_id: str
    parallelism: int
    workers: dict[int, str] = field(default_factory=dict)
    last: CheckpointRecord | None = None
    pending: CheckpointRecord | None = None
    started_ms: int = field(default_factory=lambda: _now_ms())
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def connect(self, index: int, pod: str) -> None:
        """A worker's pod has appeared."""
        self.workers[index] = f"{pod}/0000"
        if len(self.workers) == self.parallelism:
            self.last = self._checkpoint(0, "COMPLETED")
            self.complete.set()

    @property
    def version(self) -> int:
        return 2 if self.complete.is_set() else 1

    async def changed(self, version: int, timeout_s: float) -> None:
        """Wait until the version is another one, or for so long."""
        changes = self.complete if version == 1 else asyncio.Event()
        if version == self.version:
            try:
                await asyncio.wait_for(changes.wait(), timeout_s)
            except TimeoutError:
                pass

    def trigger(self, after: int) -> TriggerAnswer:
        """Take a checkpoint newer than `after`, unless there is one."""
        self._advance()
        if self.last is not None and self.last.id > after:
            return TriggerAnswer(self.last.id, "COMPLETED", self.last)
        if self.pending is None:
            self.pending = self._checkpoint(self.last.id + 1 if self.last is not None else 0, "IN_PROGRESS")
        return TriggerAnswer(self.pending.id, "IN_PROGRESS", self.last)

    def view(self) -> JobView:
        self._advance()
        return JobView(
            name=self.job,
            job_id=self.job_id,
            state="RUNNING" if self.complete.is_set() else "DEPLOYING",
            mode="ExactlyOnce",
            parallelism=self.parallelism,
            wanted_parallelism=self.parallelism,
            epoch=1,
            attempt=1,
            restarts=0,
            started_ms=self.started_ms,
            uptime_ms=_now_ms() - self.started_ms,
            workers_connected=len(self.workers),
            last_failure=None,
            last_checkpoint=self.last,
            pending_checkpoint=self.pending.id if self.pending is not None else None,
            restored_from="",
            stop_problem="",
            rejected_peers=0,
            version=self.version,
            workers=[
                WorkerPresence(index, index in self.workers, self.workers.get(index, ""))
                for index in range(self.parallelism)
            ],
        )

    def _advance(self) -> None:
        if self.pending is not None and _now_ms() >= self.pending.triggered_ms + CHECKPOINT_MS:
            self.last, self.pending = msgspec.structs.replace(self.pending, status="COMPLETED"), None

    def _checkpoint(self, number: int, status: Any) -> CheckpointRecord:
        folder = f"chk-{number:010d}-{self.job_id[:8]}"
        return CheckpointRecord(
            number, "interval", status, "1.1", _now_ms(), folder, CHECKPOINT_MS, 1 << 20, 1 << 16, acknowledged=2
        )


class _Coordinators:
    """The coordinators of all jobs, told apart by the address that a request came to."""

    def __init__(self, runner: web.AppRunner, workers: int) -> None:
        self._runner = runner
        self._workers = workers
        self._of_jobs: dict[str, _Coordinator] = {}
        self._at: dict[str, _Coordinator] = {}
        self._servers: list[asyncio.Task[asyncio.Server]] = []
        self._next_address = random.randrange(1 << 16, 1 << 24)

    def behaviour(self, pod: dict[str, Any]) -> Behaviour:
        """What becomes of a pod: that of a coordinator is where its requests are answered from now on."""
        labels = pod["metadata"].get("labels", {})
        if JOB_UID_LABEL not in labels or "deletionTimestamp" in pod["metadata"]:
            return Behaviour()
        job = self._of_jobs.setdefault(
            labels[JOB_UID_LABEL], _Coordinator(labels[JOB_LABEL], labels[JOB_UID_LABEL], self._workers)
        )
        if labels[COMPONENT_LABEL] == "coordinator":
            return Behaviour(ip=self._listen(job))
        job.connect(int(labels[INDEX_LABEL]), pod["metadata"]["name"])
        return Behaviour()

    async def close(self) -> None:
        for serving in self._servers:
            (await serving).close()

    def _listen(self, coordinator: _Coordinator) -> str:
        # Each at its own address, since others on this machine may use the same port at theirs.
        while True:
            self._next_address = max(1 << 16, (self._next_address + 1) % (1 << 24))
            ip = f"127.{self._next_address >> 16}.{self._next_address >> 8 & 255}.{self._next_address & 255}"
            try:
                listening = socket.create_server((ip, HTTP_PORT), backlog=_LISTEN_BACKLOG)
            except OSError:
                continue
            self._at[ip] = coordinator
            assert self._runner.server is not None
            serving = asyncio.get_running_loop().create_server(self._runner.server, sock=listening)
            self._servers.append(asyncio.ensure_future(serving))
            return ip

    async def job(self, request: web.Request) -> web.Response:
        """GET /v1/job"""
        coordinator = self._of(request)
        await coordinator.changed(int(request.query.get("version", 0)), int(request.query.get("waitMs", 0)) / 1000)
        return _answer(coordinator.view())

    async def trigger(self, request: web.Request) -> web.Response:
        """POST /v1/checkpoints"""
        wish = msgspec.json.decode(await request.read(), type=TriggerRequest)
        return _answer(self._of(request).trigger(wish.after), 202)

    def _of(self, request: web.Request) -> _Coordinator:
        assert request.transport is not None
        return self._at[request.transport.get_extra_info("sockname")[0]]


@asynccontextmanager
async def _coordinators(workers: int) -> AsyncIterator[_Coordinators]:
    application = web.Application()
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    coordinators = _Coordinators(runner, workers)
    application.router.add_get("/v1/job", coordinators.job)
    application.router.add_post("/v1/checkpoints", coordinators.trigger)
    await runner.setup()
    try:
        yield coordinators
    finally:
        await coordinators.close()
        await runner.cleanup()


def _answer(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
