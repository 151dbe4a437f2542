"""The pods of a job: one coordinator, and a worker for each index.

A pod is made in three steps. First what Checkdam needs, under the rules of Kubernetes' `restricted` standard; then the user's environment,
resources and podTemplate are merged into it; then what is still missing is filled in: the security settings of sidecars, and requests
for resources of which the user said nothing. The body is for POST, never for apply: applying to a pod that is on its way out would succeed
and be lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Literal

from checkdam.spec import ManifestError, StreamJob
from checkdam.spec.ports import CONTROL_PORT, DATA_PORT, HTTP_PORT
from checkdam.spec.status import Deployment, StartWish
from checkdam_operator.resources import names
from checkdam_operator.resources.hashes import canonical_json
from checkdam_operator.resources.templates import Reserved, as_mapping, merge_field, merge_template, taken_names
from checkdam_operator.resources.volumes import Mount, mounts, storage_problems, volume_problems

USER_ID: Final = 65532
"""User and group of the processes, as in the images."""

GRACE_PERIOD_S: Final = 60
"""From SIGTERM to SIGKILL: time for a last checkpoint."""

LOST_NODE_S: Final = 10
"""The default of `PodDefaults.lost_node_s`; Kubernetes' own, 5 minutes, is longer than a stream should stand still."""

CPU_REQUEST: Final = "100m"
"""Of each container where the user says nothing: little, so that a job fits anywhere; a worker takes what is free."""

BASE_MEMORY_BYTES: Final = 256 * 2**20
"""What a process is taken to need beside what its settings bound: the interpreter, the user's modules, batches under way."""

ENVIRONMENT: Final = frozenset(
    {
        "CHECKDAM_POD_NAME",
        "CHECKDAM_POD_UID",
        "CHECKDAM_POD_IP",
        "CHECKDAM_INDEX",
        "CHECKDAM_COORDINATOR",
        "CHECKDAM_START",
    }
)
"""Variables that tell a process who it is; no user may set them."""

_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_MEBIBYTE: Final = 2**20


@dataclass(frozen=True)
class PodDefaults:
    """What pods get where the job says nothing.

    Attributes:
        image: The image where `spec.image` is empty; once deployed, what the revision's ConfigMap says.
        pull_policy: `Always`, `IfNotPresent` or `Never`; empty: as Kubernetes decides.
        pull_secrets: Names of Secrets of the job's namespace, in addition to those of its podTemplate.
        lost_node_s: So long a pod stays on a node that does not answer, before Kubernetes deletes it.
    """

    image: str
    pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    pull_secrets: tuple[str, ...] = ()
    lost_node_s: int = LOST_NODE_S


@dataclass(frozen=True)
class Succession:
    """What a pod follows in its place.

    Attributes:
        replaces: Uid of the pod that it takes the place of; empty for the first.
        replacements: How many pods in a row were replaced before it.
        avoids: Node on which it is only if no other can take it; empty for none.
    """

    replaces: str = ""
    replacements: int = 0
    avoids: str = ""


FIRST: Final = Succession()
"""Of a pod in whose place there was none before."""


def coordinator_pod(
    job: StreamJob,
    deployment: Deployment,
    defaults: PodDefaults,
    *,
    start: StartWish,
    since_epoch: int,
    start_number: int,
    succession: Succession = FIRST,
) -> dict[str, Any]:
    """The coordinator's pod.

    Args:
        job: What is deployed (`config.deployed_job`).
        deployment: Its revision, ConfigMap and number of workers.
        defaults: Where the job says nothing.
        start: How it begins.
        since_epoch: Its epoch must be higher than this.
        start_number: Counts the coordinators of this job.
        succession: What it follows.

    Raises:
        ManifestError: The job cannot be run in pods; lists every problem.
    """
    begin = start.model_dump(mode="json", by_alias=True)
    begin |= {"sinceEpoch": since_epoch, "startNumber": start_number, "parallelism": deployment.parallelism}
    body = _Body(job, deployment, defaults, names.COORDINATOR, 0, succession)
    return body.build(
        env=[{"name": "CHECKDAM_START", "value": canonical_json(begin)}],
        container={
            "ports": [_port("control", CONTROL_PORT), _port("http", HTTP_PORT)],
            "readinessProbe": {
                "httpGet": {"path": "/healthz", "port": HTTP_PORT},
                "periodSeconds": 5,
                "timeoutSeconds": 2,
            },
        },
    )


def worker_pod(
    job: StreamJob,
    deployment: Deployment,
    defaults: PodDefaults,
    index: int,
    *,
    coordinator_ip: str,
    succession: Succession = FIRST,
) -> dict[str, Any]:
    """A worker's pod.

    Args:
        job: What is deployed (`config.deployed_job`).
        deployment: Its revision and ConfigMap.
        defaults: Where the job says nothing.
        index: Of the worker, from 0.
        coordinator_ip: Address of the coordinator's Service.
        succession: What it follows.

    Raises:
        ManifestError: The job cannot be run in pods; lists every problem.
    """
    body = _Body(job, deployment, defaults, names.WORKER, index, succession)
    return body.build(
        env=[
            {"name": "CHECKDAM_INDEX", "value": str(index)},
            {"name": "CHECKDAM_COORDINATOR", "value": _address(coordinator_ip, CONTROL_PORT)},
        ],
        container={"ports": [_port("data", DATA_PORT)]},
    )


def pod_problems(job: StreamJob) -> list[str]:
    """Why the job cannot be run in pods, one sentence for each problem: what `coordinator_pod` and `worker_pod` would raise.

    To be asked before a version that runs is stopped for this one.
    """
    deployment, defaults = Deployment(revision=1, generation=1, hash="", parallelism=1), PodDefaults(image="any")
    problems: list[str] = []
    for role in (names.COORDINATOR, names.WORKER):
        try:
            _Body(job, deployment, defaults, role, 0).build(env=[], container={"ports": []})
        except ManifestError as error:
            problems += error.problems
    return list(dict.fromkeys(problems))


@dataclass(frozen=True)
class _Body:
    """The common part of both kinds of pods."""

    job: StreamJob
    deployment: Deployment
    defaults: PodDefaults
    role: str
    index: int
    succession: Succession = FIRST

    def build(self, *, env: list[dict[str, Any]], container: dict[str, Any]) -> dict[str, Any]:
        """The whole pod, with these variables and fields of its container that only its kind has."""
        role, spec = self.role, self.job.spec
        made = mounts(self.job, role, self.deployment.config_map)
        ours = self._container(env, made) | container
        pod = {"metadata": self._metadata(), "spec": self._spec(ours, made)}
        problems = storage_problems(self.job)
        problems += self._merge_own_fields(ours)
        template = spec.worker.pod_template if role == names.WORKER else spec.coordinator.pod_template
        reserved = Reserved(
            labels=names.OWN_LABELS,
            annotations=names.OWN_ANNOTATIONS,
            env=ENVIRONMENT,
            volumes={mount.name for mount in made if not mount.replaceable},
            mounts={mount.path for mount in made if not mount.replaceable},
        )
        problems += merge_template(pod, template, reserved, ("spec", role, "podTemplate"))
        problems += [] if problems else _fill_in(pod, self.job, role)
        problems += [] if problems else volume_problems(self.job, role, own_container(pod))
        if problems:
            raise ManifestError(problems)
        return {"apiVersion": "v1", "kind": "Pod", **pod}

    def _merge_own_fields(self, container: dict[str, Any]) -> list[str]:
        """Merge the fields of `spec.worker` and `spec.coordinator` that are short for something in the template."""
        worker, location = self.job.spec.worker, ("spec", self.role)
        if self.role == names.COORDINATOR:
            return merge_field(container, "resources", self.job.spec.coordinator.resources, location)
        env = [variable.model_dump(mode="json", by_alias=True, exclude_defaults=True) for variable in worker.env]
        problems = merge_field(container, "resources", worker.resources, location)
        problems += merge_field(container, "env", env, location)
        return [*problems, *taken_names({"env": env}, "env", ENVIRONMENT, location)]

    def _metadata(self) -> dict[str, Any]:
        job, role, index, revision = self.job.metadata, self.role, self.index, self.deployment.revision
        replaces = self.succession.replaces
        hashed = names.pod_hash(job.uid, role, index, revision, replaces)
        return {
            "name": names.pod_name(job.name, job.uid, role, index, revision, replaces),
            "namespace": job.namespace,
            "labels": names.pod_labels(self.job, role, index, revision, hashed),
            "annotations": {
                names.REPLACES_ANNOTATION: replaces,
                names.REPLACEMENTS_ANNOTATION: str(self.succession.replacements),
                _DEFAULT_CONTAINER: names.CONTAINER,
            },
            "ownerReferences": [names.owner_reference(self.job)],
        }

    def _spec(self, container: dict[str, Any], made: list[Mount]) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": GRACE_PERIOD_S,
            "automountServiceAccountToken": False,
            # Variables made of Services' names would be taken for settings.
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": [_lost_node(taint, self.defaults.lost_node_s) for taint in ("not-ready", "unreachable")],
            "containers": [container],
            "volumes": [mount.volume for mount in made],
        }
        if self.job.spec.service_account_name:
            spec["serviceAccountName"] = self.job.spec.service_account_name
        if self.defaults.pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in self.defaults.pull_secrets]
        if self.succession.avoids:
            others = {"key": "metadata.name", "operator": "NotIn", "values": [self.succession.avoids]}
            preferred = {"weight": 100, "preference": {"matchFields": [others]}}
            spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}
        elif self.role == names.WORKER:  # spreading would weigh as much as avoiding
            spec["topologySpreadConstraints"] = [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": names.selector_labels(self.job.metadata.uid, names.WORKER)},
                }
            ]
        return spec

    def _container(self, env: list[dict[str, Any]], made: list[Mount]) -> dict[str, Any]:
        container: dict[str, Any] = {
            "name": names.CONTAINER,
            "image": self.job.spec.image or self.defaults.image,
            "command": ["python", "-m", "checkdam.pod", self.role],
            "env": [*_identity(self.job), *env],
            "volumeMounts": [mount.volume_mount for mount in made],
            "resources": {"requests": {}, "limits": {}},
            "securityContext": {"readOnlyRootFilesystem": True},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
        if self.defaults.pull_policy:
            container["imagePullPolicy"] = self.defaults.pull_policy
        return container


def _identity(job: StreamJob) -> list[dict[str, Any]]:
    fields = {
        "CHECKDAM_POD_NAME": "metadata.name",
        "CHECKDAM_POD_UID": "metadata.uid",
        "CHECKDAM_POD_IP": "status.podIP",
    }
    # An unknown user id has neither name nor home, and libraries ask for both.
    values = {"USER": "checkdam", "LOGNAME": "checkdam", "HOME": "/tmp"}
    hdfs = job.spec.checkpoint.storage.hdfs
    if hdfs and hdfs.user:
        values["HADOOP_USER_NAME"] = hdfs.user
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def _fill_in(pod: dict[str, Any], job: StreamJob, role: str) -> list[str]:
    """Complete what the user left out. Returns: what is wrong with what was given, one sentence each."""
    problems: list[str] = []
    for kind in ("initContainers", "containers"):
        for position, container in enumerate(pod["spec"].get(kind, ())):
            given = container.pop("securityContext", {})
            container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            location = ("spec", role, "podTemplate", "spec", kind, position)
            problems += merge_field(container, "securityContext", given, location)
    _request_resources(pod, job, role)
    return problems


def _request_resources(pod: dict[str, Any], job: StreamJob, role: str) -> None:
    container = own_container(pod)
    resources = {name: value for name, value in (container.get("resources") or {}).items() if value}
    # A limit alone is a request as well, and may be lower than ours; so may one of the whole pod.
    owners = (resources, as_mapping(pod["spec"].get("resources")))
    given = {name for owner in owners for part in owner.values() for name in as_mapping(part)}
    wanted = {"cpu": CPU_REQUEST, "memory": f"{math.ceil(_memory_bytes(job, role) / _MEBIBYTE)}Mi"}
    missing = {name: amount for name, amount in wanted.items() if name not in given}
    container["resources"] = resources | ({"requests": missing | resources.get("requests", {})} if missing else {})


def _memory_bytes(job: StreamJob, role: str) -> int:
    """A guess at what a process needs, by what its settings bound; state of `hashmap` is not bounded and not in it."""
    spec = job.spec
    if role == names.COORDINATOR:
        storage = spec.checkpoint.storage
        return BASE_MEMORY_BYTES + (storage.memory_limit_bytes if storage.scheme == "memory" else 0)
    return BASE_MEMORY_BYTES + (spec.state_backend.rocksdb.memory_bytes if spec.state_backend.type == "rocksdb" else 0)


def own_container(pod: dict[str, Any]) -> dict[str, Any]:
    """The container of a pod in which Checkdam runs."""
    found: dict[str, Any] = next(found for found in pod["spec"]["containers"] if found["name"] == names.CONTAINER)
    return found


def _lost_node(taint: str, stay_s: int) -> dict[str, Any]:
    return {
        "key": f"node.kubernetes.io/{taint}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": stay_s,
    }


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if isinstance(ip_address(ip), IPv6Address) else f"{ip}:{port}"
