"""The contract between operators and the task loop.

An operator is one step of a pipeline in one subtask. The task loop owns it and calls it from one thread, so nothing in
an operator is ever locked. What an operator has to say it *yields*: every method that can produce records returns an
iterable of batches, and the loop pulls the next one only when the last has found room in the outputs. An operator that
fires a million windows is therefore a generator that is suspended a few hundred times, not a buffer of a million results.
While an iterator of a stage is unfinished, the stage is given no input, no watermark and no barrier.

Operators of a chain run in one subtask without queues between them: what one yields is handed to the next at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from checkdam.core.batch import MIN_TIME, Batch
from checkdam.core.clock import Clock
from checkdam.core.serde import Serde
from checkdam.operators.progress import reached_by_range
from checkdam.state.base import KeyedBackend, TableSpec


class Redistribution(StrEnum):
    """What becomes of an operator's own state, its `snapshot`, when a job is restored with another parallelism."""

    SPLIT = "split"
    """Every piece goes to one new subtask. Where all former subtasks stored lists, a piece is an element, and they are dealt out
    evenly and in order; otherwise it is the whole of a former subtask *i*, which goes to subtask *i* modulo the new parallelism."""

    UNION = "union"
    """Every new subtask is given what all former ones stored, and takes what concerns it."""

    BROADCAST = "broadcast"
    """All former subtasks stored the same; every new one is given one copy."""


@dataclass
class OperatorMetrics:
    """Counters of one operator in one subtask; plain integers, written by the task thread, read by anybody."""

    records_in: int = 0
    records_out: int = 0
    late_records: int = 0
    skipped_records: int = 0
    busy_ns: int = 0


@dataclass(frozen=True)
class WatermarkFloor:
    """The watermarks up to which restored key groups had been processed.

    After a restore the inputs' watermark starts from −∞ again, but windows that had fired must not fire afresh: a time
    is past for a key group when it is ≤ max(floor of the group, current watermark).

    Attributes:
        by_group: key group → watermark in ms: all groups of the subtask in ascending order, or none where nothing was restored.
    """

    by_group: dict[int, int] = field(default_factory=dict)

    @property
    def lowest_ms(self) -> int:
        """The watermark that all restored key groups had passed; MIN_TIME where nothing was restored."""
        return min(self.by_group.values(), default=MIN_TIME)

    def reached(self, watermark_ms: int) -> list[tuple[int, int, int]]:
        """What the key groups have reached when the watermark is `watermark_ms`, as (first group, group after the last, ms)."""
        return reached_by_range(self.by_group, watermark_ms)


@dataclass
class OperatorContext:
    """What a subtask gives to each of its operators.

    Attributes:
        operator_id: The operator's stable id.
        subtask: Index of this subtask, from 0.
        parallelism: Number of subtasks.
        backend: Keyed state of this subtask; shared by the operators of the stage, which name their tables by operator id.
        clock: Processing time and the monotonic clock.
        metrics: This operator's counters.
        attempt: `<epoch>.<attempt>`, unique for every deployment of the job; part of file names.
        floor: Watermarks that the restored key groups had reached.
        wake: Thread-safe; makes the task loop look at the operator again (`poll`) when it would otherwise sleep.
    """

    operator_id: str
    subtask: int
    parallelism: int
    backend: KeyedBackend
    clock: Clock
    metrics: OperatorMetrics
    attempt: str
    floor: WatermarkFloor
    wake: Callable[[], None]


class Operator:
    """One step of a pipeline. All methods are called by the task thread.

    The defaults are those of an operator without state, timers or anything in flight.
    """

    redistribution: ClassVar[Redistribution] = Redistribution.SPLIT
    """What becomes of its `snapshot` at another parallelism. Tables and timers go with their key groups."""

    def tables(self) -> list[TableSpec]:
        """The tables that the operator keeps; known before `open`, as their types are part of the graph's fingerprint."""
        return []

    def own_serdes(self) -> dict[str, Serde]:
        """What users' values inside `snapshot` are encoded with, by a name for people; known before `open`, as for tables."""
        return {}

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        """Called once, before everything else but `tables` and `own_serdes`.

        Args:
            context: The operator's surroundings.
            restored: What `snapshot` returned in the checkpoint that the attempt starts from: one element at unchanged
                parallelism, none without a checkpoint, and after a rescale as many as `redistribution` makes of it.
        """

    @property
    def accepts_input(self) -> bool:
        """Whether records may be given now. Barriers are taken all the same."""
        return True

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        """Handle a batch that came in on input `port` (0 unless the operator has several inputs)."""
        raise NotImplementedError

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        """Event time has reached `watermark_ms`, which is greater than in every call before: fire what is due."""
        return ()

    def output_watermark(self, watermark_ms: int) -> int:
        """The watermark that may go on downstream now; asked after `on_watermark` and after `poll`.

        Only operators that hold records in flight return less than they were given.
        """
        return watermark_ms

    def next_processing_time(self) -> int | None:
        """When `on_processing_time` wants to be called next, in ms; `None` for never."""
        return None

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        """Processing time has reached what `next_processing_time` asked for."""
        return ()

    def poll(self) -> Iterable[Batch]:
        """Hand out what has become ready outside the task thread; called after `context.wake()`."""
        return ()

    def release(self) -> Iterable[Batch]:
        """Hand out what is held back only to save work: a barrier is about to pass, or nothing else is to be done."""
        return ()

    def has_pending(self) -> bool:
        """Whether something is in flight that the end of input must wait for."""
        return False

    def on_end(self) -> Iterable[Batch]:
        """All inputs have ended (the watermark MAX_TIME came before) and nothing is pending."""
        return ()

    def snapshot(self, checkpoint: int) -> Any:
        """The operator's own state beside its tables, of types that msgspec encodes as MessagePack (bytes, lists, dicts …); `None` for none.

        Tables and timers are snapshotted by the backend in the same step.
        """
        return None

    def close(self) -> None:
        """The attempt ends, in whatever way. Must not raise and must not commit anything."""


class CommittingOperator(Operator):
    """An operator with effects outside that become visible only when a checkpoint has completed.

    Committables travel inside the operator's `snapshot` until their checkpoint completes; an aborted checkpoint leaves
    them pending, and they go into the next snapshot.
    """

    def commit(self, up_to: int) -> Callable[[], None]:
        """Take everything prepared for checkpoints ≤ `up_to` and return the work of committing it.

        The task thread calls `commit`; an I/O thread runs what it returns, one at a time and in order. That work must be
        idempotent: it is repeated after a crash. When it has returned, `committed` is called by the task thread.
        """
        raise NotImplementedError

    def committed(self, up_to: int) -> None:
        """The work that `commit(up_to)` returned has succeeded: forget it."""
        raise NotImplementedError

    def restored_commit(self) -> Callable[[], None]:
        """The work of committing what the restored checkpoint holds; run to its end before any source reads."""
        raise NotImplementedError
