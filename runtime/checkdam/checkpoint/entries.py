"""The entries of the journal, as data and as stored.

An entry is one small JSON file in its slot. Whoever reads the last one knows all there is to know: a fence repeats what
the entry before it said, so nobody ever has to read the journal from its beginning.
"""

from __future__ import annotations

import uuid
from typing import Any, Final, Literal

import msgspec

from checkdam.core.errors import CorruptCheckpointError, IncompatibleCheckpointError

ENTRY_VERSION: Final = 1
"""Version of an entry's format; a newer one is refused."""

Kind = Literal["fence", "checkpoint", "stopped", "finished", "rollback", "reserve"]
"""What an entry decides. A `fence` decides nothing but who may write next."""


class JournalEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One slot of the journal.

    Attributes:
        version: ENTRY_VERSION of the writer.
        seq: Its slot.
        epoch: The writer's: the seq of the fence that its life began with.
        attempt: The writer's attempt at that time, 0 where there was none.
        nonce: New for every try to write an entry; tells one's own entry from another's.
        kind: What it decides.
        checkpoint: Folder of the checkpoint to restore; empty when there is none yet.
        checkpoint_id: Its number; −1 when there is none.
        retained: Folders of all checkpoints that must be kept, that one included.
        data: Free JSON of the caller (reservations), repeated by fences.
        fresh: Of a fence: the job starts over, nothing of what was before is repeated.
        follows: Of a fence: the kind of the last entry before it that is no fence; empty when there is none.
        floor: Below this slot only fences are left.
        owner: Uid of the resource that the writer's job is, where it is one of a cluster.
        rank: Which of the owner's coordinators wrote it: one that was started later has a higher number.
        time_ms: The writer's wall clock, for people.
    """

    version: int
    seq: int
    epoch: int
    attempt: int
    nonce: str
    kind: Kind
    checkpoint: str = ""
    checkpoint_id: int = -1
    retained: list[str] = []
    data: Any = None
    fresh: bool = False
    follows: Kind | Literal[""] = ""
    floor: int = 0
    owner: str = ""
    rank: int = 0
    time_ms: int = 0

    @property
    def decision(self) -> Kind | Literal[""]:
        """What stands now: the entry's kind, or for a fence that of the last entry that is none.

        `stopped` and `finished` mean that no attempt may start without being told so.
        """
        return self.follows if self.kind == "fence" else self.kind


def fence_after(
    before: JournalEntry | None,
    *,
    seq: int,
    epoch: int,
    attempt: int = 0,
    floor: int,
    time_ms: int,
    fresh: bool = False,
    owner: str = "",
    rank: int = 0,
) -> JournalEntry:
    """A fence with a new nonce that repeats what stands after the entry `before`; nothing where that is `None`."""
    fence = JournalEntry(
        version=ENTRY_VERSION,
        seq=seq,
        epoch=epoch,
        attempt=attempt,
        nonce=uuid.uuid4().hex,
        kind="fence",
        fresh=fresh,
        floor=floor,
        owner=owner,
        rank=rank,
        time_ms=time_ms,
    )
    if before is None:
        return fence
    return msgspec.structs.replace(
        fence,
        checkpoint=before.checkpoint,
        checkpoint_id=before.checkpoint_id,
        retained=before.retained,
        data=before.data,
        follows=before.decision,
    )


class _Version(msgspec.Struct):
    version: int


# Made once and here: msgspec crashes the process when several threads are the first to use a type.
_version_decoder = msgspec.json.Decoder(_Version)
_entry_decoder = msgspec.json.Decoder(JournalEntry)


def encode_entry(entry: JournalEntry) -> bytes:
    """An entry as stored."""
    return msgspec.json.encode(entry)


def decode_entry(data: bytes, seq: int, where: str) -> JournalEntry:
    """Parse the entry of slot `seq`, named `where` in errors.

    Raises:
        CorruptCheckpointError: It is no entry, or that of another slot.
        IncompatibleCheckpointError: It is of a newer format.
    """
    try:
        version = _version_decoder.decode(data).version
        if version > ENTRY_VERSION:
            raise IncompatibleCheckpointError(
                f"{where} has format version {version}, this release reads up to {ENTRY_VERSION}; upgrade Checkdam to read it"
            )
        entry = _entry_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptCheckpointError(f"{where} is not a journal entry: {error}") from error
    if entry.seq != seq:
        raise CorruptCheckpointError(
            f"{where} must be entry {seq} of the journal (got {entry.seq}); was it copied or renamed?"
        )
    return entry
