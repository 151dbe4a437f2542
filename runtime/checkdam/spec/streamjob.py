"""The resource `StreamJob` as a whole: what a user writes to describe a job, on a laptop and in a cluster.

The docstrings of all fields are the reference: `docs/reference/streamjob.md` and the descriptions in the CRD come from them.
The models check one field each; rules over several fields are in `checkdam.spec.rules`. `checkdam.spec.manifest` applies both.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from checkdam.spec.checkpoint import Checkpointing
from checkdam.spec.checks import matching
from checkdam.spec.fields import Model, ObjectName
from checkdam.spec.metadata import Metadata
from checkdam.spec.pods import CoordinatorPod, NetworkPolicy, Upgrade, WorkerPods
from checkdam.spec.program import Program
from checkdam.spec.restart import Restart
from checkdam.spec.runtime import RuntimeSettings
from checkdam.spec.savepoints import Savepoints
from checkdam.spec.state import StateBackend

API_VERSION: Final = "checkdam.dev/v1alpha1"
KIND: Final = "StreamJob"
FRESH: Final = "Fresh"
"""The value of `spec.restoreFrom` that starts over."""

_JOB_ID_SEGMENT: Final = "[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

JobId = Annotated[
    str,
    Field(max_length=127),
    matching(
        f"{_JOB_ID_SEGMENT}(?:/{_JOB_ID_SEGMENT})?",
        "must be one or two names with '/' between them, each of at most 63 letters, digits, '-', '_' and '.', "
        "beginning and ending with a letter or digit",
        optional=True,
    ),
]
"""The identity of a job, or an empty text for the one that follows from namespace and name."""


class StreamJobSpec(Model):
    """What the job is to be."""

    image: str = ""
    """The image of coordinator and workers, with the user's code in it. Empty: the operator's runtime image. A local run ignores it."""

    job_id: JobId = ""
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

    restart_nonce: str = ""
    """Any change of this text restarts the job by the mode of `upgrade`, as a change of the image would."""

    savepoints: Savepoints = Savepoints()
    """Savepoints that are taken by the clock."""

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

    service_account_name: ObjectName = ""
    """The service account of all pods, for their own identity towards a cloud's storage. Its token for the Kubernetes API is not mounted all
    the same. Empty: the namespace's default."""

    network_policy: NetworkPolicy = NetworkPolicy()
    """Which traffic the pods take part in."""

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
