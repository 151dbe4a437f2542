"""Keyed state as Python objects in dictionaries, bounded by the worker's memory.

The fastest backend: operators work on the dictionaries that are the state. A snapshot is written by a forked child
(`forked`), as blocks by key group (`blocks`), so the task thread pauses for the fork alone, and objects that users
change in place afterwards are in the snapshot as they were. State too small to be worth a fork is written on the spot,
and so is any state when the kernel refuses to fork.

After a restore blocks stay undecoded until an operator asks for their table, since only its spec knows the type of the
values. What nobody has asked for by the first snapshot is forgotten.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from checkdam.core.clock import Clock
from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.core.keys import KeyGroups
from checkdam.state.base import Key, LocalFile, SnapshotWriter, TableSpec
from checkdam.state.blocks import Block, BlockWriter, open_block, read_blocks
from checkdam.state.forked import ForkedSnapshot, WrittenSnapshot, fork_snapshot
from checkdam.state.hashmap_maps import HashMapMapTable, HashMapTimers
from checkdam.state.hashmap_values import HashMapTable
from checkdam.state.record import (
    RECORD_VERSION,
    SnapshotRecord,
    TableRecord,
    TimersRecord,
    check_covers,
    check_same,
    check_spec,
    check_table,
    read_record,
    write_record,
)

BACKEND_NAME: Final = "hashmap"

DATA_NAME: Final = "hashmap.blocks"
"""The file of a snapshot that holds all rows."""

FORK_FROM_ENTRIES: Final = 20_000
"""From this many entries on a fork is shorter than encoding on the spot."""

SNAPSHOT_TIMEOUT_S: Final = 600.0
"""How long a snapshot may take to be written; the coordinator's checkpoint timeout normally comes first."""


class _Part(Protocol):
    """What tables and timers have in common."""

    def sizes(self) -> Iterator[int]: ...

    def size_hint(self) -> int: ...

    def group_runs(self) -> dict[int, list[Any]]: ...

    def blocks(self, group_runs: list[Any]) -> Iterator[Block]: ...

    def load_block(self, block: Block) -> None: ...


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Automatic garbage collections off: while millions of objects are made they look at all of them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class HashMapBackend:
    """See `KeyedBackend`.

    Args:
        key_groups: The key groups that this subtask owns.
        max_parallelism: Number of key groups of the job.
        directory: Not used, as the state is in memory; here so that all backends are made alike.
        clock: Processing time, for update times and expiry.
        groups: Key → key group, where the process has such a cache already.
        fork_from_entries: With fewer entries than this a snapshot is written on the spot.
        snapshot_timeout_s: After this time the process that writes a snapshot is killed.
    """

    def __init__(
        self,
        key_groups: range,
        max_parallelism: int,
        directory: Path,
        *,
        clock: Clock,
        groups: KeyGroups | None = None,
        fork_from_entries: int = FORK_FROM_ENTRIES,
        snapshot_timeout_s: float = SNAPSHOT_TIMEOUT_S,
    ) -> None:
        self.key_groups = key_groups
        self.max_parallelism = max_parallelism
        self._clock = clock
        self._groups = KeyGroups(max_parallelism) if groups is None else groups
        self._fork_from_entries = fork_from_entries
        self._snapshot_timeout_s = snapshot_timeout_s
        self._values: dict[str, HashMapTable] = {}
        self._maps: dict[str, HashMapMapTable] = {}
        self._timers: dict[TimersRecord, HashMapTimers] = {}
        self._restored_tables: dict[str, tuple[TableRecord, list[bytes]]] = {}
        self._restored_timers: dict[TimersRecord, list[bytes]] = {}
        self._forked: list[ForkedSnapshot] = []

    def key_group(self, key: Key) -> int:
        """See `KeyedBackend`."""
        return self._groups[key]

    def table(self, spec: TableSpec) -> HashMapTable:
        """See `KeyedBackend`."""
        check_spec(spec, "value", self._maps)
        table = self._values.get(spec.id)
        if table is None:
            table = HashMapTable(spec, self._clock, self._groups)
            self._fill(table, spec)
            self._values[spec.id] = table
        check_same(table.spec, spec)
        return table

    def map_table(self, spec: TableSpec) -> HashMapMapTable:
        """See `KeyedBackend`."""
        check_spec(spec, "map", self._values)
        table = self._maps.get(spec.id)
        if table is None:
            table = HashMapMapTable(spec, self._clock, self._groups)
            self._fill(table, spec)
            self._maps[spec.id] = table
        check_same(table.spec, spec)
        return table

    def timers(self, operator: str, domain: str) -> HashMapTimers:
        """See `KeyedBackend`."""
        record = TimersRecord(operator, domain)
        timers = self._timers.get(record)
        if timers is None:
            self._timers[record] = timers = HashMapTimers(self._groups)
            self._load(timers, self._restored_timers.pop(record, []), record.id)
        return timers

    def prepare(self) -> None:
        """See `KeyedBackend`. There is nothing to prepare for a fork."""

    def snapshot(self, directory: Path) -> SnapshotWriter:
        """See `KeyedBackend`."""
        self._restored_tables.clear()
        self._restored_timers.clear()
        self._forked = [snapshot for snapshot in self._forked if not snapshot.ended]
        if not self._is_small():
            # Refused for want of memory: a long pause is better than no checkpoint.
            with contextlib.suppress(OSError):
                snapshot = fork_snapshot(directory, lambda: self._write(directory), self._snapshot_timeout_s)
                self._forked.append(snapshot)
                return snapshot
        return WrittenSnapshot(directory, lambda: self._write(directory))

    def restore(self, files: list[LocalFile]) -> None:
        """See `KeyedBackend`.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
            IncompatibleCheckpointError: It is of another backend, release or `maxParallelism`.
            CheckpointError: It lacks key groups that are owned here.
        """
        record = read_record(files, BACKEND_NAME, self.max_parallelism)
        check_covers(record, self.key_groups)
        bodies: list[list[bytes]] = [[] for _ in range(len(record.tables) + len(record.timers))]
        for file in files:
            if file.name != DATA_NAME:
                continue
            for section, body in read_blocks(file.path, self.key_groups):
                if section >= len(bodies):
                    raise CorruptCheckpointError(f"{file.path} holds a table that its `state.json` does not name")
                bodies[section].append(body)
        for table, found in zip(record.tables, bodies, strict=False):
            self._restored_tables[table.id] = (table, found)
        for timers, found in zip(record.timers, bodies[len(record.tables) :], strict=True):
            self._restored_timers[timers] = found

    def unclaimed_tables(self) -> list[str]:
        """See `KeyedBackend`."""
        return [*self._restored_tables, *(record.id for record in self._restored_timers)]

    def maintain(self) -> None:
        """See `KeyedBackend`."""
        for table in self._tables():
            table.maintain()

    def size_hint(self) -> int:
        """See `KeyedBackend`."""
        return sum(part.size_hint() for part in self._parts())

    def close(self) -> None:
        """See `KeyedBackend`. Snapshots that are still being written are cancelled."""
        for snapshot in self._forked:
            if not snapshot.ended:
                snapshot.cancel()
        self._forked.clear()
        self._values.clear()
        self._maps.clear()
        self._timers.clear()

    def _tables(self) -> list[HashMapTable | HashMapMapTable]:
        return [*self._values.values(), *self._maps.values()]

    def _parts(self) -> list[_Part]:
        """Tables, then timers, in the order of `state.json`."""
        return [*self._tables(), *self._timers.values()]

    def _fill(self, table: _Part, spec: TableSpec) -> None:
        """Load a new table with what was restored for it."""
        restored = self._restored_tables.get(spec.id)
        if restored is not None:
            record, bodies = restored
            check_table(record, spec)
            del self._restored_tables[spec.id]
            self._load(table, bodies, spec.id)

    def _load(self, part: _Part, bodies: list[bytes], where: str) -> None:
        with _without_collections():
            for body in bodies:
                part.load_block(open_block(body, where))

    def _is_small(self) -> bool:
        """Whether there are few entries; containers count too, so that a million empty ones are not walked through."""
        seen = 0
        for size in chain.from_iterable(part.sizes() for part in self._parts()):
            seen += size + 1
            if seen >= self._fork_from_entries:
                return False
        return True

    def _write(self, directory: Path) -> list[LocalFile]:
        """Write a snapshot: in the forked child, or on the spot."""
        parts = self._parts()
        by_group = [part.group_runs() for part in parts]
        groups = sorted(set().union(*by_group))
        for group in groups:
            if group not in self.key_groups:
                raise CheckpointError(
                    f"there is state of key group {group}, but this subtask owns {self.key_groups.start}.."
                    f"{self.key_groups.stop - 1}: a record was sent to the wrong subtask"
                )
        files: list[LocalFile] = []
        if groups:
            with contextlib.closing(BlockWriter(directory / DATA_NAME)) as writer:
                for group in groups:
                    for section, part in enumerate(parts):
                        for block in part.blocks(by_group[section].pop(group, [])):
                            writer.write(group, section, block)
                files.append(writer.finish())
        record = SnapshotRecord(
            version=RECORD_VERSION,
            backend=BACKEND_NAME,
            key_groups=(self.key_groups.start, self.key_groups.stop),
            max_parallelism=self.max_parallelism,
            tables=[TableRecord.of(table.spec) for table in self._tables()],
            timers=list(self._timers),
        )
        return [write_record(directory, record), *files]
