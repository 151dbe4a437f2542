"""One attempt: a deployment of all subtasks, from `Deploy` to its end.

::

    Deploy to each → Listening from all → Peers to all → Ready from all → Start to all → … → Ended from all

An attempt is told what workers say and what became of their connections, sends what follows, and ends exactly once: its
`over` is set to why. It knows neither storage nor restarts; `job.py` starts one after another.

When one process fails, its peers see broken connections, and their word of it may come first. Such a consequence is
held back for a moment, and workers are not told to drop the attempt yet: the process that knows the cause gets to say it.
Whoever has said why it fails ends thereupon, so its end is no news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.core import faultpoints
from checkdam.wire.messages import (
    AttemptId,
    Committed,
    Deploy,
    Ended,
    Failed,
    Listening,
    Message,
    Peers,
    Ready,
    Start,
)

ROOT_CAUSE_PATIENCE_S: Final = 0.3
"""How long a failure that is a consequence waits for its cause."""


class Phase(StrEnum):
    """How far an attempt has come."""

    DEPLOYING = "DEPLOYING"
    """Task processes start and build the graph."""

    RESTORING = "RESTORING"
    """They connect to each other, restore state, and commit what the checkpoint held."""

    RUNNING = "RUNNING"
    """They read."""

    FINISHING = "FINISHING"
    """All input has ended."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        kind: As in `Failed`; also `lost` (a worker's connection ended), `checkpoint` (too many failed) and `timeout` (not all
            workers were ready in time).
        error: For people; holds the user's traceback where user code raised.
        worker: Index of the worker that said so, or was lost; `None` if it was none.
        phase: How far the attempt had come.
    """

    kind: str
    error: str
    worker: int | None
    phase: Phase

    @property
    def is_consequence(self) -> bool:
        """Whether something else must have failed before."""
        return self.kind == "peer"


@dataclass(frozen=True)
class Finished:
    """All input has ended, and everything is committed and journalled."""


@dataclass(frozen=True)
class Stopped:
    """Somebody asked for it.

    Attributes:
        checkpoint: The last checkpoint, taken for the stop; `None` if there was to be none, or it failed.
        problem: What did not go as asked; empty if all did.
    """

    checkpoint: int | None
    problem: str = ""


@dataclass(frozen=True)
class Left:
    """Somebody who takes part leaves, and another attempt follows."""


@dataclass(frozen=True)
class GaveWay:
    """Another attempt follows at once, with another number of workers."""


AttemptEnd = Failure | Finished | Stopped | Left | GaveWay


class Attempt:
    """The life of one attempt, told by messages.

    Args:
        attempt: Its id.
        parallelism: How many workers it has.
        fingerprint: Of the coordinator's own graph; those of all workers must equal it.
        send: Queues a message to a worker.
        on_ready: All workers are ready and have been told to start.
        on_change: Something that a waiter may want to look at has happened: input ended, sinks committed.
        on_failing: The attempt has failed, though perhaps not ended yet: begin nothing more.
    """

    def __init__(
        self,
        attempt: AttemptId,
        parallelism: int,
        fingerprint: str,
        *,
        send: Callable[[int, Message], None],
        on_ready: Callable[[], None],
        on_change: Callable[[], None],
        on_failing: Callable[[], None],
    ) -> None:
        self.id = attempt
        self.parallelism = parallelism
        self.phase = Phase.DEPLOYING
        self.over: asyncio.Future[AttemptEnd] = asyncio.get_running_loop().create_future()
        self.restored_bytes = 0
        self.fetched_bytes = 0
        self.pids: dict[int, int] = {}
        self._fingerprint = fingerprint
        self._send = send
        self._on_ready = on_ready
        self._on_change = on_change
        self._on_failing = on_failing
        self._listening: dict[int, tuple[str, int]] = {}
        self._ready: set[int] = set()
        self._ended: set[int] = set()
        self._committed: dict[int, int] = {}
        self._failure: Failure | None = None
        self._reasons_given: set[int] = set()

    @property
    def failing(self) -> bool:
        """Whether it has failed or is over."""
        return self._failure is not None or self.over.done()

    @property
    def not_ready(self) -> list[int]:
        """The workers that have not said that they are ready."""
        return sorted(set(range(self.parallelism)) - self._ready)

    @property
    def all_ended(self) -> bool:
        """Whether all input has ended and is drained, in every worker."""
        return len(self._ended) == self.parallelism

    def committed_by_all(self) -> int:
        """The checkpoint up to which the sinks of all workers have committed; −1 for none."""
        return min((self._committed.get(index, -1) for index in range(self.parallelism)), default=-1)

    def broadcast(self, message: Message) -> None:
        """Queue `message` to every worker."""
        for index in range(self.parallelism):
            self._send(index, message)

    def deploy(self, restores: Sequence[CheckpointManifest]) -> None:
        """Send every worker its part of the checkpoint to start from."""
        for index, restore in enumerate(restores):
            self._send(index, Deploy(self.id, index, self.parallelism, restore))
        faultpoints.hit("deploying")

    def on_message(self, index: int, message: Listening | Ready | Ended | Committed | Failed) -> None:
        """Worker `index` has said something about this attempt."""
        if self.over.done():
            return
        match message:
            case Failed():
                if message.kind == "process" and index in self._reasons_given:
                    return
                self._reasons_given.add(index)
                self.fail(message.kind, message.error, index)
            case Listening():
                self._heard_listening(index, message)
            case Ready():
                self._heard_ready(index, message)
            case Ended():
                self._ended.add(index)
                if self.all_ended and self.phase is Phase.RUNNING:
                    self.phase = Phase.FINISHING
                self._on_change()
            case Committed():
                self._committed[index] = max(message.checkpoint, self._committed.get(index, -1))
                self._on_change()

    def worker_lost(self, index: int, reason: str) -> None:
        """The connection of worker `index` has ended; without effect if it takes no part."""
        if index < self.parallelism:
            self.fail("lost", f"worker {index} was lost: {reason}", index)

    def fail(self, kind: str, error: str, worker: int | None = None) -> None:
        """The attempt fails; the first cause counts, and anything else only until a cause is known."""
        if self.over.done():
            return
        failure = Failure(kind, error, worker, self.phase)
        if self._failure is None:
            self._failure = failure
            self._on_failing()
            if failure.is_consequence:
                asyncio.get_running_loop().call_later(ROOT_CAUSE_PATIENCE_S, self._settle)
        elif self._failure.is_consequence and not failure.is_consequence:
            self._failure = failure
        if not failure.is_consequence:
            self._settle()

    def end(self, end: Finished | Stopped | Left | GaveWay) -> None:
        """The attempt is over without a failure, unless it has failed meanwhile."""
        if not self.failing:
            self.over.set_result(end)

    def _settle(self) -> None:
        if self._failure is not None and not self.over.done():
            self.over.set_result(self._failure)

    def _heard_listening(self, index: int, message: Listening) -> None:
        if message.fingerprint != self._fingerprint:
            self.fail(
                "fatal",
                f"worker {index} built another graph than the coordinator (fingerprint {message.fingerprint} instead of "
                f"{self._fingerprint}); the build function must give the same graph in every process, from the same code and "
                "the same args",
                index,
            )
            return
        self.pids[index] = message.pid
        self._listening[index] = (message.host, message.port)
        if len(self._listening) == self.parallelism and self.phase is Phase.DEPLOYING:
            self.phase = Phase.RESTORING
            self.broadcast(Peers(self.id, [self._listening[at] for at in range(self.parallelism)]))

    def _heard_ready(self, index: int, message: Ready) -> None:
        if index not in self._ready:
            self._ready.add(index)
            self.restored_bytes += message.restored_bytes
            self.fetched_bytes += message.fetched_bytes
        if len(self._ready) == self.parallelism and self.phase is Phase.RESTORING and not self.failing:
            self.phase = Phase.RUNNING
            self.broadcast(Start(self.id))
            self._on_ready()


__all__ = [
    "ROOT_CAUSE_PATIENCE_S",
    "Attempt",
    "AttemptEnd",
    "Failure",
    "Finished",
    "GaveWay",
    "Left",
    "Phase",
    "Stopped",
]
