"""How the pods of a job look: `spec.worker`, `spec.coordinator`, and how they are replaced: `spec.upgrade`.

These are Kubernetes' own structures, passed through as they are: the API server knows their fields, and copying its schema would
refuse what a newer cluster understands. A local run uses `worker.env` alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from checkdam.spec.fields import Model


class EnvVar(Model):
    """An environment variable, as in a container: `value`, or `valueFrom` and whatever else Kubernetes allows."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(min_length=1)]
    """The variable's name."""

    value: str = ""
    """Its value, where it is not given by `valueFrom`."""


class WorkerPods(Model):
    """The worker pods, `parallelism` of them."""

    resources: dict[str, Any] = {}
    """The container's resources, as in a pod. Each worker has one busy thread, so more than two CPUs are of no use to it."""

    env: list[EnvVar] = []
    """Added to the environment of the workers. A local run takes the ones with a `value`."""

    pod_template: dict[str, Any] = {}
    """Merged into the pod: metadata and spec, as in a Deployment's template."""


class CoordinatorPod(Model):
    """The coordinator's pod."""

    resources: dict[str, Any] = {}
    """The container's resources, as in a pod."""

    pod_template: dict[str, Any] = {}
    """Merged into the pod: metadata and spec, as in a Deployment's template."""


class Upgrade(Model):
    """How a change of image, program or parallelism reaches a running job."""

    mode: Literal["Savepoint", "LastState", "Stateless"] = "Savepoint"
    """`Savepoint`: stop with a savepoint and start from it. `LastState`: start from the last checkpoint. `Stateless`: start with empty state."""
