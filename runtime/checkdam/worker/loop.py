"""The task loop: one thread that runs all subtasks of a worker.

It always takes the most-downstream subtask that can do something, so what is in the pipeline is finished before more is
read, and it never blocks on a send. Between two steps it handles control messages, in the order in which they came.
When nothing is runnable it sleeps until a message, a frame or a deadline.

The loop knows nothing of processes and sockets: it is given subtasks that are wired up, a snapshotter and a way to speak
to the coordinator. The testing harness runs several loops in one thread, by `run_once`.

Concurrency: `post`, `wake` and `stop` may be called from any thread; everything else belongs to the task thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from checkdam.core.clock import Clock
from checkdam.operators.base import CommittingOperator
from checkdam.operators.source import SourceOperator
from checkdam.wire.messages import (
    Abort,
    AssignSplits,
    AttemptId,
    Committed,
    Complete,
    Ended,
    Message,
    OperatorStats,
    Prepare,
    Reserved,
    Start,
    Trigger,
)
from checkdam.worker.subtask import Subtask

IDLE_WAIT_MS: Final = 500
"""The longest sleep: timers aside, everything that matters wakes the loop."""

LONG_CALL_NS: Final = 100_000_000
"""From here on a call that has not returned yet shows in the statistics."""

MAINTAIN_EVERY_STEPS: Final = 256
"""How often state backends get a chance to remove expired entries while the loop is busy."""


class Snapshots(Protocol):
    """Turns subtask snapshots into an acknowledged checkpoint (`worker.snapshots`)."""

    def begin(self, trigger: Trigger) -> None: ...

    def add(self, subtask: Subtask, checkpoint: int) -> None: ...

    def complete(self, checkpoint: int) -> None: ...

    def abort(self, checkpoint: int) -> None: ...


class Commits(Protocol):
    """Runs commit work outside the task thread, in order (`worker.commits`)."""

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None: ...


@dataclass
class TaskLoop:
    """The loop of one worker and attempt.

    Args:
        attempt: The attempt, for messages.
        subtasks: In topological order, sources first.
        snapshots: Where barriers go.
        commits: Where commit work goes.
        send: Sends a message to the coordinator; thread-safe, does not block.
        clock: For deadlines.
    """

    attempt: AttemptId
    subtasks: list[Subtask]
    snapshots: Snapshots
    commits: Commits
    send: Callable[[Message], None]
    clock: Clock

    def __post_init__(self) -> None:
        self._inbox: deque[Message | Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._sleeping = False
        self._signalled = False
        self._stopped = False
        self._ended = False
        self._steps = 0
        self._stepping: tuple[Subtask, int] | None = None
        self.adopt(self.subtasks)

    def adopt(self, subtasks: list[Subtask]) -> None:
        """Take over the subtasks to run, where they could be made only with the loop's own methods."""
        self.subtasks = subtasks
        self._order = list(reversed(subtasks))
        self._sources = {s.source.operator_id: s for s in subtasks if s.source is not None}

    def post(self, item: Message | Callable[[], None]) -> None:
        """Hand a message, or a function, to the task thread; any thread."""
        self._inbox.append(item)
        self.wake()

    def wake(self) -> None:
        """Make the loop look again; any thread, after what it should see is in place."""
        self._signalled = True
        if self._sleeping:
            self._wake.set()

    def stop(self) -> None:
        """Make `run` return; any thread."""
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        """Run until `stop`. Raises whatever a subtask raises."""
        while not self._stopped:
            self._signalled = False
            if not self.run_once():
                self._sleep()

    def run_once(self) -> bool:
        """Handle waiting messages and do one step of one subtask; False if nothing was to be done."""
        worked = self._handle_inbox()
        began_ns = time.perf_counter_ns()
        for subtask in self._order:
            self._stepping = subtask, began_ns
            stepped = subtask.step()
            self._stepping = None
            if stepped:
                self._steps += 1
                if self._steps % MAINTAIN_EVERY_STEPS == 0:
                    self._maintain()
                if subtask.ended and not self._ended:
                    self._check_end()
                return True
        # Nothing is to be done: what was held back in the hope of more goes on now.
        return any(subtask.release() for subtask in self._order) or worked

    def statistics(self) -> list[OperatorStats]:
        """Counters of all operators; any thread may read them, approximately.

        A call that does not return counts as busy while it lasts, so that people see where a task hangs.
        """
        found = []
        stepping, began_ns = self._stepping or (None, 0)
        for subtask in self.subtasks:
            under_way_ns = 0
            if subtask is stepping:
                # Less than has passed, so that the counter does not fall when the call returns and is counted by itself.
                under_way_ns = max(0, time.perf_counter_ns() - began_ns - LONG_CALL_NS)
            first = 1 if subtask.source is not None else 0
            for number, node in enumerate(subtask.stage.nodes):
                metrics = subtask.metrics[number]
                mark = subtask.watermark_ms if number < first else subtask.mark_of(number - first)
                found.append(
                    OperatorStats(
                        node.id,
                        metrics.records_in,
                        metrics.records_out,
                        metrics.late_records,
                        metrics.skipped_records,
                        (metrics.busy_ns + (0 if number else under_way_ns)) // 1_000_000,
                        mark,
                    )
                )
        return found

    def state_entries(self) -> int:
        """About how many state entries the worker holds."""
        return sum(subtask.backend.size_hint() for subtask in self.subtasks if subtask.backend is not None)

    def on_barrier(self, subtask: Subtask, checkpoint: int) -> None:
        """A subtask is aligned: take its snapshot. Given to subtasks as `Parts.on_barrier`."""
        self.snapshots.add(subtask, checkpoint)

    def close(self) -> None:
        """Close all subtasks."""
        for subtask in self.subtasks:
            subtask.close()

    def _handle_inbox(self) -> bool:
        inbox = self._inbox
        if not inbox:
            return False
        while inbox:
            item = inbox.popleft()
            if isinstance(item, Message):
                self._handle(item)
            else:
                item()
        return True

    def _handle(self, message: Message) -> None:
        if isinstance(message, Start):
            for operator_id in self._sources:
                self._source(operator_id).start()
        elif isinstance(message, AssignSplits):
            source = self._source(message.source)
            # Assigned after the trigger: in the enumerator's snapshot still, so it must not be in ours as well.
            self._sources[message.source].after_barrier(
                lambda: source.assign(message.splits, message.exhausted, message.more)
            )
        elif isinstance(message, Reserved):
            self._source(message.source).reserved(message.positions)
        elif isinstance(message, Prepare):
            for subtask in self.subtasks:
                if subtask.backend is not None:
                    subtask.backend.prepare()
        elif isinstance(message, Trigger):
            self._trigger(message)
        elif isinstance(message, Abort):
            self._abort(message)
        elif isinstance(message, Complete):
            self._complete(message.checkpoint)

    def _source(self, operator_id: str) -> SourceOperator:
        source = self._sources[operator_id].source
        assert source is not None  # noqa: S101
        return source

    def _trigger(self, message: Trigger) -> None:
        self.snapshots.begin(message)
        if message.drain:
            for subtask in self.subtasks:
                subtask.drain(message.checkpoint)
        for operator_id, subtask in self._sources.items():
            self._source(operator_id).stopped = message.stop
            subtask.trigger(message.checkpoint)

    def _abort(self, message: Abort) -> None:
        self.snapshots.abort(message.checkpoint)
        for subtask in self.subtasks:
            subtask.abort(message.checkpoint)
            if subtask.source is not None and message.resume:
                subtask.source.stopped = False

    def _complete(self, checkpoint: int) -> None:
        self.snapshots.complete(checkpoint)
        for subtask in self.subtasks:
            for operator in subtask.operators:
                if isinstance(operator, CommittingOperator):
                    self.commits.submit(operator.commit(checkpoint), lambda op=operator: op.committed(checkpoint))  # type: ignore[misc]
            if subtask.source is not None:
                self.commits.submit(subtask.source.complete(checkpoint), lambda: None)
        self.commits.submit(lambda: None, lambda: self.send(Committed(self.attempt, checkpoint)))

    def _check_end(self) -> None:
        if all(subtask.ended for subtask in self.subtasks):
            self._ended = True
            self.send(Ended(self.attempt))

    def _maintain(self) -> None:
        for subtask in self.subtasks:
            if subtask.backend is not None:
                subtask.backend.maintain()

    def _sleep(self) -> None:
        self._maintain()
        waits = [due for due in (subtask.next_due_ms() for subtask in self.subtasks) if due is not None]
        wait_ms = min(waits, default=IDLE_WAIT_MS)
        self._wake.clear()
        self._sleeping = True
        # Whoever called `wake` since the last look, but before the flag was up, did not set the event.
        if not self._signalled and not self._stopped and wait_ms > 0:
            self._wake.wait(min(wait_ms, IDLE_WAIT_MS) / 1000)
        self._sleeping = False
