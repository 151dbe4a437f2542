"""The coordinator's bookkeeping of checkpoints: when one is due, who has acknowledged, what became of each.

Nothing here sends, waits or touches storage, and every reading of a clock is an argument: `flow.py` asks and acts.
The tracker outlives attempts, because failures in a row, numbers and the history go on over a restart; a
`PendingCheckpoint` belongs to one attempt and dies with it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from checkdam.checkpoint.folders import is_own
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SourceSnapshot, SubtaskSnapshot
from checkdam.core.errors import CheckpointError
from checkdam.spec.checkpoint import Checkpointing
from checkdam.wire.messages import Ack

CheckpointCause = Literal["restored", "interval", "request", "savepoint", "stop", "leave", "rescale", "final"]
"""Why a checkpoint was taken: before this epoch, the schedule, the API, to be a savepoint, a stop, a process that leaves, another number
of workers, the end of input."""

CheckpointStatus = Literal["IN_PROGRESS", "COMPLETED", "FAILED"]

_TOLERATED: Final = ("interval", "request", "rescale")
"""Causes whose failures count against `tolerableFailures`."""

_UNTOLD: Final = ("savepoint", "leave")
"""Causes whose failures say nothing about the job's checkpoints: savepoints have an account of their own, and an attempt that somebody
leaves ends in any case."""

HISTORY_LENGTH: Final = 100
"""How many checkpoints the API remembers."""

_PREPARE_LEAD_LIMIT_MS: Final = 1_000
_GRACE_LIMIT_MS: Final = 5_000


class CheckpointRecord(msgspec.Struct, rename="camel"):
    """One checkpoint, as the API shows it.

    Attributes:
        id: Its number.
        cause: Why it was taken.
        status: IN_PROGRESS, COMPLETED or FAILED.
        attempt: `<epoch>.<attempt>` that took it.
        triggered_ms: Wall clock of the trigger.
        duration_ms: From trigger to the journal entry or the failure; `None` while in progress.
        size_bytes: Of all files, those of older checkpoints that it refers to included.
        uploaded_bytes: Of what was uploaded for it.
        full: Whether it names no file of an older checkpoint; known when it has completed.
        alignment_ms: The longest time that a worker held back an input for it.
        pause_ms: The longest time that a task thread stood still for its snapshot.
        acknowledged: Workers that have acknowledged.
        folder: Its folder in storage.
        failure: Why it failed; empty otherwise.
    """

    id: int
    cause: CheckpointCause
    status: CheckpointStatus
    attempt: str
    triggered_ms: int
    folder: str
    duration_ms: int | None = None
    size_bytes: int = 0
    uploaded_bytes: int = 0
    full: bool = False
    alignment_ms: int = 0
    pause_ms: int = 0
    acknowledged: int = 0
    failure: str = ""

    @classmethod
    def restored(cls, folder: str, manifest: CheckpointManifest) -> CheckpointRecord:
        """Of one that was there before this epoch."""
        return cls(
            id=manifest.id,
            cause="restored",
            status="COMPLETED",
            attempt=f"{manifest.epoch}.{manifest.attempt}",
            triggered_ms=manifest.created_ms,
            folder=folder,
            size_bytes=manifest.size_bytes,
            full=not manifest.increments,
            acknowledged=len({snapshot.subtask for snapshot in manifest.subtasks}),
        )


@dataclass
class PendingCheckpoint:
    """A checkpoint whose acknowledgements are being collected.

    Attributes:
        id: Its number.
        folder: Where its files go.
        record: What the API shows of it.
        parallelism: How many workers must acknowledge.
        started_ms: Monotonic time of the trigger.
        sources: The enumerators' snapshots, taken in the step of the trigger.
        base: The checkpoint whose files may be named again; `None` for a full one.
        acks: What has come, by worker index.
    """

    id: int
    folder: str
    record: CheckpointRecord
    parallelism: int
    started_ms: int
    sources: dict[str, SourceSnapshot]
    base: CheckpointManifest | None = None
    acks: dict[int, Ack] = field(default_factory=dict)

    def acknowledge(self, index: int, ack: Ack) -> bool:
        """Note the acknowledgement of worker `index`; returns whether all have come."""
        self.acks[index] = ack
        record = self.record
        record.acknowledged = len(self.acks)
        record.uploaded_bytes = sum(found.uploaded_bytes for found in self.acks.values())
        record.alignment_ms = max(record.alignment_ms, ack.alignment_ms)
        record.pause_ms = max(record.pause_ms, ack.pause_ms)
        return len(self.acks) == self.parallelism

    def snapshots(self) -> list[SubtaskSnapshot]:
        """All subtask snapshots, by worker."""
        return [snapshot for index in sorted(self.acks) for snapshot in self.acks[index].snapshots]

    def processing_time_ms(self) -> int:
        """The furthest processing time of any worker."""
        return max((ack.processing_time_ms for ack in self.acks.values()), default=0)

    def increments(self) -> int:
        """`CheckpointManifest.increments` of what was acknowledged."""
        known = self.base.paths() if self.base is not None else set()
        named = {handle.path for snapshot in self.snapshots() for handle in snapshot.files}
        return self.base.increments + 1 if self.base is not None and known & named else 0

    def uploads(self) -> list[str]:
        """The files that were acknowledged and belong to this try alone: to be deleted if it fails."""
        return [path for ack in self.acks.values() for path in own_files(self.folder, ack)]

    def check(self, shared: bool) -> None:
        """Check that what was acknowledged may become a checkpoint.

        Every worker speaks for its own subtasks, all have the same stages, and every file was uploaded in this try,
        is inline, or is a file of the base unchanged.

        Args:
            shared: Whether workers can reach storage; otherwise only inline files are accepted.

        Raises:
            CheckpointError: It may not; names worker and file.
        """
        known = {
            (handle.path, handle.size_bytes, handle.sha256)
            for snapshot in (self.base.subtasks if self.base else ())
            for handle in snapshot.files
            if handle.path
        }
        stages: set[str] | None = None
        for index, ack in sorted(self.acks.items()):
            own = {snapshot.stage for snapshot in ack.snapshots}
            if stages is not None and own != stages:
                raise CheckpointError(
                    f"worker {index} acknowledged checkpoint {self.id} with the stages {sorted(own)}, others with {sorted(stages)}"
                )
            stages = own
            for snapshot in ack.snapshots:
                if snapshot.subtask != index:
                    raise CheckpointError(
                        f"worker {index} acknowledged checkpoint {self.id} for subtask {snapshot.subtask}"
                    )
                for handle in snapshot.files:
                    if not self._may_refer(handle, known, shared):
                        raise CheckpointError(
                            f"worker {index} acknowledged checkpoint {self.id} with the file {handle.path!r}, "
                            f"which was neither uploaded for {self.folder!r} nor is an unchanged file of the base"
                        )

    def _may_refer(self, handle: FileHandle, known: set[tuple[str, int, str]], shared: bool) -> bool:
        if handle.inline is not None:
            return not handle.path and len(handle.inline) == handle.size_bytes
        if not shared:
            return False
        return is_own(handle.path, self.folder) or (handle.path, handle.size_bytes, handle.sha256) in known


def own_files(folder: str, ack: Ack) -> list[str]:
    """The files that a worker acknowledged and had uploaded for the checkpoint in `folder`."""
    named = (handle.path for snapshot in ack.snapshots for handle in snapshot.files)
    return [path for path in named if is_own(path, folder)]


@dataclass(frozen=True)
class Schedule:
    """When checkpoints are taken.

    Attributes:
        interval_ms: From one trigger to the next.
        min_pause_ms: At least so long between the end of one and the trigger of the next.
        timeout_ms: How long acknowledgements may take.
        tolerable_failures: How many failures in a row the attempt survives.
        external: Somebody else triggers (the operator); the coordinator only what is overdue.
    """

    interval_ms: int
    min_pause_ms: int = 0
    timeout_ms: int = 600_000
    tolerable_failures: int = 0
    external: bool = False

    @classmethod
    def of(cls, checkpoint: Checkpointing, *, external: bool) -> Schedule:
        """The schedule that `spec.checkpoint` says."""
        return cls(
            interval_ms=checkpoint.interval_ms,
            min_pause_ms=checkpoint.min_pause_ms,
            timeout_ms=checkpoint.timeout_ms,
            tolerable_failures=checkpoint.tolerable_failures,
            external=external,
        )

    @property
    def grace_ms(self) -> int:
        """How long after it was due a checkpoint is left to the one outside who should trigger it."""
        return min(self.interval_ms, _GRACE_LIMIT_MS) if self.external else 0

    @property
    def prepare_lead_ms(self) -> int:
        """How long before a scheduled trigger workers are told to flush."""
        return min(self.interval_ms // 4, _PREPARE_LEAD_LIMIT_MS)


class CheckpointTracker:
    """What there is to know about the checkpoints of a job.

    Args:
        schedule: When checkpoints are taken.
        next_id: The number of the next one.

    Attributes:
        consecutive_failures: Of those that count, the ones that have failed one after another in the running attempt.
        failures_in_a_row: All that have failed one after another, whatever attempts there were meanwhile.
        problem: Why the last of them failed; empty where there is none.
    """

    def __init__(self, schedule: Schedule, next_id: int) -> None:
        self.schedule = schedule
        self.next_id = next_id
        self.history: deque[CheckpointRecord] = deque(maxlen=HISTORY_LENGTH)
        self.pending: PendingCheckpoint | None = None
        self.completed_total = 0
        self.failed_total = 0
        self.consecutive_failures = 0
        self.failures_in_a_row = 0
        self.problem = ""
        self.last_completed: CheckpointRecord | None = None
        self._last_trigger_ms = 0
        self._earliest_ms = 0

    def begins_with(self, record: CheckpointRecord) -> None:
        """The job starts from this checkpoint; numbers go on after it, and never back."""
        self.next_id = max(self.next_id, record.id + 1)
        self.history.append(record)
        self.last_completed = record

    def attempt_runs(self, now_ms: int) -> None:
        """An attempt has begun to read at `now_ms` (monotonic): the interval counts from here."""
        self._last_trigger_ms = now_ms
        self.consecutive_failures = 0

    def due_ms(self) -> int:
        """The monotonic time at which the coordinator triggers by itself, if nobody did before."""
        due_ms = self._last_trigger_ms + self.schedule.interval_ms + self.schedule.grace_ms
        return max(due_ms, self._earliest_ms)

    def earliest_ms(self) -> int:
        """The monotonic time before which `minPause` allows no trigger at all."""
        return self._earliest_ms

    def begin(
        self,
        *,
        cause: CheckpointCause,
        attempt: str,
        folder: str,
        parallelism: int,
        sources: dict[str, SourceSnapshot],
        now_ms: int,
        wall_ms: int,
        base: CheckpointManifest | None = None,
    ) -> PendingCheckpoint:
        """Take the next number; acknowledgements are collected from now on."""
        record = CheckpointRecord(self.next_id, cause, "IN_PROGRESS", attempt, wall_ms, folder)
        self.pending = PendingCheckpoint(self.next_id, folder, record, parallelism, now_ms, sources, base)
        self.history.append(record)
        self.next_id += 1
        if cause != "savepoint":
            self._last_trigger_ms = now_ms
        return self.pending

    def set_aside(self, savepoint: PendingCheckpoint) -> None:
        """All workers have acknowledged `savepoint`: another checkpoint may be taken before it is `saved`."""
        if self.pending is savepoint:
            self.pending = None

    def saved(self, savepoint: PendingCheckpoint, size_bytes: int, now_ms: int) -> None:
        """`savepoint`, of which the job takes no notice, lies in storage as a whole."""
        savepoint.record.status = "COMPLETED"
        savepoint.record.size_bytes = size_bytes
        savepoint.record.full = True
        self._end(savepoint, now_ms)

    def complete(self, pending: PendingCheckpoint, size_bytes: int, now_ms: int) -> None:
        """The journal holds `pending`."""
        record = pending.record
        record.status = "COMPLETED"
        record.size_bytes = size_bytes
        record.full = pending.increments() == 0
        self._end(pending, now_ms)
        self.completed_total += 1
        self.consecutive_failures = self.failures_in_a_row = 0
        self.problem = ""
        self.last_completed = record

    def fail(self, pending: PendingCheckpoint, reason: str, now_ms: int) -> bool:
        """`pending` came to nothing; returns whether that was one failure in a row too many.

        Only checkpoints that are followed by others in any case count against `tolerable_failures`: what becomes of a final one, or of one
        that the job stops with, is for whoever takes it.

        Args:
            pending: The checkpoint.
            reason: Why, for people.
            now_ms: Monotonic time.
        """
        self.give_up(pending, reason, now_ms)
        cause = pending.record.cause
        if cause in _UNTOLD:
            return False
        self.failures_in_a_row += 1
        self.problem = reason
        if cause not in _TOLERATED:
            return False
        self.consecutive_failures += 1
        return self.consecutive_failures > self.schedule.tolerable_failures

    def give_up(self, pending: PendingCheckpoint, reason: str, now_ms: int) -> None:
        """`pending` came to nothing because its attempt has ended, which says nothing about checkpoints; see `fail`."""
        pending.record.status = "FAILED"
        pending.record.failure = reason
        self._end(pending, now_ms)
        if pending.record.cause != "savepoint":
            self.failed_total += 1

    def find(self, checkpoint: int) -> CheckpointRecord | None:
        """The latest record of that number, if it is remembered."""
        return next((record for record in reversed(self.history) if record.id == checkpoint), None)

    def _end(self, pending: PendingCheckpoint, now_ms: int) -> None:
        pending.record.duration_ms = now_ms - pending.started_ms
        if pending.record.cause != "savepoint":
            self._earliest_ms = now_ms + self.schedule.min_pause_ms
        if self.pending is pending:
            self.pending = None


__all__ = [
    "HISTORY_LENGTH",
    "CheckpointCause",
    "CheckpointRecord",
    "CheckpointStatus",
    "CheckpointTracker",
    "PendingCheckpoint",
    "Schedule",
    "own_files",
]
