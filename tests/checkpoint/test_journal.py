"""The journal, one rule at a time."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import Fault, FaultyStorage

from checkdam.checkpoint.entries import JournalEntry
from checkdam.checkpoint.journal import SILENCE_LIMIT_MS, Journal
from checkdam.checkpoint.storage.base import Storage, StoredFile
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.core.clock import ManualClock
from checkdam.core.errors import (
    CorruptCheckpointError,
    DeposedError,
    IncompatibleCheckpointError,
    OutOfTouchError,
    StorageError,
    SupersededError,
    UnknownOutcomeError,
)

HOUR_MS = 3_600_000


def no_sleep(seconds: float) -> None:
    pass


def open_journal(storage: Storage, **options: object) -> Journal:
    return Journal(storage, sleep=no_sleep, **{"clock": ManualClock(), **options})  # type: ignore[arg-type]


def failing_once(*faults: Fault) -> Callable[[str, str], Fault]:
    """A plan that gives the next creates in the journal these faults."""
    waiting = [*faults]

    def plan(operation: str, path: str) -> Fault:
        return waiting.pop(0) if operation == "create" and path.startswith("journal/") and waiting else Fault.NONE

    return plan


def works(operation: str, path: str) -> Fault:
    return Fault.NONE


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "memory" else FileStorage(tmp_path)


def test_an_empty_journal_has_no_tail(storage: Storage) -> None:
    assert open_journal(storage).tail() is None


def test_an_epoch_is_the_number_of_its_fence(storage: Storage) -> None:
    first = open_journal(storage)
    assert first.fence().seq == first.epoch == 1
    first.append("checkpoint", "chk-0-1.1-0", ["chk-0-1.1-0"], attempt=1)
    second = open_journal(storage)
    assert second.fence().seq == second.epoch == 3
    assert open_journal(storage).tail() == second.last


def test_a_commit_is_what_the_next_reader_finds(storage: Storage) -> None:
    journal = open_journal(storage, clock=ManualClock(1234))
    journal.fence()
    entry = journal.append("checkpoint", "chk-7-1.2-0", ["chk-6-1.2-0", "chk-7-1.2-0"], attempt=2)
    assert entry == open_journal(storage).tail()
    assert (entry.seq, entry.epoch, entry.attempt, entry.checkpoint_id, entry.time_ms) == (2, 1, 2, 7, 1234)
    assert entry.retained == ["chk-6-1.2-0", "chk-7-1.2-0"]


def test_a_fence_repeats_what_stands_and_says_what_was_decided(storage: Storage) -> None:
    journal = open_journal(storage)
    journal.fence()
    journal.append("checkpoint", "chk-1-1.1-0", ["chk-1-1.1-0"], data={"a": 1})
    journal.append("finished")
    open_journal(storage).fence()
    fence = open_journal(storage).fence()
    assert (fence.kind, fence.decision) == ("fence", "finished")
    assert (fence.checkpoint, fence.checkpoint_id) == ("chk-1-1.1-0", 1)
    assert fence.retained == ["chk-1-1.1-0"]
    assert fence.data == {"a": 1}


def test_a_fresh_fence_repeats_nothing(storage: Storage) -> None:
    journal = open_journal(storage)
    journal.fence()
    journal.append("finished", "chk-1-1.1-0", ["chk-1-1.1-0"], data=[1])
    fence = open_journal(storage).fence(fresh=True)
    assert (fence.checkpoint, fence.checkpoint_id, fence.retained, fence.data) == ("", -1, [], None)
    assert (fence.fresh, fence.decision) == (True, "")
    assert not open_journal(storage).fence().fresh


def test_a_deposed_coordinator_never_commits_again(storage: Storage) -> None:
    old, new = open_journal(storage), open_journal(storage)
    old.fence()
    new.fence()
    for _ in range(2):
        with pytest.raises(DeposedError, match="entry 2 is not ours"):
            old.append("checkpoint", "chk-1-1.1-0", [])
    with pytest.raises(DeposedError):
        old.check()
    with pytest.raises(DeposedError):
        old.prune()
    assert new.append("finished").seq == 3


def test_one_that_was_started_earlier_takes_nothing_over_from_its_owners_later_one(storage: Storage) -> None:
    late = open_journal(storage, owner="uid-1", rank=2)
    open_journal(storage, owner="uid-1", rank=1).fence()
    late.fence()
    late.append("checkpoint", "chk-1-1.1-0")

    with pytest.raises(SupersededError, match="rank 2, and this one has 1"):
        open_journal(storage, owner="uid-1", rank=1).fence()

    late.append("checkpoint", "chk-2-1.1-0")
    assert open_journal(storage, owner="uid-1", rank=2).fence().seq == 5


def test_of_different_owners_the_last_one_wins(storage: Storage) -> None:
    first = open_journal(storage, owner="uid-1", rank=7)
    first.fence()
    open_journal(storage, owner="uid-2", rank=1).fence()

    with pytest.raises(DeposedError):
        first.append("checkpoint", "chk-1-1.1-0")
    assert open_journal(storage, owner="uid-1", rank=6).fence().seq == 3


def test_check_notices_a_successor(storage: Storage) -> None:
    old, new = open_journal(storage), open_journal(storage)
    old.fence()
    old.check()
    new.fence()
    with pytest.raises(DeposedError):
        old.check()
    new.check()


def test_a_commit_whose_reply_was_lost_counts() -> None:
    for fault in (Fault.LOST_AFTER, Fault.RETRIED, Fault.DUPLICATED):
        storage = FaultyStorage(MemoryStorage())
        journal = open_journal(storage)
        journal.fence()
        storage.plan = failing_once(fault)
        entry = journal.append("checkpoint", "chk-1-1.1-0", [])
        assert entry == open_journal(storage).tail()
        assert journal.append("finished").seq == 3


def test_a_commit_that_never_arrived_is_an_error_and_can_be_tried_again() -> None:
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage)
    journal.fence()
    journal.append("checkpoint", "chk-1-1.1-0", ["chk-1-1.1-0"])
    storage.plan = failing_once(Fault.LOST_BEFORE)
    with pytest.raises(StorageError, match="had not been written") as caught:
        journal.append("checkpoint", "chk-2-1.1-0", [])
    assert not isinstance(caught.value, UnknownOutcomeError)
    tail = open_journal(storage).tail()
    assert tail is not None
    assert (tail.seq, tail.kind, tail.epoch, tail.checkpoint) == (3, "fence", 1, "chk-1-1.1-0")
    assert tail.decision == "checkpoint"
    assert journal.append("checkpoint", "chk-2-1.1-1", []).seq == 4


def test_a_commit_that_arrives_late_finds_its_slot_closed() -> None:
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage)
    journal.fence()
    storage.plan = failing_once(Fault.LATE, Fault.LOST_AFTER)
    with pytest.raises(StorageError, match="had not been written"):
        journal.append("checkpoint", "chk-1-1.1-0", [])
    storage.land(0)
    tail = open_journal(storage).tail()
    assert tail is not None
    assert tail.checkpoint == ""


def test_a_certain_failure_leaves_the_slot_free() -> None:
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage)
    journal.fence()
    storage.plan = failing_once(Fault.ERROR)
    with pytest.raises(StorageError, match="planned error"):
        journal.append("checkpoint", "chk-1-1.1-0", [])
    assert not journal.unsettled
    assert journal.append("checkpoint", "chk-1-1.1-1", []).seq == 2


@pytest.mark.parametrize("arrived", [True, False])
def test_while_storage_is_away_nothing_is_concluded(arrived: bool) -> None:
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage)
    journal.fence()
    outcome = [Fault.LOST_AFTER if arrived else Fault.LOST_BEFORE]
    storage.plan = lambda operation, path: outcome.pop() if outcome else Fault.ERROR
    with pytest.raises(UnknownOutcomeError):
        journal.append("checkpoint", "chk-1-1.1-0", [])
    assert journal.unsettled
    for call in (lambda: journal.append("finished"), journal.settle, journal.prune):
        with pytest.raises(UnknownOutcomeError):
            call()
    storage.plan = works
    settled = journal.settle()
    assert settled.kind == ("checkpoint" if arrived else "fence")
    assert not journal.unsettled
    assert journal.append("finished").seq == 3


def test_a_fence_is_retried_until_its_outcome_is_known() -> None:
    storage = FaultyStorage(MemoryStorage(), failing_once(Fault.LOST_AFTER))
    assert open_journal(storage).fence().seq == 1
    storage.plan = failing_once(Fault.LATE, Fault.LOST_BEFORE)
    assert open_journal(storage).fence().seq == 2
    storage.plan = lambda operation, path: (
        Fault.LATE if operation == "create" and path.startswith("journal/") else Fault.NONE
    )
    with pytest.raises(UnknownOutcomeError):
        open_journal(storage).fence()


def test_two_coordinators_fencing_one_slot_get_different_epochs() -> None:
    inner = MemoryStorage()
    other = open_journal(inner)
    storage = FaultyStorage(inner)

    def interfere(operation: str, path: str) -> Fault:
        if operation == "create" and path.startswith("journal/") and other.last is None:
            other.fence()
        return Fault.NONE

    storage.plan = interfere
    assert open_journal(storage).fence().seq == 2
    assert other.epoch == 1


def successor_with_pruned_history(inner: Storage, commits: int) -> Journal:
    successor = open_journal(inner, retention_ms=0, block_slots=4)
    successor.fence()
    for number in range(commits):
        successor.append("checkpoint", f"chk-{number}-{successor.epoch}.1-0", [])
    successor.prune()
    return successor


@pytest.mark.parametrize("commits", [2, 3, 9, 30])
def test_a_fence_that_lands_in_a_used_and_deleted_slot_gives_no_epoch(commits: int) -> None:
    inner = MemoryStorage()
    predecessor = successor_with_pruned_history(inner, 2)
    storage = FaultyStorage(inner)
    successors: list[Journal] = []

    def sleep_through_a_whole_life(operation: str, path: str) -> Fault:
        if operation == "create" and path.startswith("journal/") and not successors:
            predecessor.append("checkpoint", "chk-8-1.1-0", [])  # in the slot that the sleeper is about to take
            successors.append(successor_with_pruned_history(inner, commits))
        return Fault.NONE

    storage.plan = sleep_through_a_whole_life
    with pytest.raises(DeposedError, match="not the last one"):
        open_journal(storage, block_slots=4).fence()
    (successor,) = successors
    assert open_journal(inner, block_slots=4).tail() == successor.last
    successor.append("finished")


def test_settling_in_a_slot_that_was_used_and_deleted_deposes() -> None:
    inner = MemoryStorage()
    storage = FaultyStorage(inner)
    old = open_journal(storage, block_slots=4)
    old.fence()
    answered = [Fault.LOST_AFTER]
    storage.plan = lambda operation, path: answered.pop() if answered else Fault.ERROR
    with pytest.raises(UnknownOutcomeError):
        old.append("checkpoint", "chk-1-1.1-0", ["chk-1-1.1-0"])
    successor_with_pruned_history(inner, 6)
    storage.plan = works
    with pytest.raises(DeposedError, match="entry 3 is not ours"):
        old.settle()


def test_storage_that_lies_is_refused_before_anything_is_written() -> None:
    inner = MemoryStorage()
    with pytest.raises(StorageError, match="two coordinators could both commit"):
        open_journal(FaultyStorage(inner, lies=True)).fence()
    assert list(inner.list("journal")) == []


def test_old_entries_are_pruned_by_the_storages_clock_and_fences_stay() -> None:
    clock = ManualClock(0)
    storage = MemoryStorage(clock=clock)

    def commits(journal: Journal, count: int) -> None:
        for number in range(count):
            clock.advance(HOUR_MS)
            journal.append("checkpoint", f"chk-{number}-1.1-0", [])

    for count in (3, 4):
        journal = open_journal(storage, retention_ms=3 * HOUR_MS, block_slots=4)
        journal.fence()
        commits(journal, count)
    # 1: fence, 2–4: hours 1–3, 5: fence, 6–9: hours 4–7; hour 7 is now
    assert journal.prune() == 4
    assert stored(storage) == [1, 5, 7, 8, 9]
    assert journal.prune() == 0
    later = open_journal(storage, retention_ms=3 * HOUR_MS, block_slots=4)
    later.fence()
    assert later.last is not None
    assert later.last.floor == 0  # the other had not written since
    commits(later, 3)
    assert later.prune(limit=1) == 1
    assert later.prune() == 2
    assert later.append("finished").floor == 11
    assert stored(storage) == [1, 5, 10, 11, 12, 13, 14]


def test_the_last_entry_is_never_pruned(storage: Storage) -> None:
    journal = open_journal(storage, retention_ms=0)
    journal.fence()
    for _ in range(3):
        journal.append("reserve", data={"split": 1})
    assert journal.prune() == 2
    tail = open_journal(storage).tail()
    assert tail == journal.last
    fence = open_journal(storage).fence()
    assert fence.data == {"split": 1}


def stored(storage: Storage) -> list[int]:
    return sorted(int(file.path.rsplit("/", 1)[1]) for file in storage.list("journal"))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
def test_the_tail_is_found_across_blocks(storage: Storage, count: int) -> None:
    journal = open_journal(storage, block_slots=4)
    journal.fence()
    for number in range(count):
        journal.append("checkpoint", f"chk-{number}-1.1-0", [])
    assert open_journal(storage, block_slots=4).tail() == journal.last


class Lagging(MemoryStorage):
    """Listings show only what was there when `freeze` was called."""

    frozen: builtins.list[StoredFile] | None = None

    def freeze(self) -> None:
        self.frozen = builtins.list(super().list(""))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        if self.frozen is None:
            return super().list(prefix)
        return iter([file for file in self.frozen if file.path.startswith(prefix)])

    def folders(self, prefix: str) -> builtins.list[str]:
        if self.frozen is None:
            return super().folders(prefix)
        return sorted({file.path.split("/")[1] for file in self.frozen if file.path.startswith(prefix)})


@pytest.mark.parametrize("before", [0, 1, 6])
def test_a_listing_that_lags_is_caught_up_by_reading_on(before: int) -> None:
    storage = Lagging()
    journal = open_journal(storage, block_slots=4)
    if before == 0:
        storage.freeze()
    journal.fence()
    for number in range(before + 6):
        if number == before:
            storage.freeze()
        journal.append("checkpoint", f"chk-{number}-1.1-0", [])
    assert open_journal(storage, block_slots=4).tail() == journal.last
    assert open_journal(storage, block_slots=4).fence().seq == before + 8


def test_a_reader_that_sleeps_while_its_block_is_deleted_finds_the_tail() -> None:
    inner = MemoryStorage()
    journal = open_journal(inner, retention_ms=0, block_slots=4)
    journal.fence()
    journal.append("checkpoint", "chk-1-1.1-0", [])
    slept: list[str] = []

    def sleep_before_listing(operation: str, path: str) -> Fault:
        if operation == "list" and not slept:
            slept.append(path)
            for number in range(12):
                journal.append("checkpoint", f"chk-{number}-1.1-0", [])
            journal.prune()
        return Fault.NONE

    assert open_journal(FaultyStorage(inner, sleep_before_listing), block_slots=4).tail() == journal.last


def test_taking_over_a_long_journal_costs_few_operations() -> None:
    operations: list[str] = []

    def count(operation: str, path: str) -> Fault:
        operations.append(operation)
        return Fault.NONE

    inner = MemoryStorage()
    journal = open_journal(inner)
    journal.fence()
    for number in range(3100):
        journal.append("reserve", data=number)
    assert open_journal(FaultyStorage(inner, count)).fence().data == 3099
    assert len(operations) < 20


def test_a_journal_may_begin_at_a_later_number() -> None:
    journal = open_journal(MemoryStorage(), first_seq=7_000_000)
    assert journal.fence().seq == 7_000_000
    assert journal.append("finished").epoch == 7_000_000
    with pytest.raises(ValueError, match="at least 1"):
        open_journal(MemoryStorage(), first_seq=0)


def test_two_logs_in_one_storage_do_not_touch_each_other(storage: Storage) -> None:
    journal, reservations = open_journal(storage), open_journal(storage, folder="reservations")
    assert journal.fence().seq == reservations.fence().seq == 1
    journal.append("checkpoint", "chk-0-1.1-0", [])
    reservations.append("reserve", data={"src": {"s1": 1000}})
    assert journal.last != reservations.last
    last = open_journal(storage, folder="reservations").tail()
    assert last is not None
    assert last.data == {"src": {"s1": 1000}}


def test_a_coordinator_that_cannot_reach_the_journal_for_a_day_gives_up_without_being_deposed() -> None:
    clock = ManualClock()
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage, clock=clock)
    journal.fence()
    storage.plan = lambda operation, path: Fault.ERROR
    clock.advance(SILENCE_LIMIT_MS)
    with pytest.raises(StorageError):
        journal.check()
    clock.advance(1)
    with pytest.raises(OutOfTouchError, match="journal could not be reached for 24 hours: cannot exists"):
        journal.check()


def test_a_look_gives_up_as_a_check_does() -> None:
    clock = ManualClock()
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage, clock=clock)
    journal.fence()
    clock.advance(SILENCE_LIMIT_MS)
    assert journal.looks_owned()
    storage.plan = lambda operation, path: Fault.ERROR
    clock.advance(SILENCE_LIMIT_MS)
    with pytest.raises(StorageError):
        journal.looks_owned()
    clock.advance(1)
    with pytest.raises(OutOfTouchError, match="journal could not be reached for 24 hours: cannot exists"):
        journal.looks_owned()


class Beside(MemoryStorage):
    """Storage in which something else is done in the middle of a create: after it has happened, and before its caller hears of it."""

    then: Callable[[], object] | None = None

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        then, self.then = self.then, None
        if then is not None:
            then()


def test_a_look_beside_an_entry_that_is_under_way_takes_it_for_nobodys_and_concludes_nothing() -> None:
    storage = Beside()
    journal = open_journal(storage)
    journal.fence()
    looks: list[bool] = []
    storage.then = lambda: looks.append(journal.looks_owned())
    journal.append("checkpoint", "chk-1-1.1-0", [])
    assert looks == [False]
    journal.check()
    assert journal.looks_owned()


def test_a_look_at_a_successors_fence_leaves_the_verdict_to_the_check() -> None:
    storage = MemoryStorage()
    journal = open_journal(storage)
    journal.fence()
    open_journal(storage).fence()
    assert not journal.looks_owned()
    with pytest.raises(DeposedError):
        journal.check()
    with pytest.raises(DeposedError):
        journal.looks_owned()


def test_old_entries_are_pruned_beside_one_that_is_under_way() -> None:
    storage = Beside()
    journal = open_journal(storage, retention_ms=0)
    journal.fence()
    for number in range(3):
        journal.append("checkpoint", f"chk-{number}-1.1-0", [])
    pruned: list[int] = []
    storage.then = lambda: pruned.append(journal.prune())
    assert journal.append("checkpoint", "chk-4-1.1-0", []).seq == 5
    assert pruned == [2]
    assert stored(storage) == [1, 4, 5]
    assert open_journal(storage).tail() == journal.last


def test_check_settles_what_is_unsettled() -> None:
    storage = FaultyStorage(MemoryStorage())
    journal = open_journal(storage)
    journal.fence()
    answered = [Fault.LOST_AFTER]
    storage.plan = lambda operation, path: answered.pop() if answered else Fault.ERROR
    with pytest.raises(UnknownOutcomeError):
        journal.append("finished")
    with pytest.raises(UnknownOutcomeError):
        journal.check()
    storage.plan = works
    journal.check()
    assert journal.last == open_journal(storage).tail()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"{", CorruptCheckpointError, "not a journal entry"),
        (b'{"version":1}', CorruptCheckpointError, "not a journal entry"),
        (b'{"version":2,"other":1}', IncompatibleCheckpointError, "upgrade Checkdam"),
        (
            b'{"version":1,"seq":9,"epoch":1,"attempt":0,"nonce":"n","kind":"fence"}',
            CorruptCheckpointError,
            "must be entry 2",
        ),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(content: bytes, error: type[Exception], message: str) -> None:
    storage = MemoryStorage()
    open_journal(storage).fence()
    storage.create("journal/000000000000/000000000002", content)
    with pytest.raises(error, match=message) as caught:
        open_journal(storage).tail()
    assert "journal/000000000000/000000000002" in str(caught.value)


def test_using_a_journal_wrongly_is_said_at_once() -> None:
    journal = open_journal(MemoryStorage())
    for call in (lambda: journal.append("finished"), journal.check, journal.prune, journal.settle):
        with pytest.raises(RuntimeError):
            call()
    journal.fence()
    with pytest.raises(RuntimeError, match="new Journal"):
        journal.fence()
    with pytest.raises(ValueError, match="`fence`"):
        journal.append("fence")
    with pytest.raises(TypeError):
        journal.append("reserve", data=object())
    assert journal.append("reserve", data=1).seq == 2


def test_an_entry_is_small_readable_json(storage: Storage) -> None:
    journal = open_journal(storage)
    journal.fence()
    entry: JournalEntry = journal.append("checkpoint", "chk-3-1.1-0", ["chk-3-1.1-0"], attempt=1)
    data = storage.read("journal/000000000000/000000000002")
    assert b'"kind":"checkpoint","checkpoint":"chk-3-1.1-0","checkpoint_id":3' in data
    assert entry.nonce.encode() in data
    assert len(data) < 300
