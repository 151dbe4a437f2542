"""Restored state that waits for the operators that it belongs to; the same for both backends.

`open_parts` decides what a subtask takes of which snapshot. Their blocks stay in their files, undecoded, until an operator
asks for its table, since only the operator's spec knows the type of the values; here is where they lie. What nobody has
asked for by the next snapshot is forgotten: its operator is gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.state.base import StoredSnapshot, TableSpec
from checkdam.state.blocks import StoredBlock, find_blocks
from checkdam.state.record import (
    BLOCK_FILES,
    BLOCKS_FORMAT,
    RECORD_NAME,
    SnapshotRecord,
    TableRecord,
    TimersRecord,
    check_record,
    check_table,
    fetch_log,
    read_record,
)


@dataclass(frozen=True)
class StoredPart:
    """What a subtask takes of one snapshot.

    Attributes:
        snapshot: The snapshot.
        record: Its `state.json`.
        key_groups: The key groups that the subtask owns and the snapshot has.
    """

    snapshot: StoredSnapshot
    record: SnapshotRecord
    key_groups: range

    @property
    def whole(self) -> bool:
        """Whether that is all that the snapshot has."""
        return (self.key_groups.start, self.key_groups.stop) == self.record.key_groups


def open_parts(
    snapshots: Sequence[StoredSnapshot], key_groups: range, max_parallelism: int, formats: Collection[str]
) -> list[StoredPart]:
    """What a subtask that owns `key_groups` takes of `snapshots`, in the order of key groups.

    Args:
        snapshots: They cover disjoint ranges.
        key_groups: What the subtask owns.
        max_parallelism: Number of key groups of the job.
        formats: Those that its backend reads.

    Raises:
        CorruptCheckpointError: A `state.json` is missing or damaged.
        IncompatibleCheckpointError: A snapshot is of another format, release or `maxParallelism`.
        CheckpointError: Key groups that are owned here are missing, or covered twice.
    """
    parts = []
    for snapshot in snapshots:
        if RECORD_NAME not in [handle.name for handle in snapshot.files]:
            names = ", ".join(sorted(handle.name for handle in snapshot.files)) or "none"
            raise CorruptCheckpointError(f"the snapshot has no `{RECORD_NAME}` (its files: {names})")
        record = read_record(snapshot.fetch([RECORD_NAME])[RECORD_NAME])
        check_record(record, formats, max_parallelism)
        start, stop = record.key_groups
        taken = range(max(key_groups.start, start), min(key_groups.stop, stop))
        if taken or len(snapshots) == 1:
            parts.append(StoredPart(snapshot, record, taken))
    parts.sort(key=lambda part: part.key_groups.start)
    _check_cover([part.key_groups for part in parts], key_groups)
    return parts


def _check_cover(found: list[range], owned: range) -> None:
    """See that ascending ranges are disjoint and together all that a subtask owns."""
    position = owned.start
    for taken in found:
        if taken.start != position:
            break
        position = taken.stop
    if position != owned.stop:
        held = ", ".join(f"{taken.start}..{taken.stop - 1}" for taken in found if taken) or "none"
        raise CheckpointError(
            f"this subtask owns key groups {owned.start}..{owned.stop - 1}, of which the checkpoint's snapshots have "
            f"{held}: they must have each of them once; restore another checkpoint"
        )


@dataclass(frozen=True)
class RestoredLog:
    """What one snapshot's log of changes has of a table.

    Attributes:
        blocks: The latest first.
        owned: Of which only these key groups are wanted; None where it has no others.
    """

    blocks: list[StoredBlock]
    owned: range | None


@dataclass
class RestoredBlocks:
    """What was restored of one table, or of one operator's timers, in blocks.

    Attributes:
        rows: Of snapshots in the canonical format: the rows.
        changes: Of RocksDB's own: what differs from the database.
        logs: As `changes`, of each snapshot that has a log of them.
    """

    rows: list[StoredBlock] = field(default_factory=list)
    changes: list[StoredBlock] = field(default_factory=list)
    logs: list[RestoredLog] = field(default_factory=list)


class RestoredState:
    """The tables and timers of the restored snapshots that nobody has asked for yet; at first there are none."""

    def __init__(self) -> None:
        self._records: dict[str, list[TableRecord | TimersRecord]] = defaultdict(list)
        self._blocks: dict[str, RestoredBlocks] = defaultdict(RestoredBlocks)

    def add(self, part: StoredPart) -> None:
        """Take what the subtask takes of a snapshot.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
        """
        columns = [section.column for section in part.record.sections]
        for column, section in zip(columns, part.record.sections, strict=True):
            if section not in self._records[column]:
                self._records[column].append(section)
        name = BLOCK_FILES[part.record.format]
        paths = part.snapshot.fetch([name]).values()
        for column, blocks in _by_column(paths, columns, part).items():
            restored = self._blocks[column]
            (restored.rows if part.record.format == BLOCKS_FORMAT else restored.changes).extend(blocks)
        for column, blocks in _by_column(fetch_log(part.snapshot, part.record), columns, part).items():
            self._blocks[column].logs.append(RestoredLog(blocks, None if part.whole else part.key_groups))

    def take_table(self, spec: TableSpec) -> RestoredBlocks:
        """The blocks of a table that an operator asks for; none if it was not restored.

        Raises:
            IncompatibleCheckpointError: It was restored as another than `spec` says; it stays here then.
        """
        column = TableRecord.of(spec).column
        for record in self._records.get(column, []):
            if isinstance(record, TableRecord):
                check_table(record, spec)
        return self._take(column)

    def take_timers(self, timers: TimersRecord) -> RestoredBlocks:
        """The blocks of timers that an operator asks for; none if they were not restored."""
        return self._take(timers.column)

    def unclaimed(self) -> list[TableRecord | TimersRecord]:
        """What nobody has asked for yet."""
        return [records[0] for records in self._records.values()]

    def clear(self) -> None:
        """Forget what nobody has asked for."""
        self._records.clear()
        self._blocks.clear()

    def _take(self, column: str) -> RestoredBlocks:
        self._records.pop(column, None)
        return self._blocks.pop(column, RestoredBlocks())


def _by_column(paths: Iterable[Path], columns: list[str], part: StoredPart) -> dict[str, list[StoredBlock]]:
    """Column → its blocks in these files, in that order."""
    found: dict[str, list[StoredBlock]] = defaultdict(list)
    for path in paths:
        for block in find_blocks(path, part.key_groups):
            if block.section >= len(columns):
                raise CorruptCheckpointError(f"{path} holds a table that its `{RECORD_NAME}` does not name")
            found[columns[block.section]].append(block)
    return found
