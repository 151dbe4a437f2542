"""Base classes for sources and sinks, the contracts that a user's own connector must keep.

A *source* is described once and used in two places. The coordinator asks it for *splits*, the units of work that can
be read independently (a file, a range of a file, a partition). Workers open a *reader* for each split that is assigned
to them. The framework keeps positions, watermarks, assignments and snapshots; a connector only finds splits and reads.

A *sink* opens one *writer* per subtask. A writer that also prepares and commits takes part in checkpoints: what it
wrote becomes visible exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Split(msgspec.Struct, frozen=True):
    """A part of a source that one reader reads from its start to its end.

    Attributes:
        id: Unique within the source and stable: a split found again has the same id.
        payload: What the reader needs to find it: JSON-like data (str, int, list, dict …).
    """

    id: str
    payload: Any = None


@dataclass
class SourceBatch(Generic[T]):
    """Records read from a split.

    Attributes:
        values: The records, in order; may be empty when nothing is there right now.
        times: Their event times in ms, where the source knows them; the watermark strategy may replace them.
        watermark_ms: The source's own word that no later record of this split is earlier; used by `Watermarks.from_source`.
    """

    values: list[T]
    times: list[int] | None = None
    watermark_ms: int | None = None


class SplitReader(ABC, Generic[T]):
    """Reads one split. Called by the task thread alone, which must not be blocked.

    Guarantee: with exact positions a source supports ExactlyOnce.
    """

    @abstractmethod
    def read(self, max_records: int, limit: Any = None) -> SourceBatch[T] | None:
        """Read on, without blocking.

        Args:
            max_records: At most so many records.
            limit: For AtMostOnce: a position that `reserve` returned; read no record that begins there or later.
                At the limit return an empty batch.

        Returns:
            The next records; an empty batch if none is there yet; `None` at the end of the split, and ever after.

        Raises:
            RecordError: a record cannot be parsed and the source was told to fail.
        """

    @abstractmethod
    def position(self) -> Any:
        """Where the next `read` begins: JSON-like data, given to `open` after a restore. Right after the last record returned."""

    def reserve(self, after: Any, records: int) -> Any:
        """A position about `records` records after the position `after`, for AtMostOnce; past the end is fine.

        It must be a valid starting position even if no record begins exactly there: the reader then starts with the
        first record that begins at or after it, and a reader with this `limit` reads all records that begin before it.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot reserve positions")

    def wait_hint_ms(self) -> int:
        """After an empty batch: in how many ms asking again may be worthwhile."""
        return 10

    def skipped(self) -> int:
        """How many records were skipped because they could not be parsed, since the reader was opened."""
        return 0

    def side_output(self) -> Sequence[tuple[str, Any]]:
        """Records for side outputs since the last call, as (tag, value); such as unparsable ones."""
        return ()

    def close(self) -> None:
        """Called once, also after a failure."""


class Source(ABC, Generic[T]):
    """Where records come from.

    Class attributes state what the source can do:

    Attributes:
        bounded: Whether it ends. A bounded source finds all its splits in one call of `splits`.
        splits_ordered_in_time: Whether every record of a later split (in the order that `splits` returns) is later than
            the last one's start: then splits not read yet do not hold the watermark at −∞.
        can_reserve: Whether its readers implement `reserve`, without which AtMostOnce refuses it.
        concurrent: Whether all splits are read at the same time, such as partitions of a log: they are then given out evenly
            and at once. Otherwise each subtask reads one split after another and asks for the next when it is done.
        discovery_interval_ms: For unbounded sources: how often `splits` is asked for more; 0 for once.
        value_type: The type of the records, `None` if it is not declared.
    """

    bounded: bool = True
    splits_ordered_in_time: bool = False
    can_reserve: bool = False
    concurrent: bool = False
    discovery_interval_ms: int = 0
    value_type: Any = None

    @abstractmethod
    def splits(self, parallelism: int) -> list[Split]:
        """All splits known now, in the order in which they should be read. Called by the coordinator, in a thread; may block.

        Splits whose ids were returned before are ignored. Relative starting points ("now", "latest") are resolved here,
        into the payload: the answer is stored before anything is read.

        Raises:
            StorageError: the input cannot be reached; names it.
        """

    @abstractmethod
    def open(self, split: Split, position: Any) -> SplitReader[T]:
        """A reader that starts at `position`, or at the start of the split if it is `None`."""

    def checkpoint_complete(self, positions: dict[str, Any]) -> None:
        """A checkpoint has completed: what lies before these positions may be acknowledged to the outside.

        Called by an I/O thread of each worker, checkpoint by checkpoint.

        Args:
            positions: Split id → position, of the splits that the worker was reading when the checkpoint was taken.

        Raises:
            StorageError: it failed for now; it is tried again a few times, and then the attempt fails.
        """


@dataclass(frozen=True)
class SinkContext:
    """Where a writer runs.

    Attributes:
        operator_id: The sink's stable id.
        subtask: Index of the subtask, from 0.
        attempt: `<epoch>.<attempt>`: differs for every deployment; belongs into names of files.
        parallelism: Number of subtasks.
    """

    operator_id: str
    subtask: int
    attempt: str
    parallelism: int

    def inherits(self, former_subtask: int) -> bool:
        """Whether this subtask commits and discards what `former_subtask` of an earlier attempt has left.

        Each has one heir, also when the job had another parallelism then.
        """
        return former_subtask % self.parallelism == self.subtask


class SinkWriter(ABC, Generic[T]):
    """Writes the records of one subtask. Called by the task thread alone."""

    @abstractmethod
    def write(self, values: list[T], times: list[int] | None) -> None:
        """Write a batch. What it raises fails the attempt."""

    def flush(self) -> None:
        """Called at every barrier, before the snapshot: what was written must not be lost by a crash after it returned.

        A `TwoPhaseWriter` is asked to `prepare` instead.
        """

    def close(self) -> None:
        """Called once at the end of the attempt, also after a failure; must not make anything visible."""


class TwoPhaseWriter(SinkWriter[T]):
    """A writer whose output becomes visible when a checkpoint completes."""

    @abstractmethod
    def prepare(self, checkpoint: int) -> list[Any]:
        """End the current output and return *committables* that describe it: JSON-like data, stored in the checkpoint.

        After it returned, a crash of the process or the machine must not lose what the committables name.
        """


class Sink(ABC, Generic[T]):
    """Where records go.

    Attributes:
        two_phase: Whether its writers are `TwoPhaseWriter`s and `commit` is implemented. Only then is the sink ExactlyOnce;
            otherwise output since the last checkpoint is repeated after a failure (AtLeastOnce).
    """

    two_phase: ClassVar[bool] = False

    @abstractmethod
    def open(self, context: SinkContext) -> SinkWriter[T]:
        """A writer for one subtask of one attempt."""

    def commit(self, committables: list[Any]) -> None:
        """Make the output of these committables visible; idempotent: repeated after a crash.

        Called by an I/O thread, while the writer goes on; and before an attempt reads anything, with what the restored
        checkpoint holds.

        Raises:
            StorageError: it failed for now; it is tried again a few times, and then the attempt fails.
        """
        raise NotImplementedError

    def discard(self, context: SinkContext, keep: list[Any]) -> None:
        """Remove leftovers of earlier attempts that are in no committable of `keep`.

        Those of this subtask and of all others that it `inherits` from: after a job was scaled down, nobody else looks at
        what the subtasks that are gone have left. Called at the start of every attempt, restored or not: after `open` and
        before anything is written. `keep` is what will be committed next, empty if there is nothing. Idempotent, and
        retried as `commit` is.
        """
