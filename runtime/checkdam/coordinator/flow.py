"""The checkpoints of one running attempt: trigger, collect, commit, tell.

One task takes one checkpoint after another, so that there is never more than one in flight. Everything between two
`await`s is one step: the enumerators' snapshots are taken and the triggers queued in one such step, which is what makes
splits belong either to a worker's snapshot or to the enumerator's, never to both or to none.

The journal entry is the commit point. Once it is being written the outcome belongs to storage: when the attempt fails
meanwhile, `settled` waits for it, and the next attempt starts from whatever the journal then says.

The last checkpoint is one of three kinds: the *final* one, after all input has ended, is repeated until it succeeds, and
when all sinks have committed it the journal gets `finished`; one taken for a *stop* is journalled as `stopped`; and any
other is followed by the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, SourceSnapshot
from checkdam.coordinator.attempt import Attempt, Finished, Stopped
from checkdam.coordinator.checkpoints import CheckpointCause, CheckpointTracker, PendingCheckpoint
from checkdam.coordinator.records import Records
from checkdam.core import faultpoints
from checkdam.core.clock import Clock
from checkdam.core.errors import CheckpointError, StorageError
from checkdam.wire.messages import Abort, Ack, Complete, Decline, Prepare, Trigger

_log = logging.getLogger(__name__)

COMMIT_PATIENCE_S: Final = 60.0
"""How long a stop waits for sinks to commit. What they do not commit by then is in the checkpoint and committed on resume."""

_FIRST_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 10.0


class CheckpointFlow:
    """Takes the checkpoints of one attempt, from `start` until the attempt is over.

    Args:
        attempt: The attempt, which is running.
        tracker: The job's books on checkpoints.
        records: The job's records in storage.
        draft: Makes the manifest of a checkpoint out of what is the same in all, given its number.
        sources: The enumerators' snapshots as of now.
        clock: Wall and monotonic time.
        on_stop_failed: A stop did not succeed, for the reason given, and reading goes on.

    Attributes:
        journalled_stop: The checkpoint that the journal holds as `stopped`. Whatever fails after it, no attempt follows.
        journalled_finish: Whether the journal holds `finished`.
    """

    def __init__(
        self,
        *,
        attempt: Attempt,
        tracker: CheckpointTracker,
        records: Records,
        draft: Callable[[int], CheckpointManifest],
        sources: Callable[[], dict[str, SourceSnapshot]],
        clock: Clock,
        on_stop_failed: Callable[[str], None],
    ) -> None:
        self.journalled_stop: int | None = None
        self.journalled_finish = False
        self._attempt = attempt
        self._tracker = tracker
        self._records = records
        self._draft = draft
        self._sources = sources
        self._clock = clock
        self._changed = asyncio.Event()
        self._on_stop_failed = on_stop_failed
        self._requested = False
        self._stop_requested = False
        self._insist_on_stop = False
        self._prepared = -1
        self._declined: str = ""
        self._complete = False
        self._loop: asyncio.Task[None] | None = None
        self._committing: asyncio.Task[str] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin; the task that is returned ends with the attempt and raises what nobody here can handle."""
        self._tracker.attempt_runs(self._clock.monotonic_ms())
        self._loop = asyncio.create_task(self._run())
        return self._loop

    def request(self) -> int:
        """Take a checkpoint as soon as `minPause` allows; returns its number."""
        if self._tracker.pending is not None:
            return self._tracker.pending.id
        self._requested = True
        self._changed.set()
        return self._tracker.next_id

    def request_stop(self, *, insist: bool) -> None:
        """Take a last checkpoint and end the attempt; without effect if that was asked for already.

        Args:
            insist: End the attempt even if the checkpoint fails; otherwise reading goes on then.
        """
        self._stop_requested = True
        self._insist_on_stop = self._insist_on_stop or insist
        self._changed.set()

    def on_ack(self, index: int, ack: Ack) -> None:
        """Worker `index` has stored its part."""
        pending = self._tracker.pending
        if pending is not None and ack.checkpoint == pending.id:
            self._complete = pending.acknowledge(index, ack)
            self._changed.set()
            return
        record = self._tracker.find(ack.checkpoint)
        if record is not None and record.status == "FAILED":
            # It crossed the abort. A worker leaves to us what it has acknowledged.
            self._records.discard(record.folder)

    def on_decline(self, index: int, decline: Decline) -> None:
        """Worker `index` could not take or store its part."""
        pending = self._tracker.pending
        if pending is not None and decline.checkpoint == pending.id and not self._declined:
            self._declined = f"worker {index} could not take part: {decline.error}"
            self._changed.set()

    def on_change(self) -> None:
        """The attempt has changed: look again."""
        self._changed.set()

    def halt(self) -> None:
        """The attempt has failed or is over: begin nothing more. A commit that has begun goes on; see `settled`."""
        if self._loop is not None:
            self._loop.cancel()

    async def settled(self) -> None:
        """Wait until nothing is under way any more; the journal's tail is known and stays then.

        Raises:
            DeposedError: Another coordinator owns the job.
        """
        self.halt()
        if self._loop is not None:
            await asyncio.wait([self._loop])
        if self._committing is not None:
            await self._committing
        pending = self._tracker.pending
        if pending is not None:
            self._tracker.fail(pending, "the attempt ended before it", self._clock.monotonic_ms(), counts=False)

    async def _run(self) -> None:
        while not self._attempt.over.done():
            cause = await self._next_cause()
            if cause == "final":
                await self._finish()
            elif cause == "stop":
                await self._take_stop()
            else:
                self._requested = False
                await self._take(cause)

    async def _next_cause(self) -> CheckpointCause:
        """Wait until a checkpoint is to be taken; says why."""
        tracker = self._tracker
        while True:
            self._changed.clear()
            if self._attempt.all_ended:
                return "final"
            if self._stop_requested:
                return "stop"
            now_ms = self._clock.monotonic_ms()
            due_ms = tracker.earliest_ms() if self._requested else tracker.due_ms()
            if now_ms >= due_ms:
                return "request" if self._requested else "interval"
            look_ms = due_ms
            if self._prepared < tracker.next_id:
                look_ms = due_ms - tracker.schedule.prepare_lead_ms
                if now_ms >= look_ms:
                    self._prepared = tracker.next_id
                    self._attempt.broadcast(Prepare(self._attempt.id, tracker.next_id))
                    continue
            await self._wait((look_ms - now_ms) / 1000)

    async def _wait(self, timeout_s: float) -> None:
        """Wait for a change, for at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _take(self, cause: CheckpointCause) -> str:
        """Take one checkpoint; returns why it failed, empty if it did not."""
        pending = self._trigger(cause)
        problem = await self._acknowledged(pending)
        if not problem:
            # A task of its own, which a failing attempt does not cancel: what storage was asked to do must be known.
            self._committing = asyncio.create_task(self._commit(pending, cause))
            problem = await asyncio.shield(self._committing)
        if problem:
            self._give_up(pending, problem, cause)
            return problem
        self._attempt.broadcast(Complete(self._attempt.id, pending.id))
        faultpoints.hit("complete-sent")
        return ""

    def _trigger(self, cause: CheckpointCause) -> PendingCheckpoint:
        """Queue the trigger to all workers and take the enumerators' snapshots, in one step."""
        tracker, attempt = self._tracker, self._attempt
        pending = tracker.begin(
            cause=cause,
            attempt=str(attempt.id),
            folder=self._records.folder(tracker.next_id, attempt.id),
            parallelism=attempt.parallelism,
            sources=self._sources(),
            now_ms=self._clock.monotonic_ms(),
            wall_ms=self._clock.now_ms(),
        )
        self._declined, self._complete = "", False
        base = self._records.base
        attempt.broadcast(
            Trigger(attempt.id, pending.id, pending.folder, base.id if base is not None else -1, cause == "stop")
        )
        return pending

    async def _acknowledged(self, pending: PendingCheckpoint) -> str:
        """Wait for all acknowledgements; returns why they will not come, empty if they have."""
        timeout_ms = self._tracker.schedule.timeout_ms
        deadline_ms = pending.started_ms + timeout_ms
        while True:
            self._changed.clear()
            if self._declined:
                return self._declined
            if self._complete:
                break
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                missing = sorted(set(range(self._attempt.parallelism)) - set(pending.acks))
                return f"it was not acknowledged within {timeout_ms} ms by the workers {missing}"
            await self._wait(left_ms / 1000)
        try:
            pending.check(self._records.base, self._records.shared)
        except CheckpointError as error:
            return str(error)
        return ""

    async def _commit(self, pending: PendingCheckpoint, cause: CheckpointCause) -> str:
        """Make the checkpoint count; returns why it does not, empty if it does."""
        manifest = msgspec.structs.replace(
            self._draft(pending.id),
            sources=pending.sources,
            subtasks=pending.snapshots(),
            processing_time_ms=pending.processing_time_ms(),
            final=cause == "final",
        )
        try:
            await self._records.commit(pending.folder, manifest, "stopped" if cause == "stop" else "checkpoint")
        except StorageError as error:
            return str(error)
        self._tracker.complete(pending, manifest.size_bytes, self._clock.monotonic_ms())
        if cause == "stop":
            self.journalled_stop = pending.id
        return ""

    def _give_up(self, pending: PendingCheckpoint, problem: str, cause: CheckpointCause) -> None:
        """Abort `pending` everywhere; one failure too many fails the attempt."""
        _log.warning("checkpoint %d failed: %s", pending.id, problem)
        counts = cause in ("interval", "request")
        too_many = self._tracker.fail(pending, problem, self._clock.monotonic_ms(), counts=counts)
        self._attempt.broadcast(Abort(self._attempt.id, pending.id, resume=True))
        if pending.acks:
            self._records.discard(pending.folder)
        if too_many:
            failures = self._tracker.consecutive_failures
            self._attempt.fail(
                "checkpoint", f"{failures} checkpoints in a row failed; the last, {pending.id}: {problem}"
            )

    async def _take_stop(self) -> None:
        problem = await self._take("stop")
        self._stop_requested = False
        if not problem:
            checkpoint = self._tracker.next_id - 1
            late = "not all sinks have committed yet; that is made good when the job is resumed"
            if await self._committed(checkpoint, COMMIT_PATIENCE_S):
                late = await self._close_books("stopped")
            self._attempt.end(Stopped(checkpoint, late))
        elif self._insist_on_stop:
            self._attempt.end(Stopped(None, f"no last checkpoint could be taken: {problem}"))
        else:
            self._on_stop_failed(problem)

    async def _finish(self) -> None:
        """Take the final checkpoint, however often it takes, wait for the sinks, and close the job's books."""
        await self._until_it_works(lambda: self._take("final"))
        faultpoints.hit("final-checkpoint")
        await self._committed(self._tracker.next_id - 1, None)
        await self._until_it_works(lambda: self._close_books("finished"))
        self._attempt.end(Finished())

    async def _close_books(self, kind: Literal["stopped", "finished"]) -> str:
        """Journal that all is committed; returns why that failed, empty if it did not."""
        # A task of its own, as for a commit: the entry must not be half known when the attempt fails.
        self._committing = asyncio.create_task(self._write_last_entry(kind))
        return await asyncio.shield(self._committing)

    async def _write_last_entry(self, kind: Literal["stopped", "finished"]) -> str:
        try:
            await self._records.close(kind, self._attempt.id.attempt)
        except StorageError as error:
            _log.warning("the end of the job could not be journalled: %s", error)
            return str(error)
        self.journalled_finish = kind == "finished"
        return ""

    async def _until_it_works(self, attempt: Callable[[], Awaitable[str]]) -> None:
        delay_s = _FIRST_RETRY_S
        while await attempt():
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_RETRY_S)

    async def _committed(self, checkpoint: int, patience_s: float | None) -> bool:
        """Wait until the sinks of all workers have committed `checkpoint`; returns whether they did in time."""
        try:
            async with asyncio.timeout(patience_s):
                while self._attempt.committed_by_all() < checkpoint:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
