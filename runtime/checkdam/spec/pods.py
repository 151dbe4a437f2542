"""How the pods of a job look and whom they talk to: `spec.worker`, `spec.coordinator`, `spec.networkPolicy`; and how they are replaced:
`spec.upgrade`.

Most of these are Kubernetes' own structures, passed through as they are: the API server knows their fields, and copying its schema would
refuse what a newer cluster understands. A local run uses `worker.env` alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.fields import Model, PositiveDuration


class EnvVar(Model):
    """An environment variable, as in a container: `value`, or `valueFrom` and whatever else Kubernetes allows."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]
    """The variable's name."""

    value: str = ""
    """Its value, where it is not given by `valueFrom`."""


class DisruptionBudget(Model):
    """How many workers may be away at once because of drains and other disruptions that ask first."""

    max_unavailable: Annotated[int, Field(ge=0, le=32768)] = 1
    """So many. 0 makes drains wait for ever: the job then has to be suspended first."""


class WorkerPods(Model):
    """The worker pods, `parallelism` of them."""

    resources: dict[str, Any] = {}
    """The container's resources, as in a pod. Each worker has one busy thread, so more than two CPUs are of no use to it."""

    env: list[EnvVar] = []
    """Added to the environment of the workers. A local run takes the ones with a `value`."""

    pod_template: dict[str, Any] = {}
    """Merged into the pod: metadata and spec, as in a Deployment's template."""

    disruption_budget: DisruptionBudget = DisruptionBudget()
    """How many workers may be away at once because of drains."""


class CoordinatorPod(Model):
    """The coordinator's pod."""

    resources: dict[str, Any] = {}
    """The container's resources, as in a pod."""

    pod_template: dict[str, Any] = {}
    """Merged into the pod: metadata and spec, as in a Deployment's template."""


def memory_remedy(role: str) -> str:
    """What to do when the container of a `coordinator` or `worker` needs more memory than its limit; part of a sentence."""
    return (
        f"raise `resources.limits.memory` of `spec.{role}`, raise `spec.parallelism`, or lower "
        "`spec.stateBackend.rocksdb.memory`"
    )


class Upgrade(Model):
    """How a change of image, program or parallelism reaches a running job."""

    mode: Literal["Savepoint", "LastState", "Stateless"] = "Savepoint"
    """`Savepoint`: stop with a savepoint and start from it. `LastState`: start from the last checkpoint. `Stateless`: start with empty state."""

    rollback: bool = True
    """Go back to the last version that worked when a new one fails before it has completed a checkpoint. `false`, or later: the job stands
    still and says why."""

    progress_deadline: PositiveDuration = "10m"
    """A new version that has not come to run by then counts as failed."""

    @property
    def progress_deadline_ms(self) -> int:
        """`progressDeadline` in ms."""
        return parse_duration_ms(self.progress_deadline)


class NetworkPolicy(Model):
    """Which traffic the job's pods take part in. Without rules of your own they are reached by each other, by the operator and by what reads
    metrics, and reach whatever they like."""

    enabled: bool = True
    """Whether a NetworkPolicy is made for the job."""

    ingress: Annotated[list[dict[str, Any]], Field(max_length=64)] = []
    """Further rules for traffic to the pods, as in a NetworkPolicy."""

    egress: Annotated[list[dict[str, Any]], Field(max_length=64)] = []
    """Rules for traffic from the pods, as in a NetworkPolicy. Empty: all is allowed. With rules, all else but DNS and the job's own pods is
    refused, so they must allow the checkpoint storage and whatever sources and sinks talk to."""
