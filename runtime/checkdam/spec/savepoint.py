"""The resource `Savepoint`: one savepoint of a StreamJob, to be taken or already there.

Creating one takes a savepoint; with a `uri` it stands for files that are there already. Nothing of its spec but `onDelete` can be changed.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from checkdam.spec.checkpoint import OptionalStorageUri
from checkdam.spec.fields import Model
from checkdam.spec.metadata import JobName, SavepointMetadata
from checkdam.spec.status import Condition, Conditions, StatusModel

SAVEPOINT_KIND: Final = "Savepoint"

SavepointState = Literal["Pending", "InProgress", "Completed", "Failed"]
"""Where a savepoint stands, in one word for people. Programs read the conditions."""


class SavepointSpec(Model):
    """Which savepoint it is."""

    job: JobName
    """Name of the StreamJob of the same namespace. It cannot be changed."""

    uri: OptionalStorageUri = ""
    """Where an existing savepoint is, which this resource is to stand for; none is taken then. Empty: take one. It cannot be changed."""

    on_delete: Literal["Keep", "Delete"] = "Keep"
    """What happens to the files when this resource is deleted. `Keep`: they stay. `Delete`: they are deleted, if they are in the job's own
    folder and the job does not need them."""


class SavepointStatus(StatusModel):
    """What has become of a Savepoint."""

    conditions: Conditions = []
    """`Ready`: it is completed and can be restored. `Stalled`: it failed and is not tried again."""

    state: SavepointState | None = None
    """In one word, for people."""

    observed_generation: int = 0
    """The generation of the spec that this status is about."""

    request: str = ""
    """The name under which the coordinator was asked for it, so that it is taken once."""

    uri: str = ""
    """Where it is."""

    time: str = ""
    """When it was completed."""

    size: str = ""
    """Of all its files."""

    id: int = 0
    """The number of its checkpoint."""

    drained: bool = False
    """Whether the job's input was brought to an end before it, so that it cannot be gone on from."""

    message: str = ""
    """Why it is not completed."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, if it is set."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


class Savepoint(Model):
    """A savepoint of a StreamJob."""

    api_version: Literal["checkdam.dev/v1alpha1"]
    """`checkdam.dev/v1alpha1`."""

    kind: Literal["Savepoint"]
    """`Savepoint`."""

    metadata: SavepointMetadata
    """Name, namespace, labels, annotations."""

    spec: SavepointSpec
    """Which savepoint it is."""

    status: dict[str, Any] = {}
    """Written by the operator; ignored in manifests."""
