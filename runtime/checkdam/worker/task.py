"""A task process: runs one worker's part of one attempt, and ends with it.

It is forked by the supervisor with the graph already built, speaks to the coordinator through the supervisor, and leaves
by `os._exit`, so no half-cancelled thread outlives an attempt. The main thread becomes the task thread; a control thread
reads messages, answers heartbeats, sends statistics and ends the process when the supervisor is gone or silent.

::

    Listening → (Peers) → connect, restore, commit what the checkpoint held → Ready → (Start) → run

Connections are made before state is restored: restoring takes one worker a second and another an hour, and nobody can
say how long it may wait for the other. How long all of it may take is the coordinator's to decide.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from checkdam.checkpoint.manifest import SubtaskSnapshot
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.stored import FetchedSnapshot
from checkdam.checkpoint.transfers import Transfers
from checkdam.core.clock import SystemClock
from checkdam.core.errors import (
    CheckdamError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    PipelineError,
    UserCodeError,
)
from checkdam.core.faultpoints import hit
from checkdam.core.keys import KeyGroups
from checkdam.graph.plan import Plan, fingerprint
from checkdam.operators.base import CommittingOperator
from checkdam.spec.streamjob import StreamJob
from checkdam.state.backends import make_backend
from checkdam.state.base import KeyedBackend, StoredSnapshot
from checkdam.wire.messages import (
    Deploy,
    Failed,
    FinishedSplits,
    Listening,
    Message,
    Peers,
    Ping,
    Pong,
    Ready,
    RequestSplits,
    Reserve,
    Shutdown,
    Stats,
    ToWorker,
    decode_to_worker,
    encode,
)
from checkdam.worker.assemble import Surroundings, WorkerSettings, assemble
from checkdam.worker.checkpoint_files import CheckpointFiles
from checkdam.worker.commits import CommitThread, run_with_retries
from checkdam.worker.exchange import Exchange, Identity
from checkdam.worker.local_files import open_local_files
from checkdam.worker.loop import TaskLoop
from checkdam.worker.pipe import FramePipe
from checkdam.worker.snapshots import Snapshotter

log = logging.getLogger(__name__)

STATS_EVERY_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 60.0
FAREWELL_S: Final = 2.0
"""How long a task process that fails waits until its supervisor has taken what it says about it."""

SWITCH_INTERVAL_S: Final = 0.001
"""How long the task thread may keep the interpreter to itself while an I/O thread waits for it."""

GC_THRESHOLD: Final = 100_000
"""New containers between two young collections. With millions of live objects, automatic full collections take most of the time
(measured: 0.67 M records/s fall to 0.26); older generations are collected far more rarely than by default."""


class PeerLostError(CheckdamError):
    """A connection to another worker broke: a consequence of a failure elsewhere."""


@dataclass(frozen=True)
class TaskSetup:
    """What the supervisor hands to a task process.

    Attributes:
        job: The StreamJob.
        plan: The stages, built before the fork.
        deploy: The attempt.
        secret: The job's secret.
        storage: Checkpoint storage.
        directory: A folder of this attempt alone; exists and is empty.
        local_folder: Where files are kept for local recovery, on the same file system; it outlives the attempt.
        host: Where to listen for peers.
        port: The port there; 0 for any.
        control: The socket to the supervisor.
        heartbeat_timeout_s: Without a word from the coordinator for so long, the process ends.
    """

    job: StreamJob
    plan: Plan
    deploy: Deploy
    secret: bytes = field(repr=False)
    storage: Storage
    directory: Path
    local_folder: Path
    host: str
    port: int
    control: socket.socket
    heartbeat_timeout_s: float


class _Port:
    """The way of sources to the coordinator."""

    def __init__(self, task: TaskProcess) -> None:
        self._task = task

    def request_splits(self, source: str) -> None:
        self._task.send(RequestSplits(self._task.attempt, source))

    def finished_splits(self, source: str, splits: list[str]) -> None:
        self._task.send(FinishedSplits(self._task.attempt, source, splits))

    def reserve(self, source: str, positions: dict[str, Any]) -> None:
        self._task.send(Reserve(self._task.attempt, source, positions))


class TaskProcess:
    """One attempt in one worker. `main` runs it to its end.

    Concurrency: `send` may be called from any thread. `_peers` is handed over by the event beside it.
    """

    def __init__(self, setup: TaskSetup) -> None:
        self.attempt = setup.deploy.attempt
        self._setup = setup
        self._pipe = FramePipe(setup.control)
        self._clock = SystemClock()
        self._peers: list[tuple[str, int]] = []
        self._peers_known = threading.Event()
        self._groups = KeyGroups(setup.job.spec.max_parallelism)
        self._last_ping = time.monotonic()
        self._files = _checkpoint_files(setup)
        self._snapshots = Snapshotter(
            self.attempt,
            setup.deploy.index,
            len(setup.plan.stages),
            self._files,
            setup.directory / "snapshots",
            self.send,
            self._clock,
        )
        self._commits = CommitThread(self._post, self._fail)
        self._loop = TaskLoop(self.attempt, [], self._snapshots, self._commits, self.send, self._clock)
        self._exchange = Exchange(
            Identity(setup.job.job_id, self.attempt, setup.deploy.index, setup.secret),
            setup.host,
            self._loop.wake,
            self._post,
            lambda text: self._fail(PeerLostError(text)),
            port=setup.port,
        )

    def run(self) -> None:
        """Restore, connect and run until the supervisor says `Shutdown`; raises what fails the attempt."""
        setup = self._setup
        threading.Thread(target=self._control, name="control", daemon=True).start()
        host, port = self._exchange.address
        self.send(Listening(self.attempt, host, port, fingerprint(setup.plan.graph), os.getpid()))
        if not self._peers_known.wait(CONNECT_TIMEOUT_S):
            raise CheckdamError(f"no peers were named within {CONNECT_TIMEOUT_S:g} s")
        try:
            self._exchange.connect(self._peers, CONNECT_TIMEOUT_S)
        except CheckdamError as error:
            raise PeerLostError(str(error)) from error
        restored_bytes = self._restore()
        self._files.tidy()
        self._exchange.start()
        hit("worker-restored")
        for subtask in self._loop.subtasks:
            for operator in subtask.operators:
                if isinstance(operator, CommittingOperator):
                    run_with_retries(operator.restored_commit())
        hit("worker-ready")
        gc.collect()
        gc.freeze()
        # Not before: restoring is the work of threads that would only be in each other's way.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.send(Ready(self.attempt, restored_bytes, self._files.fetched_bytes))
        self._loop.run()
        # The job has ended: sinks and functions get to close what they hold.
        self._loop.close()

    def send(self, message: Message) -> None:
        """Send a message to the coordinator, through the supervisor; never waits for either.

        Raises:
            FrameError: It is longer than a frame may be.
        """
        self._pipe.send(encode(message))

    def drain(self) -> None:
        """Give the supervisor a moment to take what was said last."""
        self._pipe.drain(FAREWELL_S)

    def _restore(self) -> int:
        setup, deploy = self._setup, self._setup.deploy
        if deploy.restore is not None:
            self._clock.advance_to(deploy.restore.processing_time_ms)
        spec = setup.job.spec
        settings = WorkerSettings(
            index=deploy.index,
            parallelism=deploy.parallelism,
            max_parallelism=spec.max_parallelism,
            attempt=str(deploy.attempt),
            mode=spec.checkpoint.mode,
            credit_bytes=spec.runtime.channel_credit_bytes,
            batch_records=spec.runtime.batch_size,
        )
        around = Surroundings(
            network=self._exchange,
            clock=self._clock,
            port=_Port(self),
            make_backend=self._make_backend,
            stored=self._stored,
            wake=self._loop.wake,
            on_barrier=self._loop.on_barrier,
        )
        self._loop.adopt(assemble(setup.plan, settings, around, deploy.restore))
        self._check_unclaimed()
        return 0 if deploy.restore is None else deploy.restore.size_bytes

    def _check_unclaimed(self) -> None:
        unclaimed = [
            table for s in self._loop.subtasks if s.backend is not None for table in s.backend.unclaimed_tables()
        ]
        if unclaimed and not self._setup.job.spec.allow_non_restored_state:
            raise IncompatibleCheckpointError(
                f"the checkpoint holds state that no operator asks for: {', '.join(sorted(unclaimed))}; "
                "bring the operators back, or set `spec.allowNonRestoredState: true` to drop it"
            )

    def _make_backend(self, stage: str, key_groups: range) -> KeyedBackend:
        spec = self._setup.job.spec
        directory = self._setup.directory / "state" / stage
        directory.mkdir(parents=True)
        keyed_stages = sum(stage.keyed for stage in self._setup.plan.stages)
        return make_backend(
            spec.state_backend.type,
            key_groups,
            spec.max_parallelism,
            directory,
            clock=self._clock,
            memory_bytes=spec.state_backend.rocksdb.memory_bytes // max(1, keyed_stages),
            groups=self._groups,
        )

    def _stored(self, snapshot: SubtaskSnapshot) -> StoredSnapshot:
        directory = self._setup.directory / "restore" / f"{snapshot.stage}-{snapshot.subtask}"
        return FetchedSnapshot(snapshot, directory, self._files.fetch)

    def _post(self, work: Callable[[], None]) -> None:
        self._loop.post(work)

    def _fail(self, error: BaseException) -> None:
        """End the attempt with `error`; any thread."""

        def raise_it() -> None:
            raise error

        self._loop.post(raise_it)

    # The control thread

    def _control(self) -> None:
        next_stats = time.monotonic() + STATS_EVERY_S
        try:
            while True:
                if self._pipe.wait(STATS_EVERY_S):
                    for body in self._pipe.receive():
                        self._on_message(decode_to_worker(body))
                now = time.monotonic()
                if now - self._last_ping > self._setup.heartbeat_timeout_s:
                    os._exit(0)
                if now >= next_stats:
                    next_stats = now + STATS_EVERY_S
                    self._send_stats()
        except OSError:
            # The supervisor is gone.
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _on_message(self, message: ToWorker) -> None:
        if isinstance(message, Ping):
            self._last_ping = time.monotonic()
            self.send(Pong(message.sequence))
        elif isinstance(message, Shutdown):
            self._loop.stop()
        elif isinstance(message, Peers):
            self._peers = list(message.addresses)
            self._peers_known.set()
        else:
            self._loop.post(message)

    def _send_stats(self) -> None:
        self.send(
            Stats(
                self.attempt,
                self._loop.statistics(),
                psutil.Process().memory_info().rss,
                self._loop.state_entries(),
                self._exchange.rejected_peers,
            )
        )


def _checkpoint_files(setup: TaskSetup) -> CheckpointFiles:
    checkpoint = setup.job.spec.checkpoint
    local = None
    if checkpoint.local_recovery and setup.storage.shared:
        local = open_local_files(setup.local_folder, setup.job.job_id, setup.storage.uri)
    return CheckpointFiles(
        setup.storage,
        transfers=Transfers(checkpoint.storage.parallel_transfers),
        incremental=checkpoint.incremental,
        restored=setup.deploy.restore,
        local=local,
    )


def main(setup: TaskSetup) -> None:
    """Run a task process to its end; leaves by `os._exit`."""
    gc.set_threshold(GC_THRESHOLD, 50, 1000)
    task: TaskProcess | None = None
    code = 1
    try:
        task = TaskProcess(setup)
        task.run()
        code = 0
    except BaseException as error:
        report_failure(error, setup, task)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def report_failure(error: BaseException, setup: TaskSetup, task: TaskProcess | None) -> None:
    """Tell the coordinator why the attempt fails in this worker."""
    if isinstance(error, (IncompatibleCheckpointError, CorruptCheckpointError, PipelineError)):
        kind, text = "fatal", str(error)
    elif isinstance(error, UserCodeError):
        kind, text = "user", str(error)
    elif isinstance(error, PeerLostError):
        kind, text = "peer", str(error)
    elif isinstance(error, CheckdamError):
        kind, text = "error", str(error)
    else:
        kind, text = "error", "".join(traceback.format_exception(error))
    message = Failed(setup.deploy.attempt, text, kind)
    if task is not None:
        task.send(message)
        task.drain()
    else:
        pipe = FramePipe(setup.control)
        pipe.send(encode(message))
        pipe.drain(FAREWELL_S)
