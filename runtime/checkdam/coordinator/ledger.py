"""The job's records in storage, seen by its coordinator: what it starts from, what it commits, what it throws away.

`Ledger` puts journal and checkpoint files together under the rules that make them safe: a manifest before its entry, the
entry as the commit point, deletes only after an entry that dropped what they delete.

**Two threads.** All methods block. What decides goes through one thread, the job's storage thread, one after another in the order of the calls.
What only looks after the house goes through another, so that no commit waits for it, however long storage takes: `cleaner`, `looks_owned` and
`prune`. The state that both see changes in the storage thread alone, and each change is one assignment: the list `retained` (after the
entry that says so, never before), the journal's last entry, and its doubt. So the other thread sees what was so a moment ago, and
`cleaning.py` and `journal.py` say why that does no harm. The other way round a commit sees facts of checkpoints that cleaning has read, and how
far entries were pruned, on which no decision hangs. What a user wants deleted, `dispose`, is decided by the journal: it waits between commits.

A wish to start over, or from a certain checkpoint, comes with the coordinator's configuration, and a coordinator that
died is started again with the same one. So the wish's *origin* is journalled with the first checkpoint that follows
from it; a coordinator that finds its own wish's origin there goes on from the tail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from checkdam.checkpoint.copies import copy_files, dispose_savepoint
from checkdam.checkpoint.entries import JournalEntry, Kind
from checkdam.checkpoint.folders import METADATA, Attempt, CheckpointFolder, SavepointFolder
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle
from checkdam.checkpoint.opening import open_checkpoint
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.transfers import Transfers
from checkdam.coordinator.cleaning import Cleaner
from checkdam.coordinator.facts import Facts
from checkdam.coordinator.retention import Retained, Retention, retain
from checkdam.core import faultpoints
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, StorageError, UnknownOutcomeError
from checkdam.spec.checkpoint import CheckpointStorage

_log = logging.getLogger(__name__)

_SETTLE_PAUSE_S: Final = 1.0

Verdict = Literal["go", "finished", "stopped", "newer"]
"""What the journal says about starting an attempt: go on, the job is done, it waits to be resumed, or it has come further than the wish
to start knew."""


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
        retention: Which completed checkpoints are kept.
        journal: Over `storage`.
        transfers: Moves files; by default threads of its own.
        sleep: Waits for that many seconds.

    Attributes:
        base: The last completed checkpoint; `None` before there is one, or before it was read.
        notes: What the journal holds beside checkpoints.
        resumes_stop: The job goes on from where it had been stopped cleanly: nothing was read after that checkpoint.
        cleaner: Deletes what does not count any more.
    """

    def __init__(
        self,
        storage: Storage,
        job_id: str,
        *,
        retention: Retention,
        journal: Journal,
        transfers: Transfers | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.storage = storage
        self.base: Base | None = None
        self.notes = Notes()
        self.resumes_stop = False
        self._folder = ""
        self._store = CheckpointStore(storage, job_id, transfers)
        self._journal = journal
        self._retention = retention
        self._sleep = sleep
        self._retained: list[str] = []
        self._facts = Facts(self._store)
        self.cleaner = Cleaner(self._store, self._facts, retained=lambda: self._retained, doubt=lambda: journal.doubt)

    @property
    def epoch(self) -> int:
        """The coordinator's epoch; 0 before `take_over`."""
        return self._journal.epoch

    @property
    def doubt(self) -> str:
        """Why it is not known yet whether something was committed; empty if it is. Any thread may ask."""
        return self._journal.doubt

    def take_over(
        self, *, fresh: bool, resume: bool, origin: str, again: bool, since_epoch: int = 0, expected: str = ""
    ) -> Verdict:
        """Fence the journal, unless what it says keeps the job from starting; then `read_base` tells what that is about.

        Args:
            fresh: The job is to start over.
            resume: The job may start although it was stopped.
            since_epoch: What was stopped in this epoch or a later one stays so; 0: `resume` holds for every stop.
            origin: Names the wish to start over or from a certain checkpoint, which overrules what keeps the job from starting;
                empty if there is none.
            again: This coordinator replaces one that was started with the same wish.
            expected: Folder of the checkpoint that the journal must name, unless the wish is to start over; empty: any. It holds for the first
                coordinator of a wish: what is newer after `since_epoch` comes from itself.

        Raises:
            DeposedError: Another coordinator has taken over in the meantime.
            StorageError, CheckpointError: The journal cannot be read or written.
        """
        tail = self._journal.tail()
        self._folder = tail.checkpoint if tail is not None else ""
        wished = bool(origin) and not (again and _notes(tail).origin == origin)
        resume = resume and not (
            since_epoch and tail is not None and tail.kind == "stopped" and tail.epoch >= since_epoch
        )
        expected = "" if since_epoch else expected
        if not wished and (verdict := _verdict(tail, resume, expected)) != "go":
            return verdict
        fence = self._journal.fence(fresh and wished)
        self._folder = fence.checkpoint
        if not wished and (verdict := _verdict(fence, resume, expected)) != "go":
            return verdict
        self.notes = _notes(fence)
        self._retained = list(fence.retained)
        self.resumes_stop = fence.follows == "stopped"
        return "go"

    def read_base(self) -> Base | None:
        """Read the checkpoint that the journal says to start from; `None` if there is none yet.

        Raises:
            CorruptCheckpointError: It is damaged: `fall_back`, or give up.
            IncompatibleCheckpointError: It is of another job or a newer format.
            StorageError: Storage failed.
        """
        self.base = Base(self._folder, self._store.read_manifest(self._folder)) if self._folder else None
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
                manifest = self._store.read_manifest(folder)
                problem = "the job was drained for it" if manifest.drained else ""
            except CorruptCheckpointError as error:
                problem = str(error)
            if problem:
                _log.warning("cannot fall back to %s: %s", folder, problem)
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
        """Make a checkpoint count: write its manifest, then the journal entry. What the entry drops is handed to `cleaner`.

        Raises:
            StorageError: It does not count, and never will.
            DeposedError: Another coordinator owns the job.
        """
        faultpoints.hit("before-manifest")
        self._store.write_manifest(folder, manifest)
        faultpoints.hit("after-manifest")
        kept, dropped = retain(self._aged(), folder, manifest.created_ms, self._retention)
        notes = msgspec.structs.replace(notes or self.notes, committed=-1)
        faultpoints.hit("before-journal")
        self._append(kind, manifest.attempt, checkpoint=folder, retained=kept, notes=notes)
        faultpoints.hit("journal-written")
        self.notes = notes
        self._retained, self._folder = kept, folder
        self._facts.note(folder, manifest)
        for gone in dropped:
            self.cleaner.doom(gone)
        self.base = Base(folder, manifest)

    def save(self, folder: str, manifest: CheckpointManifest) -> None:
        """Complete a savepoint of which the journal is to know nothing: write its manifest.

        Raises:
            StorageError: It cannot be said to be complete.
            DeposedError: Another coordinator owns the job.
        """
        faultpoints.hit("before-savepoint")
        self._store.write_manifest(folder, manifest)
        # A successor sweeps what dead attempts have left incomplete. If there is none by now, it will find this complete.
        self._journal.check()
        faultpoints.hit("after-savepoint")

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
            DeposedError: It does not.
            OutOfTouchError: It could not know for a day.
            StorageError: The journal cannot be reached now.
        """
        self._journal.check()

    def looks_owned(self) -> bool:
        """Whether this coordinator still owns the job; if it does not look so, `check` tells. Any thread may ask.

        Raises:
            DeposedError, OutOfTouchError, StorageError: As `check`.
        """
        return self._journal.looks_owned()

    def prune(self) -> None:
        """Delete journal entries that nobody needs any more. Any thread may call.

        Raises:
            StorageError, DeposedError: Storage failed, or another coordinator owns the job.
        """
        self._journal.prune()

    def dispose(self, folder: str) -> None:
        """Delete a savepoint; one that is not there, or not whole, is left to the sweep.

        Raises:
            CheckpointError: The journal still needs it.
            StorageError: Storage failed; calling again goes on.
        """
        if self.storage.exists(f"{folder}/{METADATA}"):
            dispose_savepoint(self._store, folder)

    def resume(self) -> None:
        """Journal that a job that was stopped goes on, so that from now on it does so without being told.

        Raises:
            StorageError, DeposedError: As `commit`.
        """
        self._append("checkpoint", 0)

    def open_foreign(self, uri: str, base_folder: Path, options: CheckpointStorage) -> Foreign:
        """Open a checkpoint that the journal does not lead to.

        Args:
            uri: Of the checkpoint, or of a job's folder.
            base_folder: What a relative path is relative to.
            options: The job's own storage, whose options hold for a uri of the same scheme.

        Raises:
            CheckpointError: There is none, or it is damaged.
            StorageError: Storage failed.
        """
        store, folder = open_checkpoint(uri, base_folder, options)
        manifest = store.read_manifest(folder)
        tail = Journal(store.storage).tail()
        if tail is not None and tail.checkpoint == folder and _notes(tail).committed >= manifest.id:
            # A savepoint that a job was stopped with does not say so itself: it was complete before its sinks had committed.
            manifest = msgspec.structs.replace(manifest, committed=True)
        return Foreign(store, manifest)

    def adopt(self, foreign: Foreign, folder: str) -> CheckpointManifest:
        """Copy the files of a checkpoint to `folder` of this job, so that nothing ever refers to files elsewhere.

        Returns:
            Its manifest, naming the copies.

        Raises:
            CorruptCheckpointError: A file is damaged.
            StorageError: Storage failed.
        """

        def path_of(number: int, handle: FileHandle) -> str:
            return f"{folder}/adopted-{number}-{handle.path.rsplit('/', 1)[-1]}"

        return copy_files(foreign.store, foreign.manifest, self.storage, path_of, self._store.transfers)

    def _aged(self) -> list[Retained]:
        """What is retained, with its age where that plays a part."""
        if not self._retention.for_ms:
            return [Retained(folder, 0) for folder in self._retained]
        return self._facts.each(self._age, self._retained)

    def _age(self, folder: str) -> Retained:
        """A retained checkpoint with its age; one that cannot be read any more is as old as can be."""
        try:
            return Retained(folder, self._facts.of(folder).created_ms)
        except CheckpointError:
            return Retained(folder, 0)
        except StorageError:
            return Retained(folder, None)

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


def checkpoint_folder(checkpoint: int, attempt: Attempt, *, savepoint: bool = False) -> str:
    """The folder of checkpoint or savepoint `checkpoint` of an attempt: a number is used once within an epoch, so no name twice."""
    return str((SavepointFolder if savepoint else CheckpointFolder)(checkpoint, attempt.epoch, attempt.attempt))


def _notes(entry: JournalEntry | None) -> Notes:
    if entry is None or entry.data is None:
        return Notes()
    return msgspec.convert(entry.data, Notes)


def _verdict(entry: JournalEntry | None, resume: bool, expected: str) -> Verdict:
    if expected and expected != (entry.checkpoint if entry is not None else ""):
        return "newer"
    if entry is None:
        return "go"
    if entry.decision == "finished":
        return "finished"
    return "stopped" if entry.decision == "stopped" and not resume else "go"


__all__ = ["Base", "Foreign", "Ledger", "Notes", "Verdict", "checkpoint_folder"]
