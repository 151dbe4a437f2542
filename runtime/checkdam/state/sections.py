"""Writing all tables and timers of a backend into one file of blocks, and giving them back.

Both backends do this: the hashmap backend with all it has, the RocksDB backend with what its caches hold that the
database lacks. It happens in a forked child, or on the task thread when there is so little that a fork would take longer.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec.structs import replace

from checkdam.state.base import LocalFile
from checkdam.state.blocks import Block, BlockWriter, StoredBlock
from checkdam.state.forked import ChildSnapshot, WrittenSnapshot, fork_snapshot
from checkdam.state.record import SnapshotRecord, write_record
from checkdam.state.restored import RestoredLog
from checkdam.state.rocksdb_rows import not_owned

FORK_FROM_ENTRIES: Final = 2_000
"""From this many entries on a fork is shorter than encoding on the spot."""

SNAPSHOT_TIMEOUT_S: Final = 600.0
"""How long a snapshot may take to be written; the coordinator's checkpoint timeout normally comes first."""


class Loadable(Protocol):
    """A part, as far as restoring is concerned."""

    def load_block(self, block: Block) -> None:
        """Add, or delete, the entries of a block."""
        ...


class Part(Loadable, Protocol):
    """A table, or the timers of an operator, as far as snapshots are concerned."""

    def sizes(self) -> Iterator[int]:
        """How many entries a snapshot would hold, container by container."""
        ...

    def group_runs(self) -> dict[int, list[Any]]:
        """Key group → what `blocks` needs to write the entries of that group."""
        ...

    def blocks(self, group_runs: list[Any]) -> Iterator[Block]:
        """The entries of one key group."""
        ...


class ReadsLog(Protocol):
    """A table whose changes are in a log."""

    def load_log(self, blocks: Iterable[Block], owned: range | None) -> None:
        """Take over a log of changes, its latest block first; where `owned` is given, only of those key groups."""
        ...


def load_part(part: Loadable, blocks: list[StoredBlock], where: str) -> None:
    """Give a part the blocks that were restored for it, one after the other; it is named `where` in errors.

    Raises:
        CorruptCheckpointError: A block is damaged.
        ValueTypeError: A value does not fit the declared type.
    """
    with _without_collections():
        for block in blocks:
            part.load_block(block.open(where))


def load_logs(table: ReadsLog, logs: list[RestoredLog], where: str) -> None:
    """As `load_part`, for the logs of changes that were restored for a table."""
    with _without_collections():
        for log in logs:
            table.load_log((block.open(where) for block in log.blocks), log.owned)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    # While millions of objects are made, automatic collections would look at all of them again and again.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Log(Protocol):
    """What a snapshot has beside its parts; `rocksdb_log`."""

    rows: int
    names: list[str]
    """Of its files, the earliest first."""

    def freeze(self) -> bool:
        """Keep it as it is now without a copy, for `write` to be called later; false if that cannot be done."""
        ...

    def write(self, directory: Path) -> list[LocalFile]:
        """Write it, from whichever thread or process."""
        ...


class SectionWriter:
    """Writes snapshots of a backend's parts.

    Args:
        name: The file's name.
        key_groups: The key groups that may occur.
        fork_from_entries: With fewer entries than this they are written on the spot.
        timeout_s: After this time a process that writes them is killed.
    """

    def __init__(self, name: str, key_groups: range, fork_from_entries: int, timeout_s: float) -> None:
        self._name = name
        self._key_groups = key_groups
        self._fork_from_entries = fork_from_entries
        self._timeout_s = timeout_s
        self._forked: list[ChildSnapshot] = []

    def write(
        self, directory: Path, parts: Sequence[Part], record: SnapshotRecord, log: Log | None = None
    ) -> ChildSnapshot | WrittenSnapshot:
        """Freeze everything as it is now and begin to write it into `directory`.

        Args:
            directory: Of the snapshot.
            parts: The last sections of `record`.
            record: What the snapshot says about itself.
            log: What the sections before them have.
        """
        first = len(record.sections) - len(parts)
        described = record if log is None else replace(record, log=log.names)

        def write_parts() -> list[LocalFile]:
            return self._write_parts(directory / self._name, parts, first)

        def write_rest() -> list[LocalFile]:
            return [write_record(directory, described), *(log.write(directory) if log is not None else ())]

        def write() -> list[LocalFile]:
            return write_parts() + write_rest()

        self._forked = [snapshot for snapshot in self._forked if not snapshot.ended]
        if log is not None and self._are_small(parts, 0) and log.freeze():
            return WrittenSnapshot(directory, write_parts, write_rest)
        if not self._are_small(parts, 0 if log is None else log.rows):
            # Refused for want of memory: a long pause is better than no checkpoint.
            with contextlib.suppress(OSError):
                snapshot = fork_snapshot(directory, write, self._timeout_s)
                self._forked.append(snapshot)
                return snapshot
        return WrittenSnapshot(directory, write)

    def close(self) -> None:
        """Cancel what is still being written."""
        for snapshot in self._forked:
            if not snapshot.ended:
                snapshot.cancel()
        self._forked.clear()

    def _are_small(self, parts: Sequence[Part], seen: int) -> bool:
        """Whether there are few entries; containers count too, so that a million empty ones are not walked through."""
        if seen >= self._fork_from_entries:
            return False
        for size in chain.from_iterable(part.sizes() for part in parts):
            seen += size + 1
            if seen >= self._fork_from_entries:
                return False
        return True

    def _write_parts(self, path: Path, parts: Sequence[Part], first: int) -> list[LocalFile]:
        by_group = [part.group_runs() for part in parts]
        groups = sorted(set().union(*by_group))
        for group in groups:
            if group not in self._key_groups:
                raise not_owned(group, self._key_groups)
        if not groups:
            return []
        with contextlib.closing(BlockWriter(path)) as writer:
            for group in groups:
                for section, part in enumerate(parts):
                    for block in part.blocks(by_group[section].pop(group, [])):
                        writer.write(group, first + section, block)
            return [writer.finish()]
