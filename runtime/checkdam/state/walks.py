"""Walking over a whole table in small steps, again and again, with pauses.

Expired entries are invisible at once, but somebody has to remove them. A walk is a generator that yields after every
bounded step; the task loop's `maintain` asks for one step at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from checkdam.core.clock import Clock

_MIN_PAUSE_MS: Final = 1_000


class PacedWalk:
    """A walk that starts anew at most once in a while.

    Args:
        clock: Processing time.
        pause_ms: Least time between the starts of two walks, at least a second.
        start: Begins a walk.
    """

    def __init__(self, clock: Clock, pause_ms: int, start: Callable[[], Iterator[None]]) -> None:
        self._clock = clock
        self._pause_ms = max(pause_ms, _MIN_PAUSE_MS)
        self._start = start
        self._walk: Iterator[None] | None = None
        self._next_start_ms = clock.now_ms()

    def step(self) -> None:
        """Take one step, or begin a walk if one is due, or do nothing."""
        if self._walk is not None:
            if next(self._walk, self) is self:
                self._walk = None
        elif self._clock.now_ms() >= self._next_start_ms:
            self._next_start_ms = self._clock.now_ms() + self._pause_ms
            self._walk = self._start()
