"""Three coordinators share a journal, and everything goes wrong: always one linear history.

Each coordinator runs in two threads, one that decides and one that keeps house. Each stops before every storage operation until the test lets
that one happen, with or without a fault. So hypothesis explores interleavings of single operations: pauses of any length, lost replies, writes
that land later, clients' retries, copies, crashes, and entries that are deleted as soon as they are not the last
(retention 0, blocks of 3 slots), so that no clock can help.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from enum import Enum

import pytest
from faulty import Fault, FaultyStorage
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from checkdam.checkpoint.entries import JournalEntry, decode_entry
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.core.errors import AlreadyExistsError, DeposedError, StorageError, UnknownOutcomeError

BLOCK_SLOTS = 3
WALKS = 25
PATIENCE_S = 20.0


class Recording(MemoryStorage):
    """Remembers the first content of every slot: the true history, whatever is deleted later."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[int, JournalEntry] = {}

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        if path.startswith("journal/"):
            seq = int(path.rsplit("/", 1)[1])
            self.history.setdefault(seq, decode_entry(data, seq, path))


class KilledError(BaseException):
    """The process of this coordinator is gone."""


class Then(Enum):
    """How a coordinator goes on around its next write of the journal."""

    SLEEP_BEFORE = "falls asleep before it"
    SLEEP_AFTER = "falls asleep after it"
    FINISH = "goes on without faults"
    FAIL = "storage is away after it"


class Lane:
    """A thread that works on a journal, one storage operation at a time, when told to."""

    current = threading.local()

    def __init__(self) -> None:
        self.idle = True
        self.dead = False
        self.at = ("", "")
        self._killed = False
        self._unexpected: Exception | None = None
        self._fault = Fault.NONE
        self._go = threading.Semaphore(0)
        self._parked = threading.Semaphore(0)

    def begin(self, work: Callable[[], None]) -> None:
        """Start `work` and run it up to its first storage operation."""
        self.idle = False
        threading.Thread(target=self._run, args=(work,), daemon=True).start()
        self._wait()

    def step(self, fault: Fault) -> None:
        """Let the operation that it stands before happen, and run on to the next one."""
        self._fault = fault
        self._go.release()
        self._wait()

    def go_on(self, fault: Fault, then: Then) -> None:
        """Run to the next write of the journal, let `fault` happen to that, and go on as `then` says."""
        while not self.idle and not (self.at[0] in ("create", "delete") and self.at[1].startswith("journal/")):
            self.step(Fault.NONE)
        if self.idle or then is Then.SLEEP_BEFORE:
            return
        self.step(fault)
        while not self.idle and then is not Then.SLEEP_AFTER:
            self.step(Fault.ERROR if then is Then.FAIL else Fault.NONE)

    def kill(self) -> None:
        self.dead = True
        if not self.idle:
            self._killed = True
            self.step(Fault.NONE)

    def _wait(self) -> None:
        assert self._parked.acquire(timeout=PATIENCE_S)
        if self._unexpected is not None:
            raise self._unexpected

    def _run(self, work: Callable[[], None]) -> None:
        Lane.current.lane = self
        try:
            work()
        except KilledError:
            pass
        except DeposedError:
            self.dead = True
        except StorageError:
            pass
        except Exception as error:
            self._unexpected = error
        finally:
            self.idle = True
            self._parked.release()

    def before_operation(self, operation: str, path: str) -> Fault:
        if self._killed:
            raise KilledError
        self.at = (operation, path)
        self._parked.release()
        self._go.acquire()
        if self._killed:
            raise KilledError
        return self._fault


class Coordinator(Lane):
    """A coordinator's decisions, and beside it the thread that keeps house."""

    def __init__(self, storage: Recording, late: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self.house = Lane()
        self.journal = Journal(
            FaultyStorage(storage, self._plan, late),
            retention_ms=0,
            block_slots=BLOCK_SLOTS,
            sleep=lambda seconds: None,
        )

    def kill(self) -> None:
        super().kill()
        self.house.kill()

    def _plan(self, operation: str, path: str) -> Fault:
        lane: Lane = Lane.current.lane
        return lane.before_operation(operation, path)


class Action(Enum):
    """What happens next; who does it is drawn too."""

    START = "a coordinator (re)starts, and fences"
    TAKE_OVER_AND_WORK = "a coordinator (re)starts, fences, commits and prunes without faults"
    COMMIT = "one that is free commits"
    PRUNE = "one that has an epoch prunes, perhaps beside an entry that is under way"
    LOOK = "one that has an epoch looks whether it still has it, perhaps beside an entry that is under way"
    CHECK_OR_SETTLE = "one that is free looks whether it is deposed, or settles"
    WAKE = "one that sleeps goes on"
    LAND = "a late write arrives"


CHOICES = st.integers(0, 6)
FAULTS = st.sampled_from(Fault)


class World:
    """A storage, three coordinators, and what they believe to have done."""

    def __init__(self) -> None:
        self.storage = Recording()
        self.late: list[tuple[str, bytes]] = []
        self.coordinators: list[Coordinator | None] = [None, None, None]
        self.committed: list[JournalEntry] = []
        self.fences: list[JournalEntry] = []
        self.failed: set[str] = set()
        self.unsettled: dict[int, str] = {}
        self.count = 0

    def close(self) -> None:
        for coordinator in self.coordinators:
            if coordinator is not None:
                coordinator.kill()

    def ready(self, choice: int) -> Coordinator | None:
        """One of the coordinators that have an epoch, nothing to do, and do not know yet that they are deposed."""
        living = [one for one in self.coordinators if one and one.idle and not one.dead and one.journal.epoch]
        return living[choice % len(living)] if living else None

    def asleep(self, choice: int) -> Lane | None:
        """One of the threads that are in the middle of something."""
        lanes = [lane for one in self.coordinators if one for lane in (one, one.house)]
        sleeping = [lane for lane in lanes if not lane.idle]
        return sleeping[choice % len(sleeping)] if sleeping else None

    def housekeeper(self, choice: int) -> Coordinator | None:
        """One of the coordinators whose house can be looked after, whatever else they do."""
        living = [
            one for one in self.coordinators if one and one.house.idle and not one.house.dead and one.journal.epoch
        ]
        return living[choice % len(living)] if living else None

    def act(self, action: Action, choice: int, fault: Fault, then: Then) -> None:
        match action:
            case Action.START:
                self._start(choice % 3, choice > 4).go_on(fault, then)
            case Action.TAKE_OVER_AND_WORK:
                self._take_over_and_work(choice)
            case Action.LAND:
                if self.late:
                    self._land(choice % len(self.late))
            case Action.WAKE:
                coordinator = self.asleep(choice)
                if coordinator is not None:
                    coordinator.step(fault)
                    coordinator.go_on(Fault.NONE, then)
            case Action.PRUNE | Action.LOOK:
                self._keep_house(action, self.housekeeper(choice), fault, then)
            case _:
                self._work(action, self.ready(choice), fault, then)

    def several_steps(self, choice: int, faults: list[Fault]) -> None:
        coordinator = self.asleep(choice)
        for fault in faults:
            if coordinator is not None and not coordinator.idle:
                coordinator.step(fault)

    def _start(self, index: int, fresh: bool) -> Coordinator:
        before = self.coordinators[index]
        if before is not None:
            before.kill()
        coordinator = self.coordinators[index] = Coordinator(self.storage, self.late)

        def fence() -> None:
            self.fences.append(coordinator.journal.fence(fresh))

        coordinator.begin(fence)
        return coordinator

    def _work(self, action: Action, coordinator: Coordinator | None, fault: Fault, then: Then) -> None:
        if coordinator is None:
            return
        journal = coordinator.journal
        match action:
            case Action.COMMIT:
                self.count += 1
                coordinator.begin(lambda name=f"chk-{self.count}-1.1-0": self._commit(journal, name))
            case Action.CHECK_OR_SETTLE:
                coordinator.begin((lambda: self._settle(journal)) if journal.unsettled else journal.check)
        coordinator.go_on(fault, then)

    def _keep_house(self, action: Action, coordinator: Coordinator | None, fault: Fault, then: Then) -> None:
        if coordinator is None:
            return
        journal = coordinator.journal
        coordinator.house.begin(
            (lambda: [journal.prune()]) if action is Action.PRUNE else (lambda: [journal.looks_owned()])
        )
        coordinator.house.go_on(fault, then)

    def _take_over_and_work(self, choice: int) -> None:
        """A whole life of a successor, while others sleep; everything before its last entry is deleted after it."""
        coordinator = self._start(choice % 3, False)
        coordinator.go_on(Fault.NONE, Then.FINISH)
        for _ in range(choice):
            self._work(Action.COMMIT, coordinator, Fault.NONE, Then.FINISH)
        self._keep_house(Action.PRUNE, coordinator, Fault.NONE, Then.FINISH)

    def _commit(self, journal: Journal, name: str) -> None:
        if journal.unsettled:
            self._settle(journal)
        try:
            self.committed.append(journal.append("checkpoint", name, [name]))
        except UnknownOutcomeError:
            self.unsettled[id(journal)] = name
            raise
        except StorageError:
            self.failed.add(name)
            raise

    def _settle(self, journal: Journal) -> None:
        settled = journal.settle()
        if settled.kind == "fence":
            self.failed.add(self.unsettled[id(journal)])
        else:
            self.committed.append(settled)

    def _land(self, index: int) -> None:
        path, content = self.late.pop(index)
        try:
            self.storage.create(path, content)
        except AlreadyExistsError:
            pass

    def check(self) -> None:
        """Everything that must hold at every moment."""
        self.history_is_dense_and_every_decision_follows_its_own_epoch()
        self.what_was_committed_stays_and_nobody_shares_a_slot()
        self.every_epoch_is_one_coordinators()
        self.what_failed_for_certain_never_appears()
        self.a_new_reader_finds_the_last_entry()

    def history_is_dense_and_every_decision_follows_its_own_epoch(self) -> None:
        history = self.storage.history
        assert sorted(history) == list(range(1, len(history) + 1))
        for seq, entry in history.items():
            before = history.get(seq - 1)
            if entry.epoch != seq:
                assert before is not None
                assert entry.epoch == before.epoch
            if entry.kind == "fence" and before is not None and not entry.fresh:
                assert (entry.checkpoint, entry.retained) == (before.checkpoint, before.retained)
                assert entry.decision == before.decision

    def what_was_committed_stays_and_nobody_shares_a_slot(self) -> None:
        history = self.storage.history
        slots = [entry.seq for entry in self.committed]
        assert len(set(slots)) == len(slots)
        assert all(history[entry.seq].nonce == entry.nonce for entry in self.committed)

    def every_epoch_is_one_coordinators(self) -> None:
        history = self.storage.history
        epochs = [fence.seq for fence in self.fences]
        assert len(set(epochs)) == len(epochs)
        assert all(history[fence.seq].nonce == fence.nonce and fence.epoch == fence.seq for fence in self.fences)

    def what_failed_for_certain_never_appears(self) -> None:
        assert not self.failed & {entry.checkpoint for entry in self.storage.history.values() if entry.kind != "fence"}

    def a_new_reader_finds_the_last_entry(self) -> None:
        history = self.storage.history
        tail = Journal(self.storage, block_slots=BLOCK_SLOTS).tail()
        assert tail == (history[len(history)] if history else None)


class JournalModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        self.world.close()

    @rule(action=st.sampled_from(Action), choice=CHOICES, fault=FAULTS, then=st.sampled_from(Then))
    def act(self, action: Action, choice: int, fault: Fault, then: Then) -> None:
        """One rule for all, since hypothesis switches whole rules off and the bad schedules need several actions."""
        self.world.act(action, choice, fault, then)

    @rule(choice=CHOICES, faults=st.lists(FAULTS, min_size=1, max_size=12))
    def several_steps(self, choice: int, faults: list[Fault]) -> None:
        self.world.several_steps(choice, faults)

    @invariant()
    def everything_holds(self) -> None:
        self.world.check()


JournalModel.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestJournalModel = JournalModel.TestCase


@pytest.mark.parametrize("seeds", [range(start, start + WALKS) for start in range(0, 8 * WALKS, WALKS)], ids=str)
def test_random_walks_keep_one_linear_history(seeds: range) -> None:
    """Longer than what hypothesis draws, and evenly distributed; the seed of a failure is in the message."""
    for seed in seeds:
        dice = random.Random(seed)
        world = World()
        try:
            for _ in range(40):
                if dice.random() < 0.1:
                    world.several_steps(dice.randrange(7), dice.choices([*Fault], k=dice.randrange(1, 12)))
                else:
                    fault = dice.choice([Fault.NONE, dice.choice([*Fault])])
                    world.act(dice.choice([*Action]), dice.randrange(7), fault, dice.choice([*Then]))
                world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        finally:
            world.close()
