"""The resource `StreamJob` as a whole: what a user writes to describe a job, on a laptop and in a cluster.

The docstrings of all fields are the reference: `docs/reference/streamjob.md` and the descriptions in the CRD come from them.
The models check one field each; rules over several fields are in `checkdam.spec.rules`. `checkdam.spec.manifest` applies both.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from checkdam.spec.checkpoint import Checkpointing
from checkdam.spec.fields import Model, shown
from checkdam.spec.pods import CoordinatorPod, Upgrade, WorkerPods
from checkdam.spec.program import Program
from checkdam.spec.restart import Restart
from checkdam.spec.runtime import RuntimeSettings
from checkdam.spec.state import StateBackend

API_VERSION: Final = "checkdam.dev/v1alpha1"
KIND: Final = "StreamJob"
MAX_NAME_LENGTH: Final = 45
"""So that the names of pods, which add an index and a hash, fit into 63 characters."""

FRESH: Final = "Fresh"
"""The value of `spec.restoreFrom` that starts over."""

_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_JOB_ID_SEGMENT: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


_SERVER_FIELDS: Final = frozenset(
    (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    )
)


def _name(text: str) -> str:
    if len(text) > MAX_NAME_LENGTH or not _NAME.fullmatch(text):
        raise ValueError(
            f"must be at most {MAX_NAME_LENGTH} lower-case letters, digits and '-', "
            f"beginning with a letter and ending with a letter or digit (got {shown(text)})"
        )
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(
            "must be at most 63 lower-case letters, digits and '-', "
            f"beginning and ending with a letter or digit (got {shown(text)})"
        )
    return text


def _job_id(text: str) -> str:
    segments = text.split("/")
    if text and (len(segments) > 2 or not all(_JOB_ID_SEGMENT.fullmatch(segment) for segment in segments)):
        raise ValueError(
            "must be one or two names with '/' between them, each of at most 63 letters, digits, '-', '_' and '.', "
            f"beginning and ending with a letter or digit (got {shown(text)})"
        )
    return text


class Metadata(Model):
    """The part of Kubernetes' object metadata that a job needs. What only the API server sets is accepted and dropped."""

    name: Annotated[str, AfterValidator(_name)]
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


class StreamJobSpec(Model):
    """What the job is to be."""

    image: str = ""
    """The image of coordinator and workers, with the user's code in it. Empty: the operator's runtime image. A local run ignores it."""

    job_id: Annotated[str, AfterValidator(_job_id)] = ""
    """The job's identity and its folder in storage; a job that is applied again under the same id goes on from its journal. Empty:
    `namespace/name`. It cannot be changed later."""

    program: Program
    """The code to run."""

    parallelism: Annotated[int, Field(ge=1, le=32768)] = 1
    """How many workers the job has; each runs one subtask of every stage."""

    max_parallelism: Annotated[int, Field(ge=1, le=32768)] = 128
    """The number of key groups, and so the upper bound of `parallelism`. It cannot be changed later: keys would land in other groups."""

    suspend: bool = False
    """Stop the job with its state kept; it goes on when this is `false` again."""

    state_backend: StateBackend = StateBackend()
    """Where keyed state lives while the job runs."""

    checkpoint: Checkpointing
    """When and where checkpoints are taken."""

    restart: Restart = Restart()
    """What happens after a failure."""

    upgrade: Upgrade = Upgrade()
    """How changes reach a running job."""

    restore_from: str = ""
    """What the job starts from: the name of a Savepoint, the uri of a savepoint or checkpoint, or `Fresh` to start over. Empty: from the journal if there is one."""

    allow_pickle: bool = True
    """Whether values of undeclared types may be pickled. Who can write the checkpoint storage can then run code in the workers; `false` demands
    declared types everywhere."""

    allow_non_restored_state: bool = False
    """Whether a checkpoint may be restored that holds state of operators which the pipeline no longer has. That state is dropped."""

    worker: WorkerPods = WorkerPods()
    """The worker pods."""

    coordinator: CoordinatorPod = CoordinatorPod()
    """The coordinator's pod."""

    runtime: RuntimeSettings = RuntimeSettings()
    """Advanced settings."""


class StreamJob(Model):
    """A stateful stream job."""

    api_version: Literal["checkdam.dev/v1alpha1"]
    """`checkdam.dev/v1alpha1`."""

    kind: Literal["StreamJob"]
    """`StreamJob`."""

    metadata: Metadata
    """Name, namespace, labels, annotations."""

    spec: StreamJobSpec
    """What the job is to be."""

    status: dict[str, Any] = {}
    """Written by the operator; ignored in manifests."""

    @property
    def job_id(self) -> str:
        """`spec.jobId`, or `namespace/name` where it is empty."""
        return self.spec.job_id or f"{self.metadata.namespace}/{self.metadata.name}"

    def to_manifest(self) -> dict[str, Any]:
        """The job as plain JSON data with all defaults filled in; `parse_manifest` gives an equal job back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
