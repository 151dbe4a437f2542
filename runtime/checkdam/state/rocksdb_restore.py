"""Bringing state back into a database: databases of snapshots, and blocks in the canonical format.

Of several databases, after a rescale, the one with most of what is owned here is opened in place. It takes over the data files
of the others, linked, or where that is not safe, copies of the rows that are owned here; then it is clipped. Data files that
hold nothing of what is owned are neither fetched nor missed (`rocksdb_manifest`). Blocks become rows without becoming objects
(`rocksdb_blocks`). Memory is bounded by a portion of rows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.core.serde import Serde
from checkdam.state.blocks import StoredBlock
from checkdam.state.record import TableRecord, TimersRecord
from checkdam.state.restored import StoredPart
from checkdam.state.rocksdb_blocks import to_rows
from checkdam.state.rocksdb_manifest import Manifest, read_manifest
from checkdam.state.rocksdb_rows import pack_group
from checkdam.state.rocksdb_store import Change, Column, Row, Store

DATABASE_FOLDER: Final = "db"
"""Where the database is, in the backend's directory and in a snapshot."""

DATA_SUFFIX: Final = ".sst"
"""Data files never change once they are written."""

PASSIVE_MEMORY_BYTES: Final = 16 << 20
"""For a database that is read once from one end to the other."""

_PREFIX: Final = f"{DATABASE_FOLDER}/"
_SORTED_BYTES: Final = 8 << 20
_ROW_OVERHEAD_BYTES: Final = 200
_END: Final = b"\xff" * 3
"""Behind all rows."""


def restore_databases(parts: list[StoredPart], path: Path, open_store: Callable[[], Store]) -> None:
    """Make the database in the folder `path`, which does not exist yet, of the databases of snapshots; none is fine.

    Args:
        parts: What is owned here of snapshots in RocksDB's own format.
        path: Where the database is to be.
        open_store: Opens it; called once its files are in place.

    Raises:
        CorruptCheckpointError: A file is missing or damaged.
        StorageError: Storage failed.
    """
    if not parts:
        return
    base = max(parts, key=lambda part: len(part.key_groups))
    place_database(base, path)
    others = {path.with_name(f"{path.name}-{number}"): part for number, part in enumerate(parts) if part is not base}
    taker = _unclipped(path, base) if others else None
    to_copy = dict(others)
    for other, part in others.items():
        place_database(part, other)
        giver = _unclipped(other, part)
        if taker is not None and giver is not None and giver.columns.keys() <= taker.columns.keys():
            _check_columns(giver.columns, part)
            taker.adopt(giver)
            del to_copy[other]
    store = _opened(open_store)
    _check_columns(store.stored_columns, base)
    _clip(store, [part for part in parts if part not in to_copy.values()])
    for other, part in to_copy.items():
        _copy_rows(part, other, store)
    for other in others:
        shutil.rmtree(other)


def _unclipped(path: Path, part: StoredPart) -> Manifest | None:
    """The MANIFEST of a database whose files lie within its snapshot's key groups; None if they do not, or it is not known.

    Files reach beyond if the database was clipped after an earlier rescale. They hold rows that were clipped, or what deletes
    them, and neither must meet the rows of another database.
    """
    manifest = read_manifest(path)
    start, stop = part.record.key_groups
    if manifest is None or any(file.key_groups.start < start or file.key_groups.stop > stop for file in manifest.files):
        return None
    return manifest


def _clip(store: Store, parts: list[StoredPart]) -> None:
    """Delete all rows that are not owned here from a database that was put together of these parts."""
    if all(part.whole for part in parts):
        return
    taken = sorted((part.key_groups for part in parts), key=lambda groups: groups.start)
    starts = [b"", *(pack_group(groups.stop) for groups in taken)]
    ends = [*(pack_group(groups.start) for groups in taken), _END]
    gaps = [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
    for name in store.stored_columns:
        store.column(name).delete_ranges(gaps)


def place_database(part: StoredPart, path: Path) -> None:
    """Put the files of a snapshot's database into the folder `path`, those with what is owned here, and none that is missed.

    What is fetched stays as it is: data files, which never change, are linked, all others copied.

    Raises:
        CorruptCheckpointError: A file is missing or damaged.
        StorageError: Storage failed.
    """
    names = {handle.name for handle in part.snapshot.files if handle.name.startswith(_PREFIX)}
    data = {name for name in names if name.endswith(DATA_SUFFIX)}
    if part.whole:
        _place(part, names, path)
    else:
        _place(part, names - data, path)
        _place(part, _without_unneeded(path, part.key_groups, data), path)


def _without_unneeded(path: Path, key_groups: range, data: set[str]) -> set[str]:
    """The names of the data files that a database needs for these key groups; it forgets the others."""
    manifest = read_manifest(path) if data else None
    if manifest is None:
        return data
    missing = {_PREFIX + file.name for file in manifest.files} - data
    if missing:
        raise CorruptCheckpointError(f"the snapshot lacks {', '.join(sorted(missing))}, which its database consists of")
    needed = {
        file
        for file in manifest.files
        if file.key_groups.start < key_groups.stop and file.key_groups.stop > key_groups.start
    }
    manifest.forget([file for file in manifest.files if file not in needed])
    return {_PREFIX + file.name for file in needed}


def _place(part: StoredPart, names: set[str], path: Path) -> None:
    for name, source in part.snapshot.fetch(names).items():
        target = path / name.removeprefix(_PREFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.suffix == DATA_SUFFIX:
                try:
                    os.link(source, target)
                    continue
                except OSError:
                    pass  # another file system
            shutil.copyfile(source, target)
        except OSError as error:
            raise CorruptCheckpointError(f"cannot restore {source}: {error}") from error


def _opened(open_store: Callable[[], Store]) -> Store:
    try:
        return open_store()
    except CheckpointError as error:
        raise CorruptCheckpointError(f"the database of the snapshot is damaged: {error}") from error


def _check_columns(stored: Collection[str], part: StoredPart) -> None:
    """See that a database has what its snapshot says."""
    lacking = [section.column for section in part.record.sections if section.column not in stored]
    if lacking:
        raise CorruptCheckpointError(f"the database of the snapshot lacks {', '.join(lacking)}")


def _copy_rows(part: StoredPart, path: Path, store: Store) -> None:
    """Copy what is owned here out of the database of another snapshot."""
    start, stop = pack_group(part.key_groups.start), pack_group(part.key_groups.stop)
    source = _opened(lambda: Store(path, PASSIVE_MEMORY_BYTES, passive=True))
    try:
        _check_columns(source.stored_columns, part)
        for section in part.record.sections:
            store.column(section.column).ingest(source.column(section.column).span(start, stop), path.parent)
    finally:
        source.close()


def ingest_blocks(
    column: Column, blocks: list[StoredBlock], section: TableRecord | TimersRecord, serde: Serde | None, folder: Path
) -> None:
    """Add the rows of blocks, in the order of key groups, to a column that has none of them.

    Args:
        column: The column.
        blocks: In the canonical format.
        section: The table, or timers, that they are of.
        serde: The table's.
        folder: For files on their way; on the same disk as the database.

    Raises:
        CorruptCheckpointError: A block is damaged.
        ValueTypeError: A value does not fit the declared type.
    """
    column.ingest(_sorted_rows(blocks, section, serde), folder)


def _sorted_rows(
    blocks: list[StoredBlock], section: TableRecord | TimersRecord, serde: Serde | None
) -> Iterator[list[Row]]:
    """The rows of each key group in order, or in several lots that are in order."""
    rows: list[Change] = []
    size_bytes, group = 0, -1
    for stored in blocks:
        if rows and (stored.group != group or size_bytes >= _SORTED_BYTES):
            yield sorted(rows)  # type: ignore[arg-type]  # no row of the canonical format is a deleted one
            rows, size_bytes = [], 0
        added = to_rows(stored.open(section.id), stored.group, section, serde)
        rows += added
        size_bytes += sum([len(value) for _, value in added if value]) + _ROW_OVERHEAD_BYTES * len(added)
        group = stored.group
    if rows:
        yield sorted(rows)  # type: ignore[arg-type]
