"""The model of a coordinator's process, by the rules of the real one: one fence, then attempts, checkpoints and savepoints until the end.

What it does about the journal is what the real one does; what lies between (graphs, workers' state, sinks) is a matter of time only. After
its end it goes on answering, and a container that is started again in the same pod tells how the one before has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from checkdam_operator.coordinators.client import CoordinatorRefusedError, CoordinatorUnreachableError
from world.beginning import Beginning, Ending
from world.storage import Saved
from world.worker import HEARTBEAT_S, WorkerProcess

if TYPE_CHECKING:
    from world.nodes import PodLife

GRACE_LIMIT_S = 5.0


class CoordinatorProcess(Beginning):
    """One life of a coordinator's container.

    Attributes:
        links: Workers that are connected, by index.
        state: As in the API, before the end.
        epoch: Slot of its fence; 0 before.
    """

    def __init__(self, life: PodLife) -> None:
        super().__init__(life)
        self.links: dict[int, WorkerProcess] = {}
        self.restarts = 0
        self._instances: dict[int, str] = {}
        self._leavers: list[WorkerProcess] = []
        self._turn = 0
        self._deploying = False
        self._pausing = False
        self._pending: int | None = None
        self._wanted: list[tuple[str, str]] = []
        self._stop: str | None = None
        self._stop_problem = ""
        self._leaving = False
        self._failures = 0
        self._problem = ""
        self._last_failure: dict[str, Any] | None = None
        self._last_failed_s: float | None = None
        self._last_trigger_s = 0.0
        self._position = 0
        self._runs_since_s = 0.0

    def _keep_watch(self) -> None:
        """Look whether the journal is still ours, and whether all workers are."""
        if self.ending is not None:
            return
        tail = self.journal.tail
        if not self.world.storage.down and tail is not None and self._last is not None and tail.seq != self._last.seq:
            self._depose()
            return
        for worker in list(self.links.values()):
            if worker.frozen and self.world.loop.time() - worker.frozen_since_s >= HEARTBEAT_S:
                self.worker_lost(worker, "it has not been heard of")
        self.later(2.0, self._keep_watch)

    # Workers

    def _begun(self) -> None:
        self._deploy_if_there()

    def welcomes(self, worker: WorkerProcess) -> bool:
        """Whether a worker may stay."""
        index = worker.life.index
        if (
            not self._listening
            or self.ending is not None
            or index >= self.parallelism
            or worker.life.uid_of_job != self.life.uid_of_job
        ):
            return False
        if worker.epoch > self.epoch:
            self.later(0.05, self._keep_watch)
            return False
        if index in self.links:
            return False
        worker.epoch = self.epoch
        self.links[index] = worker
        self._instances[index] = worker.instance
        self.books.changed()
        self._deploy_if_there()
        return True

    def worker_lost(self, worker: WorkerProcess, reason: str) -> None:
        """A worker's connection has ended."""
        index = worker.life.index
        if self.links.get(index) is not worker or not self.alive:
            return
        del self.links[index]
        self.books.changed()
        if self.state in ("DEPLOYING", "RESTARTING", "RUNNING", "STOPPING", "FINISHING"):
            self._fail_attempt("lost", f"worker {index} was lost: {reason}", index)

    def worker_leaves(self, worker: WorkerProcess) -> None:
        """A worker's pod is being deleted."""
        self._leavers.append(worker)
        if self.state == "RUNNING" and self._pending is None and not self._wanted:
            self._take("leave")
        elif self.state != "RUNNING":
            self._release()

    def _release(self) -> None:
        leavers, self._leavers = self._leavers, []
        for worker in leavers:
            if self.links.get(worker.life.index) is worker:
                del self.links[worker.life.index]
            worker.released()
        self.books.changed()

    # Attempts

    def _deploy_if_there(self) -> None:
        if self.ending is not None or self.base is None or self._leaving or len(self.links) < self.parallelism:
            return
        if self.state not in ("STARTING", "RESTARTING", "DEPLOYING") or self._deploying or self._pausing:
            return
        self.attempt += 1
        self._turn += 1
        turn = self._turn
        self.state = "RESTARTING" if self._last_failure is not None else "DEPLOYING"
        self._deploying = True
        self.books.changed()
        self.later(self.world.chance.between(0.2, 3.0), lambda: self._run(turn))

    def _run(self, turn: int) -> None:
        if turn != self._turn or self.ending is not None:
            return
        assert self.base is not None
        self._deploying = False
        self.state = "RUNNING"
        self._position, self._runs_since_s = self.base.position, self.world.loop.time()
        self._last_trigger_s = self.world.loop.time()
        self.books.changed()
        if self._leaving:
            self._take("leave")
        elif self._stop is not None:
            self._begin_stop("")
        if self.world.facts.input_ended:
            self.later(1.0, self.input_ends)
        if not self.life.program.lives:
            self.later(1.0, lambda: self._fail_for_good(turn))
        self._keep_schedule(turn)

    def _fail_for_good(self, turn: int) -> None:
        if turn == self._turn and self.ending is None:
            self._note_failure("user", "ValueError: no good", 0)
            self._end(Ending("FAILED", "ValueError: no good (no restart any more)"))

    def fail_user_code(self) -> None:
        """User code raises, once."""
        if self.state == "RUNNING":
            self._fail_attempt("user", "ValueError: bad luck", 0)

    def _note_failure(self, kind: str, error: str, worker: int | None) -> None:
        self._last_failure = {"kind": kind, "error": error, "worker": worker, "timeMs": self.world.loop.now_ms()}

    def _fail_attempt(self, kind: str, error: str, worker: int | None) -> None:
        """The attempt is over; another follows after a while."""
        now_s = self.world.loop.time()
        self._note_failure(kind, error, worker)
        self._turn += 1  # whatever was to come of it does not
        if self._stop is not None:
            self._stop_problem = f"the job failed before its last checkpoint: {error}"
        self._deploying, self._pending, self._stop = False, None, None
        self._no_savepoints("the attempt ended before it")
        if self._leaving:
            self._leave_now()
            return
        self.restarts += 1
        self.state = "RESTARTING"
        self._release()
        quiet = self._last_failed_s is None or now_s - self._last_failed_s > 60.0
        self._last_failed_s = now_s
        self._pausing, turn = True, self._turn

        def go_on() -> None:
            if self._turn == turn:
                self._pausing = False
                self._deploy_if_there()

        self.later(0.05 if quiet else 2.0, go_on)

    # Checkpoints

    def _keep_schedule(self, turn: int) -> None:
        """Trigger by itself what is overdue."""
        if turn != self._turn or self.state != "RUNNING":
            return
        interval_s = self.world.seconds(self.spec["checkpoint"].get("interval", "10s"))
        due_s = self._last_trigger_s + interval_s + min(interval_s, GRACE_LIMIT_S)
        if self.world.loop.time() >= due_s - 1e-6:
            if self._pending is None:
                self._take("interval")
            due_s = self.world.loop.time() + interval_s
        self.later(max(due_s - self.world.loop.time(), 0.5), lambda: self._keep_schedule(turn))

    def _take(self, cause: str, request: str = "") -> None:
        """Take a checkpoint or savepoint of the running attempt."""
        number, turn = self._next_id, self._turn
        self._next_id += 1
        self._pending = number
        if cause != "savepoint":
            self._last_trigger_s = self.world.loop.time()
        read = round((self.world.loop.time() - self._runs_since_s) * 10)
        saved = self._folder(number, "savepoint" if request else "chk", self._position + read)
        triggered_ms = self.world.loop.now_ms()
        self.later(self.world.chance.between(0.1, 2.0), lambda: self._taken(cause, request, saved, turn, triggered_ms))

    def _taken(self, cause: str, request: str, saved: Saved, turn: int, triggered_ms: int) -> None:
        if turn != self._turn or self._pending != saved.id or self.ending is not None:
            return
        storage = self.world.storage
        self._pending = None
        if storage.down or (storage.savepoints_fail if request else storage.checkpoints_fail):
            self._not_taken(cause, request, f"checkpoint {saved.id} could not be stored")
            return
        if cause == "savepoint":
            self.journal.savepoints[saved.folder] = saved
            self._complete_savepoint(request, saved)
        elif self._append("stopped" if cause == "stop" else "checkpoint", saved):
            self._failures, self._problem = 0, ""
            self._last_completed = self._shown(saved, cause, triggered_ms)
            if request:
                self.journal.savepoints[saved.folder] = saved
                self._complete_savepoint(request, saved)
        else:
            return
        self._after(cause, saved)

    def _after(self, cause: str, saved: Saved) -> None:
        """What follows a checkpoint: the end, or the next thing that is wanted."""
        if cause == "stop":
            ending = Ending(
                "STOPPED",
                f"stopped with checkpoint {saved.id}",
                stopped_with=f"{self.uri}/{saved.folder}",
            )
            self.state = "STOPPING"
            self.books.changed()
            self.later(self.world.chance.between(0.02, 1.0), lambda: self._end(ending))
        elif cause == "leave":
            if self._leaving:
                self.later(0.1, self._leave_now)
            else:
                self._leave_attempt()
        elif cause == "final":
            if self._append("finished", saved):
                self._end(Ending("FINISHED", "all input has been read and all output is committed"))
        elif self._leaving or self._leavers:
            self._take("leave")
        elif self._wanted:
            self._take(*self._wanted.pop(0))

    def _leave_attempt(self) -> None:
        self.restarts += 1
        self._turn += 1
        self.state = "DEPLOYING"
        self._release()
        self._deploy_if_there()

    def _not_taken(self, cause: str, request: str, problem: str) -> None:
        if request:
            self.books.end(request, status="FAILED", failure=problem)
        if cause == "stop":
            self._stop, self.state = None, "RUNNING"
            self._stop_problem = self._problem = problem
            self._failures += 1
            self.books.changed()
            self._keep_schedule(self._turn)
        elif cause == "final":
            self.later(1.0, lambda: self._take("final") if self.state == "FINISHING" else None)
        elif cause == "leave" and self._leaving:
            self._leave_now()
            return
        elif cause == "leave":
            self._leave_attempt()
        elif cause == "interval":
            self._failures += 1
            self._problem = problem
            self.books.changed()
            if self._failures > self.spec["checkpoint"].get("tolerableFailures", 0):
                self._fail_attempt("checkpoint", problem, None)
                return
        if self._pending is None and self._wanted and self.state == "RUNNING":
            self._take(*self._wanted.pop(0))

    def _complete_savepoint(self, request: str, saved: Saved) -> None:
        self.books.end(request, status="COMPLETED", uri=f"{self.uri}/{saved.folder}", id=saved.id, sizeBytes=1000)

    def _no_savepoints(self, reason: str) -> None:
        """Those that were asked for come to nothing."""
        self._wanted.clear()
        self.books.fail_all(reason)

    def input_ends(self) -> None:
        """All input has been read."""
        if self.state == "RUNNING" and not self._leaving:
            self.state, self._pending = "FINISHING", None
            self._no_savepoints("all input has ended")
            self.books.changed()
            self._take("final")

    # The end

    def _set_ending(self, ending: Ending) -> None:
        self.ending = ending
        self._listening = False
        self._pending = None
        self._no_savepoints("the job has ended")
        for worker in list(self.links.values()):
            worker.dropped()
        self.links.clear()
        self.books.changed()
        if self._leaving:
            self.later(0.05, lambda: self.exit(0))

    def terminate(self) -> None:
        self._leaving = True
        if self.ending is not None or self.epoch == 0:
            self.later(0.05, lambda: self.exit(0))
        elif self.state == "RUNNING":
            self.books.changed()
            if self._pending is None:
                self._take("leave")
            self.later(50.0, lambda: self.exit(0))
        else:
            self._leave_now()

    def _leave_now(self) -> None:
        self._listening = False
        for worker in list(self.links.values()):
            worker.dropped()
        self.links.clear()
        self.exit(0)

    def die(self) -> None:
        super().die()
        self.books.wake()
        for worker in list(self.links.values()):
            if not worker.frozen:
                worker.later(0.05, worker.dropped)
        self.links.clear()

    # The API

    async def wait_for_change(self, timeout_s: float) -> None:
        """Wait until something has changed, for at most so long. Raises CoordinatorUnreachableError if it has died."""
        await self.books.wait(timeout_s)
        if not self.alive:
            raise CoordinatorUnreachableError("the connection was reset")

    def view(self) -> dict[str, Any]:
        """The answer to `GET /v1/job`."""
        ending = self.ending
        state = ending.state if ending is not None else "STOPPING" if self._leaving else self.state
        return {
            "state": state,
            "version": self.books.version,
            "epoch": self.epoch,
            "attempt": self.attempt,
            "restarts": self.restarts,
            "parallelism": self.parallelism,
            "workersConnected": len(self.links),
            "workers": [
                {"index": index, "connected": index in self.links, "instance": self._instances.get(index, "")}
                for index in range(self.parallelism)
            ],
            "lastFailure": self._last_failure,
            "lastCheckpoint": self._last_completed,
            "restoredFrom": self._restored_from,
            "stopProblem": self._stop_problem,
            "message": ending.message if ending is not None else "",
            "stoppedWith": ending.stopped_with if ending is not None else "",
            "retryable": ending.retryable if ending is not None else False,
            "refusal": ending.refusal if ending is not None else "",
            "checkpointFailures": self._failures,
            "checkpointProblem": self._problem,
        }

    def trigger(self, after: int) -> dict[str, Any]:
        """The answer to `POST /v1/checkpoints`. Raises CoordinatorRefusedError."""
        if self.state != "RUNNING" or self.ending is not None or self.base is None:
            raise CoordinatorRefusedError(409, "a checkpoint can be taken while the job is running")
        if self.base.id <= after and self._pending is None:
            self._take("interval")
        return {
            "id": self.base.id if self._pending is None else self._pending,
            "status": "IN_PROGRESS",
            "lastCompleted": self._last_completed,
        }

    def stop(self) -> dict[str, Any]:
        """The answer to `POST /v1/stop`. Raises CoordinatorRefusedError."""
        if self.ending is None and self.epoch == 0:
            raise CoordinatorRefusedError(409, "the job has not begun")
        if self.ending is None and self.state == "RUNNING" and not self._leaving:
            self._begin_stop("")
        elif self.ending is None and self.state not in ("STOPPING", "FINISHING"):
            self._stop = "checkpoint"
        return {"state": self.state}

    def _begin_stop(self, request: str) -> None:
        self._stop = request or "checkpoint"
        self._stop_problem = self._stop_problem if self._failures else ""
        self.state = "STOPPING"
        self.books.changed()
        self._until_free(lambda: self._take("stop", request))

    def _until_free(self, work: Callable[[], None]) -> None:
        turn = self._turn

        def look() -> None:
            if turn != self._turn or self._stop is None or self.ending is not None:
                return
            if self._pending is None:
                work()
            else:
                self.later(0.1, look)

        look()

    def savepoint(self, request: str, *, stop: bool) -> dict[str, Any]:
        """The answer to `POST /v1/savepoints`. Raises CoordinatorRefusedError."""
        known = self.books.savepoints.get(request)
        if known is not None:
            if known["stop"] != stop:
                raise CoordinatorRefusedError(409, "the name was used for another wish")
            return dict(known)
        if self.state != "RUNNING" or self.ending is not None or self._leaving:
            raise CoordinatorRefusedError(
                409, f"a savepoint can be taken while the job is running (it is {self.state})"
            )
        self.books.add(request, stop=stop)
        if stop:
            self._begin_stop(request)
        elif self._pending is None:
            self._take("savepoint", request)
        else:
            self._wanted.append(("savepoint", request))
        return dict(self.books.savepoints[request])

    async def savepoint_ended(self, request: str, timeout_s: float) -> dict[str, Any]:
        """The answer to `GET /v1/savepoints/{request}`. Raises CoordinatorRefusedError."""
        if request not in self.books.savepoints:
            raise CoordinatorRefusedError(404, "no savepoint was asked for under that name")
        deadline_s = self.world.loop.time() + timeout_s
        while self.books.savepoints[request]["status"] == "IN_PROGRESS" and self.world.loop.time() < deadline_s:
            await self.wait_for_change(deadline_s - self.world.loop.time())
        return dict(self.books.savepoints[request])

    def dispose(self, uri: str) -> dict[str, Any]:
        """The answer to `POST /v1/savepoints/dispose`. Raises CoordinatorRefusedError."""
        if self.epoch == 0:
            raise CoordinatorRefusedError(409, "the job has not begun")
        if self.world.storage.down:
            raise CoordinatorRefusedError(503, "storage failed")
        parent, _, folder = uri.rstrip("/").rpartition("/")
        if parent != self.uri or not folder.startswith("savepoint-"):
            self.world.rules.refused(uri)
            raise CoordinatorRefusedError(400, "no savepoint of this job")
        if self.base is not None and self.base.folder == folder:
            raise CoordinatorRefusedError(409, "the journal still needs it")
        self.journal.savepoints.pop(folder, None)
        self.journal.disposed.add(folder)
        return {"uri": uri}


__all__ = ["CoordinatorProcess"]
