"""RocksDB itself: opening, column families, batched writes, reads and scans of raw bytes.

Everything that is known about rocksdict is here, and nothing about tables. What is peculiar:

* Raw mode stores bytes as they are; bounds of iterators do not work in it, so scans check prefixes themselves.
* Most calls hold the GIL, a write for its whole duration: batches stay below a MiB.
* A database stays open, with its threads, as long as anything refers to it: column families, handles. Closing fails
  while another thread is inside a call.
* The write-ahead log is off: what is not in a checkpoint is lost with the process anyway.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import islice
from pathlib import Path
from typing import Any, Final

import rocksdict

from checkdam.core.clock import Clock
from checkdam.core.errors import CheckpointError
from checkdam.state.rocksdb_checkpoint import make_checkpoint
from checkdam.state.rocksdb_rows import STAMP_BYTES, after, unpack_number

_BATCH_BYTES: Final = 1 << 20
_FIRST_PORTION: Final = 64
_PORTION: Final = 4096
_PORTION_BYTES: Final = 2 << 20
_MANIFEST_BYTES: Final = 1 << 20
_READAHEAD_BYTES: Final = 256 << 10
_FILE_BYTES: Final = 32 << 20
"""Of data files: half of RocksDB's default, since they are what checkpoints share and what a restore fetches or leaves out."""

_FRESH_FILES: Final = 6
"""Of memtables, before they are merged with the level below. Keys of state have no order in time, so that rewrites, and uploads with the
next checkpoint, most of a small database: RocksDB's default of 4 makes checkpoints a third larger. Each file costs reads a look at its filter."""

_INGESTED_NAME: Final = "ingested.sst"
_SWEEP_ROWS: Final = 4096
_FLUSH_FROM_BYTES: Final = 1 << 20
"""Smaller memtables are left to the checkpoint: a flush each would only make many small files."""

Row = tuple[bytes, bytes]

Change = tuple[bytes, bytes | None]
"""A row to be put, or deleted where there is no value."""


def _write_options() -> rocksdict.WriteOptions:
    options: Any = rocksdict.WriteOptions()
    options.disable_wal = True
    return options  # type: ignore[no-any-return]


class Column:
    """One column family: a sorted map of bytes to bytes. Made by `Store.column`, which may have it wait before it changes."""

    def __init__(
        self,
        family: rocksdict.Rdict,
        handle: rocksdict.ColumnFamily,
        options: rocksdict.Options,
        before_change: Callable[[], None],
    ) -> None:
        self.family = family
        self._handle = handle
        self._file_options = options
        self._before_change = before_change
        self._options = _write_options()

    def get(self, row: bytes) -> bytes | None:
        """The value of a row, if there is one."""
        found: bytes | None = self.family.get(row)
        return found

    def get_many(self, rows: list[bytes]) -> list[bytes | None]:
        """The values of `rows`, which should be sorted; None for each that is not there."""
        family: Any = self.family
        return list(family.get(rows))

    def write(self, changes: list[Change]) -> None:
        """Put rows, or delete those without a value. Rows must be distinct; the list is sorted on the way."""
        if not changes:
            return
        self._before_change()
        changes.sort()
        handle = self._handle
        batch = rocksdict.WriteBatch(raw_mode=True)
        size_bytes = 0
        for row, value in changes:
            if value is None:
                batch.delete(row, handle)
                size_bytes += len(row)
            else:
                batch.put(row, value, handle)
                size_bytes += len(row) + len(value)
            if size_bytes >= _BATCH_BYTES:
                self.family.write(batch, self._options)
                batch = rocksdict.WriteBatch(raw_mode=True)
                size_bytes = 0
        if size_bytes:
            self.family.write(batch, self._options)

    def delete_ranges(self, ranges: list[tuple[bytes, bytes]]) -> None:
        """Delete all rows from each start up to, not including, its end."""
        if not ranges:
            return
        self._before_change()
        batch = rocksdict.WriteBatch(raw_mode=True)
        for start, end in ranges:
            batch.delete_range(start, end, self._handle)
        self.family.write(batch, self._options)

    def ingest(self, portions: Iterable[list[Row]], folder: Path) -> None:
        """Add rows by writing data files in `folder` and handing them over: half the work of `write` where rows are many.

        Args:
            portions: Each sorted, none overlapping another. As long as they come in order they share files.
            folder: For the files; on the same disk as the database.
        """
        self._before_change()
        writer, last = None, b""
        for portion in portions:
            if writer is not None and (portion[0][0] <= last or writer.file_size() >= _FILE_BYTES):
                self._ingest_file(writer, folder)
                writer = None
            if writer is None:
                writer = rocksdict.SstFileWriter(self._file_options)
                writer.open(str(folder / _INGESTED_NAME))
            for row, value in portion:
                writer[row] = value
            last = portion[-1][0]
        if writer is not None:
            self._ingest_file(writer, folder)

    def _ingest_file(self, writer: rocksdict.SstFileWriter, folder: Path) -> None:
        writer.finish()
        options = rocksdict.IngestExternalFileOptions()
        options.set_move_files(True)
        self.family.ingest_external_file([str(folder / _INGESTED_NAME)], options)

    def first(self, start: bytes) -> bytes | None:
        """The first row at or after `start`."""
        cursor = self.family.iter()
        cursor.seek(start)
        if not cursor.valid():
            cursor.status()
            return None
        row: bytes = cursor.key()
        return row

    def rows(self, start: bytes, limit: int) -> list[Row]:
        """The first `limit` rows at or after `start`."""
        found: Any = islice(self.family.items(from_key=start), limit)
        return list(found)

    def portions(self, prefix: bytes, start: bytes | None = None) -> Iterator[list[Row]]:
        """All rows that begin with `prefix`, from `start` on where given, a few thousand at a time; as `span`."""
        return self.span(prefix if start is None else start, after(prefix))

    def span(self, start: bytes, end: bytes) -> Iterator[list[Row]]:
        """All rows from `start` up to, not including, `end`, a few thousand at a time, fewer if they are large.

        No iterator is kept open from one portion to the next, so the column may be changed meanwhile.
        """
        position = start
        limit = _FIRST_PORTION
        while found := self.rows(position, limit):
            whole = len(found) == limit
            if found[-1][0] >= end:
                whole = False
                found = found[: bisect_left(found, end, key=lambda item: item[0])]
            if found:
                yield found
            if not whole:
                return
            position = found[-1][0] + b"\0"
            mean_bytes = sum([len(value) for _, value in found]) // len(found) + 1
            limit = min(2 * limit, _PORTION, _PORTION_BYTES // mean_bytes + 1)

    def estimated_rows(self) -> int:
        """About how many rows there are."""
        return self.family.property_int_value("rocksdb.estimate-num-keys") or 0

    def close(self) -> None:
        """Let go of the database; the column cannot be used any more."""
        self.family.close()
        del self._handle  # it keeps the database open, its threads and its lock included

    def flush(self) -> None:
        """Write the memtable to a file, if it is worth one. Any thread."""
        if (self.family.property_int_value("rocksdb.cur-size-active-mem-table") or 0) >= _FLUSH_FROM_BYTES:
            self.family.flush()


def expiring_rows(column: Column, clock: Clock, ttl_ms: int) -> Iterator[list[bytes]]:
    """Walk over all rows, which begin their values with the time of their last update; yields the expired of each step.

    Newer cells that are only in a cache do not matter here: they are dirty, and will be written again.
    """
    position = b""
    while rows := column.rows(position, _SWEEP_ROWS):
        expired_ms = clock.now_ms() - ttl_ms
        yield [row for row, value in rows if unpack_number(value[:STAMP_BYTES]) <= expired_ms]
        position = rows[-1][0] + b"\0"


class Store:
    """An open database.

    Args:
        path: Its folder; what is there already is opened, else it is created.
        memory_bytes: Bound of block cache and memtables together.
        passive: It is only opened to be read, after a few changes perhaps: nothing is compacted.

    Raises:
        CheckpointError: It cannot be opened.
    """

    def __init__(self, path: Path, memory_bytes: int, passive: bool = False) -> None:
        self._path = path
        self._columns: dict[str, Column] = {}
        self._flusher: threading.Thread | None = None
        self._checkpoint: Future[None] | None = None
        self._options = _options(memory_bytes)
        self._options.set_disable_auto_compactions(passive)
        try:
            names = rocksdict.Rdict.list_cf(str(path), self._options) if (path / "CURRENT").exists() else ["default"]
            self._database = rocksdict.Rdict(str(path), self._options, dict.fromkeys(names, self._options))
        except Exception as error:
            raise CheckpointError(f"cannot open the RocksDB database in {path}: {error}") from error
        self.stored_columns = [name for name in names if name != "default"]
        """The column families that were there when the database was opened."""

    def column(self, name: str) -> Column:
        """A column family, created if it is not there yet."""
        column = self._columns.get(name)
        if column is None:
            self._await_checkpoint()
            if name in self.stored_columns:
                family = self._database.get_column_family(name)
            else:
                family = self._database.create_column_family(name, self._options)
            handle = self._database.get_column_family_handle(name)
            self._columns[name] = column = Column(family, handle, self._options, self._await_checkpoint)
        return column

    def drop_column(self, name: str) -> None:
        """Delete a column family, if it is there."""
        self._await_checkpoint()
        self._join_flusher()
        column = self._columns.pop(name, None)
        if column is not None:
            column.close()
        if column is not None or name in self.stored_columns:
            self._database.drop_column_family(name)

    def start_flush(self) -> None:
        """Write memtables to files in the background; returns at once."""
        if self._flusher is None or not self._flusher.is_alive():
            columns = list(self._columns.values())
            self._flusher = threading.Thread(target=_flush_all, args=(columns,), name="rocksdb-flush", daemon=True)
            self._flusher.start()

    def start_checkpoint(self, path: Path) -> Future[None]:
        """Make `path`, which must not exist, a database of its own with what this one holds now, by hard links; returns at once.

        What is not in a data file yet is written to one first, and on a busy disk that takes as long as it likes. Meanwhile the
        database is read; whoever wants to change it waits.
        """
        self._await_checkpoint()
        checkpoint: Future[None] = Future()
        self._checkpoint = checkpoint
        threading.Thread(
            target=self._make_checkpoint, args=(path, checkpoint), name="rocksdb-checkpoint", daemon=True
        ).start()
        return checkpoint

    def close(self) -> None:
        """Close the database. Nothing of it may be used afterwards."""
        self._await_checkpoint()
        self._join_flusher()
        for column in self._columns.values():
            column.close()
        self._database.close()

    def _make_checkpoint(self, path: Path, made: Future[None]) -> None:
        try:
            make_checkpoint(
                self._path,
                path,
                flush=[column.family.flush for column in self._columns.values()],
                live_files=self._live_files,
                by_rocksdb=self._checkpoint_by_rocksdb,
            )
        except Exception as error:
            made.set_exception(error)
        else:
            made.set_result(None)

    def _live_files(self) -> set[str]:
        return {str(file["name"]).removeprefix("/") for file in self._database.live_files()}

    def _checkpoint_by_rocksdb(self, path: Path) -> None:
        rocksdict.Checkpoint(self._database).create_checkpoint(str(path))

    def _await_checkpoint(self) -> None:
        if self._checkpoint is not None:
            wait([self._checkpoint])
            self._checkpoint = None

    def _join_flusher(self) -> None:
        if self._flusher is not None:
            self._flusher.join()
            self._flusher = None


def _flush_all(columns: list[Column]) -> None:
    for column in columns:
        # A failure, such as a full disk, comes back at the checkpoint, which reports it.
        with contextlib.suppress(Exception):
            column.flush()


def _options(memory_bytes: int) -> rocksdict.Options:
    """Options of the database and of all its column families, which share one cache.

    Memtables are charged to the block cache, as are indexes and filters: so the cache's capacity bounds them all.
    """
    cache = rocksdict.Cache(memory_bytes)
    memtables = rocksdict.WriteBufferManager.new_write_buffer_manager_with_cache(memory_bytes // 2, False, cache)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_bloom_filter(10, False)
    # State is many times the cache: of an index or filter only the part that is needed shall be read.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_format_version(5)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_manager(memtables)
    options.set_write_buffer_size(memory_bytes // 4)
    options.set_target_file_size_base(_FILE_BYTES)
    options.set_level_zero_file_num_compaction_trigger(_FRESH_FILES)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    # The log of data files goes into every checkpoint; beyond this size it is begun anew.
    options.set_max_manifest_file_size(_MANIFEST_BYTES)
    # For each file that a compaction reads; the default would add tens of MiB.
    options.set_compaction_readahead_size(_READAHEAD_BYTES)
    options.set_keep_log_file_num(1)
    options.set_stats_dump_period_sec(0)
    return options
