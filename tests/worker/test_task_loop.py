"""The task loop: control between steps, stopping and resuming, the end, and sleeping without missing a wake."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from worker_kit import Recorder, Wired, poll_until

from checkdam.connectors.collection import CollectionSource
from checkdam.core.batch import Batch
from checkdam.core.clock import ManualClock
from checkdam.core.errors import CheckdamError
from checkdam.operators.base import CommittingOperator, Operator, OperatorMetrics
from checkdam.operators.source import SourceOperator
from checkdam.operators.watermarks import monotonous
from checkdam.wire.messages import (
    Abort,
    AssignSplits,
    AttemptId,
    Committed,
    Complete,
    Ended,
    Message,
    Start,
    Trigger,
)
from checkdam.worker.loop import TaskLoop
from checkdam.worker.subtask import Subtask

ATTEMPT = AttemptId(1, 1)


class _Port:
    def request_splits(self, source: str) -> None: ...
    def finished_splits(self, source: str, splits: list[str]) -> None: ...
    def reserve(self, source: str, positions: dict[str, Any]) -> None: ...


class Snapshots:
    """Notes what the loop asks for, and what sources had read at their barriers."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.splits: list[Any] = []

    def begin(self, trigger: Trigger) -> None:
        self.seen.append(("begin", trigger.checkpoint))

    def add(self, subtask: Subtask, checkpoint: int) -> None:
        self.seen.append(("add", checkpoint))
        if subtask.source is not None:
            self.splits.append([split[0] for split in subtask.source.snapshot(checkpoint)["splits"]])

    def complete(self, checkpoint: int) -> None:
        self.seen.append(("complete", checkpoint))

    def abort(self, checkpoint: int) -> None:
        self.seen.append(("abort", checkpoint))


class Commits:
    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        work()
        done()


class Job:
    """A loop over a source subtask whose output the test reads."""

    def __init__(
        self,
        items: int = 10,
        *,
        credit_bytes: int = 1 << 30,
        operators: list[Any] | None = None,
        batch_records: int = 2,
    ) -> None:
        self.sent: list[Message] = []
        self.snapshots = Snapshots()
        source = CollectionSource(list(range(items)), list(range(items)), splits=2)
        self.wired = Wired(
            operators or [Recorder()],
            credit_bytes=credit_bytes,
            batch_records=batch_records,
            source=SourceOperator("head", source, monotonous(), self._clock(), OperatorMetrics(), _Port()),
        )
        assert self.wired.subtask.source is not None
        self.source = self.wired.subtask.source
        self.splits = [(split.id, split.payload, None) for split in source.splits(1)]
        self.loop = TaskLoop(ATTEMPT, [self.wired.subtask], self.snapshots, Commits(), self.sent.append, self._clock())
        self.wired.subtask._on_barrier = self.loop.on_barrier

    @staticmethod
    def _clock() -> ManualClock:
        return ManualClock()

    def post(self, *messages: Message) -> None:
        for message in messages:
            self.loop.post(message)

    def assign(self, *numbers: int, exhausted: bool = True) -> None:
        self.post(AssignSplits(ATTEMPT, "head", [self.splits[n] for n in numbers], exhausted, False))

    def run(self) -> list[Any]:
        """Everything that comes out until nothing is to be done."""
        out: list[Any] = []
        while self.loop.run_once():
            pass
        while taken := self.wired.take():
            out += taken
            while self.loop.run_once():
                pass
        return out


def values(out: list[Any]) -> list[Any]:
    return [item[0] for item in out if isinstance(item, list)]


def test_nothing_is_read_before_the_start() -> None:
    job = Job()
    job.assign(0, 1)
    assert job.run() == []

    job.post(Start(ATTEMPT))
    out = job.run()
    assert values(out) == list(range(10))
    assert out[-1] == ("end", 0)
    assert job.sent == [Ended(ATTEMPT)]


def test_a_call_that_does_not_return_shows_as_busy() -> None:
    gate = threading.Event()

    class Hanging(Recorder):
        def process(self, batch: Batch, port: int) -> Iterable[Batch]:
            gate.wait(10)
            return super().process(batch, port)

    job = Job(operators=[Hanging()])
    job.assign(0, 1)
    job.post(Start(ATTEMPT))
    thread = threading.Thread(target=job.run)
    thread.start()
    poll_until(lambda: job.loop.statistics()[0].busy_ms >= 20)
    assert sum(subtask.metrics[0].busy_ns for subtask in job.loop.subtasks) < 20_000_000, "it has not returned"
    gate.set()
    thread.join(10)
    assert job.sent == [Ended(ATTEMPT)]


def test_after_the_end_barriers_still_pass_and_the_end_is_said_once() -> None:
    job = Job()
    job.assign(0, 1)
    job.post(Start(ATTEMPT))
    job.run()
    job.post(Trigger(ATTEMPT, 1, "chk-1", 0))

    assert job.run() == [("barrier", 1)]
    assert job.snapshots.seen == [("begin", 1), ("add", 1)]
    assert job.sent == [Ended(ATTEMPT)]


def test_sources_stop_at_a_stop_barrier_and_go_on_when_it_is_aborted() -> None:
    job = Job()
    job.assign(0, 1)
    job.post(Start(ATTEMPT), Trigger(ATTEMPT, 1, "chk-1", 0, stop=True))
    assert job.run() == [("barrier", 1)]

    job.post(Abort(ATTEMPT, 1, resume=True))
    assert values(job.run()) == list(range(10))


def test_a_stop_that_is_aborted_without_resume_stays_a_stop() -> None:
    job = Job()
    job.assign(0, 1)
    job.post(Start(ATTEMPT), Trigger(ATTEMPT, 1, "chk-1", 0, stop=True), Abort(ATTEMPT, 1, resume=False))
    assert job.run() == [], "the barrier had not passed yet, and must not pass now"

    job.post(Trigger(ATTEMPT, 2, "chk-2", 0))
    assert values(job.run()) == list(range(10))


class OneByOne(Operator):
    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        for value in batch.values:
            yield Batch([value])


def test_a_split_assigned_after_the_trigger_is_not_in_that_snapshot() -> None:
    job = Job(credit_bytes=1, operators=[OneByOne()], batch_records=5)
    job.assign(0, exhausted=False)
    job.post(Start(ATTEMPT))
    for _ in range(20):
        job.loop.run_once()
    assert job.wired.subtask.suspended, "so the barrier cannot pass at once"

    job.post(Trigger(ATTEMPT, 1, "chk-1", 0))
    job.assign(1)
    out = job.run()

    assert job.snapshots.splits == [["0"]]
    assert sorted(values(out)) == list(range(10))


def test_a_trigger_that_a_higher_one_overtakes_lets_splits_into_the_higher_one() -> None:
    job = Job()
    job.assign(0, exhausted=False)
    job.post(Start(ATTEMPT), Trigger(ATTEMPT, 1, "chk-1", 0))
    job.assign(1)
    job.post(Trigger(ATTEMPT, 2, "chk-2", 0))
    job.run()

    assert job.snapshots.splits == [["0", "1"]]


def test_an_abort_lets_splits_in_that_waited_for_the_barrier() -> None:
    job = Job()
    job.post(Start(ATTEMPT), Trigger(ATTEMPT, 1, "chk-1", 0))
    job.assign(0, 1)
    job.post(Abort(ATTEMPT, 1))

    assert sorted(values(job.run())) == list(range(10))
    assert ("add", 1) not in job.snapshots.seen


class Committing(CommittingOperator, Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []

    def commit(self, up_to: int) -> Callable[[], None]:
        return lambda: self.done.append(("commit", up_to))

    def committed(self, up_to: int) -> None:
        self.done.append(("committed", up_to))


def test_a_completed_checkpoint_is_committed_and_then_reported() -> None:
    sink = Committing()
    job = Job(operators=[sink])
    job.post(Complete(ATTEMPT, 4))
    job.run()

    assert sink.done == [("commit", 4), ("committed", 4)]
    assert job.sent == [Committed(ATTEMPT, 4)]
    assert job.snapshots.seen == [("complete", 4)]


def test_the_most_downstream_subtask_that_can_do_something_goes_first() -> None:
    order: list[str] = []

    class Step:
        source = None
        backend = None
        ended = False

        def __init__(self, name: str, work: int) -> None:
            self.name, self.work = name, work

        def release(self) -> bool:
            return False

        def step(self) -> bool:
            if not self.work:
                return False
            self.work -= 1
            order.append(self.name)
            return True

    subtasks: Any = [Step("source", 2), Step("middle", 2), Step("sink", 1)]
    loop = TaskLoop(ATTEMPT, subtasks, Snapshots(), Commits(), lambda message: None, Job._clock())
    while loop.run_once():
        pass

    assert order == ["sink", "middle", "middle", "source", "source"]


def test_a_sleeping_loop_is_woken_by_what_is_posted_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkdam.worker.loop.IDLE_WAIT_MS", 60_000)
    job = Job()
    thread = threading.Thread(target=job.loop.run)
    thread.start()
    done: list[int] = []
    for number in range(200):
        job.loop.post(lambda number=number: done.append(number))  # type: ignore[misc]
        poll_until(lambda: len(done) > number, 5)  # noqa: B023
    job.loop.stop()
    thread.join(5)

    assert not thread.is_alive()
    assert done == list(range(200))


def test_an_error_that_is_posted_ends_the_loop() -> None:
    job = Job()

    def fail() -> None:
        raise CheckdamError("a commit failed")

    job.loop.post(fail)
    with pytest.raises(CheckdamError, match="a commit failed"):
        job.loop.run()
