"""The journal: the job's log of decisions, and the lock that lets one coordinator at a time make them.

It is a dense sequence of entries, each made by one conditional create in the slot after the last. A coordinator begins
its life with a fence, whose slot number is its *epoch*; from then on it writes only in the slot right after an entry of
its own. Clocks play no part in why that is safe:

* **One winner for a slot.** The storage lets one create of a name succeed, which `probe` has tested.
* **A deposed coordinator finds a fence in its next slot.** Whoever takes over writes a fence first, and does so in the
  slot after the last entry. So the slot that the old coordinator would write next holds a fence. Fences are never
  deleted; other entries are, below the last one. So its create fails, however late it comes.
* **A slot whose outcome is unknown is closed before anything is concluded.** The coordinator creates a fence in that very
  slot and then reads it. Either the entry is there, and counts; or the fence is, and a copy of the entry that is still
  on its way can never land. Should the entry have landed, been followed by a successor's fence and been deleted, the
  closing fence would succeed by mistake; so the slot after it is looked at, where that successor's fence still is.
* **A new fence is checked from above.** A coordinator that read the last slot, slept, and then created its fence might hit
  a slot that was used and deleted meanwhile. The last entry is never deleted, so a listing that begins after the create
  shows a higher one then. Such a coordinator has no epoch and exits; its stray fence is below the last entry, where nobody reads.
* **A late starter takes nothing over.** A coordinator that slept before its first fence, while the same owner started another in its place, finds
  the higher rank of that one in the last entry and leaves the job to it. (Of coordinators of different owners the last one wins.)

Where entries lie and how the last one is found is in `slots.py`.

A coordinator may look after its journal in another thread than the one that decides. `looks_owned` and `prune` go by the last entry of a moment
ago. The slot after that, where an entry of unknown outcome may be, and all later ones are none of `prune`'s business; and what `looks_owned`
finds there is only a reason to `check`, which waits for its turn between two decisions.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from checkdam.checkpoint.entries import JournalEntry, Kind, encode_entry, fence_after
from checkdam.checkpoint.folders import JOURNAL_FOLDER, number_of
from checkdam.checkpoint.slots import BLOCK_SLOTS, CONTENTION_TRIES, Slots
from checkdam.checkpoint.storage.base import Storage
from checkdam.core.clock import Clock, SystemClock
from checkdam.core.errors import (
    AlreadyExistsError,
    DeposedError,
    OutOfTouchError,
    StorageError,
    SupersededError,
    UnknownOutcomeError,
)

RETENTION_MS: Final = 7 * 24 * 3_600_000
"""How long entries before the last one are kept, for people who ask what happened."""

SILENCE_LIMIT_MS: Final = 24 * 3_600_000
"""A coordinator that could not reach its journal for a day exits instead of working for nobody."""

PRUNE_LIMIT: Final = 100
"""Deletes in one call of `prune`, so that other cleaning does not wait long behind them (1–2 ms each on ext4)."""

_RETRY_DELAYS_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class _Pending:
    """A slot whose outcome is not known yet: what was to be written there, and the fence that closes it."""

    entry: JournalEntry
    fence: JournalEntry


class Journal:
    """A log of decisions in checkpoint storage, with one writer at a time.

    All methods block on storage and are called from one thread at a time, but for `looks_owned` and `prune`, which another thread may call
    meanwhile. `tail` needs no fence and changes nothing.

    Args:
        storage: The job's folder.
        folder: Where in it: `journal`, or `reservations` for the log of AtMostOnce.
        clock: `now_ms` for `time_ms` of entries, the monotonic clock for `check`.
        retention_ms: Age from which `prune` deletes entries; choose it longer than a listing can take.
        block_slots: Slots in a block; the same for the whole life of a journal.
        first_seq: The first slot. Where storage does not outlive its coordinator, the caller makes epochs grow by it.
        owner: Who has the coordinator started, if somebody starts them in an order; else empty.
        rank: Its place in that order.
        sleep: Waits for that many seconds between retries.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str = JOURNAL_FOLDER,
        *,
        clock: Clock | None = None,
        retention_ms: int = RETENTION_MS,
        block_slots: int = BLOCK_SLOTS,
        first_seq: int = 1,
        owner: str = "",
        rank: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if first_seq < 1:
            raise ValueError(f"`first_seq` must be at least 1 (got {first_seq})")
        self._storage = storage
        self._slots = Slots(storage, folder, block_slots, first_seq)
        self._clock = clock or SystemClock()
        self._retention_ms = retention_ms
        self._block_slots = block_slots
        self._first_seq = first_seq
        self._owner = owner
        self._rank = rank
        self._sleep = sleep
        self._last: JournalEntry | None = None
        self._epoch = 0
        self._floor = 0
        self._own_fences: set[int] = set()
        self._pending: _Pending | None = None
        self._doubt = ""
        self._deposed = ""
        self._reached_ms = self._clock.monotonic_ms()

    @property
    def epoch(self) -> int:
        """The epoch won by `fence`; 0 before."""
        return self._epoch

    @property
    def last(self) -> JournalEntry | None:
        """The last entry written here; `None` before `fence`."""
        return self._last

    @property
    def unsettled(self) -> bool:
        """Whether an `append` ended in `UnknownOutcomeError` and `settle` has not cleared it up yet; in another thread also while it is under way.

        While it is so, the caller must neither abort the checkpoint in question nor delete what its entry would drop.
        """
        return self._pending is not None

    @property
    def doubt(self) -> str:
        """Why it is not known yet what became of an `append`; empty if it is. Any thread may ask."""
        return self._doubt

    def tail(self) -> JournalEntry | None:
        """The last entry, whoever wrote it; `None` if the journal is empty.

        Raises:
            CorruptCheckpointError, IncompatibleCheckpointError: It cannot be read as one.
            StorageError: Storage failed.
        """
        return self._slots.tail(0)

    def fence(self, fresh: bool = False) -> JournalEntry:
        """Take the job over: probe the storage, then write a fence after the last entry. Its seq is the new epoch.

        The fence repeats checkpoint, retained and data of the entry before it, and says in `follows` what that decided;
        with `fresh` it repeats nothing, and the job starts over.

        Raises:
            SupersededError: A coordinator of the same owner that was started later has been there already.
            DeposedError: Another coordinator has taken over in the meantime.
            UnknownOutcomeError: The storage never said whether the fence was written; start again.
            StorageError: Storage failed or was refused by the probe.
        """
        if self._last is not None:
            raise RuntimeError("this journal has its epoch already; a new one needs a new Journal")
        self._refuse_deposed()
        self._storage.probe()
        tail = self._slots.tail(0)
        for _ in range(CONTENTION_TRIES):
            self._refuse_late_start(tail)
            entry = self._opening_fence(tail, fresh)
            if self._claim(entry):
                break
            tail = self._slots.tail(entry.seq)
        else:
            raise StorageError(
                "fence",
                self._slots.where(entry.seq),
                "other coordinators kept taking the slot",
                "is one job started again and again?",
            )
        if self._slots.highest() > entry.seq:
            raise self._depose(f"entry {entry.seq} is not the last one any more")
        self._epoch = entry.seq
        self._own_fences.add(entry.seq)
        self._floor = entry.floor
        self._advance(entry)
        return entry

    def append(
        self,
        kind: Kind,
        checkpoint: str | None = None,
        retained: Sequence[str] | None = None,
        attempt: int = 0,
        *,
        checkpoint_id: int | None = None,
        data: Any = None,
    ) -> JournalEntry:
        """Commit a decision. When this returns, it is one, durably.

        Args:
            kind: Not `fence`.
            checkpoint: Folder of the checkpoint to restore from now on; `None`: as before.
            retained: Folders of all checkpoints to keep from now on; `None`: as before.
            attempt: The running attempt's number.
            checkpoint_id: The checkpoint's number; `None`: by the folder's name.
            data: Free JSON; `None`: as before.

        Raises:
            DeposedError: Another coordinator owns the job. Stop and touch nothing more; the journal tells it what counts.
            UnknownOutcomeError: It may have been written. Call `settle` until that is clear; abort and delete nothing till then.
            StorageError: Any other one: it was not written, and never will be.
            TypeError: `data` is not JSON.
        """
        last = self._writable()
        if kind == "fence":
            raise ValueError("`kind` must be a decision; fences are written by `fence`")
        fence = self._closing_fence(last)
        entry = msgspec.structs.replace(fence, nonce=uuid.uuid4().hex, kind=kind, attempt=attempt, follows="")
        if checkpoint is not None:
            number = number_of(checkpoint) if checkpoint_id is None else checkpoint_id
            entry = msgspec.structs.replace(entry, checkpoint=checkpoint, checkpoint_id=number)
        if retained is not None:
            entry = msgspec.structs.replace(entry, retained=list(retained))
        if data is not None:
            entry = msgspec.structs.replace(entry, data=data)
        content = encode_entry(entry)
        self._pending = _Pending(entry, fence)
        try:
            self._storage.create(self._slots.path(entry.seq), content)
        except (AlreadyExistsError, UnknownOutcomeError) as error:
            self._doubt = str(error)
            settled = self.settle()
            if settled.nonce == entry.nonce:
                return settled
            raise StorageError(
                "append",
                self._slots.where(entry.seq),
                "the storage lost the answer, and the entry had not been written",
                "it is safe to try again",
            ) from None
        except StorageError:
            self._pending = None
            raise
        self._pending = None
        self._advance(entry)
        return entry

    def settle(self) -> JournalEntry:
        """Find out what became of an `append` of unknown outcome.

        Returns:
            That entry, which is committed; or a fence of this coordinator, and then it never will be.

        Raises:
            DeposedError: Another coordinator owns the job.
            UnknownOutcomeError: It is not clear yet; call again.
            RuntimeError: Nothing is unsettled.
        """
        pending = self._pending
        if pending is None:
            raise RuntimeError("no append of this journal has an unknown outcome")
        self._refuse_deposed()
        for delay_s in _RETRY_DELAYS_S:
            try:
                return self._close_slot(pending)
            except StorageError:
                self._sleep(delay_s)
        try:
            return self._close_slot(pending)
        except StorageError as error:
            raise UnknownOutcomeError(
                "settle",
                self._slots.where(pending.entry.seq),
                f"the slot could not be closed ({error.cause})",
                "checkpoints wait until storage answers again",
            ) from error

    def check(self) -> None:
        """Make sure that this coordinator still owns the job, by looking whether its next slot is empty.

        Raises:
            DeposedError: It is taken.
            OutOfTouchError: The journal could not be reached for `SILENCE_LIMIT_MS`.
            StorageError: The journal cannot be reached now.
        """
        last = self._owned()
        with self._in_touch():
            if self._pending is not None:
                self.settle()
            elif self._storage.exists(self._slots.path(last.seq + 1)):
                raise self._depose(f"entry {last.seq + 1} is not ours")

    def looks_owned(self) -> bool:
        """Whether the slot after the last entry is empty, as it is while this coordinator owns the job. Any thread may ask.

        `False` proves nothing, since an `append` may be under way in another thread: `check` tells then.

        Raises:
            DeposedError: It is known that another coordinator owns the job.
            OutOfTouchError, StorageError: As `check`.
        """
        last = self._owned()
        with self._in_touch():
            return not self._storage.exists(self._slots.path(last.seq + 1))

    def prune(self, limit: int = PRUNE_LIMIT) -> int:
        """Delete entries that are older than the last one by `retention_ms`, by the storage's own clock; fences stay. Any thread may call.

        Works from the oldest on and goes on where the last call stopped; one call a minute keeps up with an entry a second.

        Args:
            limit: How many to delete at most.

        Returns:
            How many were deleted.

        Raises:
            DeposedError: Another coordinator owns the job.
            UnknownOutcomeError: It is not known what became of an `append`.
            StorageError: Storage failed; nothing is lost by that.
        """
        last = self._owned()
        if self._doubt:
            raise self._not_settled(last.seq + 1)
        last_ms = self._slots.modified_ms(last.seq)
        if last_ms is None:
            return 0  # the listing lags
        doomed: list[int] = []
        floor = self._floor
        for block in sorted(self._slots.blocks()):
            if block + self._block_slots <= floor or block > last.seq or len(doomed) >= limit:
                continue
            for seq, modified_ms in self._slots.of_block(block):
                if seq < floor:
                    continue
                if seq >= last.seq or last_ms - modified_ms < self._retention_ms or len(doomed) >= limit:
                    return self._delete(doomed, floor)
                if not self._is_fence(seq):
                    doomed.append(seq)
                floor = seq + 1
        return self._delete(doomed, floor)

    # Writing

    def _owned(self) -> JournalEntry:
        """The last entry, unless it is known that another coordinator owns the job."""
        self._refuse_deposed()
        if self._last is None:
            raise RuntimeError("this needs an epoch: call `fence` first")
        return self._last

    def _writable(self) -> JournalEntry:
        last = self._owned()
        if self._pending is not None:
            raise self._not_settled(self._pending.entry.seq)
        return last

    def _not_settled(self, seq: int) -> UnknownOutcomeError:
        cause = "the outcome of an earlier append is not settled"
        return UnknownOutcomeError("append", self._slots.where(seq), cause, "call `settle` first")

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        """Note that the journal was reached; where it was not, give up if that has been so for too long."""
        try:
            yield
        except StorageError as error:
            silent_ms = self._clock.monotonic_ms() - self._reached_ms
            if silent_ms > SILENCE_LIMIT_MS:
                hours = silent_ms // 3_600_000
                raise OutOfTouchError(f"{self._slots.uri} could not be reached for {hours} hours: {error}") from error
            raise
        self._reached_ms = self._clock.monotonic_ms()

    def _refuse_late_start(self, tail: JournalEntry | None) -> None:
        if tail is not None and self._owner and tail.owner == self._owner and tail.rank > self._rank:
            raise SupersededError(
                f"a coordinator of the same job that was started later owns {self._slots.uri} "
                f"(rank {tail.rank}, and this one has {self._rank})"
            )

    def _opening_fence(self, tail: JournalEntry | None, fresh: bool) -> JournalEntry:
        seq = tail.seq + 1 if tail else self._first_seq
        floor = tail.floor if tail else 0
        return self._new_fence(None if fresh else tail, seq=seq, epoch=seq, floor=floor, fresh=fresh)

    def _closing_fence(self, last: JournalEntry) -> JournalEntry:
        """A fence for the slot after `last` that keeps the epoch: it says that nothing was decided there."""
        return self._new_fence(last, seq=last.seq + 1, epoch=self._epoch, floor=self._floor, attempt=last.attempt)

    def _new_fence(self, before: JournalEntry | None, **about: Any) -> JournalEntry:
        return fence_after(before, owner=self._owner, rank=self._rank, time_ms=self._clock.now_ms(), **about)

    def _claim(self, fence: JournalEntry) -> bool:
        """Create an opening fence; `False` if its slot is another's. Fences stay, so trying again is safe.

        Raises:
            UnknownOutcomeError: No try was answered.
            StorageError: It failed for certain.
        """
        unknown: UnknownOutcomeError | None = None
        for delay_s in (*_RETRY_DELAYS_S, 0.0):
            try:
                self._storage.create(self._slots.path(fence.seq), encode_entry(fence))
            except AlreadyExistsError:
                found = self._slots.read(fence.seq)
                return found is not None and found.nonce == fence.nonce
            except UnknownOutcomeError as error:
                unknown = error
                self._sleep(delay_s)
            except StorageError:
                if unknown is not None:
                    break  # this try has failed, but an earlier one may still land
                raise
            else:
                return True
        cause = unknown.cause if unknown else ""
        raise UnknownOutcomeError(
            "fence", self._slots.where(fence.seq), cause, "start again when storage answers"
        ) from unknown

    def _close_slot(self, pending: _Pending) -> JournalEntry:
        """Fill the slot with the closing fence unless it is full, and act on what is in it."""
        seq = pending.entry.seq
        found: JournalEntry | None = pending.fence
        try:
            self._storage.create(self._slots.path(seq), encode_entry(pending.fence))
        except AlreadyExistsError:
            found = self._slots.read(seq)
        if found is None or found.nonce not in (pending.entry.nonce, pending.fence.nonce):
            raise self._depose(f"entry {seq} is not ours")
        if found.kind == "fence":
            if self._storage.exists(self._slots.path(seq + 1)):
                raise self._depose(f"entry {seq + 1} is not ours")
            self._own_fences.add(seq)
        self._pending, self._doubt = None, ""
        self._advance(found)
        return found

    def _advance(self, entry: JournalEntry) -> None:
        self._last = entry
        self._reached_ms = self._clock.monotonic_ms()

    def _depose(self, reason: str) -> DeposedError:
        self._deposed = f"this coordinator no longer owns {self._slots.uri}: {reason}"
        return DeposedError(self._deposed)

    def _refuse_deposed(self) -> None:
        if self._deposed:
            raise DeposedError(self._deposed)

    def _delete(self, doomed: list[int], floor: int) -> int:
        if doomed:
            self._storage.delete([self._slots.path(seq) for seq in doomed])
        self._floor = floor
        return len(doomed)

    def _is_fence(self, seq: int) -> bool:
        if seq >= self._epoch:
            return seq in self._own_fences
        entry = self._slots.read(seq)
        return entry is not None and entry.kind == "fence"
