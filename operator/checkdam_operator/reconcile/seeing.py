"""From what the operator holds to the situation that a decision depends on."""

from __future__ import annotations

from typing import Final

from checkdam.core.errors import ManifestError
from checkdam.spec import StreamJob
from checkdam_operator.cache import ObjectCache
from checkdam_operator.coordinators.watch import Coordinators
from checkdam_operator.indexes import PODS_BY_JOB_UID, SAVEPOINTS_BY_JOB
from checkdam_operator.kube.errors import NotFoundError
from checkdam_operator.kube.kinds import CONFIG_MAP, POD, SAVEPOINT, STREAM_JOB
from checkdam_operator.kube.protocol import Cluster, Object
from checkdam_operator.observed import Job, Pod, SavepointSeen, Situation, job_of, pod_of, savepoint_of
from checkdam_operator.reconcile.memory import JobMemory, Manifest
from checkdam_operator.resources.config import deployed_image, deployed_job

SCHEDULED_LABEL: Final = "checkdam.dev/scheduled"
"""On Savepoint resources that the schedule made."""


class Eyes:
    """Sees jobs in what the cache, the coordinators and the memory hold.

    Args:
        cluster: For ConfigMaps, which are read once.
        cache: The API server's objects.
        coordinators: What is known of coordinators.
        default_image: What pods run where `spec.image` is empty.
    """

    def __init__(self, cluster: Cluster, cache: ObjectCache, coordinators: Coordinators, default_image: str) -> None:
        self._cluster = cluster
        self._cache = cache
        self._coordinators = coordinators
        self._default_image = default_image

    def job(self, namespace: str, name: str) -> Job | None:
        """The StreamJob, if there is one."""
        body = self._cache.get(STREAM_JOB, namespace, name)
        return self._cache.read(STREAM_JOB, body, job_of) if body is not None else None

    def pods(self, job_uid: str) -> tuple[Pod, ...]:
        """All pods of a job."""
        found = (self._cache.read(POD, body, pod_of) for body in self._cache.find(PODS_BY_JOB_UID, job_uid))
        return tuple(pod for pod in found if pod is not None)

    def savepoints(self, namespace: str, name: str) -> tuple[SavepointSeen, ...]:
        """The Savepoint resources that name a job."""
        bodies = self._cache.find(SAVEPOINTS_BY_JOB, (namespace, name))
        found = (self._cache.read(SAVEPOINT, body, _savepoint_of) for body in bodies)
        return tuple(savepoint for savepoint in found if savepoint is not None)

    async def situation(self, job: Job, memory: JobMemory, now_ms: int) -> Situation:
        """All that a decision about the job depends on.

        Raises:
            KubeError: The manifest of what is deployed had to be read and could not be.
        """
        manifest = await self.manifest(job, memory)
        return Situation(
            job=job,
            now_ms=now_ms,
            pods=self.pods(job.uid),
            deployed=manifest.job if manifest is not None else None,
            image=manifest.image if manifest is not None else "",
            coordinator=self._coordinators.seen(job.uid),
            savepoints=self.savepoints(job.namespace, job.name),
            restore_source=self._restore_source(job.namespace, job.spec),
            trouble=memory.trouble or memory.pod_trouble,
            default_image=self._default_image,
            status_written_ms=memory.status_written_ms,
            last_pods=memory.last_pods,
        )

    async def manifest(self, job: Job, memory: JobMemory) -> Manifest | None:
        """What the deployed pods read; `None` where nothing is deployed, or its ConfigMap is gone.

        Raises:
            KubeError: It had to be read and could not be.
        """
        deployment = job.status.deployment
        if deployment is None or not deployment.config_map:
            return None
        known = memory.manifests.get(deployment.config_map)
        if known is not None:
            return known
        try:
            body = await self._cluster.get(CONFIG_MAP, job.namespace, deployment.config_map)
            manifest = Manifest(deployed_job(body), deployed_image(body))
        except (NotFoundError, ManifestError, KeyError):
            return None
        memory.manifests[deployment.config_map] = manifest
        return manifest

    def _restore_source(self, namespace: str, spec: StreamJob | None) -> SavepointSeen | None:
        name = spec.spec.restore_from if spec is not None else ""
        body = self._cache.get(SAVEPOINT, namespace, name) if name else None
        return self._cache.read(SAVEPOINT, body, _savepoint_of) if body is not None else None


def _savepoint_of(body: Object) -> SavepointSeen | None:
    return savepoint_of(body, SCHEDULED_LABEL)
