"""Carrying out single actions of a decision. Each may be asked for again after it was done, and then changes nothing."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from checkdam.spec import API_VERSION, SAVEPOINT_KIND, StreamJob
from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import StreamJobStatus
from checkdam_operator.cache import ObjectCache
from checkdam_operator.coordinators.watch import Coordinators
from checkdam_operator.decide.actions import (
    Action,
    ApplyServices,
    CreatePod,
    CreateSavepoint,
    DeletePod,
    DeleteSavepoint,
    DisposeSavepoint,
    ForgetManifest,
    KeepManifest,
    RequestSavepoint,
    RequestStop,
    Rescale,
    TriggerCheckpoint,
    WriteSavepointStatus,
)
from checkdam_operator.kube.errors import AlreadyExistsError, ConflictError, NotFoundError
from checkdam_operator.kube.kinds import (
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SAVEPOINT,
    SECRET,
    SERVICE,
    STREAM_JOB,
    Kind,
)
from checkdam_operator.kube.protocol import Cluster, Object
from checkdam_operator.metrics import CHECKPOINT_TRIGGERS, PODS_CREATED, PODS_DELETED, SAVEPOINTS, OperatorMetrics
from checkdam_operator.observed import Job, Situation, pod_of
from checkdam_operator.reconcile.memory import JobMemory, Manifest
from checkdam_operator.reconcile.seeing import SCHEDULED_LABEL
from checkdam_operator.resources import config, names
from checkdam_operator.resources.config import NetworkPeers
from checkdam_operator.resources.hashes import canonical_json
from checkdam_operator.resources.pods import PodDefaults, coordinator_pod, worker_pod

_log = logging.getLogger(__name__)

REAPPLY_MS: Final = 600_000
"""Objects beside the pods are applied again after so long though they should be as they were: somebody may have changed them."""

_ABSENT: Final = "absent"


class Hands:
    """Carries out actions.

    Args:
        cluster: The API server.
        cache: Takes in the answers to our own writes at once.
        coordinators: Who is asked for checkpoints and savepoints.
        pods: What pods get where the job says nothing.
        peers: Who may reach coordinators.
        metrics: Counts what is done.
        metrics_token: Opens the metrics of all coordinators, besides their own tokens; a fresh random one for each job if it is empty.
        now_ms: The wall clock.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        coordinators: Coordinators,
        pods: PodDefaults,
        peers: NetworkPeers,
        metrics: OperatorMetrics,
        metrics_token: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._coordinators = coordinators
        self._pods = pods
        self._peers = peers
        self._metrics = metrics
        self._metrics_token = metrics_token
        self._now_ms = now_ms

    async def write_status(self, job: Job, status: StreamJobStatus) -> None:
        """Write the whole status of the very version of the job that was decided on.

        Raises:
            ConflictError: The job is another by now.
            NotFoundError: It is gone.
            KubeError: It could not be written.
        """
        body = {
            "apiVersion": API_VERSION,
            "kind": STREAM_JOB.kind,
            "metadata": {"name": job.name, "namespace": job.namespace, "resourceVersion": job.resource_version},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        written = await self._cluster.apply(STREAM_JOB, job.namespace, job.name, body, subresource="status")
        self._cache.put(STREAM_JOB, written)

    async def perform(self, action: Action, situation: Situation, memory: JobMemory) -> None:
        """Carry out one action.

        Raises:
            KubeError: The API server did not do it.
            ManifestError: The job cannot be run in pods.
        """
        job = situation.job
        match action:
            case KeepManifest(body):
                await self._keep_manifest(job, body, memory)
            case ForgetManifest(name):
                memory.manifests.pop(name, None)
                await self._cluster.delete(CONFIG_MAP, job.namespace, name)
            case ApplyServices(coordinator_hash):
                await self._apply_services(situation, coordinator_hash, memory)
            case CreatePod():
                await self._create_pod(action, situation, memory)
            case DeletePod(_, uid, _) if uid in memory.deleted_pods:
                pass  # the watch has not shown yet that it is on its way out
            case DeletePod(name, uid, cause):
                _log.info("pod %s is deleted: %s", name, cause)
                await self._cluster.delete(POD, job.namespace, name, uid=uid)
                memory.deleted_pods.add(uid)
                self._metrics.count(PODS_DELETED, cause)
            case TriggerCheckpoint(after):
                await self._trigger_checkpoint(job, after)
            case RequestSavepoint(request, stop):
                self._coordinators.request_savepoint(job.uid, request, stop=stop)
            case RequestStop(checkpoint):
                await self._coordinators.stop(job.uid, checkpoint=checkpoint)
            case Rescale(parallelism):
                await self._coordinators.rescale(job.uid, parallelism)
            case DisposeSavepoint(uid, uri):
                await self._dispose(job, uid, uri)
            case CreateSavepoint(name):
                await self._create_savepoint(job, name)
            case DeleteSavepoint(name, uid):
                await self._cluster.delete(SAVEPOINT, job.namespace, name, uid=uid)
            case WriteSavepointStatus(name, version, status):
                await self.write_savepoint_status(job.namespace, name, version, status)

    async def _trigger_checkpoint(self, job: Job, after: int) -> None:
        result = "error"
        try:
            await self._coordinators.trigger_checkpoint(job.uid, after)
            result = "ok"
        finally:
            self._metrics.count(CHECKPOINT_TRIGGERS, result)

    async def write_savepoint_status(self, namespace: str, name: str, version: str, status: SavepointStatus) -> None:
        """Write the whole status of the very version of a Savepoint resource that was decided on; that it is gone does not matter.

        Raises:
            ConflictError: It is another by now, and as it is known from now on.
            KubeError: It could not be written.
        """
        body = {
            "apiVersion": API_VERSION,
            "kind": SAVEPOINT_KIND,
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
            "status": status.model_dump(mode="json", by_alias=True),
        }
        try:
            written = await self._cluster.apply(SAVEPOINT, namespace, name, body, subresource="status")
        except NotFoundError:
            return
        except ConflictError:
            self._cache.put(SAVEPOINT, await self._cluster.get(SAVEPOINT, namespace, name))
            raise
        self._cache.put(SAVEPOINT, written)
        if status.state in ("Completed", "Failed"):
            self._metrics.count(SAVEPOINTS, status.state.lower())

    async def token(self, job: Job, memory: JobMemory) -> str:
        """The token of the coordinator's API; makes the Secret that it is in where there is none.

        Raises:
            KubeError: It could not be read or made.
        """
        if memory.token or job.spec is None:
            return memory.token
        name = names.auth_secret_name(job.name, job.uid)
        try:
            body = await self._cluster.get(SECRET, job.namespace, name)
        except NotFoundError:
            made = config.auth_secret(
                job.spec, secrets.token_hex(32), secrets.token_hex(32), self._metrics_token or secrets.token_hex(32)
            )
            try:
                body = await self._cluster.create(SECRET, job.namespace, made)
            except AlreadyExistsError:
                body = await self._cluster.get(SECRET, job.namespace, name)
        memory.token = base64.b64decode(body["data"][config.TOKEN_KEY]).decode()
        return memory.token

    async def _keep_manifest(self, job: Job, body: Object, memory: JobMemory) -> None:
        try:
            await self._cluster.create(CONFIG_MAP, job.namespace, body)
        except AlreadyExistsError:
            pass  # the name depends on what is in it
        manifest = Manifest(config.deployed_job(body), config.deployed_image(body))
        memory.manifests[body["metadata"]["name"]] = manifest

    async def _apply_services(self, situation: Situation, coordinator_hash: str, memory: JobMemory) -> None:
        job, deployed = situation.job, situation.deployed
        if deployed is None:
            return
        await self.token(job, memory)
        wanted: StreamJob = job.spec or deployed
        if self._are_applied(deployed, wanted, coordinator_hash, memory):
            return
        memory.applied_for = None
        service = await self._apply(SERVICE, job, config.service(deployed, coordinator_hash), memory)
        if service is not None:
            memory.coordinator_ip = service["spec"]["clusterIP"]
        await self._apply(POD_DISRUPTION_BUDGET, job, config.disruption_budget(wanted), memory)
        policy = config.network_policy(wanted, self._peers)
        if wanted.spec.network_policy.enabled:
            await self._apply(NETWORK_POLICY, job, policy, memory)
        elif not self._is_applied(NETWORK_POLICY, _ABSENT, memory):
            await self._cluster.delete(NETWORK_POLICY, job.namespace, policy["metadata"]["name"])
            memory.applied[NETWORK_POLICY.kind] = (_ABSENT, self._now_ms())
        memory.applied_for = (deployed, wanted, coordinator_hash)

    def _are_applied(self, deployed: StreamJob, wanted: StreamJob, coordinator_hash: str, memory: JobMemory) -> bool:
        """Whether all objects beside the pods were made from the very same, not long ago; making them to compare them costs more than a look."""
        if memory.applied_for is None:
            return False
        same = memory.applied_for[0] is deployed and memory.applied_for[1] is wanted
        oldest_ms = min(applied_ms for _, applied_ms in memory.applied.values())
        return same and memory.applied_for[2] == coordinator_hash and self._now_ms() - oldest_ms < REAPPLY_MS

    async def _apply(self, kind: Kind, job: Job, body: Object, memory: JobMemory) -> Object | None:
        """Apply an object unless it was applied like this not long ago; returns it if it was applied."""
        text = canonical_json(body)
        if self._is_applied(kind, text, memory):
            return None
        made = await self._cluster.apply(kind, job.namespace, body["metadata"]["name"], body)
        memory.applied[kind.kind] = (text, self._now_ms())
        return made

    def _is_applied(self, kind: Kind, text: str, memory: JobMemory) -> bool:
        before, applied_ms = memory.applied.get(kind.kind, ("", 0))
        return before == text and self._now_ms() - applied_ms < REAPPLY_MS

    async def _create_pod(self, action: CreatePod, situation: Situation, memory: JobMemory) -> None:
        job, deployment = situation.job, situation.job.status.deployment
        manifest = memory.manifests.get(deployment.config_map) if deployment is not None else None
        if deployment is None or manifest is None:
            return
        defaults = replace(self._pods, image=manifest.image)
        if action.slot.role == "coordinator":
            body = coordinator_pod(
                manifest.job,
                deployment,
                defaults,
                start=deployment.start,
                since_epoch=deployment.epoch,
                # Of use to memory:// alone, whose epochs nobody else keeps: it only has to rise.
                start_number=self._now_ms() // 1000,
                succession=action.succession,
            )
        else:
            body = worker_pod(
                manifest.job,
                deployment,
                defaults,
                action.slot.index,
                coordinator_ip=memory.coordinator_ip,
                succession=action.succession,
            )
        name = body["metadata"]["name"]
        try:
            made = await self._cluster.create(POD, job.namespace, body)
        except AlreadyExistsError:
            # By another operator, or by this one and the watch is late: what there is must be known before anything else is decided.
            made = await self._cluster.get(POD, job.namespace, name)
        else:
            _log.info("pod %s is created as %s: %s", name, action.slot, action.cause)
            self._metrics.count(PODS_CREATED, action.slot.role, action.cause)
        self._cache.put(POD, made)
        pod = pod_of(made)
        memory.note_pods([pod] if pod is not None else [])

    async def _dispose(self, job: Job, uid: str, uri: str) -> None:
        problem = await self._coordinators.dispose(job.uid, uid, uri)
        if problem:
            _log.warning("the files of the savepoint at %s are kept: %s", uri, problem)

    async def _create_savepoint(self, job: Job, name: str) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": SAVEPOINT_KIND,
            "metadata": {
                "name": name,
                "namespace": job.namespace,
                "labels": {names.JOB_LABEL: job.name, SCHEDULED_LABEL: "true"},
            },
            "spec": {"job": job.name, "onDelete": "Delete"},
        }
        try:
            made = await self._cluster.create(SAVEPOINT, job.namespace, body)
        except AlreadyExistsError:
            made = await self._cluster.get(SAVEPOINT, job.namespace, name)
        self._cache.put(SAVEPOINT, made)
