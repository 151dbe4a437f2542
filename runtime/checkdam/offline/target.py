"""Where a new savepoint is written: a folder of its own, in any storage, which becomes a savepoint with its last file.

Nothing that is there is ever overwritten. What was stored before something failed is deleted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from checkdam.checkpoint.folders import CheckpointFolder, SavepointFolder
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle
from checkdam.checkpoint.opening import split_uri
from checkdam.checkpoint.storage.locate import open_folder
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.uploads import discard, upload_files
from checkdam.core.errors import CheckpointError, UnknownOutcomeError
from checkdam.state.base import LocalFile


class SavepointTarget:
    """A context in which a savepoint is written; where it ends without `finish`, nothing is left.

    Args:
        uri: The savepoint's folder, which must be empty or not exist.

    Raises:
        CheckpointError: Something is there, or the name is one that jobs give.
        StorageError: The uri cannot be used, or storage failed.
    """

    def __init__(self, uri: str) -> None:
        parent, self._folder = split_uri(uri)
        if not self._folder:
            raise CheckpointError(f"{uri} is no place for a savepoint; name a folder below it")
        if CheckpointFolder.parse(self._folder) or SavepointFolder.parse(self._folder):
            raise CheckpointError(
                f"{uri} is named as jobs name their own checkpoints and savepoints, and a job would take it for a leftover; "
                "give it another name"
            )
        self._store = CheckpointStore(open_folder(parent))
        if next(iter(self._store.storage.list(self._folder)), None) is not None:
            raise CheckpointError(f"{uri} is not empty, and savepoints are never overwritten; name a new folder")
        self._stored: list[str] = []

    def __enter__(self) -> SavepointTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stored:
            discard(self._store.storage, self._stored)
        self._store.transfers.close()

    def store(self, files: Sequence[LocalFile], stage: str, subtask: int) -> list[FileHandle]:
        """Store the files of one subtask's keyed state.

        Raises:
            StorageError: They could not be stored.
        """
        handles = upload_files(
            self._store.storage,
            self._folder,
            files,
            transfers=self._store.transfers,
            prefix=f"{stage}-{subtask}/",
        )
        self._stored += [handle.path for handle in handles if handle.path]
        return handles

    def finish(self, manifest: CheckpointManifest) -> None:
        """Write `_metadata`, which makes the folder a savepoint.

        Raises:
            StorageError: It could not be written.
        """
        try:
            self._store.write_manifest(self._folder, manifest)
        except UnknownOutcomeError:
            self._stored = []  # it may be a savepoint now, and must not lose its files
            raise
        self._stored = []
