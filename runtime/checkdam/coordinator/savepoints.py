"""The savepoints that were asked for in this epoch: what each is to be, and what has become of it.

A savepoint is asked for under a name of the client's choice, so asking again, because an answer was lost, takes no second
one. The books are the coordinator's memory: its successor knows nothing of them, but a savepoint that has completed lies in
storage whatever happens. `flow.py` takes savepoints, `http.py` answers about them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from checkdam.coordinator.checkpoints import CheckpointStatus

SAVEPOINTS_REMEMBERED: Final = 100
"""How many savepoints that have ended the API remembers."""


class SavepointRecord(msgspec.Struct, rename="camel"):
    """One savepoint, as the API shows it.

    Attributes:
        request: The name under which it was asked for.
        stop: Whether the job stops with it.
        drain: Whether all event time passes before it.
        requested_ms: Wall clock.
        status: IN_PROGRESS, COMPLETED or FAILED.
        id: Its number, of the same sequence as checkpoints'; `None` before its trigger.
        uri: Where it is, once it has completed; empty before.
        size_bytes: Of all its files, once it has completed.
        duration_ms: From the request to the end; `None` while in progress.
        failure: Why it failed; empty otherwise.
    """

    request: str
    stop: bool
    drain: bool
    requested_ms: int
    status: CheckpointStatus = "IN_PROGRESS"
    id: int | None = None
    uri: str = ""
    size_bytes: int = 0
    duration_ms: int | None = None
    failure: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has completed or failed."""
        return self.status != "IN_PROGRESS"


class Savepoints:
    """The savepoints of one epoch, in the order of the requests."""

    def __init__(self) -> None:
        self._records: dict[str, SavepointRecord] = {}
        self._changed = asyncio.Event()

    def all(self) -> list[SavepointRecord]:
        """Those that are remembered, oldest first."""
        return list(self._records.values())

    def find(self, request: str) -> SavepointRecord | None:
        """The one that was asked for as `request`, if it is remembered."""
        return self._records.get(request)

    def add(self, record: SavepointRecord) -> None:
        """Remember another one, and forget the oldest that have ended where there are too many."""
        self._records[record.request] = record
        ended = [known.request for known in self.all() if known.ended]
        for request in ended[: max(0, len(ended) - SAVEPOINTS_REMEMBERED)]:
            del self._records[request]

    def complete(self, record: SavepointRecord, uri: str, size_bytes: int, now_ms: int) -> None:
        """`record` lies at `uri`, whole; `now_ms` by the wall clock."""
        record.status, record.uri, record.size_bytes = "COMPLETED", uri, size_bytes
        self._end(record, now_ms)

    def fail(self, record: SavepointRecord, reason: str, now_ms: int) -> None:
        """`record` came to nothing, for `reason`; without effect once it has ended. `now_ms` by the wall clock."""
        if not record.ended:
            record.status, record.failure = "FAILED", reason
            self._end(record, now_ms)

    def fail_all(self, reason: str, now_ms: int) -> None:
        """Those that are in progress come to nothing, for `reason`."""
        for record in self.all():
            self.fail(record, reason, now_ms)

    async def wait_ended(self, record: SavepointRecord, timeout_s: float) -> None:
        """Wait until `record` has ended, for at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not record.ended:
                    await self._changed.wait()
        except TimeoutError:
            pass

    def _end(self, record: SavepointRecord, now_ms: int) -> None:
        record.duration_ms = max(0, now_ms - record.requested_ms)
        # Whoever waits looks again, and waits for the next change with the new event.
        self._changed.set()
        self._changed = asyncio.Event()


__all__ = ["SAVEPOINTS_REMEMBERED", "SavepointRecord", "Savepoints"]
