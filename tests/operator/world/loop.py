"""An event loop whose time is virtual: when nothing is left to do now, its clock jumps to what is due next."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_MS = 1_800_000_000_000
"""The wall clock when a world begins, in ms since the epoch."""


class StandstillError(Exception):
    """Everybody waits, and nothing is due."""


class _NoFiles:
    """In place of a selector: there are no files, and waiting costs no time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise StandstillError("everybody waits, and nothing is due")
        self._loop.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks and timers in their order, without files, signals or threads.

    Attributes:
        now_s: Virtual seconds since the beginning.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__()
        self._selector = _NoFiles(self)

    def time(self) -> float:
        return self.now_s

    def now_ms(self) -> int:
        """The wall clock, in ms since the epoch."""
        return START_MS + round(self.now_s * 1000)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run_virtual(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run `main` to its end, cancel what it has left behind, and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(_ended(left))
        loop.close()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
