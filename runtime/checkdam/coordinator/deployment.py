"""One attempt with all that belongs to it: what it saves, what it reads, who is told what.

`Attempt` is its life as messages tell it, `CheckpointFlow` its checkpoints, `SplitAssigner` its splits; the latter two
exist from the moment when all workers are ready. A deployment is made for one attempt and thrown away with it, so
nothing of an attempt can leak into the next; what outlives it is handed in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.coordinator.adoption import without_committables
from checkdam.coordinator.attempt import Attempt, AttemptEnd, Finished, GaveWay, Left, Phase, Stopped
from checkdam.coordinator.board import Board
from checkdam.coordinator.bootstrap import JobGraph
from checkdam.coordinator.checkpoints import CheckpointTracker
from checkdam.coordinator.flow import CheckpointFlow
from checkdam.coordinator.increments import Increments
from checkdam.coordinator.records import Records
from checkdam.coordinator.redistribution import redistribute, splits_of
from checkdam.coordinator.reservations import Reservations
from checkdam.coordinator.savepoints import SavepointRecord, Savepoints
from checkdam.coordinator.splits import Enumerator, SplitAssigner
from checkdam.core.clock import Clock
from checkdam.core.durations import format_ms
from checkdam.wire.messages import (
    Ack,
    AttemptId,
    Decline,
    Drop,
    FinishedSplits,
    Hello,
    Leaving,
    Message,
    Pong,
    RequestSplits,
    Reserve,
    Stats,
    ToCoordinator,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lasting:
    """What outlives an attempt.

    Attributes:
        plan: The job and its graph.
        records: The job's records.
        tracker: The books on checkpoints.
        savepoints: The books on savepoints.
        enumerators: By source id.
        reservations: Of AtMostOnce.
        board: What people see.
        clock: Wall and monotonic time.
    """

    plan: JobGraph
    records: Records
    tracker: CheckpointTracker
    savepoints: Savepoints
    enumerators: dict[str, Enumerator]
    reservations: Reservations | None
    board: Board
    clock: Clock


class Deployment:
    """An attempt and what belongs to it.

    Args:
        attempt: Its id.
        parallelism: How many workers it has.
        lasting: What outlives it.
        send: Queues a message to a worker.
        watch: Is given the task that takes checkpoints, to end the job if it breaks.
        on_stop_failed: A stop did not succeed, for the reason given, and reading goes on.
    """

    def __init__(
        self,
        attempt: AttemptId,
        parallelism: int,
        lasting: Lasting,
        *,
        send: Callable[[int, Message], None],
        watch: Callable[[asyncio.Task[None]], None],
        on_stop_failed: Callable[[str], None],
    ) -> None:
        self._lasting = lasting
        self._send = send
        self._watch = watch
        self._on_stop_failed = on_stop_failed
        self._flow: CheckpointFlow | None = None
        self._assigner: SplitAssigner | None = None
        self._stop_when_running: bool | None = None
        self._parts: list[list[SubtaskSnapshot]] = []
        self.attempt = Attempt(
            attempt,
            parallelism,
            lasting.plan.fingerprint,
            send=send,
            on_ready=self._on_ready,
            on_change=self._on_change,
            on_failing=self.halt,
        )

    @property
    def running(self) -> bool:
        """Whether workers read, or have read all there is."""
        return self._flow is not None and not self.attempt.failing

    @property
    def before_reading(self) -> bool:
        """Whether it has not come to reading, and will not any more if it has failed."""
        return self.attempt.phase in (Phase.DEPLOYING, Phase.RESTORING)

    @property
    def journalled_stop(self) -> int | None:
        """The checkpoint that it journalled as `stopped`."""
        return self._flow.journalled_stop if self._flow is not None else None

    @property
    def journalled_finish(self) -> bool:
        """Whether it journalled `finished`."""
        return self._flow is not None and self._flow.journalled_finish

    async def live(self) -> AttemptEnd:
        """Deploy, and run to the end, until what was begun in storage is settled too.

        Raises:
            DeposedError: Another coordinator owns the job.
        """
        lasting, attempt = self._lasting, self.attempt
        base = lasting.records.base
        assert base is not None  # noqa: S101 - a job has a checkpoint before it has an attempt
        if lasting.records.notes.committed >= base.id:
            base = without_committables(base)
        lasting.board.attempt_begins(attempt, base)
        for source_id, enumerator in lasting.enumerators.items():
            enumerator.restore(base.sources.get(source_id, SourceSnapshot()))
        timeout_ms = lasting.plan.job.spec.runtime.deploy_timeout_ms
        overdue = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._overdue, timeout_ms)
        try:
            self._parts = redistribute(base, lasting.plan.graph, attempt.parallelism)
            attempt.deploy(
                [msgspec.structs.replace(base, subtasks=part, sources=self._reservations()) for part in self._parts]
            )
            end = await attempt.over
        finally:
            overdue.cancel()
        if not isinstance(end, Finished):
            attempt.broadcast(Drop(attempt.id))
        if self._flow is not None:
            await self._flow.settled()
        lasting.board.attempt_ends(end)
        return end

    def halt(self) -> None:
        """Begin nothing more."""
        if self._flow is not None:
            self._flow.halt()

    def request_checkpoint(self, *, full: bool = False) -> int:
        """Take a checkpoint as soon as that is allowed; returns its number. Only while `running`."""
        assert self._flow is not None  # noqa: S101 - by contract
        return self._flow.request(full=full)

    def request_stop(self, *, insist: bool) -> None:
        """Stop with a last checkpoint, as soon as it runs; see `CheckpointFlow.request_stop`."""
        self._stop_when_running = insist
        if self._flow is not None:
            self._flow.request_stop(insist=insist)

    def request_savepoint(self, savepoint: SavepointRecord) -> None:
        """Take a savepoint; see `CheckpointFlow.request_savepoint`. Only while `running`."""
        assert self._flow is not None  # noqa: S101 - by contract
        self._flow.request_savepoint(savepoint)

    def stop_now(self) -> None:
        """Stop without a checkpoint."""
        self.attempt.end(Stopped(None))

    def request_leave(self) -> None:
        """End the attempt for somebody who leaves: after an ordinary checkpoint if it runs, at once otherwise."""
        if self._flow is not None:
            self._flow.request_leave()
        else:
            self.attempt.end(Left())

    def request_rescale(self) -> None:
        """End the attempt for one with another number of workers: after an ordinary checkpoint if it runs, at once otherwise."""
        if self._flow is not None:
            self._flow.request_rescale()
        else:
            self.attempt.end(GaveWay())

    def discovered(self, source_id: str) -> None:
        """The enumerator of a source has found new splits."""
        if self._assigner is not None and not self.attempt.failing:
            self._assigner.discovered(source_id)

    def handle(self, index: int, message: ToCoordinator) -> None:
        """Worker `index` has said something; what is of another attempt is ignored."""
        if isinstance(message, Hello | Pong | Leaving) or message.attempt != self.attempt.id:
            return
        flow, assigner, reservations = self._flow, self._assigner, self._lasting.reservations
        match message:
            case Stats():
                self._lasting.board.on_stats(index, message)
            case RequestSplits():
                if assigner is not None:
                    assigner.requested(index, message.source)
            case FinishedSplits():
                if assigner is not None:
                    assigner.finished(index, message.source, message.splits)
            case Reserve():
                if reservations is not None:
                    reservations.request(index, message)
            case Ack():
                if flow is not None:
                    flow.on_ack(index, message)
            case Decline():
                if flow is not None:
                    flow.on_decline(index, message)
            case _:
                self.attempt.on_message(index, message)

    def _overdue(self, timeout_ms: int) -> None:
        """A worker may answer heartbeats and never get ready: whatever it waits for, another attempt may not have to."""
        if self.before_reading:
            self.attempt.fail(
                "timeout",
                f"the workers {self.attempt.not_ready} were not ready within {format_ms(timeout_ms)}; if they were still reading "
                "their state, set `spec.runtime.deployTimeout` to more",
            )

    def _on_ready(self) -> None:
        """All workers have been told to start: splits and checkpoints follow."""
        lasting, attempt = self._lasting, self.attempt
        checkpoint = lasting.plan.job.spec.checkpoint
        lasting.board.attempt_runs()
        _log.info("attempt %s runs", attempt.id)
        held = {source_id: [splits_of(part, source_id) for part in self._parts] for source_id in lasting.enumerators}
        self._assigner = SplitAssigner(attempt.id, held, lasting.enumerators, self._send, self._reserved())
        self._assigner.start()
        self._flow = CheckpointFlow(
            attempt=attempt,
            tracker=lasting.tracker,
            records=lasting.records,
            draft=self._draft,
            sources=lambda: {source_id: found.snapshot() for source_id, found in lasting.enumerators.items()},
            increments=Increments(checkpoint.incremental, checkpoint.full_every),
            savepoints=lasting.savepoints,
            two_phase=any(node.two_phase for node in lasting.plan.graph.nodes.values()),
            clock=lasting.clock,
            on_stop_failed=self._on_stop_failed,
        )
        if self._stop_when_running is not None:
            self._flow.request_stop(insist=self._stop_when_running)
        self._watch(self._flow.start())
        lasting.records.sweep(attempt.id)

    def _draft(self, checkpoint: int) -> CheckpointManifest:
        lasting, attempt = self._lasting, self.attempt
        now_ms = lasting.clock.now_ms()
        return lasting.plan.draft(checkpoint, attempt.id, attempt.parallelism, now_ms, lasting.records.base)

    def _on_change(self) -> None:
        if self._flow is not None:
            self._flow.on_change()

    def _reservations(self) -> dict[str, SourceSnapshot]:
        """What workers need to know of the enumerators."""
        reserved = self._reserved()
        return {
            source_id: SourceSnapshot(reserved=reserved.get(source_id, {})) for source_id in self._lasting.enumerators
        }

    def _reserved(self) -> dict[str, dict[str, Any]]:
        reservations = self._lasting.reservations
        return reservations.positions if reservations is not None else {}


__all__ = ["Deployment", "Lasting"]
