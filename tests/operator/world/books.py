"""What a coordinator shows to those who wait for news: a version that rises with every change, and the savepoints that were asked for."""

from __future__ import annotations

import asyncio
from typing import Any

from world.loop import VirtualLoop


class Books:
    """The books of one life of a coordinator.

    Args:
        loop: For times and waiting.

    Attributes:
        version: Rises with every change, also from one coordinator to the next.
        savepoints: Request → its account, as in the API.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.version = loop.now_ms()
        self.savepoints: dict[str, dict[str, Any]] = {}
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []

    def changed(self) -> None:
        """Something is another now."""
        self.version += 1
        self.wake()

    def wake(self) -> None:
        """Whoever waits is to look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout_s: float) -> None:
        """Wait until woken, for at most so long."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass

    def add(self, request: str, *, stop: bool) -> None:
        """A savepoint was asked for."""
        self.savepoints[request] = {
            "request": request,
            "stop": stop,
            "status": "IN_PROGRESS",
            "requestedMs": self._loop.now_ms(),
            "uri": "",
            "drain": False,
        }

    def end(self, request: str, **fields: Any) -> None:
        """It has completed or failed."""
        record = self.savepoints[request]
        record |= fields | {"durationMs": self._loop.now_ms() - record["requestedMs"]}
        self.wake()

    def fail_all(self, reason: str) -> None:
        """Those that are under way come to nothing."""
        for request, record in self.savepoints.items():
            if record["status"] == "IN_PROGRESS":
                self.end(request, status="FAILED", failure=reason)
