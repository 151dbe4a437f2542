"""The two clocks of a job, behind one small interface so that tests can move them.

Processing time is what users' timers and windows see: it is stored in snapshots and never goes back, not even when the
machine's clock does. Intervals, heartbeats and timeouts use the monotonic clock, which no administrator can set.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the runtime reads time."""

    def now_ms(self) -> int:
        """Processing time: ms since the epoch, never less than a value returned before."""
        ...

    def monotonic_ms(self) -> int:
        """A monotonic reading in ms, for differences only."""
        ...

    def advance_to(self, now_ms: int) -> None:
        """Make `now_ms()` return at least `now_ms` from now on: called with the stored time on restore."""
        ...


class SystemClock:
    """The machine's clocks, with processing time held to max(previous, wall clock)."""

    def __init__(self) -> None:
        self._last_ms = 0

    def now_ms(self) -> int:
        wall_ms = time.time_ns() // 1_000_000
        if wall_ms > self._last_ms:
            self._last_ms = wall_ms
        return self._last_ms

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def advance_to(self, now_ms: int) -> None:
        self._last_ms = max(self._last_ms, now_ms)


class ManualClock:
    """A clock that stands still until a test moves it.

    Args:
        now_ms: The processing time to start from.
    """

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def advance_to(self, now_ms: int) -> None:
        self._now_ms = max(self._now_ms, now_ms)

    def advance(self, by_ms: int) -> None:
        """Let `by_ms` pass on both clocks."""
        self._now_ms += by_ms
        self._monotonic_ms += by_ms
