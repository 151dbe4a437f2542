"""Keyed state in RocksDB, bounded by the disk, with a bounded cache of decoded values in front.

One database for each subtask, a column family for each table and for each operator's timers. Tables and timers keep what
was used last as Python objects and share one budget for them (`rocksdb_cache`). Of the memory given three tenths go to those
objects and three tenths to RocksDB itself: its block cache, to which memtables, indexes and filters are charged. The rest is
for what nobody counts: compactions, batches on their way, and memory that was freed but not returned
(`bench/state_memory.py` measures it).

A snapshot is a RocksDB checkpoint, a folder of hard links to files that never change again, and beside it files of blocks
with what the caches hold and the database lacks, written by a forked child (`sections`): of value tables, which may hold many
changes for long, a log to which each snapshot adds (`rocksdb_log`). Writing the caches back instead would stop the task for seconds.

Threads: all is called by the task thread. The exceptions are the thread that `prepare` starts to write memtables to files,
which RocksDB allows beside reads and writes, and the one that makes a snapshot's checkpoint: the task thread reads on beside it
and changes what is cached, but waits for it before it changes the database. Whoever closes or drops something waits for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from checkdam.core.clock import Clock
from checkdam.core.keys import KeyGroups
from checkdam.core.serde import Serde
from checkdam.state.base import Key, SnapshotWriter, StoredSnapshot, TableSpec
from checkdam.state.blocks import StoredBlock
from checkdam.state.canonical import NATIVE_FOLDER, CanonicalSnapshot
from checkdam.state.record import (
    BLOCKS_FORMAT,
    CHANGES_NAME,
    ROCKSDB_FORMAT,
    TableRecord,
    TimersRecord,
    check_same,
    check_spec,
    make_record,
)
from checkdam.state.restored import RestoredState, open_parts
from checkdam.state.rocksdb_cache import CacheBudget
from checkdam.state.rocksdb_log import ChangeLog
from checkdam.state.rocksdb_maps import RocksDbMapTable
from checkdam.state.rocksdb_restore import DATABASE_FOLDER, ingest_blocks, restore_databases
from checkdam.state.rocksdb_rows import RowMaker
from checkdam.state.rocksdb_snapshot import DataIdentity, RocksDbSnapshot
from checkdam.state.rocksdb_store import Column, Store
from checkdam.state.rocksdb_timers import RocksDbTimers
from checkdam.state.rocksdb_values import RocksDbTable
from checkdam.state.sections import FORK_FROM_ENTRIES, SNAPSHOT_TIMEOUT_S, SectionWriter, load_logs, load_part

_REMEMBERED_GROUPS: Final = 65_536
_LOG_FOLDER: Final = "log"


class RocksDbBackend:
    """See `KeyedBackend`.

    Args:
        key_groups: The key groups that this subtask owns.
        max_parallelism: Number of key groups of the job.
        directory: A folder of its own, for the database.
        clock: Processing time, for update times and expiry.
        memory_bytes: What the process may use on its account; its caches together are smaller.
        groups: Key → key group, where the process has such a cache already.
        fork_from_entries: With fewer changes than this they are written on the spot.
        snapshot_timeout_s: After this time the process that writes changes is killed.

    Raises:
        ValueError: `memory_bytes` is not positive.
    """

    def __init__(
        self,
        key_groups: range,
        max_parallelism: int,
        directory: Path,
        *,
        clock: Clock,
        memory_bytes: int,
        groups: KeyGroups | None = None,
        fork_from_entries: int = FORK_FROM_ENTRIES,
        snapshot_timeout_s: float = SNAPSHOT_TIMEOUT_S,
    ) -> None:
        if memory_bytes <= 0:
            raise ValueError(f"`memory_bytes` must be positive (got {memory_bytes})")
        self.key_groups = key_groups
        self.max_parallelism = max_parallelism
        self._directory = directory
        self._clock = clock
        self._store_bytes = memory_bytes * 3 // 10
        self._groups = KeyGroups(max_parallelism, _REMEMBERED_GROUPS) if groups is None else groups
        self._rows = RowMaker(max_parallelism, key_groups)
        self._budget = CacheBudget(self._store_bytes)
        self._writer = SectionWriter(CHANGES_NAME, key_groups, fork_from_entries, snapshot_timeout_s)
        self._snapshot_timeout_s = snapshot_timeout_s
        self._digests: dict[DataIdentity, str] = {}
        self._opened: Store | None = None
        self._values: dict[str, RocksDbTable] = {}
        self._maps: dict[str, RocksDbMapTable] = {}
        self._timers: dict[TimersRecord, RocksDbTimers] = {}
        self._restored = RestoredState()
        self._log = ChangeLog(directory / _LOG_FOLDER)

    def key_group(self, key: Key) -> int:
        """See `KeyedBackend`."""
        return self._groups[key]

    def table(self, spec: TableSpec) -> RocksDbTable:
        """See `KeyedBackend`."""
        check_spec(spec, "value", self._maps)
        table = self._values.get(spec.id)
        if table is None:
            restored, record = self._restored.take_table(spec), TableRecord.of(spec)
            column = self._column(record, restored.rows, spec.serde)
            self._values[spec.id] = table = RocksDbTable(spec, column, self._clock, self._rows, self._budget)
            load_logs(table, restored.logs, spec.id)
        check_same(table.spec, spec)
        return table

    def map_table(self, spec: TableSpec) -> RocksDbMapTable:
        """See `KeyedBackend`."""
        check_spec(spec, "map", self._values)
        table = self._maps.get(spec.id)
        if table is None:
            restored, record = self._restored.take_table(spec), TableRecord.of(spec)
            column = self._column(record, restored.rows, spec.serde)
            self._maps[spec.id] = table = RocksDbMapTable(spec, column, self._clock, self._rows, self._budget)
            load_part(table, restored.changes, spec.id)
        check_same(table.spec, spec)
        return table

    def timers(self, operator: str, domain: str) -> RocksDbTimers:
        """See `KeyedBackend`."""
        record = TimersRecord(operator, domain)
        timers = self._timers.get(record)
        if timers is None:
            restored = self._restored.take_timers(record)
            column = self._column(record, restored.rows, None)
            self._timers[record] = timers = RocksDbTimers(column, self._rows, self._budget)
            load_part(timers, restored.changes, record.id)
        return timers

    def prepare(self) -> None:
        """See `KeyedBackend`. Memtables are written to files in the background."""
        self._store().start_flush()

    def snapshot(self, directory: Path, *, canonical: bool = False) -> SnapshotWriter:
        """See `KeyedBackend`. The canonical format is made of RocksDB's own, when the task thread goes on already."""
        folder = directory / NATIVE_FOLDER if canonical else directory
        changes: SnapshotWriter | None = None
        values = list(self._values.values())
        for table in values:
            table.settle()
        log = self._log.whole(values) if canonical else self._log.next_part(values)
        try:
            if canonical:
                folder.mkdir()
            for unclaimed in self._restored.unclaimed():
                self._store().drop_column(unclaimed.column)
            self._restored.clear()
            specs = [table.spec for table in self._tables()]
            record = make_record(ROCKSDB_FORMAT, self.key_groups, self.max_parallelism, specs, self._timers)
            changes = self._writer.write(folder, [*self._maps.values(), *self._timers.values()], record, log)
            if not canonical:
                for table in values:
                    table.begin_log()
            checkpoint = self._store().start_checkpoint(folder / DATABASE_FOLDER)
        except Exception as error:
            # A full disk fails the checkpoint, which `finish` reports, and not the task that goes on.
            checkpoint = Future()
            checkpoint.set_exception(error)
        if canonical:
            return CanonicalSnapshot(directory, changes, checkpoint, self._snapshot_timeout_s)
        return RocksDbSnapshot(directory, changes, log, checkpoint, self._digests)

    def restore(self, snapshots: Sequence[StoredSnapshot]) -> None:
        """See `KeyedBackend`. Rows in the canonical format are read when an operator asks for its table."""
        formats = [BLOCKS_FORMAT, ROCKSDB_FORMAT]
        parts = open_parts(snapshots, self.key_groups, self.max_parallelism, formats)
        for part in parts:
            if part.whole:
                # All at once, since one after the other they would leave transfers idle.
                part.snapshot.fetch([handle.name for handle in part.snapshot.files])
        for part in parts:
            self._restored.add(part)
        databases = [part for part in parts if part.record.format == ROCKSDB_FORMAT]
        restore_databases(databases, self._directory / DATABASE_FOLDER, self._store)

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
        """See `KeyedBackend`. What is not in a snapshot is lost; the folder stays for its owner to delete."""
        self._writer.close()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _tables(self) -> list[RocksDbTable | RocksDbMapTable]:
        return [*self._values.values(), *self._maps.values()]

    def _parts(self) -> list[RocksDbTable | RocksDbMapTable | RocksDbTimers]:
        return [*self._tables(), *self._timers.values()]

    def _store(self) -> Store:
        """The database, opened when it is first needed: `restore` must have placed its files by then."""
        if self._opened is None:
            self._opened = Store(self._directory / DATABASE_FOLDER, self._store_bytes)
        return self._opened

    def _column(self, section: TableRecord | TimersRecord, rows: list[StoredBlock], serde: Serde | None) -> Column:
        """The column of a table, or of timers, with all that was restored of it but changes."""
        column = self._store().column(section.column)
        ingest_blocks(column, rows, section, serde, self._directory)
        return column
