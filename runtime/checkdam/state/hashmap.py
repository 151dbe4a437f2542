"""Keyed state as Python objects in dictionaries, bounded by the worker's memory.

The fastest backend: operators work on the dictionaries that are the state. A snapshot is written by a forked child
(`forked`), as blocks by key group (`sections`), so the task thread pauses for the fork alone, and objects that users
change in place afterwards are in the snapshot as they were. State too small to be worth a fork is written on the spot,
and so is any state when the kernel refuses to fork.

After a restore blocks stay undecoded until an operator asks for their table, since only its spec knows the type of the
values. What nobody has asked for by the first snapshot is forgotten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from checkdam.core.clock import Clock
from checkdam.core.keys import KeyGroups
from checkdam.state.base import Key, LocalFile, SnapshotWriter, TableSpec
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
)
from checkdam.state.sections import FORK_FROM_ENTRIES, SNAPSHOT_TIMEOUT_S, Part, SectionWriter, load_part

BACKEND_NAME: Final = "hashmap"

DATA_NAME: Final = "hashmap.blocks"
"""The file of a snapshot that holds all rows."""


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
        self._writer = SectionWriter(DATA_NAME, key_groups, fork_from_entries, snapshot_timeout_s)
        self._values: dict[str, HashMapTable] = {}
        self._maps: dict[str, HashMapMapTable] = {}
        self._timers: dict[TimersRecord, HashMapTimers] = {}
        self._restored_tables: dict[str, tuple[TableRecord, list[bytes]]] = {}
        self._restored_timers: dict[TimersRecord, list[bytes]] = {}

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
            load_part(timers, self._restored_timers.pop(record, []), record.id)
        return timers

    def prepare(self) -> None:
        """See `KeyedBackend`. There is nothing to prepare for a fork."""

    def snapshot(self, directory: Path) -> SnapshotWriter:
        """See `KeyedBackend`."""
        self._restored_tables.clear()
        self._restored_timers.clear()
        return self._writer.write(directory, self._parts(), self._record())

    def restore(self, files: list[LocalFile]) -> None:
        """See `KeyedBackend`.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
            IncompatibleCheckpointError: It is of another backend, release or `maxParallelism`.
            CheckpointError: It lacks key groups that are owned here.
        """
        record = read_record(files, BACKEND_NAME, self.max_parallelism)
        check_covers(record, self.key_groups)
        bodies = self._writer.read(files, len(record.tables) + len(record.timers))
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
        return sum(part.size_hint() for part in (*self._tables(), *self._timers.values()))

    def close(self) -> None:
        """See `KeyedBackend`. Snapshots that are still being written are cancelled."""
        self._writer.close()
        self._values.clear()
        self._maps.clear()
        self._timers.clear()

    def _tables(self) -> list[HashMapTable | HashMapMapTable]:
        return [*self._values.values(), *self._maps.values()]

    def _parts(self) -> list[Part]:
        """Tables, then timers, in the order of `state.json`."""
        return [*self._tables(), *self._timers.values()]

    def _fill(self, table: Part, spec: TableSpec) -> None:
        """Load a new table with what was restored for it."""
        restored = self._restored_tables.get(spec.id)
        if restored is not None:
            record, bodies = restored
            check_table(record, spec)
            del self._restored_tables[spec.id]
            load_part(table, bodies, spec.id)

    def _record(self) -> SnapshotRecord:
        return SnapshotRecord(
            version=RECORD_VERSION,
            backend=BACKEND_NAME,
            key_groups=(self.key_groups.start, self.key_groups.stop),
            max_parallelism=self.max_parallelism,
            tables=[TableRecord.of(table.spec) for table in self._tables()],
            timers=list(self._timers),
        )
