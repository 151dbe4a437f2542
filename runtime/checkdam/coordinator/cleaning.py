"""What a coordinator deletes of its job's files: checkpoints that do not count any more or never did, and what dead attempts have left.

That takes as long as storage likes, and nobody waits for it. So it is done in a thread of its own, beside the one in which the ledger commits.
They share two things: `Facts`, and the list `retained`, which only the ledger changes, and only to the one of an entry that it has just
journalled. What an entry drops is handed over after that. So a delete begins after the entry that permits it; by the time it is done more
entries may have followed.

Why no file is deleted that is still needed, although checkpoints share files and everything may be late:

* A file that several checkpoints name is deleted only if no manifest of `retained` names it, as some entry had it *after* the one that
  dropped what is deleted, however long that waited in its queue.
* Entries that are written while the delete runs change nothing about that. A new checkpoint names nothing but its own uploads, whose names are
  new, and files of its base. The base is the last completed checkpoint: it is among the `retained` that the delete goes by, or it was completed
  later, and then the same holds for its own files. Going back to an older checkpoint goes to one of that list.
* So it does not matter either what becomes of an entry that is under way. Nothing is begun while that is in doubt, all the same.
* A checkpoint in flight keeps its base in `retained` until it has been journalled. Deletes for a checkpoint that failed take its own
  uploads, which nobody else can name, by the names that they have (`checkpoint.folders.is_own`).
* A worker deletes only what it uploaded itself, for a checkpoint that it has not acknowledged. What it names again of the
  base it never deletes, and what it has acknowledged is the coordinator's.
* A coordinator that was deposed and wakes up deletes by an old `retained`. Its successor began with the last checkpoint in that
  very list, with an older one of it, or with one whose base is in it; whatever it takes names files of those, or its own, whose names
  carry a higher epoch.
* The sweep takes only what attempts before the running one have uploaded. Whatever one of their workers uploads later has a
  name that nobody knows, and goes with the sweep after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue

from checkdam.checkpoint.folders import Attempt, SavepointFolder
from checkdam.checkpoint.store import CheckpointStore
from checkdam.coordinator.facts import Facts


class Cleaner:
    """Deletes files of one job. All methods but `doom` block, and are called from one thread at a time.

    Args:
        store: The job's checkpoints.
        facts: Of the retained ones.
        retained: Folders of the checkpoints that the last entry keeps; any thread may ask.
        doubt: Not empty while it is not known what became of an entry; any thread may ask.
    """

    def __init__(
        self, store: CheckpointStore, facts: Facts, retained: Callable[[], Sequence[str]], doubt: Callable[[], str]
    ) -> None:
        self._store = store
        self._facts = facts
        self._retained = retained
        self._doubt = doubt
        self._handed: SimpleQueue[tuple[str, frozenset[str]]] = SimpleQueue()
        self._doomed: dict[str, set[str]] = {}
        self._failing = False

    def doom(self, folder: str, uploads: Iterable[str] = ()) -> None:
        """Let `delete_doomed` delete a checkpoint that the journal does not keep; any thread may say so.

        Args:
            folder: Of the checkpoint.
            uploads: More files that were uploaded for it.
        """
        self._handed.put((folder, frozenset(uploads)))

    def delete_doomed(self) -> None:
        """Delete the checkpoints that have left `retained` or failed; what fails is tried again at the next call.

        Raises:
            StorageError, CheckpointError: Storage failed, or a retained checkpoint cannot be read.
        """
        self._take_handed()
        if not self._doomed or self._doubt():
            return
        self._failing = True
        retained = self._retained()
        kept = self._paths_of(retained)
        for folder in list(self._doomed):
            if folder not in retained:
                # Remembered, because what its manifest names cannot be told any more once that is gone.
                self._doomed[folder] = self._store.files_of(folder, self._doomed[folder])
                self._store.delete_files(self._doomed[folder] - kept)
                self._facts.forget(folder)
            del self._doomed[folder]
        self._failing = False

    def discard(self, folder: str, uploads: Iterable[str] = ()) -> None:
        """Delete a checkpoint that does not count: what is in its folder, and `uploads` that were acknowledged for it.

        Where the last deletes failed it waits for the next call of `delete_doomed`: checkpoints fail, and deletes run into timeouts, as
        long as storage is away.

        Raises:
            StorageError, CheckpointError: As `delete_doomed`, which goes on.
        """
        self.doom(folder, uploads)
        if not self._failing:
            self.delete_doomed()

    def sweep(self, running: Attempt) -> int:
        """Delete what attempts before `running` have left and no retained checkpoint names; returns how many files.

        Raises:
            StorageError, CheckpointError: Storage failed, or a retained checkpoint cannot be read; then nothing was deleted,
                since nobody knows what it names.
        """
        return 0 if self._doubt() else self._store.sweep(running, self._paths_of(self._retained()))

    def _take_handed(self) -> None:
        while True:
            try:
                folder, uploads = self._handed.get_nowait()
            except Empty:
                return
            self._doomed.setdefault(folder, set()).update(uploads)

    def _paths_of(self, retained: Sequence[str]) -> set[str]:
        """All files of checkpoints. A savepoint's are its own, and are never deleted anyhow."""
        folders = [folder for folder in retained if not SavepointFolder.parse(folder)]
        return {path for fact in self._facts.each(self._facts.of, folders) for path in fact.paths}


__all__ = ["Cleaner"]
