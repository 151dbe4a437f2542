"""One look at a job: see, decide, do.

The order is what makes it safe to die anywhere. A deployment is written into the status on the very version of the resource that it was decided on, after its manifest is
stored and before anything of it is done; then the job is looked at again. Everything else is done after the status was written, one action after
the other, and an action that fails ends the look: the next one finds out anew what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from checkdam.core.errors import CheckdamError, ManifestError
from checkdam.spec.ports import HTTP_PORT
from checkdam_operator.cache import ObjectCache
from checkdam_operator.coordinators.client import Address
from checkdam_operator.coordinators.watch import Coordinators
from checkdam_operator.decide import Action, Decision, Event, decide
from checkdam_operator.decide.savepoints import status_without_job
from checkdam_operator.indexes import PODS_BY_JOB
from checkdam_operator.kube.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from checkdam_operator.kube.kinds import POD, STREAM_JOB
from checkdam_operator.kube.protocol import Cluster
from checkdam_operator.metrics import DEPLOYMENTS, JobSample, OperatorMetrics
from checkdam_operator.observed import Job, Pod, Situation, Trouble
from checkdam_operator.reasons import StalledReason
from checkdam_operator.reconcile.doing import Hands
from checkdam_operator.reconcile.memory import JobMemory
from checkdam_operator.reconcile.seeing import Eyes
from checkdam_operator.reconcile.stuck import PATIENCE_MS, look_into_pods, may_be_stuck
from checkdam_operator.resources.names import JOB_UID_LABEL
from checkdam_operator.times import time_ms

_log = logging.getLogger(__name__)

TROUBLE_RETRY_S: Final = 10.0
"""How often something that the API server refuses is tried again. What keeps it from succeeding, such as a quota, goes without a word."""

MOST_STEPS: Final = 8
"""So many deployments may be written ahead in one look; each follows from the one before, and more than two in a row would be a mistake."""

Key = tuple[str, str]
"""Namespace and name of a StreamJob."""


class ReconcileError(CheckdamError):
    """A job could not be looked at to the end; it is to be tried again."""


class Reconciler:
    """Looks at jobs; one at a time for each key, which its caller sees to.

    Args:
        cluster: The API server.
        cache: What it is known to hold.
        coordinators: What is known of coordinators.
        eyes: Sees situations.
        hands: Carry out actions.
        look_at: Has a job looked at soon.
        tell: Writes an Event about a job; must not wait.
        metrics: Shows what is known of jobs.
        now_ms: The wall clock.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        coordinators: Coordinators,
        eyes: Eyes,
        hands: Hands,
        look_at: Callable[[Key], None],
        tell: Callable[[Job, Event], None],
        metrics: OperatorMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._coordinators = coordinators
        self._eyes = eyes
        self._hands = hands
        self._look_at = look_at
        self._tell = tell
        self._metrics = metrics
        self._now_ms = now_ms
        self._memories: dict[Key, JobMemory] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Look at a job once, and do what is to be done.

        Returns:
            After how many seconds to look again though nothing happens; `None` for never.

        Raises:
            UnavailableError: The API server does not answer; to be tried again.
            ReconcileError: The job changes faster than it can be looked at; to be tried again.
        """
        for _ in range(MOST_STEPS):
            job = self._eyes.job(*key)
            memory = self._remember(key, job)
            await self._delete_orphans(key, job)
            if job is None or memory is None:
                await self._without_job(key)
                return None
            situation = await self._look(job, memory)
            decision = decide(situation)
            try:
                if not await self._write(situation, decision, memory):
                    continue
            except ConflictError:
                await self._read_again(job)
                continue
            return await self._act(situation, decision, memory)
        raise ReconcileError(f"the StreamJob {key[0]}/{key[1]} has changed {MOST_STEPS} times while it was looked at")

    async def _look(self, job: Job, memory: JobMemory) -> Situation:
        now_ms = self._now_ms()
        pods = self._eyes.pods(job.uid)
        memory.deleted_pods &= {pod.uid for pod in pods}
        memory.note_pods(pods)
        if not job.deleting:
            await self._follow_coordinator(job, pods, memory)
            await look_into_pods(self._cluster, job.namespace, pods, memory, now_ms)
        return await self._eyes.situation(job, memory, now_ms)

    async def _follow_coordinator(self, job: Job, pods: tuple[Pod, ...], memory: JobMemory) -> None:
        """Follow the newest coordinator of the deployment that has an address."""
        deployment = job.status.deployment
        candidates = [
            pod
            for pod in pods
            if deployment is not None
            and pod.slot.role == "coordinator"
            and pod.revision == deployment.revision
            and pod.ip
            and not pod.deleting
        ]
        suspended = deployment is not None and deployment.suspended
        if suspended:
            memory.token = ""  # who wants other secrets for the job deletes the Secret meanwhile
        if not candidates or suspended:
            self._coordinators.forget(job.uid)
            return
        newest = max(candidates, key=lambda pod: (pod.created_ms, pod.name))
        try:
            token = await self._hands.token(job, memory)
        except ForbiddenError as error:
            memory.trouble = _refused(error, self._now_ms())
            return
        key = memory.key
        self._coordinators.watch(job.uid, newest.uid, Address(newest.ip, HTTP_PORT, token), lambda: self._look_at(key))

    async def _write(self, situation: Situation, decision: Decision, memory: JobMemory) -> bool:
        """Write the status; whether the rest of the decision may be carried out."""
        job = situation.job
        for action in decision.before:
            trouble = await self._perform(action, situation, memory)
            if trouble is not None:
                memory.trouble = replace(trouble, reason=StalledReason.MANIFEST_REFUSED)
                return False
        if decision.status is not None:
            await self._hands.write_status(job, decision.status)
            memory.status_written_ms = situation.now_ms
        for event in decision.events:
            if memory.is_news(event):
                self._tell(job, event)
        if decision.ahead and decision.status is not None and decision.status.deployment is not None:
            _log.info("job %s/%s: revision %d", job.namespace, job.name, decision.status.deployment.revision)
            self._metrics.count(DEPLOYMENTS, decision.cause)
        status = decision.status or job.status
        self._metrics.show_job(job.namespace, job.name, _sample(replace(job, status=status)))
        return not decision.ahead

    async def _act(self, situation: Situation, decision: Decision, memory: JobMemory) -> float | None:
        trouble: Trouble | None = None
        for action in decision.actions:
            trouble = await self._perform(action, situation, memory)
            if trouble is not None:
                break
        if (memory.trouble is None) != (trouble is None) or (
            trouble and memory.trouble and trouble.message != memory.trouble.message
        ):
            self._look_at(memory.key)  # to tell people
        memory.trouble = trouble
        after_s = self._after_s(situation, decision)
        if trouble is None:
            return after_s
        return TROUBLE_RETRY_S if after_s is None else min(after_s, TROUBLE_RETRY_S)

    async def _perform(self, action: Action, situation: Situation, memory: JobMemory) -> Trouble | None:
        """Carry out an action; what the API server has against it, if it refuses it for good."""
        now_ms = self._now_ms()
        try:
            await self._hands.perform(action, situation, memory)
        except ForbiddenError as error:
            return _refused(error, now_ms)
        except InvalidError as error:
            message = f"the API server refused an object of the job: {error.message}; correct the spec"
            return Trouble(StalledReason.REFUSED, message, now_ms)
        except ManifestError as error:
            return Trouble(StalledReason.INVALID_SPEC, f"{'; '.join(error.problems)}; correct the spec", now_ms)
        return None

    def _after_s(self, situation: Situation, decision: Decision) -> float | None:
        times = [decision.again_ms] if decision.again_ms is not None else []
        times += [pod.created_ms + PATIENCE_MS for pod in may_be_stuck(situation.pods)][:1]
        if not times:
            return None
        return max(min(times) - situation.now_ms, 50) / 1000

    async def _read_again(self, job: Job) -> None:
        """The cache is behind: read the job from where it is."""
        try:
            self._cache.put(STREAM_JOB, await self._cluster.get(STREAM_JOB, job.namespace, job.name))
        except NotFoundError:
            body = self._cache.get(STREAM_JOB, job.namespace, job.name)
            if body is not None:
                self._cache.remove(STREAM_JOB, body)

    # Jobs that are gone

    def _remember(self, key: Key, job: Job | None) -> JobMemory | None:
        """What is remembered of this very job; one of the same name that was there before is forgotten."""
        memory = self._memories.get(key)
        if memory is not None and (job is None or memory.uid != job.uid):
            del self._memories[key]
            self._coordinators.forget(memory.uid)
            memory = None
        if memory is None and job is not None:
            memory = self._memories[key] = JobMemory(key, job.uid)
        return memory

    async def _delete_orphans(self, key: Key, job: Job | None) -> None:
        """Delete pods that a StreamJob of this name has left behind: without an owner nobody else does."""
        namespace, name = key
        uid = job.uid if job is not None else ""
        orphans = [
            body["metadata"]
            for body in self._cache.find(PODS_BY_JOB, key)
            if body["metadata"]["labels"].get(JOB_UID_LABEL) != uid
            and not body["metadata"].get("ownerReferences")
            and "deletionTimestamp" not in body["metadata"]
        ]
        if not orphans or (job is None and await self._exists(namespace, name)):
            return
        for pod in orphans:
            _log.info("pod %s belongs to a StreamJob that is gone", pod["name"])
            await self._cluster.delete(POD, namespace, pod["name"], uid=pod["uid"])

    async def _exists(self, namespace: str, name: str) -> bool:
        try:
            await self._cluster.get(STREAM_JOB, namespace, name)
        except NotFoundError:
            return False
        return True

    async def _without_job(self, key: Key) -> None:
        """There is no such job: its Savepoints wait."""
        namespace, name = key
        self._metrics.forget_job(namespace, name)
        for savepoint in self._eyes.savepoints(namespace, name):
            status = status_without_job(savepoint, self._now_ms())
            if status != savepoint.status:
                version = savepoint.resource_version
                await self._hands.write_savepoint_status(namespace, savepoint.name, version, status)


def _refused(error: ForbiddenError, now_ms: int) -> Trouble:
    if error.quota:
        return Trouble(
            StalledReason.QUOTA_EXCEEDED,
            f"the namespace's quota does not allow another object: {error.message}; raise the quota, or ask for less",
            now_ms,
        )
    return Trouble(
        StalledReason.FORBIDDEN,
        f"the API server does not allow what the job needs: {error.message}; correct the spec, or the operator's permissions",
        now_ms,
    )


def _sample(job: Job) -> JobSample:
    status = job.status

    def holds(kind: str) -> bool:
        condition = status.condition(kind)
        return condition is not None and condition.status == "True"

    last = status.last_checkpoint
    return JobSample(
        state=status.state or "",
        ready=holds("Ready"),
        stalled=holds("Stalled"),
        checkpoint_healthy=holds("CheckpointHealthy"),
        workers=status.workers.desired,
        workers_ready=status.workers.ready,
        restarts=status.restarts,
        last_checkpoint_ms=time_ms(last.time) if last is not None else None,
    )
