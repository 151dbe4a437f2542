"""Coordinators that take a journal from each other over storage that fails, and what must be true of it in the end."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from checkdam.checkpoint.entries import JournalEntry, decode_entry
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.base import Storage
from checkdam.core.errors import DeposedError, StorageError, UnknownOutcomeError


@dataclass
class Promises:
    """What coordinators were told: entries that count, and checkpoints that failed for certain."""

    committed: list[JournalEntry] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Coordinator:
    """One that writes decisions until it is deposed or crashes."""

    def __init__(self, storage: Storage, promises: Promises) -> None:
        self._journal = Journal(storage, sleep=lambda seconds: None)
        self._promises = promises
        self._count = 0
        self._doubtful = ""

    def step(self) -> None:
        """Take over, decide something, or find out what became of the last decision."""
        journal = self._journal
        if not journal.epoch:
            self._promises.committed.append(journal.fence())
        elif journal.unsettled:
            entry = journal.settle()
            if entry.checkpoint == self._doubtful:
                self._promises.committed.append(entry)
            else:
                self._promises.refused.append(self._doubtful)
        else:
            self._count += 1
            self._doubtful = name = f"chk-{self._count}-{journal.epoch}.1-0"
            try:
                self._promises.committed.append(journal.append("checkpoint", name, [name]))
            except StorageError as error:
                if not isinstance(error, UnknownOutcomeError):
                    self._promises.refused.append(name)
                raise


def run_rivals(storage: Storage, chance: random.Random, steps: int = 30) -> Promises:
    """Two coordinators that act in turn, by chance, and crash now and then when storage fails them."""
    promises = Promises()
    coordinators = [Coordinator(storage, promises) for _ in range(2)]
    for _ in range(steps):
        index = chance.randrange(2)
        try:
            coordinators[index].step()
        except DeposedError:
            coordinators[index] = Coordinator(storage, promises)
        except StorageError:
            if chance.random() < 0.1:  # it crashes, in doubt or not
                coordinators[index] = Coordinator(storage, promises)
    return promises


def check_history(storage: Storage, promises: Promises) -> None:
    """One linear history, in which every promise is kept."""
    paths = sorted(file.path for file in storage.list("journal"))
    history = [decode_entry(storage.read(path), int(path.rsplit("/", 1)[1]), path) for path in paths]
    assert [entry.seq for entry in history] == list(range(1, len(history) + 1))
    nonces = {entry.nonce for entry in history}
    assert [entry for entry in promises.committed if entry.nonce not in nonces] == []
    assert {entry.checkpoint for entry in history if entry.kind == "checkpoint"}.isdisjoint(promises.refused)
    assert len(promises.committed) > 5
