"""The object metadata of our resources, as far as they need it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import model_validator

from checkdam.spec.checks import matching
from checkdam.spec.fields import Model

MAX_NAME_LENGTH: Final = 45
"""Of a StreamJob, so that the names of pods, which add an index and a hash, fit into 63 characters."""

MAX_LABEL_LENGTH: Final = 63
"""Of a label's value in Kubernetes, and so of the name of a Savepoint, which becomes one."""

_SERVER_FIELDS: Final = frozenset(
    (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    )
)


JobName = Annotated[
    str,
    matching(
        f"[a-z](?:[-a-z0-9]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?",
        f"must be at most {MAX_NAME_LENGTH} lower-case letters, digits and '-', "
        "beginning with a letter and ending with a letter or digit",
    ),
]
"""The name of a StreamJob."""

LabelName = Annotated[
    str,
    matching(
        f"[a-z0-9](?:[-a-z0-9]{{0,{MAX_LABEL_LENGTH - 2}}}[a-z0-9])?",
        f"must be at most {MAX_LABEL_LENGTH} lower-case letters, digits and '-', beginning and ending with a letter or digit",
    ),
]
"""The name of a Savepoint or of a namespace."""


class Metadata(Model):
    """The part of Kubernetes' object metadata that a job needs. What only the API server sets is accepted and dropped."""

    name: JobName
    """The job's name: at most 45 lower-case letters, digits and `-`, beginning with a letter."""

    namespace: LabelName = "default"
    """The namespace; with the name it makes the job id."""

    labels: dict[str, str] = {}
    """Labels of the resource."""

    annotations: dict[str, str] = {}
    """Annotations of the resource."""

    uid: str = ""
    """Set by the API server: tells this object from an earlier one of the same name."""

    @model_validator(mode="before")
    @classmethod
    def _drop_server_fields(cls, data: Any) -> Any:
        # `kubectl get -o yaml` shows them, and its output is a manifest too.
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if name not in _SERVER_FIELDS}
        return data


class SavepointMetadata(Metadata):
    """The part of Kubernetes' object metadata that a savepoint needs. What only the API server sets is accepted and dropped."""

    name: LabelName
    """The savepoint's name: at most 63 lower-case letters, digits and `-`."""

    namespace: LabelName = "default"
    """The namespace, which is the job's too."""
