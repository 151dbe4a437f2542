"""What the operator writes into the `status` of a StreamJob.

The status has two readers. People, `kubectl wait` and GitOps tools read conditions, `state` and the counters. The operator itself reads
`deployment`, the part that it writes *ahead*: what is being deployed and how that begins, recorded before the first pod of it exists, so that an
operator that dies in the middle is followed by one that goes on with the same thing. All else is observed anew each time.
The models allow what is missing or unknown, since they read what other versions of the operator have written.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from checkdam.spec.fields import Model

ConditionStatus = Literal["True", "False", "Unknown"]

READY: Final = "Ready"
PROGRESSING: Final = "Progressing"
STALLED: Final = "Stalled"
CHECKPOINT_HEALTHY: Final = "CheckpointHealthy"

State = Literal[
    "Pending",
    "Starting",
    "Running",
    "Restarting",
    "Stopping",
    "Upgrading",
    "Suspended",
    "Completed",
    "Failed",
    "Invalid",
]
"""Where a job stands, in one word for people. Programs read the conditions."""


Outcome = Literal["", "Completed", "Failed", "Stopped", "TakenOver"]
"""How a revision has ended. `Completed`: all input has been read. `Failed`: nothing but a change of the spec will help. `Stopped`: somebody has stopped
the job at its coordinator. `TakenOver`: another coordinator has fenced the journal, such as that of the same job in another cluster."""


class StatusModel(Model):
    """The base of all models of the status: unknown fields are dropped. Made by the operator, with the names of Python, as well as read."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Condition(StatusModel):
    """One condition, as Kubernetes' conventions define it."""

    type: str
    """`Ready`, `Progressing`, `Stalled` or `CheckpointHealthy`."""

    status: ConditionStatus
    """`True`, `False` or `Unknown`."""

    reason: str
    """One word in CamelCase for programs."""

    message: str = ""
    """What is so, and what to do about it."""

    last_transition_time: str
    """When `status` last changed."""

    observed_generation: int = 0
    """The generation of the spec that this is about."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]
"""At most one of each type."""


class CheckpointStatus(StatusModel):
    """The last completed checkpoint."""

    id: int
    """Its number."""

    uri: str = ""
    """Where it is."""

    time: str = ""
    """When it was triggered."""

    duration: str = ""
    """From its trigger to its journal entry."""

    size: str = ""
    """Of all files that it names."""


class SavepointReference(StatusModel):
    """A savepoint that the job has taken or stopped with."""

    uri: str
    """Where it is."""

    time: str = ""
    """When it was completed."""

    name: str = ""
    """Of the Savepoint resource that asked for it; empty for one that an upgrade or a suspension took."""


class Workers(StatusModel):
    """How many workers there are."""

    ready: int = 0
    """Connected to the coordinator."""

    desired: int = 0
    """As many as `spec.parallelism` asked for when the job was deployed, or last rescaled."""


class StartWish(StatusModel):
    """How a coordinator begins with what is in storage. Without any wish it goes on from the journal's tail."""

    resume: bool = False
    """Go on although the journal says that the job was stopped."""

    fresh: bool = False
    """Start over."""

    restore_from: str = ""
    """Uri of a savepoint or checkpoint to start from."""

    request: str = ""
    """Names the wish of `fresh` or `restoreFrom`, so that it is fulfilled once."""

    expected_checkpoint: str = ""
    """Folder of the checkpoint that the journal's tail must name, or the coordinator does not begin: a rollback must not take back
    what the newer version has journalled."""


class Deployment(StatusModel):
    """What is deployed, or is being deployed. Written before it is acted on.

    A job that is rescaled while it runs keeps its revision and its pods: then `parallelism`, `generation`, `hash` and `time` change, and nothing else.
    """

    revision: int
    """Counts deployments of this resource, from 1. Pods carry it as a label. It stays when a job that runs is rescaled."""

    generation: int
    """The generation of the spec that is deployed, or that the job was last rescaled by."""

    hash: str
    """Over the fields of the spec that pods or their number depend on, without defaults."""

    parallelism: int
    """How many workers it is to have; until as many are connected, the job runs on with those that it had."""

    config_map: str = ""
    """The ConfigMap with the manifest that the pods of this revision read."""

    suspended: bool = False
    """There are no pods, because the job is suspended."""

    restore_from: str = ""
    """`spec.restoreFrom` as it was when this was decided; a different value later is a new wish."""

    start: StartWish = StartWish()
    """How the first coordinator of this revision begins."""

    base: str = ""
    """Folder of the checkpoint at the journal's tail when this was decided, if it was known: what a rollback of it begins from."""

    epoch: int = 0
    """The first epoch of this revision, once its coordinator has told; 0 before."""

    outcome: Outcome = ""
    """How this revision has ended; empty while it has not. Then it has no pods."""

    message: str = ""
    """The same for people, with the remedy where there is one."""

    time: str = ""
    """When it was decided, or last rescaled."""


class Rejected(StatusModel):
    """A version that was rolled back; it is not tried again until the spec changes."""

    hash: str
    """Of its spec."""

    generation: int
    """Of its spec."""

    message: str
    """Why."""


class Disposal(StatusModel):
    """Files of a Savepoint resource that are to be deleted when the resource is."""

    name: str
    """Of the resource."""

    uid: str
    """Of the resource."""

    uri: str
    """Where the files are."""


class StreamJobStatus(StatusModel):
    """What has become of a StreamJob."""

    conditions: Conditions = []
    """`Ready`: it runs as the spec says. `Progressing`: something is under way. `Stalled`: it does not go on by itself; the message names the
    remedy. `CheckpointHealthy`: checkpoints succeed."""

    state: State | None = None
    """In one word, for people."""

    observed_generation: int = 0
    """The generation of the spec that this status is about."""

    epoch: int = 0
    """The life of the coordinator, by the journal."""

    attempt: int = 0
    """The deployment of all subtasks within the epoch."""

    restarts: int = 0
    """Attempts that were followed by another, since the job was created."""

    workers: Workers = Workers()
    """How many there are."""

    workers_text: str = ""
    """The same as `ready/desired`, for the printer column."""

    replicas: int = 0
    """Worker pods, for the scale subresource."""

    selector: str = ""
    """Selects the worker pods, for the scale subresource."""

    last_checkpoint: CheckpointStatus | None = None
    """The last completed checkpoint; written at most every 30 s unless something else changes."""

    last_savepoint: SavepointReference | None = None
    """The last completed savepoint."""

    restored_from: str = ""
    """Uri of what the running coordinator began with."""

    deployment: Deployment | None = None
    """What is deployed."""

    last_working: Deployment | None = None
    """The last revision that has completed a checkpoint, with the number of workers that it had then: what a failed upgrade or rescale goes back to."""

    rejected: Rejected | None = None
    """The version that was rolled back, if one was."""

    disposals: Annotated[list[Disposal], Field(max_length=256)] = []
    """Savepoints whose files go with their resource."""

    image: str = ""
    """The image that is deployed."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, if it is set."""
        return next((condition for condition in self.conditions if condition.type == kind), None)
