"""Time that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

_SETTLE_ROUNDS = 50


class ManualTime:
    """A monotonic clock and a sleep that belong together."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self._ties = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    @property
    def waiting(self) -> int:
        """How many sleep."""
        return len(self._sleepers)

    async def sleep(self, duration_s: float) -> None:
        """Wait until the test has moved time so far."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + duration_s, next(self._ties), waiting))
        await waiting

    async def advance(self, duration_s: float) -> None:
        """Move time, waking sleepers in their order, each of them at its own moment."""
        until = self.now + duration_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, waiting = heapq.heappop(self._sleepers)
            self.now = max(self.now, at)
            if not waiting.done():
                waiting.set_result(None)
            await settle()
        self.now = until
        await settle()


async def settle() -> None:
    """Let tasks go on until they wait for something else than one another."""
    for _ in range(_SETTLE_ROUNDS):
        await asyncio.sleep(0)
