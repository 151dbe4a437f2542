"""Where a journal's entries lie in storage, and how the last of them is found, whoever wrote it.

Entries lie in blocks, `journal/<first slot of the block>/<slot>`, so that finding the last one and deleting old ones
costs one short listing, however long the job has run. Readers list the highest block of slots between two looks at which
block is the highest, and read on from there until a slot is empty. A listing that lags a little is caught up by reading on.

What entries mean, who may write them and who deletes them is the business of `journal.py`.
"""

from __future__ import annotations

from typing import Final

from checkdam.checkpoint.entries import JournalEntry, decode_entry
from checkdam.checkpoint.storage.base import Storage
from checkdam.core.errors import NotFoundError, StorageError

BLOCK_SLOTS: Final = 1000
"""Slots in a block: one page of an S3 listing."""

CONTENTION_TRIES: Final = 100
"""How often a look is taken anew because the journal has changed under it."""


class Slots:
    """The slots of one journal. Nothing here changes them, and any thread may call.

    Args:
        storage: The job's folder.
        folder: Where in it.
        block_slots: Slots in a block; the same for the whole life of a journal.
        first_seq: The first slot.
    """

    def __init__(self, storage: Storage, folder: str, block_slots: int, first_seq: int) -> None:
        self._storage = storage
        self._folder = folder
        self._block_slots = block_slots
        self._first_seq = first_seq

    @property
    def uri(self) -> str:
        """The journal, for people."""
        return f"{self._storage.uri}/{self._folder}"

    def path(self, seq: int) -> str:
        """Of a slot, relative to the job's folder."""
        return f"{self._folder}/{self._block(seq):012d}/{seq:012d}"

    def where(self, seq: int) -> str:
        """A slot, for people."""
        return f"{self._storage.uri}/{self.path(seq)}"

    def tail(self, at_least: int) -> JournalEntry | None:
        """The last entry; `None` if there is none.

        Args:
            at_least: A slot that is known to have been filled; 0: nothing is known.

        Raises:
            CorruptCheckpointError, IncompatibleCheckpointError: It cannot be read as one.
            StorageError: Storage failed.
        """
        for _ in range(CONTENTION_TRIES):
            known = max(self.highest(), at_least)
            entry = self.read(known or self._first_seq)
            if entry is None and not known:
                return None
            if entry is None:
                continue  # deleted since, so the last one is further on
            while (following := self.read(entry.seq + 1)) is not None:
                entry = following
            return entry
        raise StorageError("read", self.where(known), "it is listed or was refused as taken, but cannot be read")

    def highest(self) -> int:
        """A slot at or after the one that was last when this was called; 0 if nothing is listed.

        Raises:
            StorageError: Storage failed.
        """
        for _ in range(CONTENTION_TRIES):
            block = max(self.blocks(), default=None)
            if block is None:
                return 0
            slots = self.of_block(block)
            if slots and max(self.blocks(), default=None) == block:
                return slots[-1][0]
        raise StorageError("list", self.uri, "its folders change faster than they can be listed")

    def read(self, seq: int) -> JournalEntry | None:
        """The entry in a slot; `None` if it is empty.

        Raises:
            CorruptCheckpointError, IncompatibleCheckpointError: It cannot be read as one.
            StorageError: Storage failed.
        """
        try:
            data = self._storage.read(self.path(seq))
        except NotFoundError:
            return None
        return decode_entry(data, seq, self.where(seq))

    def blocks(self) -> list[int]:
        """The first slots of the blocks that are listed."""
        return [int(name) for name in self._storage.folders(self._folder) if name.isdecimal()]

    def of_block(self, block: int) -> list[tuple[int, int]]:
        """(slot, modified_ms) of a block's entries, ascending."""
        files = self._storage.list(f"{self._folder}/{block:012d}")
        named = [(file.path.rsplit("/", 1)[1], file.modified_ms) for file in files]
        return sorted((int(name), modified_ms) for name, modified_ms in named if name.isdecimal())

    def modified_ms(self, seq: int) -> int | None:
        """When an entry was written; `None` if it is not listed."""
        return dict(self.of_block(self._block(seq))).get(seq)

    def _block(self, seq: int) -> int:
        return seq - seq % self._block_slots
