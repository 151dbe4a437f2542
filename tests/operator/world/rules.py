"""What must never happen, looked at with every change, and what must be so when all is quiet.

The rules know the whole world, not only what an operator sees of it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from checkdam.spec import FRESH
from checkdam.spec.status import Deployment, Rejected, StreamJobStatus
from checkdam_operator.decide import Event
from checkdam_operator.kube.kinds import CONFIG_MAP, POD, SAVEPOINT, STREAM_JOB
from checkdam_operator.kube.protocol import Object
from checkdam_operator.observed import Job, job_of
from checkdam_operator.reasons import StalledReason
from checkdam_operator.resources.hashes import deploy_hash
from checkdam_operator.resources.names import JOB_LABEL, JOB_UID_LABEL, REVISION_LABEL
from world.coordinator import CoordinatorProcess
from world.programs import PROGRAMS
from world.server import OWNED, Change
from world.storage import Entry

if TYPE_CHECKING:
    from world.run import World

TOLD_WITH_A_DEPLOYMENT = frozenset(
    {
        "Deployed",
        "Rescaled",
        "Suspended",
        "Resumed",
        "RolledBack",
        "Completed",
        "JobFailed",
        "JobStopped",
        "JobTakenOver",
    }
)
"""Events that go with a write that only one operator can make: they are told at most once, whoever tells."""

REASONS = {
    "app:nowhere": {"ImagePullFailed"},
    "app:crashes": {"CrashLoop"},
    "app:broken": {"JobFailed"},
    "app:misfit": {"JobFailed"},
    "app:fails": {"JobFailed"},
}
"""Image that does not work → why the job stands still with it. Of `app:silent` nothing tells more than that it is waited for."""


class Rules:
    """Watches a world.

    Args:
        world: Which.

    Attributes:
        problems: What was broken, with the time.
    """

    def __init__(self, world: World) -> None:
        self.problems: list[str] = []
        self._world = world
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._specs: dict[tuple[str, int], Object] = {}
        self._origins: dict[str, set[str]] = {}
        self._epochs: dict[str, int] = {}
        self._tellers: dict[tuple[str, str, str], set[int]] = {}
        self._refused: set[str] = set()
        self._pod_names: set[tuple[int, str, str]] = set()
        world.server.watchers.append(self._on_change)
        world.storage.written.append(self._on_entry)

    def broken(self, text: str) -> None:
        """Note that a rule was broken."""
        self.problems.append(f"at {self._world.loop.time():.1f} s: {text}")

    def told(self, job: Job, event: Event, operator: int) -> None:
        """An operator tells an event."""
        said = (job.uid, str(event.reason), event.key)
        tellers = self._tellers.setdefault(said, set())
        # A reason of `Stalled` may give way to another and come back, which the next operator takes for the first time.
        of_condition = isinstance(event.reason, StalledReason) and event.key.startswith("g")
        only_once = event.reason in TOLD_WITH_A_DEPLOYMENT and not of_condition
        if operator in tellers or (tellers and only_once):
            self.broken(f"the event {said} was told twice")
        tellers.add(operator)

    def pod_made(self, body: Object, operator: int) -> None:
        """An operator has heard that a pod was created. Of pods that others created, and that are gone, it need not know."""
        metadata = body["metadata"]
        named = (operator, metadata["labels"][JOB_UID_LABEL], metadata["name"])
        if named in self._pod_names:
            self.broken(f"operator {operator} has given the name {metadata['name']} to two pods")
        self._pod_names.add(named)

    def pod_deleted(self, namespace: str, name: str) -> None:
        """An operator deletes a pod. One that is not wanted any more must not be needed by an attempt that runs."""
        life = self._world.nodes.named(name)
        job = self._world.server.find(STREAM_JOB, namespace, self._world.name)
        deployment = job_of(job).status.deployment if job is not None else None
        if life is None or deployment is None or len(self._world.operators) > 1:
            return  # of two operators one may not know that it does not lead any more
        surplus = (
            life.revision == deployment.revision and life.role == "worker" and life.index >= deployment.parallelism
        )
        if not surplus or deployment.outcome or deployment.suspended:
            return
        coordinator = self._world.nodes.find("coordinator")
        process = coordinator.process if coordinator is not None else None
        if isinstance(process, CoordinatorProcess) and process.needs(life):
            self.broken(f"pod {name} is deleted by a rescale while an attempt needs it")

    def refused(self, uri: str) -> None:
        """A coordinator has refused to dispose of a savepoint, for good."""
        self._refused.add(uri)

    # Objects

    def _on_change(self, change: Change) -> None:
        body, metadata = change.body, change.body["metadata"]
        key = (change.kind.kind, metadata["namespace"], metadata["name"])
        before = None if change.deleted else self._objects.get(key)
        if before is not None and before["metadata"]["uid"] != metadata["uid"]:
            before = None
        if change.deleted:
            self._objects.pop(key, None)
            return
        self._objects[key] = body
        if change.kind == STREAM_JOB:
            self._specs.setdefault((metadata["uid"], metadata["generation"]), body["spec"])
            if before is not None and before.get("status") != body.get("status"):
                self._on_status(before, body)
        elif change.kind == POD and before is None:
            self._on_pod(body)
        elif change.kind == SAVEPOINT and before is not None:
            was, now = before.get("status") or {}, body.get("status") or {}
            if was.get("state") in ("Completed", "Failed") and now != was:
                self.broken(f"the status of Savepoint {metadata['name']} has changed after its end: {was} to {now}")

    def _on_pod(self, body: Object) -> None:
        namespace, labels = body["metadata"]["namespace"], body["metadata"]["labels"]
        job = self._world.server.find(STREAM_JOB, namespace, labels[JOB_LABEL])
        if job is None or job["metadata"]["uid"] != labels[JOB_UID_LABEL]:
            return  # collected soon, with all that there was
        if "deletionTimestamp" in job["metadata"]:
            return  # the same, and what it needs may be collected already; the operator may not have heard of it yet
        life_config = self._world.nodes_config_map(body)
        if self._world.server.find(CONFIG_MAP, namespace, life_config) is None:
            self.broken(f"pod {body['metadata']['name']} was made of the manifest {life_config}, which is not stored")
        deployment = job_of(job).status.deployment
        if deployment is None or deployment.revision < int(labels[REVISION_LABEL]):
            self.broken(f"pod {body['metadata']['name']} is of a revision that was not written ahead")

    def _on_status(self, before: Object, after: Object) -> None:
        old, new = job_of(before).status, job_of(after).status
        if old.deployment is not None:
            self._on_deployment(old, new)
        if old.last_working is not None and new.last_working is None:
            self.broken("`lastWorking` has vanished")
        if old.last_savepoint is not None and (
            new.last_savepoint is None or new.last_savepoint.time < old.last_savepoint.time
        ):
            self.broken(f"`lastSavepoint` went back from {old.last_savepoint} to {new.last_savepoint}")
        left = {disposal.uid for disposal in new.disposals}
        alive = {body["metadata"]["uid"]: body for body in self._world.server.all(SAVEPOINT)}
        for disposal in old.disposals:
            kept = alive.get(disposal.uid, {}).get("spec", {}).get("onDelete", "Delete") != "Delete"
            if disposal.uid not in left and not kept and not self._is_disposed(disposal.uri):
                self.broken(f"the savepoint at {disposal.uri} is to be disposed of, and was forgotten")

    def _on_deployment(self, old: StreamJobStatus, new: StreamJobStatus) -> None:
        was, now = old.deployment, new.deployment
        assert was is not None
        if now is None or now.revision < was.revision or now.revision > was.revision + 1:
            self.broken(f"the deployment went from revision {was.revision} to {now.revision if now else None}")
            return
        if now.revision == was.revision:
            fixed: dict[str, object] = {"epoch": was.epoch or now.epoch, "outcome": was.outcome or now.outcome}
            fixed |= {"message": was.message or now.message, "restore_from": now.restore_from}
            if now.parallelism != was.parallelism and not was.outcome and not was.suspended:
                fixed |= {name: getattr(now, name) for name in ("parallelism", "generation", "hash", "time")}
            if was.model_copy(update=fixed) != now:
                self.broken(f"revision {was.revision} was rewritten: {was} to {now}")
        elif old.rejected is not None and not now.suspended and _is_of(now, old.rejected):
            self.broken(f"the rejected generation {now.generation} is deployed again as revision {now.revision}")

    def _is_disposed(self, uri: str) -> bool:
        folder = uri.rpartition("/")[2]
        if uri in self._refused:
            return True
        return any(folder in journal.disposed for journal in self._world.storage.journals.values())

    # Journals

    def _on_entry(self, job_id: str, entry: Entry, before: Entry | None) -> None:
        newest = self._epochs.get(job_id, 0)
        if entry.kind == "fence":
            self._epochs[job_id] = entry.epoch
            return
        if entry.epoch != newest:
            self.broken(f"epoch {entry.epoch} of {job_id} commits while epoch {newest} owns the journal")
        if before is None or entry.saved is None:
            return
        if entry.origin != before.origin:
            self._on_wish(job_id, entry)
        elif before.saved is not None and entry.saved.position < before.saved.position:
            self.broken(f"{job_id} goes back from position {before.saved.position} to {entry.saved.position}")

    def _on_wish(self, job_id: str, entry: Entry) -> None:
        """The job starts over, or from elsewhere: somebody must have wanted that, and it is done once."""
        fulfilled = self._origins.setdefault(job_id, set())
        if entry.origin in fulfilled:
            self.broken(f"the wish {entry.origin} is fulfilled a second time")
        fulfilled.add(entry.origin)
        uid, _, generation = entry.origin.partition("#")[0].rpartition("-g")
        spec = self._specs.get((uid, int(generation)))
        if spec is None:
            self.broken(f"the wish {entry.origin} is nobody's")
        elif not spec.get("restoreFrom") and spec.get("upgrade", {}).get("mode") != "Stateless":
            self.broken(f"{job_id} starts over in epoch {entry.epoch}, and nobody wanted that")

    # The end

    def unsettled(self) -> str:
        """What is not as it is to be when all is quiet; empty if nothing."""
        body = self._world.server.find(STREAM_JOB, self._world.namespace, self._world.name)
        if body is None:
            return self._left_behind()
        job = job_of(body)
        status = job.status
        ready, stalled = status.condition("Ready"), status.condition("Stalled")
        if ready is None or stalled is None or job.spec is None or status.observed_generation != job.generation:
            return f"the status is not about generation {job.generation}"
        deployment = status.deployment
        if deployment is None:
            return "" if self._waits_for_savepoint(job) else "nothing is deployed"
        lives = self._world.nodes.lives
        at_rest = deployment.suspended or deployment.outcome
        if at_rest and lives:
            return f"pods {[life.name for life in lives]} run though the job is at rest"
        if deployment.outcome == "Completed" and job.spec.spec.suspend:
            return "" if self._world.facts.input_ended else "it is completed, and there is more input"
        if job.spec.spec.suspend:
            return "" if (status.state, ready.status) == ("Suspended", "True") else f"state is {status.state}"
        if deployment.suspended:
            return "" if self._waits_for_savepoint(job) else "it is not resumed"
        if self._waits_for_savepoint(job):
            return ""
        rejected = status.rejected is not None and status.rejected.hash == deploy_hash(job.spec)
        if deployment.hash != deploy_hash(job.spec) and not rejected:
            return f"generation {job.generation} is not deployed"
        if rejected and stalled.reason != "RolledBack" and not deployment.outcome:
            return f"it is rolled back, and stalled is {stalled.reason}"
        if deployment.outcome:
            return self._ended(job, deployment.outcome, stalled.reason)
        image = self._world.image_of(deployment)
        if not PROGRAMS[image].works and not (not PROGRAMS[image].fits and ready.status == "True"):
            wanted = REASONS.get(image, {stalled.reason})
            return "" if ready.status == "False" and stalled.reason in wanted else f"stalled is {stalled.reason}"
        return self._runs(job, rejected) or self._savepoints_left(job)

    def _runs(self, job: Job, rejected: bool) -> str:
        deployment = job.status.deployment
        assert deployment is not None
        lives = self._world.nodes.lives
        places = Counter((life.role, life.index) for life in lives)
        wanted = Counter([("coordinator", 0), *(("worker", index) for index in range(deployment.parallelism))])
        if places != wanted:
            return f"the pods are {sorted(life.name for life in lives)}"
        odd = [life.name for life in lives if life.revision != deployment.revision or life.ending or not life.running]
        if odd:
            return f"the pods {odd} are not those of revision {deployment.revision}, or do not run"
        ready = job.status.condition("Ready")
        assert ready is not None
        if ready.status != ("False" if rejected else "True") or job.status.state != "Running":
            return f"ready is {ready.status} ({ready.reason}), state {job.status.state}"
        coordinator = self._world.nodes.find("coordinator")
        process = coordinator.process if coordinator is not None else None
        if not isinstance(process, CoordinatorProcess) or process.scale.current != deployment.parallelism:
            return "the attempt has another number of workers than the deployment"
        if job.status.workers.ready != deployment.parallelism:
            return f"{job.status.workers.ready} workers are ready"
        return ""

    def _ended(self, job: Job, outcome: str, reason: str) -> str:
        deployment = job.status.deployment
        assert deployment is not None
        works = PROGRAMS[self._world.image_of(deployment)].works
        wants_what_is_gone = "://" in deployment.restore_from and self._is_disposed(deployment.restore_from)
        allowed = {
            "Completed": self._world.facts.input_ended,
            "Stopped": False,  # it goes on by itself, unless it was drained
            "Failed": not works or job.status.rejected is not None or wants_what_is_gone,
            "TakenOver": False,
        }
        if not allowed[outcome]:
            return f"the job has ended as {outcome}: {deployment.message}"
        if outcome != "Completed" and reason not in (f"Job{outcome}", "RolledBack"):
            return f"it is {outcome}, and stalled is {reason}"
        return ""

    def _waits_for_savepoint(self, job: Job) -> bool:
        """Whether the spec names a Savepoint that cannot be used, and people are told."""
        spec, stalled = job.spec, job.status.condition("Stalled")
        if spec is None or stalled is None or not spec.spec.restore_from or "://" in spec.spec.restore_from:
            return False
        return spec.spec.restore_from != FRESH and stalled.reason in (
            "SavepointNotFound",
            "SavepointFailed",
            "SavepointNotReady",
        )

    def _savepoints_left(self, job: Job) -> str:
        alive = {body["metadata"]["uid"] for body in self._world.server.all(SAVEPOINT)}
        for body in self._world.server.all(SAVEPOINT):
            state = (body.get("status") or {}).get("state")
            if state not in ("Completed", "Failed"):
                return f"Savepoint {body['metadata']['name']} is {state}"
        waiting = [disposal.uri for disposal in job.status.disposals if disposal.uid not in alive]
        return f"the savepoints at {waiting} are not disposed of" if waiting else ""

    def _left_behind(self) -> str:
        if self._world.nodes.lives:
            return f"pods {[life.name for life in self._world.nodes.lives]} of a job that is gone run on"
        left = [body["metadata"]["name"] for kind in OWNED for body in self._world.server.all(kind)]
        return f"{left} of a job that is gone are left" if left and not self._world.facts.orphaned else ""


def _is_of(deployment: Deployment, rejected: Rejected) -> bool:
    """Whether a deployment is the version that was rolled back, and nobody has changed anything since."""
    return (deployment.hash, deployment.generation) == (rejected.hash, rejected.generation)
