"""The canonical format out of a RocksDB snapshot, in a process of its own.

A savepoint must be readable by every backend. The snapshot that RocksDB takes is frozen as for a checkpoint, by hard links and
a file of changes; making blocks of it takes seconds for each GiB, in which the task thread must not be kept from its
interpreter. So `CanonicalSnapshot` starts `python -m checkdam.state.canonical`, which changes the hard-linked database, reads
it from one end to the other and writes blocks. It handles bytes alone and imports nothing of the user's. It stands back
behind the task (nice), ends with the process that started it, and reports as a forked child does (`forked`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import msgspec

from checkdam.core.errors import CheckpointError
from checkdam.state.base import LocalFile, SnapshotWriter, StoredSnapshot
from checkdam.state.blocks import BLOCK_BYTES, BLOCK_ROWS, BlockWriter, StoredBlock, find_blocks
from checkdam.state.forked import ChildSnapshot, delete_contents, die_with_parent, report
from checkdam.state.record import (
    BLOCKS_FORMAT,
    BLOCKS_NAME,
    CHANGES_NAME,
    RECORD_NAME,
    SnapshotRecord,
    fetch_log,
    read_record,
    write_record,
)
from checkdam.state.restored import StoredPart
from checkdam.state.rocksdb_blocks import log_changes, to_block, to_rows
from checkdam.state.rocksdb_restore import DATABASE_FOLDER, PASSIVE_MEMORY_BYTES, place_database
from checkdam.state.rocksdb_rows import pack_group
from checkdam.state.rocksdb_store import Column, Row, Store

NATIVE_FOLDER: Final = "native"
"""Where in its folder a canonical snapshot has the one that it is made of."""

_NICENESS: Final = 10


class CanonicalSnapshot:
    """A RocksDB snapshot that is still to be written, and then converted.

    Args:
        directory: The snapshot's folder; in it, in NATIVE_FOLDER, the checkpoint of the database.
        changes: The writer of the changes and of `state.json`, there too; None if it was never begun.
        checkpoint: Done when there is a checkpoint of the database, or with the reason why there is none.
        timeout_s: After this time the process that converts is killed.
    """

    def __init__(
        self, directory: Path, changes: SnapshotWriter | None, checkpoint: Future[None], timeout_s: float
    ) -> None:
        self._directory = directory
        self._changes = changes
        self._checkpoint = checkpoint
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._converter: ChildSnapshot | None = None
        self._cancelled = False

    def finish(self) -> list[LocalFile]:
        """See `SnapshotWriter`."""
        try:
            if self._changes is not None:
                self._changes.finish()
            if (failure := self._checkpoint.exception()) is not None:
                raise CheckpointError(f"cannot write the snapshot in {self._directory}: {failure}") from failure
            with self._lock:
                if self._cancelled:
                    raise CheckpointError(f"the snapshot in {self._directory} was cancelled")
                self._converter = start_converter(self._directory, self._timeout_s)
            files = self._converter.finish()
            shutil.rmtree(self._directory / NATIVE_FOLDER)
            return files
        except Exception:
            delete_contents(self._directory)
            raise

    def cancel(self) -> None:
        """See `SnapshotWriter`."""
        with self._lock:
            self._cancelled = True
            converter = self._converter
        for writer in (self._changes, converter):
            if writer is not None:
                writer.cancel()
        # At once if the checkpoint is there; if it is being made, by whoever makes it.
        self._checkpoint.add_done_callback(lambda _: delete_contents(self._directory))


def start_converter(directory: Path, timeout_s: float) -> ChildSnapshot:
    """Start a process that converts the snapshot in NATIVE_FOLDER of `directory` into files of `directory`.

    Raises:
        CheckpointError: It cannot be started.
    """
    report_fd, child_fd = os.pipe()
    command = [sys.executable, "-m", __name__, str(directory), str(os.getpid())]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, child_fd, 1),
    ]
    try:
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    except OSError as error:
        os.close(report_fd)
        raise CheckpointError(f"cannot start the process that writes the snapshot in {directory}: {error}") from error
    finally:
        os.close(child_fd)
    return ChildSnapshot(directory, pid, report_fd, timeout_s)


def canonical_blocks(
    snapshot: StoredSnapshot, directory: Path, key_groups: range | None = None
) -> tuple[SnapshotRecord, Path | None]:
    """The blocks of a snapshot of any format, for reading it without a backend.

    Args:
        snapshot: The snapshot.
        directory: For a conversion; must not exist yet. The file lies there, or where the snapshot has put it.
        key_groups: Which key groups are needed; others may be there as well. All by default.

    Returns:
        `state.json`, as if it had been canonical, and the file of blocks; None where there are no rows.

    Raises:
        CorruptCheckpointError: A file is missing or damaged.
        IncompatibleCheckpointError: The snapshot is of a newer release.
        StorageError: Storage failed.
    """
    record = read_record(snapshot.fetch([RECORD_NAME])[RECORD_NAME])
    if record.format == BLOCKS_FORMAT:
        return record, snapshot.fetch([BLOCKS_NAME]).get(BLOCKS_NAME)
    part = StoredPart(snapshot, record, range(*record.key_groups) if key_groups is None else key_groups)
    place_database(part, directory / DATABASE_FOLDER)
    changes = snapshot.fetch([CHANGES_NAME]).get(CHANGES_NAME)
    log = fetch_log(snapshot, record)
    files = convert(directory / DATABASE_FOLDER, changes, log, record, part.key_groups, directory)
    shutil.rmtree(directory / DATABASE_FOLDER)
    return msgspec.structs.replace(record, log=[], format=BLOCKS_FORMAT), files[1].path if len(files) > 1 else None


def convert_native(native: Path, directory: Path) -> list[LocalFile]:
    """As `convert`, of a whole snapshot that lies in the folder `native`."""
    record = read_record(native / RECORD_NAME)
    changes = native / CHANGES_NAME
    return convert(
        native / DATABASE_FOLDER,
        changes if changes.exists() else None,
        [native / name for name in reversed(record.log)],
        record,
        range(*record.key_groups),
        directory,
    )


def convert(
    database: Path,
    changes: Path | None,
    log: Sequence[Path],
    record: SnapshotRecord,
    key_groups: range,
    directory: Path,
) -> list[LocalFile]:
    """Write the canonical format of a RocksDB snapshot; returns `state.json` and, where there are rows, the file of blocks.

    Args:
        database: The folder of its database, which is changed.
        changes: Its file of changes, if it has one.
        log: The files of its log of changes, the latest first.
        record: Its `state.json`.
        key_groups: Which of its key groups to write.
        directory: Where the files go.

    Raises:
        CheckpointError: The database cannot be opened.
        CorruptCheckpointError: A file is damaged.
        OSError: The disk is full.
    """
    sections = record.sections
    store = Store(database, PASSIVE_MEMORY_BYTES, passive=True)
    try:
        columns = [store.column(section.column) for section in sections]
        if changes is not None:
            for stored in find_blocks(changes, key_groups):
                section = sections[stored.section]
                columns[stored.section].write(to_rows(stored.open(section.id), stored.group, section))
        _write_log(log, record, key_groups, columns)
        with contextlib.closing(BlockWriter(directory / BLOCKS_NAME)) as writer:
            for group in key_groups:
                for number, column in enumerate(columns):
                    for rows in _block_rows(column, group):
                        writer.write(group, number, to_block(rows, sections[number]))
            file = writer.finish()
    finally:
        store.close()
    key_group_ends = (key_groups.start, key_groups.stop)
    described = write_record(
        directory, msgspec.structs.replace(record, log=[], format=BLOCKS_FORMAT, key_groups=key_group_ends)
    )
    if file.size_bytes:
        return [described, file]
    file.path.unlink()
    return [described]


def _write_log(log: Sequence[Path], record: SnapshotRecord, key_groups: range, columns: list[Column]) -> None:
    """Bring a database up to date with a log of changes."""
    by_section: dict[int, list[StoredBlock]] = defaultdict(list)
    for path in log:
        for stored in find_blocks(path, key_groups):
            by_section[stored.section].append(stored)
    for number, blocks in by_section.items():
        table = record.tables[number]
        opened = (stored.open(table.id) for stored in blocks)
        for changes in log_changes(opened, table, key_groups, record.max_parallelism):
            columns[number].write(changes)


def _block_rows(column: Column, group: int) -> Iterator[list[Row]]:
    """The rows of a key group, as many as go into a block."""
    rows: list[Row] = []
    size_bytes = 0
    for portion in column.span(pack_group(group), pack_group(group + 1)):
        rows += portion
        size_bytes += sum([len(value) for _, value in portion])
        if len(rows) >= BLOCK_ROWS or size_bytes >= BLOCK_BYTES:
            yield rows
            rows, size_bytes = [], 0
    if rows:
        yield rows


def _main(directory: Path, parent: int) -> None:
    die_with_parent(parent)
    os.nice(_NICENESS)
    native = directory / NATIVE_FOLDER

    report(sys.stdout.fileno(), lambda: convert_native(native, directory))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
