"""Making a checkpoint of an open RocksDB database: a folder of hard links that is a database of its own.

RocksDB has a call for it, but its Python binding does not let go of the interpreter meanwhile, and the call writes memtables
and syncs folders, which on a busy disk takes as long as it likes; the task thread would stand still. So memtables are
written first, which does let go. Then the MANIFEST is copied and the data files that it lists are linked, which takes a
millisecond and syncs nothing: what is in a checkpoint's folder need not outlive the machine.

Compactions go on beside it. They add to the MANIFEST when they end, and delete files afterwards; so what was copied and linked
is whole if RocksDB lists the same files after the copy as the copy does, and none was gone before it was linked. Otherwise it
is done again, and where that does not help, or an entry of the MANIFEST is not known, RocksDB is called after all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from checkdam.core.errors import CorruptCheckpointError
from checkdam.state.rocksdb_manifest import CURRENT_NAME, read_manifest

_TRIES: Final = 5


def make_checkpoint(
    database: Path,
    target: Path,
    *,
    flush: Iterable[Callable[[], None]],
    live_files: Callable[[], set[str]],
    by_rocksdb: Callable[[Path], None],
) -> None:
    """Make the folder `target`, which must not exist, a checkpoint of the open database in the folder `database`.

    For a thread of its own. Nobody may write to the database until this returns.

    Args:
        database: Its folder.
        target: On the same file system.
        flush: Write the memtable of each column family.
        live_files: Names of the data files that RocksDB says there are.
        by_rocksdb: RocksDB's own way to make a checkpoint.

    Raises:
        OSError: A file cannot be made.
        Exception: What RocksDB raises.
    """
    for write in flush:
        write()
    for _ in range(_TRIES):
        if _link(database, target, live_files):
            return
        shutil.rmtree(target)
    by_rocksdb(target)


def _link(database: Path, target: Path, live_files: Callable[[], set[str]]) -> bool:
    """Try once; false if the database changed meanwhile, or is not understood."""
    target.mkdir()
    current = (database / CURRENT_NAME).read_text()
    try:
        shutil.copyfile(database / current.strip(), target / current.strip())
        (target / CURRENT_NAME).write_text(current)
        manifest = read_manifest(target)
    except (FileNotFoundError, CorruptCheckpointError):
        return False  # begun anew, or copied in the middle of an entry
    if manifest is None or {file.name for file in manifest.files} != live_files():
        return False
    try:
        for file in manifest.files:
            os.link(database / file.name, target / file.name)
    except FileNotFoundError:
        return False
    return True
