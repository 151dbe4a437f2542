"""Which job is looked at next.

The queue holds keys, not events: however much happens to a job, it is looked at once more, and never by two at once. Keys come out in the order in which
they became ready. What fails is tried again after a time that doubles, and events do not shorten that time below a second, so an error that makes events
of its own does not spin. Jobs in trouble, whose last turn failed or took long (most often because something does not answer), get at most a part of the
workers, so however many they are, the others do not wait for them.

It is plain bookkeeping over a clock that it is given; `checkdam_operator.workers` runs it.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class QueueLimits:
    """How the queue treats jobs in trouble.

    Attributes:
        first_backoff_s: Wait after the first failure; it doubles with each further one.
        longest_backoff_s: The longest wait. It is also how late a job may be noticed that its trouble is over, if nothing else tells.
        event_gap_s: How long after a failure an event is not listened to.
        slow_turn_s: A turn that took longer puts its job among those in trouble.
        troubled_share: The part of the workers that jobs in trouble may occupy; at least one worker.
    """

    first_backoff_s: float = 0.25
    longest_backoff_s: float = 30.0
    event_gap_s: float = 1.0
    slow_turn_s: float = 5.0
    troubled_share: float = 0.5

    def backoff_s(self, failures: int) -> float:
        """The wait after so many failures in a row."""
        return min(self.longest_backoff_s, self.first_backoff_s * 2.0 ** min(failures - 1, 32))


class WorkQueue(Generic[K]):
    """Keys that are to be looked at, now or later.

    Args:
        workers: How many turns there may be at once.
        limits: How it treats jobs in trouble.
        clock: Monotonic seconds.
    """

    def __init__(
        self, workers: int = 1, limits: QueueLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or QueueLimits()
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever a key may have become ready earlier than `next_due_in_s` said before."""
        self._clock = clock
        self._workers = workers
        self._troubled_limit = max(1, int(workers * self.limits.troubled_share))
        self._ready: dict[K, float] = {}
        self._ready_troubled: dict[K, float] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._ties = itertools.count()
        self._working: dict[K, tuple[float, bool]] = {}
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._not_before: dict[K, float] = {}
        self._slow: set[K] = set()

    def add(self, key: K) -> None:
        """Have a key looked at as soon as may be; once, however often it is added before its turn."""
        now = self._clock()
        if key in self._working:
            self._again.setdefault(key, now)
        elif now < self._not_before.get(key, now):
            self.add_after(key, self._not_before[key] - now)
        else:
            self._make_ready(key, now)
            self.on_change()

    def add_after(self, key: K, delay_s: float) -> None:
        """Have a key looked at after a while, or earlier if that was asked for; a turn forgets what was asked for before it."""
        if key in self._ready or key in self._ready_troubled:
            return
        at = self._clock() + max(0.0, delay_s)
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            heapq.heappush(self._heap, (at, next(self._ties), key))
            self.on_change()

    def take(self) -> K | None:
        """The key whose turn it is, if there is one and a worker for it; `done` must follow."""
        self._promote()
        if len(self._working) >= self._workers:
            return None
        troubled = sum(1 for _, was_troubled in self._working.values() if was_troubled)
        lanes = [self._ready] if troubled >= self._troubled_limit else [self._ready, self._ready_troubled]
        heads = [(next(iter(lane.values())), number) for number, lane in enumerate(lanes) if lane]
        if not heads:
            return None
        lane = lanes[min(heads)[1]]
        key = next(iter(lane))
        del lane[key]
        self._due.pop(key, None)
        self._working[key] = (self._clock(), lane is self._ready_troubled)
        return key

    def done(self, key: K, *, failed: bool = False, again_after_s: float | None = None) -> None:
        """The turn of a key is over.

        Args:
            key: The one that `take` gave.
            failed: Try again after the backoff.
            again_after_s: After a success, when to look again though nothing happens; `None` for never.
        """
        now = self._clock()
        started, _ = self._working.pop(key)
        if now - started >= self.limits.slow_turn_s:
            self._slow.add(key)
        else:
            self._slow.discard(key)
        if failed:
            self._failures[key] = self._failures.get(key, 0) + 1
            again_after_s = self.limits.backoff_s(self._failures[key])
            self._not_before[key] = now + min(again_after_s, self.limits.event_gap_s)
        else:
            self._failures.pop(key, None)
            self._not_before.pop(key, None)
        if again_after_s is not None:
            self.add_after(key, again_after_s)
        if self._again.pop(key, None) is not None:
            self.add(key)
        self.on_change()

    def next_due_in_s(self) -> float | None:
        """How long until a delayed key becomes ready; `None` if there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    def failures(self, key: K) -> int:
        """How many turns of a key have failed in a row."""
        return self._failures.get(key, 0)

    @property
    def depth(self) -> int:
        """How many keys are ready and wait for a worker."""
        self._promote()
        return len(self._ready) + len(self._ready_troubled)

    @property
    def delayed(self) -> int:
        """How many keys are to be looked at later."""
        return len(self._due)

    @property
    def working(self) -> int:
        """How many turns are under way."""
        return len(self._working)

    def head_age_s(self) -> float:
        """How long the oldest ready key of those not in trouble has waited for a worker; 0 if none waits.

        Jobs in trouble do not count: that they wait is meant, and no reason to start the operator again.
        """
        self._promote()
        return self._clock() - next(iter(self._ready.values())) if self._ready else 0.0

    def _promote(self) -> None:
        now = self._clock()
        while (wait := self.next_due_in_s()) is not None and wait <= 0.0:
            at, _, key = heapq.heappop(self._heap)
            del self._due[key]
            if key in self._working:
                self._again.setdefault(key, at)
            else:
                self._make_ready(key, min(at, now))

    def _make_ready(self, key: K, since: float) -> None:
        if key in self._ready or key in self._ready_troubled:
            return
        in_trouble = key in self._failures or key in self._slow
        (self._ready_troubled if in_trouble else self._ready)[key] = since
