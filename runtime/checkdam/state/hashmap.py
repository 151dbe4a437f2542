"""Keyed state as Python objects in dictionaries, bounded by the worker's memory.

The fastest backend: operators work on the dictionaries that are the state. A snapshot is written by a forked child
(`forked`), as blocks by key group (`sections`), the format that every backend restores. The task thread pauses for the
fork alone, and objects that users change in place afterwards are in the snapshot as they were. State too small to be
worth a fork is written on the spot, and so is any state when the kernel refuses to fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from checkdam.core.clock import Clock
from checkdam.core.keys import KeyGroups
from checkdam.state.base import Key, SnapshotWriter, StoredSnapshot, TableSpec
from checkdam.state.hashmap_maps import HashMapMapTable, HashMapTimers
from checkdam.state.hashmap_values import HashMapTable
from checkdam.state.record import BLOCKS_FORMAT, BLOCKS_NAME, TimersRecord, check_same, check_spec, make_record
from checkdam.state.restored import RestoredState, open_parts
from checkdam.state.sections import FORK_FROM_ENTRIES, SNAPSHOT_TIMEOUT_S, SectionWriter, load_part


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
        self._writer = SectionWriter(BLOCKS_NAME, key_groups, fork_from_entries, snapshot_timeout_s)
        self._values: dict[str, HashMapTable] = {}
        self._maps: dict[str, HashMapMapTable] = {}
        self._timers: dict[TimersRecord, HashMapTimers] = {}
        self._restored = RestoredState()

    def key_group(self, key: Key) -> int:
        """See `KeyedBackend`."""
        return self._groups[key]

    def table(self, spec: TableSpec) -> HashMapTable:
        """See `KeyedBackend`."""
        check_spec(spec, "value", self._maps)
        table = self._values.get(spec.id)
        if table is None:
            table = HashMapTable(spec, self._clock, self._groups)
            load_part(table, self._restored.take_table(spec).rows, spec.id)
            self._values[spec.id] = table
        check_same(table.spec, spec)
        return table

    def map_table(self, spec: TableSpec) -> HashMapMapTable:
        """See `KeyedBackend`."""
        check_spec(spec, "map", self._values)
        table = self._maps.get(spec.id)
        if table is None:
            table = HashMapMapTable(spec, self._clock, self._groups)
            load_part(table, self._restored.take_table(spec).rows, spec.id)
            self._maps[spec.id] = table
        check_same(table.spec, spec)
        return table

    def timers(self, operator: str, domain: str) -> HashMapTimers:
        """See `KeyedBackend`."""
        record = TimersRecord(operator, domain)
        timers = self._timers.get(record)
        if timers is None:
            self._timers[record] = timers = HashMapTimers(self._groups)
            load_part(timers, self._restored.take_timers(record).rows, record.id)
        return timers

    def prepare(self) -> None:
        """See `KeyedBackend`. There is nothing to prepare for a fork."""

    def snapshot(self, directory: Path, *, canonical: bool = False) -> SnapshotWriter:
        """See `KeyedBackend`. Every snapshot is canonical."""
        self._restored.clear()
        specs = [table.spec for table in self._tables()]
        record = make_record(BLOCKS_FORMAT, self.key_groups, self.max_parallelism, specs, self._timers)
        return self._writer.write(directory, self._parts(), record)

    def restore(self, snapshots: Sequence[StoredSnapshot]) -> None:
        """See `KeyedBackend`. Rows are read, one block at a time, when an operator asks for its table."""
        for part in open_parts(snapshots, self.key_groups, self.max_parallelism, [BLOCKS_FORMAT]):
            self._restored.add(part)

    def unclaimed_tables(self) -> list[str]:
        """See `KeyedBackend`."""
        return [record.id for record in self._restored.unclaimed()]

    def maintain(self) -> None:
        """See `KeyedBackend`."""
        for table in self._tables():
            table.maintain()

    def size_hint(self) -> int:
        """See `KeyedBackend`."""
        return sum(part.size_hint() for part in self._parts())

    def close(self) -> None:
        """See `KeyedBackend`. Snapshots that are still being written are cancelled."""
        self._writer.close()
        self._values.clear()
        self._maps.clear()
        self._timers.clear()

    def _tables(self) -> list[HashMapTable | HashMapMapTable]:
        return [*self._values.values(), *self._maps.values()]

    def _parts(self) -> list[HashMapTable | HashMapMapTable | HashMapTimers]:
        """Tables, then timers, in the order of `state.json`."""
        return [*self._tables(), *self._timers.values()]
