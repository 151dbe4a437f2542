"""Firing timers in the order of time while the functions that fire register and delete others.

The backend hands timers out in portions of a few thousand, so that the state of their keys is loaded together. What a
function does to timers meanwhile must look as if they had been taken one by one: a timer of the portion that is deleted
does not fire, one that is registered again is still one timer, and one that is registered for a time before the end of
the portion fires in its turn. Only such timers are handled here; all others go straight to the backend.
"""

from __future__ import annotations

import heapq
from typing import Final

from checkdam.state.base import Key, Timers

PORTION: Final = 4096
"""How many timers are taken from the backend at a time."""

_NOT_FIRING: Final = -(2**70)


class OrderedTimers:
    """One operator's timers in one time domain; a `TimerRegistry` for contexts.

    Args:
        timers: The backend's timers; namespaces are not used.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._portion: list[tuple[int, Key, int]] = []
        self._next = 0
        self._horizon_ms = _NOT_FIRING
        self._positions: dict[tuple[int, Key], int] | None = None
        self._cancelled: set[int] = set()
        self._early: list[tuple[int, int, Key]] = []
        self._early_live: dict[tuple[int, Key], int] = {}
        self._early_count = 0

    def register(self, time_ms: int, key: Key) -> None:
        """Fire once at `time_ms` for `key`."""
        if time_ms > self._horizon_ms or not self._register_in_portion(time_ms, key):
            self._timers.register(time_ms, key)

    def delete(self, time_ms: int, key: Key) -> None:
        """Do not fire at `time_ms` for `key`."""
        if time_ms > self._horizon_ms or not self._delete_in_portion(time_ms, key):
            self._timers.delete(time_ms, key)

    def next_time(self) -> int | None:
        """The earliest time that is registered, or one before it; `None` if there is none."""
        return self._timers.next_time()

    def begin(self, up_to_ms: int) -> set[Key]:
        """Take a portion of the timers with time ≤ `up_to_ms`; its keys, none when all have fired."""
        next_ms = self._timers.next_time()
        if next_ms is None or next_ms > up_to_ms:
            return set()
        portion = self._timers.pop_due(up_to_ms, PORTION)
        if portion:
            self._portion, self._next = portion, 0
            self._horizon_ms = portion[-1][0]
        return {key for _, key, _ in portion}

    def take(self) -> tuple[int, Key] | None:
        """The next timer of the portion, as (time, key); `None` when it is used up: then `begin` the next."""
        portion, cancelled = self._portion, self._cancelled
        while self._next < len(portion):
            if self._early:
                early = self._take_early(portion[self._next][0])
                if early is not None:
                    return early
            position = self._next
            self._next = position + 1
            if not cancelled or position not in cancelled:
                time_ms, key, _ = portion[position]
                return time_ms, key
        early = self._take_early(self._horizon_ms)
        if early is None:
            self._finish()
        return early

    def _take_early(self, before_ms: int) -> tuple[int, Key] | None:
        while self._early and self._early[0][0] < before_ms:
            time_ms, number, key = heapq.heappop(self._early)
            if self._early_live.get((time_ms, key)) == number:
                del self._early_live[time_ms, key]
                return time_ms, key
        return None

    def _finish(self) -> None:
        self._portion, self._next, self._horizon_ms = [], 0, _NOT_FIRING
        self._positions = None
        self._cancelled.clear()
        self._early.clear()
        self._early_live.clear()

    def _position(self, time_ms: int, key: Key) -> int:
        """Where in the portion the timer still waits; -1 if it does not."""
        if self._positions is None:
            self._positions = {(at, of): position for position, (at, of, _) in enumerate(self._portion)}
        position = self._positions.get((time_ms, key), -1)
        return position if position >= self._next else -1

    def _register_in_portion(self, time_ms: int, key: Key) -> bool:
        position = self._position(time_ms, key)
        if position >= 0:
            self._cancelled.discard(position)
            return True
        if time_ms == self._horizon_ms:
            return False
        if (time_ms, key) not in self._early_live:
            self._early_count += 1
            self._early_live[time_ms, key] = self._early_count
            heapq.heappush(self._early, (time_ms, self._early_count, key))
        return True

    def _delete_in_portion(self, time_ms: int, key: Key) -> bool:
        position = self._position(time_ms, key)
        if position >= 0:
            self._cancelled.add(position)
            return True
        return self._early_live.pop((time_ms, key), None) is not None
