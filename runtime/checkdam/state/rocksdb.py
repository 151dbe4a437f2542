"""Keyed state in RocksDB, bounded by the disk, with a bounded cache of decoded values in front.

One database for each subtask, a column family for each table and for each operator's timers. Tables and timers keep what
was used last as Python objects and share one budget for them (`rocksdb_cache`). Half of the memory given goes to those
objects and half to RocksDB itself: its block cache, to which memtables, indexes and filters are charged.

A snapshot is a RocksDB checkpoint, a folder of hard links to files that never change again, and beside it a file of
blocks with what the caches hold and the database lacks, written by a forked child (`sections`). Writing the caches back
instead would stop the task for seconds. What stays unchanged for a while is written to the database between batches.

Threads: all is called by the task thread. The one exception is the thread that `prepare` starts to write memtables to
files; RocksDB allows that beside reads and writes, and whoever closes or drops something waits for it first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from checkdam.core.clock import Clock
from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.core.keys import KeyGroups
from checkdam.state.base import Key, LocalFile, SnapshotWriter, StoredSnapshot, TableSpec
from checkdam.state.forked import delete_contents
from checkdam.state.record import TableRecord, TimersRecord, check_same, check_spec, make_record
from checkdam.state.restored import RestoredState, fetch_all
from checkdam.state.rocksdb_cache import CacheBudget
from checkdam.state.rocksdb_maps import RocksDbMapTable
from checkdam.state.rocksdb_rows import RowMaker, pack_group
from checkdam.state.rocksdb_store import Column, Store
from checkdam.state.rocksdb_timers import RocksDbTimers
from checkdam.state.rocksdb_values import RocksDbTable
from checkdam.state.sections import FORK_FROM_ENTRIES, SNAPSHOT_TIMEOUT_S, SectionWriter, load_part

BACKEND_NAME: Final = "rocksdb"

DATABASE_FOLDER: Final = "db"
"""Where the database is, in the backend's directory and in a snapshot."""

CHANGES_NAME: Final = "changes.blocks"
"""The file of a snapshot that holds what the database lacks."""

_REMEMBERED_GROUPS: Final = 65_536
_FIRST_SETTLING_MS: Final = 5_000

_DATA_SUFFIX: Final = ".sst"
"""Data files never change once they are written."""

_DataFile = tuple[str, int, int, int]


def _data_file(path: Path) -> _DataFile:
    """What tells a data file from every other, under all of its links."""
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns


class RocksDbSnapshot:
    """A RocksDB checkpoint whose files are still to be hashed, beside the changes that are being written.

    Args:
        directory: The snapshot's folder.
        changes: The writer of the changes and of `state.json`; None if it was never begun.
        failure: Why there is no checkpoint, if there is none.
        digests: Those of data files that were hashed for earlier snapshots; kept up here.
    """

    def __init__(
        self,
        directory: Path,
        changes: SnapshotWriter | None,
        failure: Exception | None,
        digests: dict[_DataFile, str],
    ) -> None:
        self._directory = directory
        self._changes = changes
        self._failure = failure
        self._digests = digests
        self._cancelled = threading.Event()

    def finish(self) -> list[LocalFile]:
        """See `SnapshotWriter`."""
        try:
            files = [] if self._changes is None else self._changes.finish()
            if self._failure is not None:
                raise self._failure
            database = self._directory / DATABASE_FOLDER
            paths = sorted(database.iterdir())
            files += [self._describe(path) for path in paths]
            for gone in self._digests.keys() - {_data_file(path) for path in paths}:
                self._digests.pop(gone, None)
            return files
        except Exception as error:
            delete_contents(self._directory)
            if isinstance(error, CheckpointError):
                raise
            cause = "it was cancelled" if self._cancelled.is_set() else error
            raise CheckpointError(f"cannot write the snapshot in {self._directory}: {cause}") from error

    def cancel(self) -> None:
        """See `SnapshotWriter`."""
        self._cancelled.set()
        if self._changes is not None:
            self._changes.cancel()
        delete_contents(self._directory)

    def _describe(self, path: Path) -> LocalFile:
        if self._cancelled.is_set():
            raise CheckpointError(f"the snapshot in {self._directory} was cancelled")
        identity = _data_file(path)
        digest = self._digests.get(identity)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if path.suffix == _DATA_SUFFIX:
                self._digests[identity] = digest
        return LocalFile(path.relative_to(self._directory).as_posix(), path, path.stat().st_size, digest)


class RocksDbBackend:
    """See `KeyedBackend`.

    Args:
        key_groups: The key groups that this subtask owns.
        max_parallelism: Number of key groups of the job.
        directory: A folder of its own, for the database.
        clock: Processing time, for update times and expiry.
        memory_bytes: Bound of all caches and memtables; a batch that is being worked on comes on top.
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
        self._path = directory / DATABASE_FOLDER
        self._clock = clock
        self._store_bytes = memory_bytes // 2
        self._groups = KeyGroups(max_parallelism, _REMEMBERED_GROUPS) if groups is None else groups
        self._rows = RowMaker(max_parallelism)
        self._budget = CacheBudget(memory_bytes - self._store_bytes)
        self._writer = SectionWriter(CHANGES_NAME, key_groups, fork_from_entries, snapshot_timeout_s)
        self._digests: dict[_DataFile, str] = {}
        self._opened: Store | None = None
        self._clip = False
        self._values: dict[str, RocksDbTable] = {}
        self._maps: dict[str, RocksDbMapTable] = {}
        self._timers: dict[TimersRecord, RocksDbTimers] = {}
        self._restored = RestoredState()
        self._snapshot_ms = clock.monotonic_ms()
        self._settle_from_ms = self._snapshot_ms + _FIRST_SETTLING_MS

    def key_group(self, key: Key) -> int:
        """See `KeyedBackend`."""
        return self._groups[key]

    def table(self, spec: TableSpec) -> RocksDbTable:
        """See `KeyedBackend`."""
        check_spec(spec, "value", self._maps)
        table = self._values.get(spec.id)
        if table is None:
            changes = self._restored.take_table(spec)
            column = self._column(_column_name(TableRecord.of(spec)))
            self._values[spec.id] = table = RocksDbTable(spec, column, self._clock, self._rows, self._budget)
            load_part(table, changes, spec.id)
        check_same(table.spec, spec)
        return table

    def map_table(self, spec: TableSpec) -> RocksDbMapTable:
        """See `KeyedBackend`."""
        check_spec(spec, "map", self._values)
        table = self._maps.get(spec.id)
        if table is None:
            changes = self._restored.take_table(spec)
            column = self._column(_column_name(TableRecord.of(spec)))
            self._maps[spec.id] = table = RocksDbMapTable(spec, column, self._clock, self._rows, self._budget)
            load_part(table, changes, spec.id)
        check_same(table.spec, spec)
        return table

    def timers(self, operator: str, domain: str) -> RocksDbTimers:
        """See `KeyedBackend`."""
        record = TimersRecord(operator, domain)
        timers = self._timers.get(record)
        if timers is None:
            column = self._column(_column_name(record))
            self._timers[record] = timers = RocksDbTimers(column, self._rows, self._budget)
            load_part(timers, self._restored.take_timers(record), record.id)
        return timers

    def prepare(self) -> None:
        """See `KeyedBackend`. Memtables are written to files in the background."""
        self._store().start_flush()

    def snapshot(self, directory: Path, *, canonical: bool = False) -> SnapshotWriter:
        """See `KeyedBackend`."""
        changes = None
        try:
            for unclaimed in self._restored.unclaimed():
                self._store().drop_column(_column_name(unclaimed))
            self._restored.clear()
            specs = [table.spec for table in self._tables()]
            record = make_record(BACKEND_NAME, self.key_groups, self.max_parallelism, specs, self._timers)
            changes = self._writer.write(directory, self._parts(), record)
            self._store().checkpoint(directory / DATABASE_FOLDER)
        except Exception as error:
            # A full disk fails the checkpoint, which `finish` reports, and not the task that goes on.
            return RocksDbSnapshot(directory, changes, error, self._digests)
        for table in self._values.values():
            table.begin_settling()
        now_ms = self._clock.monotonic_ms()
        self._settle_from_ms = now_ms + (now_ms - self._snapshot_ms) // 2
        self._snapshot_ms = now_ms
        return RocksDbSnapshot(directory, changes, None, self._digests)

    def restore(self, snapshots: Sequence[StoredSnapshot]) -> None:
        """See `KeyedBackend`. The files are linked, or copied, and stay as they are.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
            IncompatibleCheckpointError: It is of another backend, release or `maxParallelism`.
            CheckpointError: It lacks key groups that are owned here.
        """
        files = fetch_all(snapshots[0])
        record = self._restored.read(files, BACKEND_NAME, self.key_groups, self.max_parallelism, self._writer)
        prefix = f"{DATABASE_FOLDER}/"
        for file in files:
            if file.name.startswith(prefix):
                _place(file.path, self._path / file.name.removeprefix(prefix))
        self._clip = record.key_groups != (self.key_groups.start, self.key_groups.stop)
        stored = set(self._store().stored_columns)
        lacking = [column for column in map(_column_name, self._restored.unclaimed()) if column not in stored]
        if lacking:
            raise CorruptCheckpointError(f"the database of the snapshot lacks {', '.join(lacking)}")

    def unclaimed_tables(self) -> list[str]:
        """See `KeyedBackend`."""
        return [record.id for record in self._restored.unclaimed()]

    def maintain(self) -> None:
        """See `KeyedBackend`."""
        for table in self._tables():
            table.maintain()
        if self._clock.monotonic_ms() >= self._settle_from_ms:
            for values in self._values.values():
                values.settle()

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
            self._opened = Store(self._path, self._store_bytes)
        return self._opened

    def _column(self, name: str) -> Column:
        column = self._store().column(name)
        if self._clip:
            # The snapshot covers more key groups than are owned here.
            start, stop = pack_group(self.key_groups.start), pack_group(self.key_groups.stop)
            column.delete_ranges([(b"", start), (stop, b"\xff" * 3)])
        return column


def _column_name(record: TableRecord | TimersRecord) -> str:
    """The column family of a table, or of an operator's timers; part of the format of snapshots."""
    if isinstance(record, TableRecord):
        return f"table/{record.id}"
    return f"timers/{record.operator}/{record.domain}"


def _place(source: Path, target: Path) -> None:
    """Put a restored file where the database expects it. Data files never change and may be shared; others are copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.suffix == _DATA_SUFFIX:
            try:
                os.link(source, target)
                return
            except OSError:
                pass  # another file system
        shutil.copyfile(source, target)
    except OSError as error:
        raise CorruptCheckpointError(f"cannot restore {source}: {error}") from error
