"""The object metadata of our resources, as far as they need it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, model_validator

from checkdam.spec.fields import Model, shown

MAX_NAME_LENGTH: Final = 45
"""Of a StreamJob, so that the names of pods, which add an index and a hash, fit into 63 characters."""

MAX_SAVEPOINT_NAME_LENGTH: Final = 63
"""Of a Savepoint, so that it fits a label."""

_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_SAVEPOINT_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
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


def job_name(text: str) -> str:
    """The text, if it can be a StreamJob's name.

    Raises:
        ValueError: It cannot; the message says what it must be.
    """
    if len(text) > MAX_NAME_LENGTH or not _NAME.fullmatch(text):
        raise ValueError(
            f"must be at most {MAX_NAME_LENGTH} lower-case letters, digits and '-', "
            f"beginning with a letter and ending with a letter or digit (got {shown(text)})"
        )
    return text


def _savepoint_name(text: str) -> str:
    if len(text) > MAX_SAVEPOINT_NAME_LENGTH or not _SAVEPOINT_NAME.fullmatch(text):
        raise ValueError(
            f"must be at most {MAX_SAVEPOINT_NAME_LENGTH} lower-case letters, digits and '-', "
            f"beginning and ending with a letter or digit (got {shown(text)})"
        )
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(
            "must be at most 63 lower-case letters, digits and '-', "
            f"beginning and ending with a letter or digit (got {shown(text)})"
        )
    return text


class Metadata(Model):
    """The part of Kubernetes' object metadata that a job needs. What only the API server sets is accepted and dropped."""

    name: Annotated[str, AfterValidator(job_name)]
    """The job's name: at most 45 lower-case letters, digits and `-`, beginning with a letter."""

    namespace: Annotated[str, AfterValidator(_namespace)] = "default"
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

    name: Annotated[str, AfterValidator(_savepoint_name)]
    """The savepoint's name: at most 63 lower-case letters, digits and `-`."""

    namespace: Annotated[str, AfterValidator(_namespace)] = "default"
    """The namespace, which is the job's too."""
