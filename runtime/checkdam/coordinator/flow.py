"""The checkpoints of one running attempt: trigger, collect, commit, tell.

One task takes one checkpoint after another, so that there is never more than one in flight. Everything between two
`await`s is one step: the enumerators' snapshots are taken and the triggers queued in one such step, which is what makes
splits belong either to a worker's snapshot or to the enumerator's, never to both or to none.

The journal entry is the commit point. Once it is being written the outcome belongs to storage: when the attempt fails
meanwhile, `settled` waits for it, and the next attempt starts from whatever the journal then says.

The last checkpoint is one of four kinds: the *final* one, after all input has ended, is repeated until it succeeds, and
when all sinks have committed it the journal gets `finished`; one taken for a *stop* is journalled as `stopped`; one taken because
a process *leaves*, or because the attempt gives way to one with another number of workers, ends the attempt too, but is journalled
like any other, so the job goes on from it by itself; and any other is followed by the next.

A *savepoint* is taken like a checkpoint and counts for nothing: it is no base, nothing is journalled, and no sink commits.
What its sinks have prepared stays pending in the job, whose next failure would throw it away with everything else since the
last checkpoint, and the savepoint would name output that is gone. So where there are such sinks a checkpoint follows at once,
and the savepoint is completed when that has been committed: it owes nothing, and nothing that becomes of the job can harm it.
A savepoint that the job *stops* with takes the place of the last checkpoint instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, SourceSnapshot
from checkdam.coordinator.attempt import Attempt, Finished, GaveWay, Left, Stopped
from checkdam.coordinator.checkpoints import CheckpointCause, CheckpointTracker, PendingCheckpoint, own_files
from checkdam.coordinator.increments import Increments
from checkdam.coordinator.records import Records
from checkdam.coordinator.savepoints import SavepointRecord, Savepoints
from checkdam.core import faultpoints
from checkdam.core.clock import Clock
from checkdam.core.errors import CheckpointError, StorageError
from checkdam.wire.messages import Abort, Ack, Complete, Decline, Prepare, Trigger

_log = logging.getLogger(__name__)

COMMIT_PATIENCE_S: Final = 60.0
"""How long a stop waits for sinks to commit. What they do not commit by then is in the checkpoint and committed on resume."""

_ATTEMPT_ENDED: Final = "the attempt ended before it"
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
        increments: What a checkpoint may build on.
        savepoints: The books on savepoints.
        two_phase: Whether there are sinks that prepare output at a barrier and commit it later.
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
        increments: Increments,
        savepoints: Savepoints,
        two_phase: bool,
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
        self._increments = increments
        self._savepoints = savepoints
        self._two_phase = two_phase
        self._clock = clock
        self._changed = asyncio.Event()
        self._on_stop_failed = on_stop_failed
        self._requested = False
        self._full_requested = False
        self._stop_requested = False
        self._insist_on_stop = False
        self._leave_requested = False
        self._rescale_requested = False
        self._rescale_failed = False
        self._stop_savepoint: SavepointRecord | None = None
        self._wanted: deque[SavepointRecord] = deque()
        self._saving: PendingCheckpoint | None = None
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

    def request(self, *, full: bool = False) -> int:
        """Take a checkpoint, which names no older one's files if `full`, as soon as `minPause` allows; returns its number.

        One in flight will do, if it is what was asked for.
        """
        pending = self._tracker.pending
        if pending is not None and pending.record.cause != "savepoint" and (pending.base is None or not full):
            return pending.id
        self._requested = True
        self._full_requested = self._full_requested or full
        self._changed.set()
        # Savepoints go first. Where a checkpoint follows the first of them, it is the one that was asked for.
        ahead = len(self._wanted)
        return self._tracker.next_id + (min(ahead, 1) if self._two_phase else ahead)

    def request_stop(self, *, insist: bool) -> None:
        """Take a last checkpoint and end the attempt; without effect if that was asked for already.

        Args:
            insist: End the attempt even if the checkpoint fails; otherwise reading goes on then.
        """
        self._stop_requested = True
        self._insist_on_stop = self._insist_on_stop or insist
        self._changed.set()

    def request_leave(self) -> None:
        """Take an ordinary checkpoint, after which sources read nothing, let sinks commit, and end the attempt, whatever comes of both."""
        self._leave_requested = True
        self._changed.set()

    def request_rescale(self) -> None:
        """Take an ordinary checkpoint, after which sources read nothing, let sinks commit, and end the attempt.

        If the checkpoint fails reading goes on, and it is tried again when the next one is due.
        """
        self._rescale_requested = True
        self._changed.set()

    def request_savepoint(self, savepoint: SavepointRecord) -> None:
        """Take a savepoint as soon as no checkpoint is in flight; if it says so, the attempt ends with it.

        One that drains ends the attempt in any case: event time cannot be taken back.
        """
        if savepoint.stop:
            self._stop_savepoint = savepoint
            self.request_stop(insist=False)
        else:
            self._wanted.append(savepoint)
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
            self._records.discard(record.folder, own_files(record.folder, ack))

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
        for unfinished in (self._tracker.pending, self._saving):
            if unfinished is not None and unfinished.record.status == "IN_PROGRESS":
                self._tracker.give_up(unfinished, _ATTEMPT_ENDED, self._clock.monotonic_ms())
        self._savepoints.fail_all(_ATTEMPT_ENDED, self._clock.now_ms())

    async def _run(self) -> None:
        while not self._attempt.over.done():
            cause = await self._next_cause()
            if cause == "final":
                await self._finish()
            elif cause == "stop":
                await self._take_stop()
            elif cause == "leave":
                await self._leave()
            elif cause == "rescale":
                await self._give_way()
            elif cause == "savepoint":
                await self._take_savepoint(self._wanted.popleft())
            else:
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
            if self._leave_requested:
                return "leave"
            if self._wanted:
                return "savepoint"
            if self._rescale_requested and not self._rescale_failed:
                return "rescale"
            now_ms = self._clock.monotonic_ms()
            due_ms = tracker.earliest_ms() if self._requested else tracker.due_ms()
            if now_ms >= due_ms:
                if self._rescale_requested:
                    return "rescale"
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

    async def _take(self, cause: CheckpointCause, savepoint: SavepointRecord | None = None) -> str:
        """Take one checkpoint, or the savepoint that the job stops with; returns why it failed, empty if it did not."""
        pending = self._trigger(cause, savepoint)
        problem = await self._acknowledged(pending)
        if not problem:
            # A task of its own, which a failing attempt does not cancel: what storage was asked to do must be known.
            self._committing = asyncio.create_task(self._commit(pending, savepoint))
            problem = await asyncio.shield(self._committing)
        if problem:
            self._give_up(pending, problem, savepoint)
            return problem
        self._attempt.broadcast(Complete(self._attempt.id, pending.id))
        faultpoints.hit("complete-sent")
        return ""

    async def _take_savepoint(self, savepoint: SavepointRecord) -> None:
        """Take a savepoint of which the job takes no notice."""
        pending = self._trigger("savepoint", savepoint)
        problem = await self._acknowledged(pending)
        if not problem and self._two_phase:
            self._saving = pending
            self._tracker.set_aside(pending)
            problem = await self._commit_prepared(pending)
        if not problem:
            self._committing = asyncio.create_task(self._save(pending, savepoint))
            problem = await asyncio.shield(self._committing)
        if problem:
            self._give_up(pending, problem, savepoint)
        self._saving = None

    async def _commit_prepared(self, savepoint: PendingCheckpoint) -> str:
        """Take a checkpoint and wait for the sinks; returns why that failed, empty if it did not."""
        if problem := await self._take("request"):
            return f"the checkpoint that commits the output before it failed: {problem}"
        timeout_ms = self._tracker.schedule.timeout_ms
        left_ms = savepoint.started_ms + timeout_ms - self._clock.monotonic_ms()
        if await self._committed(self._tracker.next_id - 1, max(0, left_ms) / 1000):
            return ""
        return f"the output before it was not committed within {timeout_ms} ms"

    def _trigger(self, cause: CheckpointCause, savepoint: SavepointRecord | None = None) -> PendingCheckpoint:
        """Queue the trigger to all workers and take the enumerators' snapshots, in one step."""
        tracker, attempt = self._tracker, self._attempt
        base = None
        if savepoint is None:
            if not self._full_requested:
                base = self._increments.base(self._records.base, attempt.parallelism)
            self._requested = self._full_requested = False
        else:
            savepoint.id = tracker.next_id
        pending = tracker.begin(
            cause=cause,
            attempt=str(attempt.id),
            folder=self._records.folder(tracker.next_id, attempt.id, savepoint=savepoint is not None),
            parallelism=attempt.parallelism,
            sources=self._sources(),
            now_ms=self._clock.monotonic_ms(),
            wall_ms=self._clock.now_ms(),
            base=base,
        )
        self._declined, self._complete = "", False
        attempt.broadcast(
            Trigger(
                attempt.id,
                pending.id,
                pending.folder,
                base=base.id if base is not None else -1,
                stop=cause in ("stop", "leave", "rescale"),
                savepoint=savepoint is not None,
                drain=savepoint is not None and savepoint.drain,
            )
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
            pending.check(self._records.shared)
        except CheckpointError as error:
            return str(error)
        return ""

    async def _commit(self, pending: PendingCheckpoint, savepoint: SavepointRecord | None) -> str:
        """Make the checkpoint count; returns why it does not, empty if it does."""
        manifest = self._manifest(pending, savepoint)
        stops = pending.record.cause == "stop"
        try:
            await self._records.commit(pending.folder, manifest, "stopped" if stops else "checkpoint")
        except StorageError as error:
            return str(error)
        self._tracker.complete(pending, manifest.size_bytes, self._clock.monotonic_ms())
        if savepoint is not None:
            self._completed(savepoint, pending, manifest)
        if stops:
            self.journalled_stop = pending.id
        return ""

    async def _save(self, pending: PendingCheckpoint, savepoint: SavepointRecord) -> str:
        """Make a savepoint of which the job takes no notice whole; returns why that failed, empty if it did not."""
        manifest = msgspec.structs.replace(self._manifest(pending, savepoint), committed=True)
        try:
            await self._records.save(pending.folder, manifest)
        except StorageError as error:
            return str(error)
        self._tracker.saved(pending, manifest.size_bytes, self._clock.monotonic_ms())
        self._completed(savepoint, pending, manifest)
        return ""

    def _manifest(self, pending: PendingCheckpoint, savepoint: SavepointRecord | None) -> CheckpointManifest:
        return msgspec.structs.replace(
            self._draft(pending.id),
            sources=pending.sources,
            subtasks=pending.snapshots(),
            processing_time_ms=pending.processing_time_ms(),
            kind="checkpoint" if savepoint is None else "savepoint",
            increments=pending.increments(),
            final=pending.record.cause == "final",
            drained=savepoint is not None and savepoint.drain,
        )

    def _completed(self, savepoint: SavepointRecord, pending: PendingCheckpoint, manifest: CheckpointManifest) -> None:
        uri = f"{self._records.uri}/{pending.folder}"
        _log.info("savepoint %d has completed: %s", pending.id, uri)
        self._savepoints.complete(savepoint, uri, manifest.size_bytes, self._clock.now_ms())

    def _give_up(self, pending: PendingCheckpoint, problem: str, savepoint: SavepointRecord | None) -> None:
        """Abort `pending` everywhere; one failure too many fails the attempt."""
        _log.warning("%s %d failed: %s", "checkpoint" if savepoint is None else "savepoint", pending.id, problem)
        too_many = self._tracker.fail(pending, problem, self._clock.monotonic_ms())
        drains = savepoint is not None and savepoint.drain
        if savepoint is not None:
            self._savepoints.fail(savepoint, problem, self._clock.now_ms())
        # What has drained must not read on: event time is at its end there.
        self._attempt.broadcast(Abort(self._attempt.id, pending.id, resume=not drains))
        if pending.acks:
            self._records.discard(pending.folder, pending.uploads())
        if too_many:
            failures = self._tracker.consecutive_failures
            self._attempt.fail(
                "checkpoint", f"{failures} checkpoints in a row failed; the last, {pending.id}: {problem}"
            )

    async def _take_stop(self) -> None:
        savepoint, self._stop_savepoint = self._stop_savepoint, None
        problem = await self._take("stop", savepoint)
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
            if savepoint is not None and savepoint.drain:
                self._attempt.fail("checkpoint", f"the savepoint that was to drain the job failed: {problem}")

    async def _leave(self) -> None:
        problem = await self._take("leave") or await self._uncommitted()
        if problem:
            _log.warning("somebody leaves before all is done: %s", problem)
        self._attempt.end(Left())

    async def _give_way(self) -> None:
        if await self._take("rescale"):
            self._rescale_failed = True
            return
        problem = await self._uncommitted()
        if problem:
            _log.warning("the number of workers changes before all is done: %s", problem)
        self._attempt.end(GaveWay())

    async def _uncommitted(self) -> str:
        """Let sinks commit the last checkpoint; returns what is left to the next attempt, empty if nothing is."""
        if await self._committed(self._tracker.next_id - 1, COMMIT_PATIENCE_S):
            return ""
        return "not all sinks have committed yet; the next attempt makes that good"

    async def _finish(self) -> None:
        """Take the final checkpoint, however often it takes, wait for the sinks, and close the job's books."""
        self._savepoints.fail_all("all input has ended, and the job finishes by itself", self._clock.now_ms())
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
