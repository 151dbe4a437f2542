"""When the pods of a job must be made anew.

What a job's processes read, and what pods are made of, is the *deployed* part of a spec. The rest is read by the operator alone and takes effect
without touching a pod. The deployed part is written without the fields that have their default value: so a new version of the
resource, in which a field was added, changes neither the hash nor the manifest of a job that does not use it, and an image older than
the operator is not given fields that it does not know.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from checkdam.spec import StreamJob

OPERATOR_ONLY: Final[dict[str, Any]] = {
    "suspend": True,
    "upgrade": True,
    "savepoints": True,
    "restore_from": True,
    "network_policy": True,
    "worker": {"disruption_budget"},
}
"""The fields of a spec that only the operator reads. `checkpoint.interval` is not one of them: the coordinator keeps it too, so that
checkpoints go on while the operator is away."""

_HASH_LENGTH: Final = 16


def deployed_spec(job: StreamJob) -> dict[str, Any]:
    """The deployed part of the spec as plain JSON data, without fields that have their default value."""
    spec: dict[str, Any] = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=OPERATOR_ONLY)
    # A worker of which only an operator's field was given is left empty, and the same as no worker at all.
    return {name: value for name, value in spec.items() if (name, value) != ("worker", {})}


def deploy_hash(job: StreamJob) -> str:
    """Hash over the deployed part of the spec: while it is the same, nothing is to be done about the pods."""
    return hashlib.sha256(canonical_json(deployed_spec(job)).encode()).hexdigest()[:_HASH_LENGTH]


def unscaled_spec(job: StreamJob) -> dict[str, Any]:
    """The deployed part of the spec without `parallelism`, which may change while the pods stay."""
    return {name: value for name, value in deployed_spec(job).items() if name != "parallelism"}


def only_rescaled(deployed: StreamJob, parallelism: int, wanted: StreamJob) -> bool:
    """Whether `parallelism` is what differs between what is deployed and a spec, and all that differs.

    Args:
        deployed: What the pods read.
        parallelism: How many workers are deployed.
        wanted: The spec.
    """
    return parallelism != wanted.spec.parallelism and unscaled_spec(deployed) == unscaled_spec(wanted)


def canonical_json(data: Any) -> str:
    """JSON data as the one text that equal data have."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
