"""Whether everything that a job keeps in its storage is there and whole: its journal, checkpoints and savepoints.

What counts is what the journal's last entry names, and every complete savepoint. All of their files are read, those that
several checkpoints share once. Files that nobody names are no fault: a running job is writing some just now, and what a
dead attempt left the next sweep takes away. They are told so that nobody wonders what fills the storage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final

from checkdam.checkpoint.entries import JournalEntry, decode_entry
from checkdam.checkpoint.folders import JOURNAL_FOLDER, METADATA, CheckpointFolder, SavepointFolder, number_of
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.store import CheckpointStore, StoredContent
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, NotFoundError

Watch = Callable[[int, int], None]
"""Told how many bytes have been read, and of how many. Called by several threads, one at a time."""

_SHOWN_SLOTS: Final = 10


def _unwatched(read_bytes: int, all_bytes: int) -> None: ...


@dataclass(frozen=True)
class Verification:
    """What was found in a job's folder.

    Attributes:
        journal: What is wrong with the journal, a sentence each.
        checkpoints: Folder of each checkpoint and savepoint that was looked at → what is wrong with it, a sentence each.
        orphans: Files that none of these names.
    """

    journal: list[str]
    checkpoints: dict[str, list[str]]
    orphans: list[StoredFile]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.journal and not any(self.checkpoints.values())


def verify_job(store: CheckpointStore, watch: Watch = _unwatched) -> Verification:
    """Read everything that counts in a job's folder, and compare it with what it should be.

    A job may run meanwhile: what it drops while its files are being read is not held against it.

    Raises:
        IncompatibleCheckpointError: The journal is of a newer format.
        StorageError: Storage failed for another reason than a missing file.
    """
    journal, tail = _verify_journal(store)
    files = [file for top in store.storage.folders("") if top != JOURNAL_FOLDER for file in store.storage.list(top)]
    complete = {file.path.rpartition("/")[0] for file in files if file.path.endswith(f"/{METADATA}")}
    kept = _kept(tail) if tail is not None else {name for name in complete if CheckpointFolder.parse(name)}
    savepoints = {name for name in complete if SavepointFolder.parse(name)}
    checks = _Checks(store, kept | savepoints, watch)
    checkpoints = checks.run()
    if tail is not None and any(checkpoints.values()):
        kept = _kept(Journal(store.storage).tail() or tail)
    return Verification(
        journal,
        {name: problems for name, problems in checkpoints.items() if not problems or name in kept | savepoints},
        [file for file in files if file.path not in checks.paths()],
    )


def verify_checkpoint(store: CheckpointStore, folder: str, watch: Watch = _unwatched) -> Verification:
    """The same for one checkpoint or savepoint, whatever the journal says of it.

    Raises:
        StorageError: Storage failed for another reason than a missing file.
    """
    return Verification([], _Checks(store, [folder], watch).run(), [])


class _Checks:
    """Reads the files of some checkpoints, those that several of them name once."""

    def __init__(self, store: CheckpointStore, folders: Collection[str], watch: Watch) -> None:
        self._store = store
        self._watch = watch
        self._lock = threading.Lock()
        self._read_bytes = 0
        ordered = sorted(folders, key=lambda folder: (number_of(folder), folder))
        read = store.transfers.run([partial(_read_manifest, store, folder) for folder in ordered])
        self._manifests = dict(zip(ordered, read, strict=True))

    def paths(self) -> set[str]:
        """All files that the checkpoints consist of."""
        named = (each.paths() for each in self._manifests.values() if isinstance(each, CheckpointManifest))
        return {f"{folder}/{METADATA}" for folder in self._manifests}.union(*named)

    def run(self) -> dict[str, list[str]]:
        """Each folder with what is wrong with it."""
        manifests = [each for each in self._manifests.values() if isinstance(each, CheckpointManifest)]
        sizes = {handle.path: handle.size_bytes for each in manifests for handle in each.handles() if handle.path}
        self._all_bytes = sum(sizes.values())
        self._note(0)
        found: dict[StoredContent, str] = {}
        return {
            folder: [each] if isinstance(each, str) else self._store.verify_files(each, found, self._note)
            for folder, each in self._manifests.items()
        }

    def _note(self, size_bytes: int) -> None:
        with self._lock:
            self._read_bytes += size_bytes
            self._watch(self._read_bytes, self._all_bytes)


def _read_manifest(store: CheckpointStore, folder: str) -> CheckpointManifest | str:
    """A manifest; or why it cannot be read."""
    try:
        return store.read_manifest(folder)
    except CheckpointError as error:
        return str(error)


def _verify_journal(store: CheckpointStore) -> tuple[list[str], JournalEntry | None]:
    """What is wrong with the journal, and its last entry; `None` if that cannot be read."""
    where = f"{store.storage.uri}/{JOURNAL_FOLDER}"
    slots = _slots(store)
    read = store.transfers.run([partial(_read_entry, store, seq, path) for seq, path in slots.items()])
    problems = [problem for problem in read if isinstance(problem, str)]
    entries = [entry for entry in read if isinstance(entry, JournalEntry)]
    lacking = sorted(set(range(min(slots, default=0), max(slots, default=0))) - slots.keys())
    # Pruning takes entries from the oldest on and leaves fences: so in front of a gap there are only those.
    if lacking and any(entry.kind != "fence" and entry.seq < lacking[-1] for entry in entries):
        shown = ", ".join(map(str, lacking[:_SHOWN_SLOTS])) + (", …" if len(lacking) > _SHOWN_SLOTS else "")
        problems.append(f"{where} lacks the entries {shown} but has older ones: bring them back from a copy")
    problems += [
        f"{where}: entry {after.seq} is of epoch {after.epoch} but comes after one of epoch {before.epoch}: a coordinator wrote "
        "after it had been fenced"
        for before, after in pairwise(entries)
        if after.epoch < before.epoch
    ]
    return problems, entries[-1] if entries and entries[-1].seq == max(slots) else None


def _slots(store: CheckpointStore) -> dict[int, str]:
    """Slot → path of all entries, ascending."""
    named = [(file.path.rpartition("/")[2], file.path) for file in store.storage.list(JOURNAL_FOLDER)]
    return dict(sorted((int(name), path) for name, path in named if name.isdecimal()))


def _read_entry(store: CheckpointStore, seq: int, path: str) -> JournalEntry | str | None:
    """An entry; or what is wrong with it; or nothing, if it was pruned since it was listed."""
    try:
        return decode_entry(store.storage.read(path), seq, f"{store.storage.uri}/{path}")
    except NotFoundError:
        return None
    except CorruptCheckpointError as error:
        return str(error)


def _kept(tail: JournalEntry) -> set[str]:
    return {*tail.retained, tail.checkpoint} - {""}


__all__ = ["Verification", "Watch", "verify_checkpoint", "verify_job"]
