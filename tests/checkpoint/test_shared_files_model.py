"""Checkpoints that share files, over everything that can be late: what is retained is whole after every step.

The parts are the real ones: the ledger over a journal, the workers' files, the coordinator's checks. Between them messages
wait in queues, deletes wait in theirs, workers and coordinators that were replaced go on, and storage fails. Each coordinator cleans in a
thread that stops before every request to storage, so that anything may happen between two of them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from faulty import Fault, FaultyStorage
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from checkdam.checkpoint.folders import CheckpointFolder, SavepointFolder
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, SubtaskSnapshot
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.transfers import Transfers
from checkdam.checkpoint.uploads import INLINE_LIMIT_BYTES, uploaded_bytes
from checkdam.coordinator.checkpoints import CheckpointRecord, PendingCheckpoint, own_files
from checkdam.coordinator.increments import Increments
from checkdam.coordinator.ledger import Ledger
from checkdam.coordinator.retention import Retention
from checkdam.core.errors import CheckdamError, CheckpointError, DeposedError, StorageError
from checkdam.state.base import LocalFile
from checkdam.wire.messages import Abort, Ack, AttemptId, Complete, Decline, Message, Trigger
from checkdam.worker.checkpoint_files import CheckpointFiles

T = TypeVar("T")

JOB = "ns/job"
WORKERS = 2
FULL_EVERY = 4
PATIENCE_S = 20.0
PADDING = bytes(INLINE_LIMIT_BYTES)


class Shared(MemoryStorage):
    """Storage that workers can reach, too."""

    shared = True


class OneByOne(Transfers):
    """Transfers without threads: what is tested here are orders of steps, which the test itself chooses."""

    def run(self, transfers: Sequence[Callable[[], T]], cancelled: Any = None) -> list[T]:
        return [transfer() for transfer in transfers]


@dataclass
class Worker:
    """A worker with data files that never change and one that always does; it does one thing for each `step`."""

    attempt: AttemptId
    index: int
    files: CheckpointFiles
    folder: Path
    database: list[str] = field(default_factory=list)
    inbox: deque[Message] = field(default_factory=deque)
    outbox: deque[Message] = field(default_factory=deque)
    unacknowledged: tuple[Trigger, list[Any]] | None = None

    def step(self) -> None:
        message = self.inbox.popleft()
        if isinstance(message, Trigger):
            self._give_up(message.checkpoint - 1)
            self.files.begin(message)
            self._snapshot(message)
        elif isinstance(message, Complete):
            self.files.complete(message.checkpoint)
        elif isinstance(message, Abort):
            self._give_up(message.checkpoint)

    def _snapshot(self, trigger: Trigger) -> None:
        names = [*self.database, f"changes-{trigger.checkpoint}"]
        try:
            handles = self.files.store(trigger, f"s-{self.index}/", [self._local(name) for name in names], _NEVER)
        except CheckdamError as error:
            self.outbox.append(Decline(self.attempt, trigger.checkpoint, str(error)))
            return
        snapshots = [SubtaskSnapshot("s", self.index, (self.index, self.index + 1), files=handles)]
        self.unacknowledged = trigger, handles
        if trigger.checkpoint % 5:  # every fifth dies, or is too slow, between upload and acknowledgement
            self.files.acknowledge(trigger, snapshots)
            self.unacknowledged = None
            stored_bytes = uploaded_bytes(trigger.folder, handles)
            self.outbox.append(Ack(self.attempt, trigger.checkpoint, snapshots, 0, uploaded_bytes=stored_bytes))

    def _give_up(self, checkpoint: int) -> None:
        self.files.abort(checkpoint)
        if self.unacknowledged is not None and self.unacknowledged[0].checkpoint <= checkpoint:
            (trigger, handles), self.unacknowledged = self.unacknowledged, None
            try:
                self.files.discard(trigger, handles)
            except StorageError:
                pass  # swept later

    def _local(self, name: str) -> LocalFile:
        data = f"{name} of {self.index}".encode() + PADDING
        path = self.folder / f"{self.index}-{name}"
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        return LocalFile(name, path, len(data), digest, reusable=not name.startswith("changes"))


class _Never:
    def is_set(self) -> bool:
        return False


_NEVER: Any = _Never()


class Cleaning:
    """The thread in which a coordinator cleans: one piece of work after another, up to the next request to storage for each `step`."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], object]] = deque()
        self.under_way = False
        self._thread: threading.Thread | None = None
        self._go = threading.Semaphore(0)
        self._parked = threading.Semaphore(0)
        self._given_up = False
        self._error: BaseException | None = None

    def append(self, work: Callable[[], object]) -> None:
        self.waiting.append(work)

    def step(self) -> None:
        """Let the next request happen; storage that fails leaves a piece of work to a later one.

        Raises:
            CheckdamError: The work ended with it.
        """
        if self.under_way:
            self._go.release()
        elif self.waiting:
            self.under_way = True
            self._thread = threading.Thread(target=self._run, args=(self.waiting.popleft(),), daemon=True)
            self._thread.start()
        else:
            return
        assert self._parked.acquire(timeout=PATIENCE_S)
        error, self._error = self._error, None
        if error is not None and not isinstance(error, StorageError):
            raise error

    def finish(self) -> None:
        """Do the piece of work that is under way, or the next one, to its end."""
        self.step()
        while self.under_way:
            self.step()

    def give_up(self) -> None:
        """The process is gone."""
        self._given_up = True
        if self.under_way:
            self.step()

    def before_request(self) -> bool:
        """Stop if this is the thread that cleans; returns whether it is."""
        if threading.current_thread() is not self._thread:
            return False
        self._parked.release()
        self._go.acquire()
        if self._given_up:
            raise StorageError("use", "anything", "the process is gone")
        return True

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
        finally:
            self.under_way = False
            self._parked.release()


@dataclass
class Coordinator:
    """One life of a coordinator: what `flow`, `records` and `deployment` do, one step at a time."""

    storage: FaultyStorage
    ledger: Ledger
    increments: Increments
    attempt: int = 0
    workers: list[Worker] = field(default_factory=list)
    pending: PendingCheckpoint | None = None
    folders: dict[int, str] = field(default_factory=dict)
    cleaning: Cleaning = field(default_factory=Cleaning)
    deposed: bool = False

    @property
    def attempt_id(self) -> AttemptId:
        return AttemptId(self.ledger.epoch, self.attempt)

    def trigger(self, number: int, now_ms: int, *, full: bool, savepoint: bool) -> None:
        base = None
        if not full and not savepoint and self.ledger.base is not None:
            base = self.increments.base(self.ledger.base.manifest, WORKERS)
        kind = SavepointFolder if savepoint else CheckpointFolder
        folder = self.folders[number] = str(kind(number, self.ledger.epoch, self.attempt))
        record = CheckpointRecord(number, "interval", "IN_PROGRESS", str(self.attempt_id), now_ms, folder)
        self.pending = PendingCheckpoint(number, folder, record, WORKERS, now_ms, {}, base)
        self.broadcast(
            Trigger(self.attempt_id, number, folder, base.id if base else -1, savepoint=savepoint),
        )

    def broadcast(self, message: Message) -> None:
        for worker in self.workers:
            worker.inbox.append(message)

    def hear(self, worker: Worker) -> None:
        """Take the next message of a worker of the running attempt."""
        message = worker.outbox.popleft()
        if not isinstance(message, Ack | Decline) or message.attempt != self.attempt_id:
            return
        pending = self.pending
        if pending is None or message.checkpoint != pending.id:
            if isinstance(message, Ack):
                folder = self.folders[message.checkpoint]
                self.cleaning.append(lambda: self.ledger.cleaner.discard(folder, own_files(folder, message)))
        elif isinstance(message, Decline):
            self.give_up()
        elif pending.acknowledge(worker.index, message):
            self._complete(pending)

    def give_up(self) -> None:
        pending, self.pending = self.pending, None
        if pending is None:
            return
        self.broadcast(Abort(self.attempt_id, pending.id))
        if pending.acks:
            self.cleaning.append(lambda: self.ledger.cleaner.discard(pending.folder, pending.uploads()))

    def _complete(self, pending: PendingCheckpoint) -> None:
        manifest = CheckpointManifest(
            version=1,
            job_id=JOB,
            id=pending.id,
            epoch=self.ledger.epoch,
            attempt=self.attempt,
            parallelism=WORKERS,
            max_parallelism=WORKERS,
            mode="ExactlyOnce",
            created_ms=pending.started_ms,
            fingerprint="",
            operators=[],
            subtasks=pending.snapshots(),
            increments=pending.increments(),
        )
        pending.check(shared=True)  # a worker that names what it must not is a failure of this test
        try:
            if SavepointFolder.parse(pending.folder):
                self.ledger.save(pending.folder, manifest)
                self.pending = None
                return
            self.ledger.commit(pending.folder, manifest, "checkpoint")
        except StorageError:
            self.give_up()
            return
        self.pending = None
        self.broadcast(Complete(self.attempt_id, pending.id))
        self.cleaning.append(self.ledger.cleaner.delete_doomed)


class SharedFiles(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Shared(limit_bytes=1 << 30)
        self.armed: list[tuple[str, Fault]] = []
        self.meanwhile = 0
        self.folder = Path(tempfile.mkdtemp(prefix="checkdam-shared-"))
        self.now_ms = 0
        self.names = count()
        self.number = 0
        self.zombies: list[Worker] = []
        self.retired: list[Coordinator] = []
        self._take_over()

    def teardown(self) -> None:
        """However it went: with storage in order and an attempt that begins, nothing is left but what is needed."""
        self.armed.clear()
        self._new_attempt()
        self._clean()
        for coordinator in self.retired:
            coordinator.cleaning.give_up()
        store = CheckpointStore(self.inner, JOB, OneByOne())
        retained = self._retained()
        assert all(store.verify(folder) == [] for folder in retained)
        needed = {path for folder in retained for path in (*store.read_manifest(folder).paths(), f"{folder}/_metadata")}
        stored = {file.path for file in self.inner.list("")}
        assert {path for path in stored if not path.startswith(("journal/", "savepoint-"))} == needed
        shutil.rmtree(self.folder)

    # What happens

    @rule(worker=st.integers(0, WORKERS - 1), compacts=st.booleans())
    def write(self, worker: int, compacts: bool) -> None:
        """A worker's database gets another data file, perhaps instead of those that it had."""
        found = self.current.workers[worker]
        found.database = [*(found.database[-1:] if compacts else found.database), f"data-{next(self.names)}"]

    @precondition(lambda self: self.current.pending is None)
    @rule(full=st.booleans(), savepoint=st.sampled_from([False, False, False, True]), passed_ms=st.integers(1, 20))
    def trigger(self, full: bool, savepoint: bool, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.number += 1
        self.current.trigger(self.number, self.now_ms, full=full, savepoint=savepoint)

    @rule(worker=st.integers(0, WORKERS - 1), steps=st.integers(1, 3))
    def worker_steps(self, worker: int, steps: int) -> None:
        found = self.current.workers[worker]
        for _ in range(min(steps, len(found.inbox))):
            found.step()

    @rule(worker=st.integers(0, WORKERS - 1))
    def coordinator_hears(self, worker: int) -> None:
        found = self.current.workers[worker]
        if found.outbox:
            self.current.hear(found)

    @rule(amount=st.integers(1, 3), passed_ms=st.integers(1, 20), compacts=st.booleans(), cleans=st.booleans())
    def all_is_quick(self, amount: int, passed_ms: int, compacts: bool, cleans: bool) -> None:
        """A few checkpoints without trouble."""
        for _ in range(amount):
            for index in range(WORKERS):
                self.write(index, compacts)
            if self.current.pending is None:
                self.trigger(full=False, savepoint=False, passed_ms=passed_ms)
            for worker in self.current.workers:
                while worker.inbox:
                    worker.step()
                while worker.outbox:
                    self.current.hear(worker)
        if cleans:
            self._clean()

    @rule()
    def the_checkpoint_takes_too_long(self) -> None:
        self.current.give_up()

    @rule(amount=st.integers(1, 5))
    def cleans(self, amount: int) -> None:
        for _ in range(amount):
            self.current.cleaning.finish()

    @rule(requests=st.integers(1, 4))
    def cleans_a_little(self, requests: int) -> None:
        for _ in range(requests):
            self.current.cleaning.step()

    @rule(requests=st.integers(1, 20))
    def cleaning_will_go_on_beside_the_next_entry(self, requests: int) -> None:
        self.meanwhile = requests

    @rule()
    def sweeps(self) -> None:
        self._sweep(self.current)

    @rule(back=st.sampled_from([False, False, True]))
    def the_attempt_fails(self, back: bool) -> None:
        self._new_attempt(back=back)

    @rule(which=st.integers(0, 100))
    def a_dead_attempts_worker_goes_on(self, which: int) -> None:
        if self.zombies:
            zombie = self.zombies[which % len(self.zombies)]
            if zombie.inbox:
                zombie.step()

    @rule()
    def another_coordinator_takes_over(self) -> None:
        self.zombies += self.current.workers
        self.retired.append(self.current)
        self.armed.clear()
        self._take_over()

    @rule(
        which=st.integers(0, 100), worker=st.integers(0, WORKERS - 1), sweep=st.booleans(), requests=st.integers(1, 20)
    )
    def a_deposed_coordinator_goes_on(self, which: int, worker: int, sweep: bool, requests: int) -> None:
        if not self.retired:
            return
        retired = self.retired[which % len(self.retired)]
        if sweep:
            self._sweep(retired)
        try:
            if retired.workers and retired.workers[worker].outbox:
                retired.hear(retired.workers[worker])
            for _ in range(requests):
                retired.cleaning.step()
        except CheckpointError:
            pass  # what it retains has been deleted by a successor: it does not know what it may delete, and deletes nothing
        except DeposedError:
            retired.cleaning.give_up()
            self.retired.remove(retired)  # it touches nothing more

    @rule(
        operation=st.sampled_from(["create", "append", "put_file", "delete", "list", "read"]),
        fault=st.sampled_from([Fault.ERROR, Fault.LOST_BEFORE, Fault.LOST_AFTER]),
    )
    def storage_will_fail(self, operation: str, fault: Fault) -> None:
        self.armed.append((operation, fault))

    # What must hold

    @invariant()
    def every_retained_checkpoint_is_whole(self) -> None:
        store = CheckpointStore(self.inner, JOB)
        savepoints = [name for name in self.inner.folders("") if self.inner.exists(f"{name}/_metadata")]
        complete = [name for name in savepoints if SavepointFolder.parse(name)]
        for folder in {*self._retained(), *complete}:
            for snapshot in store.read_manifest(folder).subtasks:
                for handle in snapshot.files:
                    data = handle.inline if handle.inline is not None else self.inner.read(handle.path)
                    assert hashlib.sha256(data).hexdigest() == handle.sha256

    # How

    def _retained(self) -> list[str]:
        tail = Journal(self.inner).tail()
        return [] if tail is None else tail.retained

    def _clean(self) -> None:
        """Do all cleaning that waits."""
        cleaning = self.current.cleaning
        while cleaning.under_way or cleaning.waiting:
            cleaning.step()

    def _take_over(self) -> None:
        self.cleaning = cleaning = Cleaning()

        def plan(operation: str, path: str) -> Fault:
            if not cleaning.before_request() and path.startswith("journal/") and cleaning is self.cleaning:
                requests, self.meanwhile = self.meanwhile, 0
                for _ in range(requests):
                    cleaning.step()
            return self._plan(operation, path)

        storage = FaultyStorage(self.inner, plan)
        journal = Journal(storage, sleep=lambda seconds: None)
        ledger = Ledger(
            storage,
            JOB,
            retention=Retention(1, 15) if self.number % 2 else Retention(1),
            journal=journal,
            transfers=OneByOne(),
            sleep=lambda seconds: None,
        )
        assert ledger.take_over(fresh=False, resume=True, origin="", again=False) == "go"
        ledger.read_base()
        self.current = Coordinator(storage, ledger, Increments(True, FULL_EVERY), cleaning=cleaning)
        self._new_attempt()

    def _new_attempt(self, *, back: bool = False) -> None:
        current = self.current
        current.pending = None
        self.zombies += current.workers
        if back and len(current.ledger._retained) > 1:
            self.armed.clear()
            current.ledger.fall_back(current.attempt)
        current.attempt += 1
        base = current.ledger.base
        current.workers = []
        for index in range(WORKERS):
            part = None
            if base is not None:
                part = base.manifest.__class__(
                    **{name: getattr(base.manifest, name) for name in base.manifest.__struct_fields__}
                    | {"subtasks": base.manifest.of_subtask(index)}
                )
            files = CheckpointFiles(current.storage, transfers=OneByOne(), restored=part)
            worker = Worker(current.attempt_id, index, files, self.folder)
            if part is not None:
                worker.database = [h.name for s in part.subtasks for h in s.files if h.name.startswith("data")]
            current.workers.append(worker)
        self._sweep(current)

    def _sweep(self, coordinator: Coordinator) -> None:
        attempt = coordinator.attempt_id
        coordinator.cleaning.append(lambda: coordinator.ledger.cleaner.sweep(attempt))

    def _plan(self, operation: str, path: str) -> Fault:
        for number, (what, fault) in enumerate(self.armed):
            if what == operation or (what == "append" and operation == "create" and path.startswith("journal/")):
                del self.armed[number]
                return fault
        return Fault.NONE


TestSharedFiles = SharedFiles.TestCase
TestSharedFiles.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
