"""The job's records in storage, seen by its coordinator: what it starts from, what it commits, what it throws away.

`Ledger` puts journal and checkpoint files together under the rules that make them safe: a manifest before its entry, the
entry as the commit point, deletes only after an entry that dropped what they delete, nothing at all while an entry is
unsettled. All methods block; the job calls them one at a time in its storage thread.

A wish to start over, or from a certain checkpoint, comes with the coordinator's configuration, and a coordinator that
died is started again with the same one. So the wish's *origin* is journalled with the first checkpoint that follows
from it; a coordinator that finds its own wish's origin there goes on from the tail.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from checkdam.checkpoint.entries import JournalEntry, Kind
from checkdam.checkpoint.folders import Attempt, CheckpointFolder
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.store import CheckpointStore, open_checkpoint
from checkdam.coordinator.checkpoints import retain
from checkdam.core import faultpoints
from checkdam.core.errors import CorruptCheckpointError, StorageError, UnknownOutcomeError

_log = logging.getLogger(__name__)

_SETTLE_PAUSE_S: Final = 1.0

Verdict = Literal["go", "finished", "stopped"]
"""What the journal says about starting an attempt: go on, the job is done, or it waits to be resumed."""


class Notes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the coordinator keeps in the journal beside checkpoints.

    Attributes:
        origin: The wish that this line of checkpoints began with.
        restored_from: Uri of the checkpoint that it began with, if it was not the job's own.
        committed: Number of the checkpoint up to which all sinks are known to have committed; −1 for unknown.
    """

    origin: str = ""
    restored_from: str = ""
    committed: int = -1


@dataclass(frozen=True)
class Base:
    """The checkpoint to start from: its folder in the job's storage, and its manifest."""

    folder: str
    manifest: CheckpointManifest


@dataclass(frozen=True)
class Foreign:
    """A checkpoint that the job's journal does not lead to: where its files are, and its manifest."""

    store: CheckpointStore
    manifest: CheckpointManifest


class Ledger:
    """The records of one job.

    Args:
        storage: The job's.
        job_id: Whose records they are.
        retained: How many completed checkpoints are kept.
        journal: Over `storage`.
        sleep: Waits for that many seconds.

    Attributes:
        base: The last completed checkpoint; `None` before there is one, or before it was read.
        notes: What the journal holds beside checkpoints.
        resumes_stop: The job goes on from where it had been stopped cleanly: nothing was read after that checkpoint.
    """

    def __init__(
        self,
        storage: Storage,
        job_id: str,
        *,
        retained: int,
        journal: Journal,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.storage = storage
        self.base: Base | None = None
        self.notes = Notes()
        self.resumes_stop = False
        self._folder = ""
        self._store = CheckpointStore(storage, job_id)
        self._journal = journal
        self._keep = retained
        self._sleep = sleep
        self._retained: list[str] = []
        self._dropped: list[str] = []
        self._manifests: dict[str, CheckpointManifest] = {}

    @property
    def epoch(self) -> int:
        """The coordinator's epoch; 0 before `take_over`."""
        return self._journal.epoch

    def take_over(self, *, fresh: bool, resume: bool, origin: str, again: bool) -> Verdict:
        """Fence the journal, unless what it says keeps the job from starting.

        Args:
            fresh: The job is to start over.
            resume: The job may start although it was stopped.
            origin: Names the wish to start over or from a certain checkpoint, which overrules what keeps the job from starting;
                empty if there is none.
            again: This coordinator replaces one that was started with the same wish.

        Raises:
            DeposedError: Another coordinator has taken over in the meantime.
            StorageError, CheckpointError: The journal cannot be read or written.
        """
        tail = self._journal.tail()
        wished = bool(origin) and not (again and _notes(tail).origin == origin)
        if not wished and (verdict := _verdict(tail, resume)) != "go":
            return verdict
        fence = self._journal.fence(fresh and wished)
        if not wished and (verdict := _verdict(fence, resume)) != "go":
            return verdict
        self.notes = _notes(fence)
        self._retained = list(fence.retained)
        self._folder = fence.checkpoint
        self.resumes_stop = fence.follows == "stopped"
        return "go"

    def read_base(self) -> Base | None:
        """Read the checkpoint that the journal says to start from; `None` if there is none yet.

        Raises:
            CorruptCheckpointError: It is damaged: `fall_back`, or give up.
            IncompatibleCheckpointError: It is of another job or a newer format.
            StorageError: Storage failed.
        """
        self.base = Base(self._folder, self._manifest(self._folder)) if self._folder else None
        return self.base

    def fall_back(self, attempt: int) -> Base:
        """Give up the newest checkpoint and journal the one before as what the job starts from.

        Raises:
            CorruptCheckpointError: There is none before that can be read.
            DeposedError, StorageError: As `commit`.
        """
        older = [folder for folder in self._retained if folder != self._folder]
        while older:
            folder = older[-1]
            try:
                manifest = self._manifest(folder)
            except CorruptCheckpointError as error:
                _log.warning("cannot fall back to %s: %s", folder, error)
                older.pop()
                continue
            self._append("rollback", attempt, checkpoint=folder, retained=older)
            self._retained, self._folder = older, folder
            self.base = Base(folder, manifest)
            return self.base
        raise CorruptCheckpointError(
            f"{self.storage.uri} holds no older checkpoint to fall back to; restore another one with `restoreFrom`, or start over"
        )

    def verify(self, folder: str) -> list[str]:
        """Read all files of a checkpoint; one sentence for each problem.

        Raises:
            StorageError: Storage failed.
        """
        return self._store.verify(folder)

    def commit(
        self,
        folder: str,
        manifest: CheckpointManifest,
        kind: Literal["checkpoint", "stopped"],
        notes: Notes | None = None,
    ) -> None:
        """Make a checkpoint count: write its manifest, then the journal entry.

        Raises:
            StorageError: It does not count, and never will.
            DeposedError: Another coordinator owns the job.
        """
        faultpoints.hit("before-manifest")
        self._store.write_manifest(folder, manifest)
        faultpoints.hit("after-manifest")
        kept, dropped = retain(self._retained, folder, self._keep)
        notes = msgspec.structs.replace(notes or self.notes, committed=-1)
        faultpoints.hit("before-journal")
        self._append(kind, manifest.attempt, checkpoint=folder, retained=kept, notes=notes)
        faultpoints.hit("journal-written")
        self.notes = notes
        self._retained, self._folder = kept, folder
        self._dropped += dropped
        self._manifests[folder] = manifest
        self.base = Base(folder, manifest)

    def close(self, kind: Literal["stopped", "finished"], attempt: int) -> None:
        """Journal that the job has ended, and that its sinks have committed all there is.

        Raises:
            StorageError, DeposedError: As `commit`.
        """
        committed = self.base.manifest.id if self.base is not None else -1
        self._append(kind, attempt, notes=msgspec.structs.replace(self.notes, committed=committed))

    def check(self) -> None:
        """Make sure that this coordinator still owns the job.

        Raises:
            DeposedError: It does not, or could not know for a day.
            StorageError: The journal cannot be reached now.
        """
        self._journal.check()

    def delete_dropped(self) -> None:
        """Delete the checkpoints that have left `retained`; what fails is tried again at the next call.

        Raises:
            StorageError, CheckpointError: Storage failed, or a retained checkpoint cannot be read.
        """
        while self._dropped:
            self.discard(self._dropped[0])
            self._manifests.pop(self._dropped.pop(0), None)

    def discard(self, folder: str) -> None:
        """Delete what is in the folder of a checkpoint that does not count, or does not any more.

        Raises:
            StorageError, CheckpointError: Storage failed, or a retained checkpoint cannot be read.
        """
        if folder not in self._retained and not self._journal.unsettled:
            self._store.delete_checkpoint(folder, [self._manifest(kept) for kept in self._retained])

    def sweep(self, running: Attempt) -> int:
        """Delete what attempts before `running` have left and no retained checkpoint names; returns how many files.

        Raises:
            StorageError, CheckpointError: Storage failed, or a retained checkpoint cannot be read.
        """
        return 0 if self._journal.unsettled else self._store.sweep(running, self._retained)

    def prune(self) -> None:
        """Delete journal entries that nobody needs any more.

        Raises:
            StorageError, DeposedError: Storage failed, or another coordinator owns the job.
        """
        self._journal.prune()

    def resume(self) -> None:
        """Journal that a job that was stopped goes on, so that from now on it does so without being told.

        Raises:
            StorageError, DeposedError: As `commit`.
        """
        self._append("checkpoint", 0)

    def open_foreign(self, uri: str, base_folder: Path) -> Foreign:
        """Open a checkpoint that the journal does not lead to.

        Args:
            uri: Of the checkpoint, or of a job's folder.
            base_folder: What a relative path is relative to.

        Raises:
            CheckpointError: There is none, or it is damaged.
            StorageError: Storage failed.
        """
        store, folder = open_checkpoint(uri, base_folder)
        return Foreign(store, store.read_manifest(folder))

    def adopt(self, foreign: Foreign, folder: str) -> CheckpointManifest:
        """Copy the files of a checkpoint to `folder` of this job, so that nothing ever refers to files elsewhere.

        Returns:
            Its manifest, naming the copies.

        Raises:
            CorruptCheckpointError: A file is damaged.
            StorageError: Storage failed.
        """
        manifest = foreign.manifest
        copies: dict[str, FileHandle] = {}
        with tempfile.TemporaryDirectory(prefix="checkdam-adopt-") as directory:
            for handle in (handle for snapshot in manifest.subtasks for handle in snapshot.files):
                if handle.path and handle.path not in copies:
                    local = Path(directory) / str(len(copies))
                    foreign.store.fetch_file(handle, local)
                    copies[handle.path] = self._put(handle, local, f"{folder}/adopted-{len(copies)}")
                    local.unlink()
        subtasks = [
            msgspec.structs.replace(
                snapshot,
                files=[
                    msgspec.structs.replace(copies[handle.path], name=handle.name) if handle.path else handle
                    for handle in snapshot.files
                ],
            )
            for snapshot in manifest.subtasks
        ]
        return msgspec.structs.replace(manifest, subtasks=subtasks)

    def _put(self, handle: FileHandle, local: Path, prefix: str) -> FileHandle:
        if not self.storage.shared:
            return msgspec.structs.replace(handle, path="", inline=local.read_bytes())
        path = f"{prefix}-{handle.path.rsplit('/', 1)[-1]}"
        self.storage.put_file(path, local)
        return msgspec.structs.replace(handle, path=path)

    def _manifest(self, folder: str) -> CheckpointManifest:
        if folder not in self._manifests:
            self._manifests[folder] = self._store.read_manifest(folder)
        return self._manifests[folder]

    def _append(
        self,
        kind: Kind,
        attempt: int,
        *,
        checkpoint: str | None = None,
        retained: list[str] | None = None,
        notes: Notes | None = None,
    ) -> None:
        """Append an entry and stay until it is known what became of it."""
        data: Any = None if notes is None else msgspec.to_builtins(notes)
        try:
            self._journal.append(kind, checkpoint, retained, attempt, data=data)
        except UnknownOutcomeError as error:
            if self._settled().kind != kind:
                raise StorageError(
                    "append", error.path, "the entry had not been written", "it is safe to try again"
                ) from error

    def _settled(self) -> JournalEntry:
        while True:
            try:
                # `check` settles, and gives up when storage has been silent for too long.
                self._journal.check()
            except StorageError as error:
                _log.warning("nothing is committed or deleted until storage answers: %s", error)
                self._sleep(_SETTLE_PAUSE_S)
                continue
            last = self._journal.last
            assert last is not None  # noqa: S101 - something has been appended
            return last


def checkpoint_folder(checkpoint: int, epoch: int, attempt: int) -> str:
    """The folder of checkpoint `checkpoint` of an attempt: a number is used once within an epoch, so no name twice."""
    return str(CheckpointFolder(checkpoint, epoch, attempt))


def _notes(entry: JournalEntry | None) -> Notes:
    if entry is None or entry.data is None:
        return Notes()
    return msgspec.convert(entry.data, Notes)


def _verdict(entry: JournalEntry | None, resume: bool) -> Verdict:
    if entry is None:
        return "go"
    if entry.decision == "finished":
        return "finished"
    return "stopped" if entry.decision == "stopped" and not resume else "go"


__all__ = ["Base", "Foreign", "Ledger", "Notes", "Verdict", "checkpoint_folder"]
