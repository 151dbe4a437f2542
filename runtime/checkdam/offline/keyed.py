"""The keyed state of one subtask in a checkpoint, as blocks, whichever backend wrote it.

A canonical snapshot is read as it is; one of the RocksDB backend is first made canonical, in a folder that the caller names.
Nothing here decodes keys or values: that is the business of whoever knows their types.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from checkdam.state.base import StoredSnapshot
from checkdam.state.blocks import StoredBlock, find_blocks
from checkdam.state.canonical import canonical_blocks
from checkdam.state.record import SnapshotRecord, TableRecord, TimersRecord


@dataclass(frozen=True)
class KeyedPart:
    """One subtask's tables and timers, in the canonical format, on this machine.

    Attributes:
        record: What is in it.
        path: Its file of blocks; `None` where it holds no rows.
        groups: The key groups that are looked at; `None` for all.
    """

    record: SnapshotRecord
    path: Path | None
    groups: Collection[int] | None

    def blocks(self, wanted: TableRecord | TimersRecord | None = None) -> Iterator[StoredBlock]:
        """The blocks of one table or of one operator's timers, or all, in ascending order of key groups.

        Of key groups that are not looked at nothing but the headers of blocks is read.

        Args:
            wanted: One of the record's sections; `None` for all.

        Raises:
            CorruptCheckpointError: The file is damaged.
        """
        if self.path is None:
            return
        section = None if wanted is None else self.record.sections.index(wanted)
        for block in find_blocks(self.path, _span(self.groups) or range(*self.record.key_groups)):
            if section in (None, block.section) and (self.groups is None or block.group in self.groups):
                yield block


def open_part(snapshot: StoredSnapshot, directory: Path, groups: Collection[int] | None = None) -> KeyedPart:
    """Bring a snapshot to this machine, verified, and make it canonical where it is not.

    Args:
        snapshot: One subtask's.
        directory: Of this call alone, for a canonical copy; must not exist yet.
        groups: Key groups of the snapshot that are to be looked at; `None` for all.

    Raises:
        CorruptCheckpointError: A file is missing or damaged.
        IncompatibleCheckpointError: It is of a newer release.
        StorageError: Storage failed.
    """
    record, path = canonical_blocks(snapshot, directory, _span(groups))
    return KeyedPart(record, path, groups)


def _span(groups: Collection[int] | None) -> range | None:
    return None if groups is None else range(min(groups), max(groups) + 1)
