"""The files of a worker's checkpoints, on their way to storage and back.

What a checkpoint may name of an earlier one is decided here: files of its *base*, which the trigger names, and of no
other, however much the worker remembers. The coordinator keeps the base until the checkpoint has been journalled; what
an older or a failed one had may have been deleted. So a worker remembers, by number, the files of checkpoints that it has
acknowledged and of the one that it restored, and forgets them as soon as a later one has completed.

Beside storage the files are kept locally (`local_files`), where a restore looks first.

Concurrency: `begin`, `complete` and `abort` are called by the task thread, the others by I/O threads; what is remembered
is guarded by the lock, which is never held during I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from checkdam.checkpoint.folders import is_own
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.transfers import Transfers
from checkdam.checkpoint.uploads import KnownFiles, fetch_files, known_files, upload_files
from checkdam.state.base import LocalFile
from checkdam.wire.messages import Trigger
from checkdam.worker.local_files import LocalFiles


class CheckpointFiles:
    """Stores and fetches files for one worker and attempt.

    Args:
        storage: The job's.
        transfers: Bounds how many files are on their way; by default threads of its own.
        incremental: Whether checkpoints may name files of earlier ones at all.
        restored: What the worker restores of a checkpoint; `None` for nothing.
        local: Where files are kept for local recovery; `None` for nowhere.

    Attributes:
        fetched_bytes: How much has been fetched from storage.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        transfers: Transfers | None = None,
        incremental: bool = True,
        restored: CheckpointManifest | None = None,
        local: LocalFiles | None = None,
    ) -> None:
        self.fetched_bytes = 0
        self._storage = storage
        self._transfers = transfers or Transfers()
        self._incremental = incremental
        self._local = local
        self._lock = threading.Lock()
        self._completed = restored.id if restored is not None else -1
        self._named: dict[int, KnownFiles] = {}
        if restored is not None:
            self._named[restored.id] = known_files(restored.subtasks)

    def fetch(self, wanted: Sequence[tuple[FileHandle, Path]]) -> None:
        """Bring files of the restored checkpoint to paths that do not exist yet, verified, several at a time.

        Where a file is here still, its path becomes a link to it: nobody may change it.

        Raises:
            CorruptCheckpointError: A file is missing or not what the checkpoint says.
            StorageError: Storage failed.
        """
        missing = [(handle, path) for handle, path in wanted if not (handle.path and self._link(handle, path))]
        fetch_files(self._storage, missing, self._transfers)
        for handle, path in missing:
            if handle.path:
                self.fetched_bytes += handle.size_bytes
                if self._local is not None:
                    self._local.add(self._completed, handle.sha256, path)

    def begin(self, trigger: Trigger) -> None:
        """A checkpoint begins; the base that it names has completed."""
        self._complete_up_to(trigger.base)

    def store(
        self, trigger: Trigger, prefix: str, files: Sequence[LocalFile], cancelled: threading.Event
    ) -> list[FileHandle]:
        """Upload what storage lacks of a snapshot's files: see `upload_files`, whose errors it raises."""
        base = self._base(trigger.base) if self._incremental else None
        handles = upload_files(
            self._storage,
            trigger.folder,
            files,
            transfers=self._transfers,
            prefix=prefix,
            base=base,
            cancelled=cancelled,
        )
        if self._local is not None and not trigger.savepoint:
            for file, handle in zip(files, handles, strict=True):
                if handle.path:
                    self._local.add(trigger.checkpoint, file.sha256, file.path)
        return handles

    def acknowledge(self, trigger: Trigger, snapshots: Iterable[SubtaskSnapshot]) -> None:
        """A checkpoint is about to be acknowledged with these files; once it has completed it may be a base."""
        if not trigger.savepoint:
            with self._lock:
                self._named[trigger.checkpoint] = known_files(snapshots)

    def complete(self, checkpoint: int) -> None:
        """A checkpoint has completed; `tidy` can delete what only earlier ones needed."""
        self._complete_up_to(checkpoint)

    def abort(self, checkpoint: int) -> None:
        """A checkpoint is void, unless it had completed before; `tidy` can delete what only it needed."""
        with self._lock:
            if checkpoint <= self._completed:
                return
            self._named.pop(checkpoint, None)
        if self._local is not None:
            self._local.not_needed(checkpoint)

    def discard(self, trigger: Trigger, handles: Iterable[FileHandle]) -> None:
        """Delete from storage what was uploaded for a checkpoint that was not acknowledged, and nothing that its base names.

        Raises:
            StorageError: Storage failed; the next sweep deletes the rest.
        """
        self._storage.delete([handle.path for handle in handles if is_own(handle.path, trigger.folder)])

    def tidy(self) -> None:
        """Delete local files that nothing needs any more. For I/O threads."""
        if self._local is not None:
            self._local.tidy()

    def _link(self, handle: FileHandle, path: Path) -> bool:
        if self._local is None or not self._local.link(handle, path):
            return False
        self._local.add(self._completed, handle.sha256, path)
        return True

    def _base(self, checkpoint: int) -> KnownFiles:
        with self._lock:
            return self._named.get(checkpoint, {})

    def _complete_up_to(self, checkpoint: int) -> None:
        with self._lock:
            if checkpoint <= self._completed:
                return
            self._completed = checkpoint
            self._named = {number: files for number, files in self._named.items() if number >= checkpoint}
        if self._local is not None:
            self._local.needed_from(checkpoint)


__all__ = ["CheckpointFiles"]
