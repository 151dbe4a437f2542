"""What a decision may ask for. Each action is data; `checkdam_operator.reconcile` carries it out, and may be asked for the same again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import StreamJobStatus
from checkdam_operator.observed import Slot
from checkdam_operator.reasons import EventReason, StalledReason
from checkdam_operator.resources.pods import FIRST, Succession


@dataclass(frozen=True)
class KeepManifest:
    """Store the manifest that the pods of a revision read: a ConfigMap, whose name depends on what is in it."""

    config_map: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class ForgetManifest:
    """Delete a stored manifest that nothing goes back to."""

    config_map: str


@dataclass(frozen=True)
class ApplyServices:
    """Have the Service, the disruption budget, the network policy and the secret as they are to be.

    Attributes:
        coordinator_hash: The hash of the coordinator's pod that the Service leads to.
    """

    coordinator_hash: str


@dataclass(frozen=True)
class CreatePod:
    """Create the pod of a slot.

    Attributes:
        slot: Which.
        cause: Why, in one CamelCase word, for metrics.
        succession: What it follows.
    """

    slot: Slot
    cause: str = "Missing"
    succession: Succession = FIRST


@dataclass(frozen=True)
class DeletePod:
    """Delete a pod, gracefully: never by force, because a pod of a lost node may still run, and fencing makes that safe."""

    name: str
    uid: str
    cause: str


@dataclass(frozen=True)
class TriggerCheckpoint:
    """Ask the coordinator for a checkpoint newer than `after`."""

    after: int


@dataclass(frozen=True)
class RequestSavepoint:
    """Ask the coordinator for a savepoint, under a name that makes asking again safe."""

    request: str
    stop: bool = False


@dataclass(frozen=True)
class RequestStop:
    """Ask the coordinator to stop the job, after a last checkpoint or at once."""

    checkpoint: bool


@dataclass(frozen=True)
class Rescale:
    """Tell the coordinator how many workers the job is to have: it goes on with as many as soon as they are there."""

    parallelism: int


@dataclass(frozen=True)
class DisposeSavepoint:
    """Have the coordinator delete the files of a savepoint, whose resource is gone."""

    uid: str
    uri: str


@dataclass(frozen=True)
class CreateSavepoint:
    """Create a Savepoint resource that the schedule asks for."""

    name: str


@dataclass(frozen=True)
class DeleteSavepoint:
    """Delete a scheduled Savepoint resource that `retain` no longer covers."""

    name: str
    uid: str


@dataclass(frozen=True)
class WriteSavepointStatus:
    """Write the status of the very version of a Savepoint resource that was decided on: one that is completed stays so."""

    name: str
    resource_version: str
    status: SavepointStatus


Action = (
    KeepManifest
    | ForgetManifest
    | ApplyServices
    | CreatePod
    | DeletePod
    | TriggerCheckpoint
    | RequestSavepoint
    | RequestStop
    | Rescale
    | DisposeSavepoint
    | CreateSavepoint
    | DeleteSavepoint
    | WriteSavepointStatus
)


@dataclass(frozen=True)
class Event:
    """Something that people should hear of.

    Attributes:
        reason: One word for programs.
        message: What happened, and why.
        warning: Whether it is bad.
        key: Tells this from another occurrence of the same; asking for the same event again is no second one.
    """

    reason: EventReason | StalledReason
    message: str
    warning: bool = False
    key: str = ""


@dataclass(frozen=True)
class Decision:
    """What is to be done now.

    Attributes:
        status: To be written before anything is done; `None` if it stays as it is.
        ahead: Whether `status` must be written on the very version of the resource that was decided on. Then nothing else is done but
            `before`, and the next decision follows at once.
        before: To be done before the status is written.
        actions: To be done after it.
        events: To be told.
        again_ms: Look again at this time at the latest; `None` if only a change calls for it.
        cause: Why a deployment is written ahead, in one CamelCase word, for metrics.
    """

    status: StreamJobStatus | None = None
    ahead: bool = False
    before: tuple[KeepManifest, ...] = ()
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    again_ms: int | None = None
    cause: str = ""
