"""From barriers to an acknowledged checkpoint.

At its barrier each subtask freezes its state in the task thread, which takes milliseconds; writing and uploading is left
to I/O threads, each subtask's as soon as it is frozen. When the files of all subtasks are in storage (`checkpoint_files`),
one `Ack` goes to the coordinator. Whatever fails on the way declines the checkpoint and leaves the job running. An aborted
checkpoint's writers are cancelled and its uploads deleted, unless they were acknowledged: from then on they are the
coordinator's, which alone knows whether the checkpoint has been committed.

Concurrency: `begin`, `add`, `complete` and `abort` are called by the task thread; `_finish` and `_clean` run in I/O threads.
The fields of a `_Pending` are guarded by the lock of the class, which is never held during I/O.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from checkdam.checkpoint.manifest import FileHandle, SubtaskSnapshot
from checkdam.checkpoint.uploads import uploaded_bytes
from checkdam.core.clock import Clock
from checkdam.core.errors import CheckdamError, CheckpointError
from checkdam.core.faultpoints import hit
from checkdam.state.base import SnapshotWriter
from checkdam.wire.frames import FrameError
from checkdam.wire.messages import Ack, AttemptId, Decline, Message, Trigger
from checkdam.worker.checkpoint_files import CheckpointFiles
from checkdam.worker.subtask import Subtask

log = logging.getLogger(__name__)

WRITER_THREADS: Final = 4
"""How many subtasks' snapshots are awaited at the same time; their transfers have threads of their own."""


@dataclass
class _Pending:
    trigger: Trigger
    directory: Path
    expected: int
    snapshots: list[SubtaskSnapshot] = field(default_factory=list)
    writers: list[SnapshotWriter] = field(default_factory=list)
    jobs: list[Future[None]] = field(default_factory=list)
    pause_ms: int = 0
    alignment_ms: int = 0
    void: threading.Event = field(default_factory=threading.Event)
    acknowledged: bool = False


class Snapshotter:
    """The checkpoints of one worker and attempt.

    Args:
        attempt: For messages.
        index: The worker's index; part of file names.
        stages: How many subtasks must pass each barrier.
        files: Where files go.
        directory: A folder of this attempt for files on their way.
        send: Sends a message to the coordinator; thread-safe.
        clock: The worker's clock, whose processing time is stored.
        executor: Where files are written and uploaded; threads of its own by default.
    """

    def __init__(
        self,
        attempt: AttemptId,
        index: int,
        stages: int,
        files: CheckpointFiles,
        directory: Path,
        send: Callable[[Message], None],
        clock: Clock,
        executor: Executor | None = None,
    ) -> None:
        self._attempt = attempt
        self._index = index
        self._stages = stages
        self._files = files
        self._directory = directory
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._executor = executor or ThreadPoolExecutor(WRITER_THREADS, thread_name_prefix="snapshot")

    def begin(self, trigger: Trigger) -> None:
        """Checkpoint `trigger.checkpoint` begins; a higher one voids lower ones."""
        self._files.begin(trigger)
        self.abort(trigger.checkpoint - 1)
        directory = self._directory / f"chk-{trigger.checkpoint}"
        self._pending[trigger.checkpoint] = _Pending(trigger, directory, self._stages)

    def add(self, subtask: Subtask, checkpoint: int) -> None:
        """Freeze a subtask at its barrier. Task thread."""
        pending = self._pending.get(checkpoint)
        if pending is None or pending.void.is_set():
            return
        began_ns = time.perf_counter_ns()
        try:
            snapshot, writer = self._freeze(subtask, pending)
        except (CheckdamError, OSError) as error:
            self._decline(pending, error)
            return
        hit("worker-snapshot")
        pause_ms = (time.perf_counter_ns() - began_ns) // 1_000_000
        with self._lock:
            pending.pause_ms = max(pending.pause_ms, pause_ms)
            pending.alignment_ms = max(pending.alignment_ms, subtask.alignment_ms)
            if writer is not None:
                pending.writers.append(writer)
        pending.jobs.append(self._executor.submit(self._finish, pending, snapshot, writer))

    def complete(self, checkpoint: int) -> None:
        """Checkpoint `checkpoint` has completed: what only earlier ones needed may go."""
        self._files.complete(checkpoint)
        self._executor.submit(self._files.tidy)

    def abort(self, checkpoint: int) -> None:
        """Void all checkpoints ≤ `checkpoint` that are not acknowledged yet."""
        for number in [number for number in self._pending if number <= checkpoint]:
            pending = self._pending.pop(number)
            with self._lock:
                pending.void.set()
                writers = list(pending.writers)
            for writer in writers:
                writer.cancel()
            self._files.abort(number)
            self._executor.submit(self._clean, pending)

    def close(self) -> None:
        """The attempt ends: cancel what is being written; does not wait."""
        for pending in self._pending.values():
            pending.void.set()
            for writer in pending.writers:
                writer.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _freeze(self, subtask: Subtask, pending: _Pending) -> tuple[SubtaskSnapshot, SnapshotWriter | None]:
        checkpoint = pending.trigger.checkpoint
        operators: dict[str, bytes] = {}
        if subtask.source is not None:
            operators[subtask.source.operator_id] = msgspec.msgpack.encode(subtask.source.snapshot(checkpoint))
        first = 0 if subtask.source is None else 1
        for number, operator in enumerate(subtask.operators):
            state = operator.snapshot(checkpoint)
            if state is not None:
                operators[subtask.stage.nodes[number + first].id] = msgspec.msgpack.encode(state)
        writer = None
        key_groups = None
        if subtask.backend is not None:
            directory = pending.directory / subtask.stage.id
            directory.mkdir(parents=True)
            writer = subtask.backend.snapshot(directory, canonical=pending.trigger.savepoint)
            key_groups = (subtask.backend.key_groups.start, subtask.backend.key_groups.stop)
        snapshot = SubtaskSnapshot(
            subtask.stage.id,
            self._index,
            key_groups,
            subtask.reached_ms,
            operators,
            group_watermarks=subtask.group_watermarks,
        )
        return snapshot, writer

    def _finish(self, pending: _Pending, snapshot: SubtaskSnapshot, writer: SnapshotWriter | None) -> None:
        """Write and upload one subtask's files. I/O thread."""
        try:
            handles: list[FileHandle] = []
            if writer is not None:
                files = writer.finish()
                if pending.void.is_set():
                    return
                prefix = f"{snapshot.stage}-{self._index}/"
                handles = self._files.store(pending.trigger, prefix, files, pending.void)
        except Exception as error:
            if not pending.void.is_set():
                self._decline(pending, error)
            return
        with self._lock:
            pending.snapshots.append(msgspec.structs.replace(snapshot, files=handles))
            complete = len(pending.snapshots) == pending.expected and not pending.void.is_set()
            pending.acknowledged = complete
        if complete:
            hit("worker-ack")
            self._files.acknowledge(pending.trigger, pending.snapshots)
            try:
                self._send(self._ack(pending))
            except FrameError as error:
                # Where storage is not shared, all state travels in it. Nobody has heard of the files: they are ours still.
                with self._lock:
                    pending.acknowledged = False
                self._decline(pending, error)
                return
            shutil.rmtree(pending.directory, ignore_errors=True)
            # Inline files may be as large as the state, and the next checkpoint may be far away.
            pending.snapshots, pending.writers = [], []

    def _ack(self, pending: _Pending) -> Ack:
        uploaded = uploaded_bytes(pending.trigger.folder, _handles(pending))
        return Ack(
            self._attempt,
            pending.trigger.checkpoint,
            sorted(pending.snapshots, key=lambda snapshot: snapshot.stage),
            self._clock.now_ms(),
            pending.alignment_ms,
            pending.pause_ms,
            uploaded,
        )

    def _decline(self, pending: _Pending, error: BaseException) -> None:
        with self._lock:
            if pending.void.is_set():
                return
            pending.void.set()
        if not isinstance(error, (CheckdamError, OSError)):
            log.error("snapshot failed", exc_info=error)
        text = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        self._send(Decline(self._attempt, pending.trigger.checkpoint, text))

    def _clean(self, pending: _Pending) -> None:
        """Delete what a voided checkpoint has left here and in storage. I/O thread."""
        for job in pending.jobs:
            if not job.cancel():
                job.exception()
        shutil.rmtree(pending.directory, ignore_errors=True)
        self._files.tidy()
        if not pending.acknowledged:
            try:
                self._files.discard(pending.trigger, _handles(pending))
            except CheckdamError as error:
                log.info("leftovers of checkpoint %s stay until the next sweep: %s", pending.trigger.checkpoint, error)


def _handles(pending: _Pending) -> list[FileHandle]:
    return [handle for snapshot in pending.snapshots for handle in snapshot.files]
