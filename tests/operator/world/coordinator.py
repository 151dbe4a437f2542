"""The model of a coordinator's process, by the rules of the real one: one fence, then attempts, checkpoints and savepoints until the end.

After its end it goes on answering, and a container that is started again in the same pod tells how the one before has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from checkdam_operator.coordinators.client import CoordinatorRefusedError, CoordinatorUnreachableError
from world.attempts import Attempts

if TYPE_CHECKING:
    from world.nodes import PodLife


class CoordinatorProcess(Attempts):
    """One life of a coordinator's container, as operators see it: what it answers to their requests."""

    def needs(self, life: PodLife) -> bool:
        """Whether the attempt that runs would fail without this pod."""
        worker = self.links.get(life.index)
        takes_part = worker is not None and worker.life is life and life.index < self.scale.current
        return takes_part and self.alive and not self._leaving and self.state == "RUNNING" and self.ending is None

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
            "parallelism": self.scale.current,
            "wantedParallelism": self.scale.wanted,
            "workersConnected": sum(index < self.scale.wanted for index in self.links),
            "workers": [
                {"index": index, "connected": index in self.links, "instance": self._instances.get(index, "")}
                for index in range(max(self.scale.current, self.scale.wanted))
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
            self._take(self._due_cause)
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

    def rescale(self, parallelism: int) -> dict[str, Any]:
        """The answer to `POST /v1/rescale`. Raises CoordinatorRefusedError."""
        if self.ending is not None or self.epoch == 0:
            raise CoordinatorRefusedError(409, "the job has not begun, or has ended")
        if parallelism != self.scale.wanted:
            self.scale.want(parallelism)
            self.books.changed()
            self._deploy_if_there()
            self._rescale_if_due()
        return {"parallelism": self.scale.current, "wantedParallelism": self.scale.wanted}

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
