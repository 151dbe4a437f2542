"""What a coordinator does between its beginning and its end: attempts with the workers that are there, their checkpoints and savepoints.

What it does about the journal is what the real one does; what lies between (graphs, workers' state, sinks) is a matter of time only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from world.beginning import Beginning, Ending
from world.storage import Saved
from world.worker import HEARTBEAT_S, WorkerProcess

if TYPE_CHECKING:
    from world.nodes import PodLife

GRACE_LIMIT_S = 5.0


class Attempts(Beginning):
    """One life of a coordinator's container, as workers see it.

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
        self._gives_way = False
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
        self.later(max(0.0, self.scale.patient_until_s - self.world.loop.time()), self._deploy_if_there)

    def welcomes(self, worker: WorkerProcess) -> bool:
        """Whether a worker may stay."""
        index = worker.life.index
        if (
            not self._listening
            or self.ending is not None
            or index >= self.spec.get("maxParallelism", 128)
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
        self._rescale_if_due()
        return True

    def worker_lost(self, worker: WorkerProcess, reason: str) -> None:
        """A worker's connection has ended."""
        index = worker.life.index
        if self.links.get(index) is not worker or not self.alive:
            return
        del self.links[index]
        self.books.changed()
        if index < self.scale.current and self.state in ("DEPLOYING", "RESTARTING", "RUNNING", "STOPPING", "FINISHING"):
            self._fail_attempt("lost", f"worker {index} was lost: {reason}", index)

    def worker_leaves(self, worker: WorkerProcess) -> None:
        """A worker's pod is being deleted."""
        if worker.life.index >= self.scale.current:
            self._release(worker)
            return
        self._leavers.append(worker)
        if self.state == "RUNNING" and self._pending is None and not self._wanted:
            self._take("leave")
        elif self.state != "RUNNING" and not self._deploying:  # an attempt that is about to run gives way when it does
            self._release_leavers()

    def _release_leavers(self) -> None:
        leavers, self._leavers = self._leavers, []
        self._release(*leavers)

    def _release(self, *leavers: WorkerProcess) -> None:
        for worker in leavers:
            if self.links.get(worker.life.index) is worker:
                del self.links[worker.life.index]
            worker.released()
        self.books.changed()

    # Attempts

    def _deploy_if_there(self) -> None:
        if self.ending is not None or self.base is None or self._leaving:
            return
        if self.state not in ("STARTING", "RESTARTING", "DEPLOYING") or self._deploying or self._pausing:
            return
        if not self.scale.settle(self.links):
            return
        self.attempt += 1
        self._turn += 1
        turn = self._turn
        self.state = "RESTARTING" if self._last_failure is not None else "DEPLOYING"
        self._deploying = True
        self.books.changed()
        self.later(self.world.chance.between(0.2, 3.0), lambda: self._run(turn))

    def _rescale_if_due(self) -> None:
        """Have the running attempt give way to one with as many workers as are wanted, if they are there."""
        if self.state == "RUNNING" and not self._leaving and not self._gives_way and self.scale.is_due(self.links):
            self._gives_way = True
            if self._pending is None and not self._wanted:
                self._take("rescale")

    def _run(self, turn: int) -> None:
        if turn != self._turn or self.ending is not None:
            return
        assert self.base is not None
        self._deploying = self._gives_way = False
        self.state = "RUNNING"
        self._position, self._runs_since_s = self.base.position, self.world.loop.time()
        self._last_trigger_s = self.world.loop.time()
        self.books.changed()
        if self._leaving or self._leavers:
            self._take("leave")
        elif self._stop is not None:
            self._begin_stop("")
        if self.world.facts.input_ended:
            self.later(1.0, self.input_ends)
        if not self.life.program.lives:
            self.later(1.0, lambda: self._fail_for_good(turn))
        self._keep_schedule(turn)
        self._rescale_if_due()

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
        self._release_leavers()
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
                self._take(self._due_cause)
            due_s = self.world.loop.time() + interval_s
        self.later(max(due_s - self.world.loop.time(), 0.5), lambda: self._keep_schedule(turn))

    @property
    def _due_cause(self) -> str:
        return "rescale" if self._gives_way else "interval"

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
        elif cause == "rescale":
            self._leave_attempt()
        elif cause == "final":
            if self._append("finished", saved):
                self._end(Ending("FINISHED", "all input has been read and all output is committed"))
        elif self._leaving or self._leavers:
            self._take("leave")
        elif self._wanted:
            self._take(*self._wanted.pop(0))
        elif self._gives_way:
            self._take("rescale")

    def _leave_attempt(self) -> None:
        self.restarts += 1
        self._turn += 1
        self.state = "DEPLOYING"
        self._release_leavers()
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
        elif cause in ("interval", "rescale"):
            self._failures += 1
            self._problem = problem
            self.books.changed()
            if self._failures > self.spec["checkpoint"].get("tolerableFailures", 0):
                self._fail_attempt("checkpoint", problem, None)
                return
        if self._pending is None and self._wanted and self.state == "RUNNING":
            self._take(*self._wanted.pop(0))

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
