"""RocksDB's own snapshot format: a checkpoint of the database by hard links, and beside it the changes it lacks.

Most data files of a snapshot were in the one before. They are known again by their identity on disk, so they are hashed once,
and they are marked as reusable: storage has them already.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Future
from pathlib import Path

from checkdam.core.errors import CheckpointError
from checkdam.state.base import LocalFile, SnapshotWriter
from checkdam.state.forked import delete_contents
from checkdam.state.rocksdb_log import LogPart
from checkdam.state.rocksdb_restore import DATA_SUFFIX, DATABASE_FOLDER

DataIdentity = tuple[str, int, int, int]


def _data_file(path: Path) -> DataIdentity:
    """What tells a data file from every other, under all of its links."""
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns


class RocksDbSnapshot:
    """A RocksDB checkpoint whose files are still to be hashed, beside the changes that are being written.

    Args:
        directory: The snapshot's folder.
        changes: The writer of the changes and of `state.json`; None if it was never begun.
        log: This snapshot's part of the log of changes.
        checkpoint: Done when there is one, or with the reason why there is none.
        digests: Those of data files that were hashed for earlier snapshots; kept up here.
    """

    def __init__(
        self,
        directory: Path,
        changes: SnapshotWriter | None,
        log: LogPart,
        checkpoint: Future[None],
        digests: dict[DataIdentity, str],
    ) -> None:
        self._directory = directory
        self._changes = changes
        self._log = log
        self._checkpoint = checkpoint
        self._digests = digests
        self._cancelled = threading.Event()

    def finish(self) -> list[LocalFile]:
        """See `SnapshotWriter`."""
        try:
            files = [] if self._changes is None else self._changes.finish()
            self._checkpoint.result()
            files = self._log.finish(self._directory, files)
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
        # At once if the checkpoint is there; if it is being made, by whoever makes it.
        self._checkpoint.add_done_callback(lambda _: delete_contents(self._directory))

    def _describe(self, path: Path) -> LocalFile:
        if self._cancelled.is_set():
            raise CheckpointError(f"the snapshot in {self._directory} was cancelled")
        identity = _data_file(path)
        digest = self._digests.get(identity)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if path.suffix == DATA_SUFFIX:
                self._digests[identity] = digest
        name, reusable = path.relative_to(self._directory).as_posix(), path.suffix == DATA_SUFFIX
        return LocalFile(name, path, path.stat().st_size, digest, reusable=reusable)
