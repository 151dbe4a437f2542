"""AtMostOnce: positions are made durable before they are read.

A worker asks before it reads, and reads no further than it was granted; after a failure reading begins where the last
grant ended, so no record is handed to the pipeline twice. All requests of a second share one durable write: an entry of a
second journal, which holds every split's last position, so that its tail alone is enough after a restart.

Positions stay in it as long as the line of checkpoints does: a fall back to an older checkpoint may bring back splits
that had been read to their end, and they must not be read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from checkdam.checkpoint.journal import Journal
from checkdam.coordinator.threads import SerialThread
from checkdam.core.errors import DeposedError, StorageError, UnknownOutcomeError
from checkdam.wire.messages import AttemptId, Message, Reserve, Reserved

_log = logging.getLogger(__name__)

RESERVATION_PERIOD_S: Final = 1.0
"""At most one durable write in so long."""

_RETRY_PAUSE_S: Final = 1.0


@dataclass(frozen=True)
class _Request:
    index: int
    message: Reserve


class Reservations:
    """The reservations of a job.

    Args:
        journal: Of their own.
        thread: Where their storage work is done.
        send: Queues a message to a worker of the attempt, if that is still the running one.
        period_s: At most one write in so long.
    """

    def __init__(
        self,
        journal: Journal,
        thread: SerialThread,
        send: Callable[[AttemptId, int, Message], None],
        period_s: float = RESERVATION_PERIOD_S,
    ) -> None:
        self._journal = journal
        self._thread = thread
        self._send = send
        self._period_s = period_s
        self._durable: dict[str, dict[str, Any]] = {}
        self._waiting: list[_Request] = []
        self._arrived = asyncio.Event()

    @property
    def positions(self) -> dict[str, dict[str, Any]]:
        """source id → split id → where reading starts after a failure."""
        return self._durable

    async def take_over(self, *, void: bool) -> None:
        """Fence the reservations and read them; call after the job's journal was fenced.

        Args:
            void: None of them counts: nothing was read yet, or the job goes on from where it had stopped cleanly.

        Raises:
            DeposedError, StorageError: As `Journal.fence`.
        """
        fence = await self._thread.run(self._journal.fence, void)
        self._durable = fence.data or {}

    def request(self, index: int, message: Reserve) -> None:
        """Worker `index` wants to read; it hears `Reserved` when it may."""
        self._waiting.append(_Request(index, message))
        self._arrived.set()

    async def run(self) -> None:
        """Write what is requested, for ever.

        Raises:
            DeposedError: Another coordinator owns the job.
        """
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            requests, self._waiting = self._waiting, []
            await self._write(requests)
            await asyncio.sleep(self._period_s)

    async def _write(self, requests: list[_Request]) -> None:
        merged = {source: dict(positions) for source, positions in self._durable.items()}
        for request in requests:
            merged.setdefault(request.message.source, {}).update(request.message.positions)
        while True:
            try:
                await self._thread.run(self._append, merged)
                break
            except StorageError as error:
                _log.warning("reading waits until its positions can be reserved: %s", error)
                await asyncio.sleep(_RETRY_PAUSE_S)
        self._durable = merged
        for request in requests:
            message = request.message
            self._send(message.attempt, request.index, Reserved(message.attempt, message.source, message.positions))

    def _append(self, positions: dict[str, dict[str, Any]]) -> None:
        if self._journal.unsettled and self._journal.settle().data == positions:
            return
        try:
            self._journal.append("reserve", data=positions)
        except UnknownOutcomeError:
            if self._journal.settle().data != positions:
                raise

    def prune(self) -> None:
        """Delete entries that nobody needs any more, in the background; what fails is tried again at the next call."""
        self._thread.run(self._prune)

    def _prune(self) -> None:
        try:
            self._journal.prune()
        except (StorageError, DeposedError) as error:
            # If we are deposed, the next write says so to whom it concerns.
            _log.warning("cleaning up reservations has to wait: %s", error)


__all__ = ["RESERVATION_PERIOD_S", "Reservations"]
