"""What is watched, to which job an object belongs, and by what objects are looked up."""

from __future__ import annotations

from typing import Final

from checkdam_operator.cache import Index, Key, key_of
from checkdam_operator.kube.kinds import POD, SAVEPOINT, STREAM_JOB, Kind
from checkdam_operator.kube.protocol import Object
from checkdam_operator.resources.names import JOB_LABEL, JOB_UID_LABEL

WATCHED: Final[dict[Kind, str]] = {STREAM_JOB: "", SAVEPOINT: "", POD: JOB_LABEL}
"""What is watched, and by which label selector."""


def job_of(kind: Kind, body: Object) -> Key | None:
    """Namespace and name of the job that an object belongs to, if it says so."""
    namespace, name = key_of(body)
    if kind == STREAM_JOB:
        return namespace, name
    job = (body.get("spec") or {}).get("job") if kind == SAVEPOINT else _labels(body).get(JOB_LABEL)
    return (namespace, str(job)) if job else None


def _labels(body: Object) -> dict[str, str]:
    return body["metadata"].get("labels") or {}


def _restored_savepoint(body: Object) -> Key | None:
    name = (body.get("spec") or {}).get("restoreFrom")
    return (body["metadata"]["namespace"], str(name)) if name else None


PODS_BY_JOB_UID: Final = Index(POD, "job uid", lambda pod: _labels(pod).get(JOB_UID_LABEL))
PODS_BY_JOB: Final = Index(POD, "job", lambda pod: job_of(POD, pod))
SAVEPOINTS_BY_JOB: Final = Index(SAVEPOINT, "job", lambda savepoint: job_of(SAVEPOINT, savepoint))
JOBS_BY_SAVEPOINT: Final = Index(STREAM_JOB, "restored savepoint", _restored_savepoint)
"""The jobs whose `spec.restoreFrom` names a Savepoint resource."""

INDEXES: Final = (PODS_BY_JOB_UID, PODS_BY_JOB, SAVEPOINTS_BY_JOB, JOBS_BY_SAVEPOINT)
"""All that the operator looks objects up by."""
