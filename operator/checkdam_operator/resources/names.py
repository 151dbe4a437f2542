"""How the objects of a job are called, and how they are labelled.

Names are functions of what an object is for, so an operator that asks for the same thing twice, or two operators that ask for it at
once, are told by the API server that it exists. A pod's name ends in a hash that also covers the pod it replaces: the new pod needs
not wait until a slow old one has gone. A job's name has at most 45 characters, and every name made of it at most 63, so that all of them are
labels and DNS names.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final, Literal

from checkdam.spec import API_VERSION, KIND, StreamJob

JOB_LABEL: Final = "checkdam.dev/job"
"""Name of the StreamJob: on everything that belongs to it."""

JOB_UID_LABEL: Final = "checkdam.dev/job-uid"
"""Uid of the StreamJob: what selectors use, since a job that is created again has the same name."""

REVISION_LABEL: Final = "checkdam.dev/revision"
"""Number of the deployment: on pods and on the ConfigMap that they read."""

INDEX_LABEL: Final = "checkdam.dev/index"
"""Index of the worker: on worker pods."""

POD_HASH_LABEL: Final = "checkdam.dev/pod-hash"
"""The hash in the pod's name: the coordinator's Service selects by it, so that it never leads to the pod before."""

NAME_LABEL: Final = "app.kubernetes.io/name"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
"""`coordinator` or `worker`: on pods and on what concerns only one of them."""

OWN_LABELS: Final = frozenset(
    {
        JOB_LABEL,
        JOB_UID_LABEL,
        REVISION_LABEL,
        INDEX_LABEL,
        POD_HASH_LABEL,
        NAME_LABEL,
        MANAGED_BY_LABEL,
        INSTANCE_LABEL,
        COMPONENT_LABEL,
    }
)
"""All of these: no podTemplate may set them."""

REPLACES_ANNOTATION: Final = "checkdam.dev/replaces"
"""Uid of the pod that this one took the place of; empty for the first one of a slot."""

REPLACEMENTS_ANNOTATION: Final = "checkdam.dev/replacements"
"""How many pods in a row were replaced before this one."""

OWN_ANNOTATIONS: Final = frozenset({REPLACES_ANNOTATION, REPLACEMENTS_ANNOTATION})
"""Both of these: no podTemplate may set them."""

MANAGER: Final = "checkdam-operator"
"""Value of the label `app.kubernetes.io/managed-by`, and the field manager of what is applied."""

Role = Literal["coordinator", "worker"]

COORDINATOR: Final = "coordinator"
WORKER: Final = "worker"

CONTAINER: Final = "checkdam"
"""The container of a pod that runs Checkdam; others are sidecars."""

_POD_HASH_LENGTH: Final = 5
_CONFIG_HASH_LENGTH: Final = 8


def short_hash(*parts: object, length: int = _POD_HASH_LENGTH) -> str:
    """`length` characters out of a-z and 2-7 that depend on all `parts` and on where one ends and the next begins."""
    digest = hashlib.sha256("".join(f"{len(str(part))}:{part}" for part in parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:length]


def pod_hash(job_uid: str, role: str, index: int, revision: int, replaces: str) -> str:
    """The hash in a pod's name.

    Args:
        job_uid: Of the StreamJob.
        role: `coordinator` or `worker`.
        index: Of the worker; 0 for the coordinator.
        revision: Of the deployment.
        replaces: Uid of the pod that it takes the place of, or empty.
    """
    return short_hash(job_uid, role, index, revision, replaces)


def pod_name(job: str, job_uid: str, role: str, index: int, revision: int, replaces: str) -> str:
    """Name of a pod; see `pod_hash` for the arguments."""
    slot = COORDINATOR if role == COORDINATOR else f"w{index}"
    return f"{job}-{slot}-{pod_hash(job_uid, role, index, revision, replaces)}"


def auth_secret_name(job: str, job_uid: str) -> str:
    """Name of the Secret by which the processes of a job know each other and the operator."""
    return f"{job}-auth-{short_hash(job_uid)}"


def config_map_name(job: str, job_uid: str, revision: int, content: str) -> str:
    """Name of the ConfigMap of a revision; other content has another name, since a ConfigMap of ours never changes."""
    return f"{job}-{short_hash(job_uid, revision, content, length=_CONFIG_HASH_LENGTH)}"


def service_name(job: str) -> str:
    """Name of the Service in front of the coordinator."""
    return f"{job}-coordinator"


def disruption_budget_name(job: str) -> str:
    """Name of the PodDisruptionBudget over the workers."""
    return f"{job}-workers"


def network_policy_name(job: str) -> str:
    """Name of the NetworkPolicy of the job's pods."""
    return job


def labels(job: StreamJob, role: str = "") -> dict[str, str]:
    """The labels of everything that belongs to a job; with its component where it concerns only the coordinator or the workers."""
    name = job.metadata.name
    made = {
        NAME_LABEL: "checkdam",
        MANAGED_BY_LABEL: MANAGER,
        INSTANCE_LABEL: name,
        JOB_LABEL: name,
        JOB_UID_LABEL: job.metadata.uid,
    }
    return made | {COMPONENT_LABEL: role} if role else made


def pod_labels(job: StreamJob, role: str, index: int, revision: int, hashed: str) -> dict[str, str]:
    """The labels of a pod; `hashed` is the hash in its name, the other arguments are as for `pod_hash`."""
    made = labels(job, role) | {REVISION_LABEL: str(revision), POD_HASH_LABEL: hashed}
    return made | {INDEX_LABEL: str(index)} if role == WORKER else made


def selector_labels(job_uid: str, role: str = "") -> dict[str, str]:
    """Labels that select the pods of one job, all or those of one role."""
    made = {JOB_UID_LABEL: job_uid}
    return made | {COMPONENT_LABEL: role} if role else made


def selector(job_uid: str, role: str = "") -> str:
    """`selector_labels` as the API server takes it in a query and in `status.selector`."""
    return ",".join(f"{name}={value}" for name, value in selector_labels(job_uid, role).items())


def owner_reference(job: StreamJob) -> dict[str, Any]:
    """What makes an object go when its StreamJob goes, without the StreamJob having to wait for it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
