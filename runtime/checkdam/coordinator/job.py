"""The job: one attempt after another until the end, and everything that is to be told to the running one.

All decisions are made in one event loop, and between two `await`s nothing can come in between. A `Deployment` is one
attempt; the job finds out where the first begins, gives each what workers say, starts the next after a failure, and
ends when there is nothing left to do.

A job ends *finished*, *stopped* or *failed*, all of which workers are told; or because it was *deposed*: then another
coordinator owns it, and this one falls silent at once. A coordinator may also *leave* its job, after a last checkpoint: workers wait
for the next one. A worker that leaves gets a last checkpoint, too; then the job waits until another has come in its place.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal

from checkdam.coordinator.attempt import Failure, Left, Phase
from checkdam.coordinator.board import Board
from checkdam.coordinator.bootstrap import Bootstrap, JobGraph, fall_back_or_raise
from checkdam.coordinator.checkpoints import CheckpointRecord, CheckpointTracker, Schedule
from checkdam.coordinator.config import CoordinatorConfig
from checkdam.coordinator.control import ControlServer, WorkerLink
from checkdam.coordinator.deployment import Deployment, Lasting
from checkdam.coordinator.discovery import discover
from checkdam.coordinator.housekeeping import keep_house
from checkdam.coordinator.ledger import Base
from checkdam.coordinator.outcome import LEFT, Outcome, StopWish, outcome_of
from checkdam.coordinator.records import Records
from checkdam.coordinator.reservations import Reservations
from checkdam.coordinator.restart import RestartPolicy
from checkdam.coordinator.savepoints import SavepointRecord, Savepoints
from checkdam.coordinator.scale import Scale
from checkdam.coordinator.threads import SerialThread
from checkdam.coordinator.views import JobState, JobView, RescaleAnswer, TriggerAnswer, WorkerPresence, WorkerView
from checkdam.core.clock import Clock
from checkdam.core.errors import CheckpointError, DeposedError, StorageError
from checkdam.wire.frames import FrameError
from checkdam.wire.messages import AttemptId, Leaving, Message, Shutdown, ToCoordinator

_log = logging.getLogger(__name__)


class NotNowError(Exception):
    """The job is in no state in which the request could be followed; says in which."""


class Job:
    """One life of a coordinator, from the fenced journal to the end.

    Args:
        plan: The job and its graph.
        records: The job's records; the journal is fenced.
        reservations: Of AtMostOnce, not taken over yet; `None` in other modes.
        config: The coordinator's configuration.
        policy: What follows a failure.
        clock: Wall and monotonic time.
        secret: With which workers prove themselves.
    """

    def __init__(
        self,
        *,
        plan: JobGraph,
        records: Records,
        reservations: Reservations | None,
        config: CoordinatorConfig,
        policy: RestartPolicy,
        clock: Clock,
        secret: bytes,
    ) -> None:
        spec = plan.job.spec
        self.plan = plan
        self.board = Board(plan.graph, clock)
        self.tracker = CheckpointTracker(Schedule.of(spec.checkpoint, external=config.external_schedule), next_id=0)
        self.savepoints = Savepoints()
        self.server = ControlServer(
            secret=secret,
            job_id=plan.job.job_id,
            epoch=records.epoch,
            max_workers=spec.max_parallelism,
            heartbeat_timeout_ms=spec.runtime.heartbeat_timeout_ms,
            clock=clock,
            on_connected=self._on_connected,
            on_message=self._on_message,
            on_lost=self._on_lost,
            on_newer_epoch=self._on_newer_epoch,
        )
        self._scale = Scale(spec.parallelism, Path(config.run_dir), clock)
        self._records = records
        self._reservations = reservations
        self._config = config
        self._policy = policy
        self._clock = clock
        self._enumerators = plan.enumerators()
        self._lasting = Lasting(
            plan, records, self.tracker, self.savepoints, self._enumerators, reservations, self.board, clock
        )
        self._current: Deployment | None = None
        self._ended: JobState | None = None
        self._stop: StopWish | None = None
        self._stop_problem = ""
        self._restored_from = ""
        self._workers_changed = asyncio.Event()
        self._no_more = asyncio.Event()
        self._leaving = False
        self._over: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checking: asyncio.Task[None] | None = None

    # What the outside may ask

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        if self._ended is not None:
            return self._ended
        if self._leaving:
            return "STOPPING"
        if self._current is None:
            return "STARTING"
        if self._stop is not None:
            return "STOPPING"
        if self._current.attempt.failing or self._current.before_reading:
            return "RESTARTING" if self.board.last_failure is not None else "DEPLOYING"
        return "FINISHING" if self._current.attempt.phase is Phase.FINISHING else "RUNNING"

    @property
    def storage_uri(self) -> str:
        """The job's folder in storage."""
        return self._records.uri

    def view(self) -> JobView:
        """The job for people."""
        job = self.plan.job
        pending, scale = self.tracker.pending, self._scale
        return JobView(
            name=job.metadata.name,
            job_id=job.job_id,
            state=self.state,
            mode=job.spec.checkpoint.mode,
            parallelism=scale.current,
            wanted_parallelism=scale.wanted,
            epoch=self._records.epoch,
            attempt=self._current.attempt.id.attempt if self._current is not None else 0,
            restarts=self.board.restarts,
            started_ms=self.board.started_ms,
            uptime_ms=self.board.uptime_ms,
            workers_connected=sum(index < scale.wanted for index in self.server.links),
            last_failure=self.board.last_failure,
            last_checkpoint=self.tracker.last_completed,
            pending_checkpoint=pending.id if pending is not None else None,
            restored_from=self._restored_from,
            stop_problem=self._stop_problem,
            rejected_peers=self.server.rejected_peers + self.board.rejected_by_workers,
            workers=[
                WorkerPresence(index, index in self.server.links, self.server.instances.get(index, ""))
                for index in range(scale.places)
            ],
            checkpoint_failures=self.tracker.failures_in_a_row,
            checkpoint_problem=self._records.doubt or self.tracker.problem,
        )

    def workers(self) -> list[WorkerView]:
        """Those that run and those that are wanted, by index, for people."""
        return self.board.workers(self._scale.places, self.server.links)

    def request_checkpoint(self, after: int | None, *, full: bool = False) -> TriggerAnswer:
        """Take a checkpoint newer than `after`, unless there is one or one is in flight.

        Args:
            after: A number; `None` for the last completed checkpoint's.
            full: Only one that names no file of an older one will do.

        Raises:
            NotNowError: No attempt is running.
        """
        base = self._records.base
        if after is not None and base is not None and base.id > after and not (full and base.increments):
            return TriggerAnswer(base.id, "COMPLETED", self.tracker.last_completed)
        if self._ended is not None or self._current is None or not self._current.running:
            raise NotNowError(f"a checkpoint can be taken while the job is running (it is {self.state})")
        number = self._current.request_checkpoint(full=full)
        pending = self.tracker.pending
        status: Literal["IN_PROGRESS", "SCHEDULED"] = "SCHEDULED"
        if pending is not None and pending.id == number:
            status = "IN_PROGRESS"
        return TriggerAnswer(number, status, self.tracker.last_completed)

    def request_savepoint(self, request: str, *, stop: bool, drain: bool) -> SavepointRecord:
        """Take a savepoint, unless one was asked for under the same name.

        Args:
            request: A name of the client's choice; empty for a new one.
            stop: Stop the job with it; if it fails, the job goes on.
            drain: Only with `stop`: let all event time pass before. If it fails, the attempt does, and the job restarts.

        Returns:
            Its record, which goes on changing until it has ended.

        Raises:
            NotNowError: No attempt is running, or it is coming to its end; or the storage cannot hold a savepoint; or the same name
                was used for another wish.
        """
        known = self.savepoints.find(request)
        if known is not None:
            if (known.stop, known.drain) != (stop, drain):
                raise NotNowError(
                    f"the savepoint `{request}` was asked for with another `stop` or `drain`; use a new name"
                )
            return known
        if not self._records.shared:
            raise NotNowError(
                f"{self._records.uri} is lost with the coordinator, and so would the savepoint be; use another storage"
            )
        if self._current is None or not self._current.running or self.state != "RUNNING":
            raise NotNowError(f"a savepoint can be taken while the job is running (it is {self.state})")
        record = SavepointRecord(request or secrets.token_hex(8), stop, drain, self._clock.now_ms())
        self.savepoints.add(record)
        if stop:
            self._wish_stop(StopWish(checkpoint=True, insist=False))
        self._current.request_savepoint(record)
        return record

    def request_stop(self, *, checkpoint: bool, insist: bool = False) -> None:
        """Stop the job.

        Args:
            checkpoint: After a last checkpoint; the job then goes on only when it is resumed. Otherwise at once.
            insist: Stop even if the last checkpoint fails, or if there is nothing running to take one of; otherwise the job
                goes on then, and waits until it is running.
        """
        if self._ended is not None:
            return
        self._wish_stop(StopWish(checkpoint, insist))
        current = self._current
        if checkpoint and current is not None and (current.running or not insist):
            current.request_stop(insist=insist)
        elif not checkpoint or insist:
            self._no_more.set()
            if current is not None:
                current.stop_now()

    def rescale(self, parallelism: int) -> RescaleAnswer:
        """Go on with another number of workers, as soon as as many are connected; until then with those that there are.

        Args:
            parallelism: From 1 to `maxParallelism`.

        Raises:
            NotNowError: The job has ended.
        """
        if self._ended is not None:
            raise NotNowError(f"a job that has ended cannot be rescaled (it is {self.state})")
        scale = self._scale
        if parallelism != scale.wanted:
            scale.want(parallelism)
            self._workers_changed.set()
            self._rescale_if_due()
        return RescaleAnswer(scale.current, scale.wanted)

    def _rescale_if_due(self) -> None:
        if self._current is not None and self._scale.is_due(self.server.links):
            self._current.request_rescale()

    def _wish_stop(self, wish: StopWish) -> None:
        self._stop = wish
        # Whoever tries again and again is to be told why all the time, and nobody of what was mended meanwhile.
        if not self.tracker.failures_in_a_row:
            self._stop_problem = ""

    async def dispose(self, folder: str) -> None:
        """Delete the savepoint in `folder` of the job's own folder, for good; without effect if it is not there.

        Raises:
            NotNowError: The journal still needs it.
            StorageError: Storage failed; asking again is safe.
        """
        try:
            await self._records.dispose(folder)
        except CheckpointError as error:
            raise NotNowError(str(error)) from error

    def leave(self) -> None:
        """End this coordinator's work and not the job: after an ordinary checkpoint if an attempt runs, at once otherwise."""
        self._leaving = True
        if self._current is not None and self._current.running:
            self._current.request_leave()
        elif not self._over.done():
            self._over.set_result(LEFT)

    # The life of the job

    async def run(self) -> Outcome:
        """Run to the end.

        Raises:
            DeposedError: Another coordinator owns the job: say nothing to anybody and exit.
            Exception: Something broke that no restart can cure.
        """
        main = asyncio.create_task(self._main())
        try:
            await asyncio.wait((main, self._over), return_when=asyncio.FIRST_COMPLETED)
            outcome = self._over.result() if self._over.done() else main.result()
            if outcome.state == "LEFT":
                self.server.release(outcome.message)
                return outcome
            self._ended = outcome.state
            for link in self.server.links.values():
                link.send(Shutdown(outcome.message))
            return outcome
        except Exception:
            self._ended = "FAILED"
            raise
        finally:
            if self._current is not None:
                self._current.halt()
            for task in (main, *self._tasks):
                task.cancel()
            await asyncio.gather(main, *self._tasks, return_exceptions=True)

    async def _main(self) -> Outcome:
        base = await self._establish()
        _log.info(
            "job %s starts from checkpoint %d in epoch %d", self.plan.job.job_id, base.manifest.id, self._records.epoch
        )
        period_s = self.plan.job.spec.runtime.heartbeat_timeout_ms / 1000
        self._spawn(keep_house(self._records, self._reservations, self._clock, period_s, self._running))
        for enumerator in self._enumerators.values():
            if enumerator.rediscovers:
                self._spawn(discover(enumerator, self.plan.job.spec.parallelism, self._on_discovered))
        if self._reservations is not None:
            self._spawn(self._reservations.run())
        number = 0
        while True:
            self.server.release("nothing runs that needs the worker")
            if not await self._workers_there():
                return Outcome("STOPPED", "stopped while waiting for workers")
            number += 1
            current = self._deployment(AttemptId(self._records.epoch, number))
            end = await current.live()
            outcome = outcome_of(current, end)
            if outcome is None and self._leaving:
                outcome = LEFT
            if outcome is None and isinstance(end, Failure):
                outcome = await self._after_failure(current, end)
            if outcome is not None:
                return outcome
            if isinstance(end, Left):
                self.board.restarts += 1

    async def _establish(self) -> Base:
        config = self._config
        bootstrap = Bootstrap(
            self.plan,
            self._records,
            SerialThread("discovery"),
            self._enumerators,
            self._clock,
            Path(config.base_folder),
            self._reservations,
        )
        base = await bootstrap.run(config.restore_from, config.origin, again=config.may_repeat_origin)
        if 0 < config.since_epoch <= base.manifest.epoch:  # by a coordinator of the same wish
            self._scale.takes_over(base.manifest.parallelism)
        self._restored_from = self._records.notes.restored_from or f"{self._records.uri}/{base.folder}"
        self.tracker.begins_with(CheckpointRecord.restored(base.folder, base.manifest))
        return base

    async def _workers_there(self) -> bool:
        """Wait until enough workers are connected; False if the job is to stop before."""
        return await self._unless_over(self._scale.settle(self.server.links, self._workers_changed))

    def _deployment(self, attempt: AttemptId) -> Deployment:
        self._current = Deployment(
            attempt,
            self._scale.current,
            self._lasting,
            send=self._send,
            watch=self._watch,
            on_stop_failed=self._on_stop_failed,
        )
        if self._stop is not None:
            self._current.request_stop(insist=self._stop.insist)
        return self._current

    async def _after_failure(self, current: Deployment, failure: Failure) -> Outcome | None:
        """Decide whether another attempt follows, and wait until it may; the outcome if none does."""
        _log.warning("attempt %s failed (%s): %s", current.attempt.id, failure.kind, failure.error)
        if self._stop is not None:
            problem = f"the job failed before its last checkpoint: {failure.error}"
            if self._stop.insist or not self._stop.checkpoint:
                return Outcome("STOPPED", problem, clean=not self._stop.checkpoint)
            self._stop, self._stop_problem = None, problem
        try:
            repaired = await self._repaired(current, failure)
        except CheckpointError as error:
            return Outcome("FAILED", str(error), clean=False)
        if failure.kind == "fatal" and not repaired:
            return Outcome("FAILED", failure.error, clean=False)
        delay_ms = self._policy.next_delay_ms(self._clock.monotonic_ms())
        if delay_ms is None:
            strategy = self.plan.job.spec.restart.strategy
            return Outcome(
                "FAILED", f"{failure.error}\n(no restart any more: `spec.restart.strategy` is {strategy})", clean=False
            )
        self.board.restarts += 1
        if not await self._unless_over(asyncio.sleep(delay_ms / 1000)):
            return Outcome("STOPPED", "stopped between two attempts; the job goes on from its last checkpoint")
        return None

    async def _repaired(self, current: Deployment, failure: Failure) -> bool:
        """Where an attempt could not restore because its checkpoint is damaged: fall back to the one before.

        Storage that fails meanwhile proves nothing: another attempt will show.

        Raises:
            CorruptCheckpointError: It is damaged, and the user does not want to fall back, or cannot.
        """
        base = self._records.last
        if base is None or not current.before_reading or failure.kind not in ("error", "fatal"):
            return False
        try:
            problems = await self._records.verify(base.folder)
            if not problems:
                return False
            older = await fall_back_or_raise(self.plan.job, self._records, problems, current.attempt.id.attempt)
        except StorageError as error:
            _log.warning("whether the checkpoint is damaged cannot be told now: %s", error)
            return True
        self.tracker.begins_with(CheckpointRecord.restored(older.folder, older.manifest))
        return True

    async def _unless_over(self, waiting: Coroutine[Any, Any, Any]) -> bool:
        """Wait for `waiting`; False if the job is to end before."""
        task = asyncio.create_task(waiting)
        over = asyncio.create_task(self._no_more.wait())
        try:
            await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            over.cancel()
        return not self._no_more.is_set()

    # What goes on beside it

    def _running(self) -> AttemptId | None:
        """The attempt that reads now, if one does."""
        return self._current.attempt.id if self._current is not None and self._current.running else None

    def _on_discovered(self, source_id: str) -> None:
        if self._current is not None:
            self._current.discovered(source_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._watch(asyncio.create_task(work))

    def _watch(self, task: asyncio.Task[None]) -> None:
        """End the job if the task ends with an error."""
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.broken(error)

    def broken(self, error: BaseException) -> None:
        """Something failed that no restart can cure: the job ends with it."""
        if not self._over.done():
            self._over.set_exception(error)

    def _on_stop_failed(self, problem: str) -> None:
        self._stop, self._stop_problem = None, problem

    # What workers tell

    def _on_connected(self, link: WorkerLink) -> None:
        _log.info("worker %d is connected (instance %s)", link.index, link.instance)
        self._workers_changed.set()
        self._rescale_if_due()

    def _on_lost(self, index: int, reason: str) -> None:
        _log.info("worker %d is lost: %s", index, reason)
        if self._current is not None:
            self._current.attempt.worker_lost(index, reason)

    def _on_newer_epoch(self, epoch: int) -> None:
        """Workers have heard of a successor before we have: ask the journal at once."""
        if not self._records.shared:
            self.broken(DeposedError(f"a coordinator of epoch {epoch} has taken the job over"))
        elif self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._records.check())
            self._watch(self._checking)

    def _on_message(self, index: int, message: ToCoordinator) -> None:
        if isinstance(message, Leaving):
            self._on_leaving(index)
        elif self._current is not None:
            try:
                self._current.handle(index, message)
            except Exception as error:
                self.broken(error)

    def _on_leaving(self, index: int) -> None:
        _log.info("worker %d is about to leave", index)
        current = self._current
        if current is None or current.attempt.failing:
            self.server.release("nothing runs that needs the worker")
        elif index < current.attempt.parallelism:
            current.request_leave()
        else:
            self.server.release("the worker takes no part in what runs", index)

    def send_reserved(self, attempt: AttemptId, index: int, message: Message) -> None:
        """Queue a message to a worker if `attempt` is still the running one."""
        current = self._current
        if current is not None and current.attempt.id == attempt and not current.attempt.failing:
            self._send(index, message)

    def _send(self, index: int, message: Message) -> None:
        try:
            self.server.send(index, message)
        except FrameError as error:
            if self._current is not None:
                self._current.attempt.fail(
                    "fatal", f"a {type(message).__name__} for worker {index} is too long: {error}"
                )


__all__ = ["Job", "NotNowError"]
