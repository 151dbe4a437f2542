"""What a pod finds when it starts: files that are mounted, and variables of its environment.

::

    /etc/checkdam/job/streamjob.json           the StreamJob of this revision
    /etc/checkdam/auth/secret, token           the job's secret, the token of the coordinator's API
    /etc/checkdam/auth/metrics-token           opens the metrics alone; may be missing
    /etc/checkdam/program/                     the files of `program.configMap`; may be missing
    /var/lib/checkdam/                         an empty folder that lives as long as the pod: local state, outcome, addresses
    /dev/termination-log                       where Kubernetes looks for the cause of a failure

    CHECKDAM_POD_NAME, CHECKDAM_POD_IP         of the pod
    CHECKDAM_INDEX, CHECKDAM_COORDINATOR       of a worker: its index, and `address:port` of its coordinator
    CHECKDAM_START                             of a coordinator: how it is to begin, as JSON (`PodStart`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from checkdam.coordinator.config import Addresses, CoordinatorConfig, write_atomically
from checkdam.coordinator.scale import remembered_wanted
from checkdam.core.errors import CheckdamError
from checkdam.spec.ports import CONTROL_PORT, DATA_PORT, HTTP_PORT
from checkdam.spec.status import StartWish
from checkdam.worker.config import WorkerConfig

STARTS_PER_POD: Final = 1_000_000
"""More starts than any pod will see: so each coordinator of a job has a number of its own, greater than those before it."""

DEFAULT_GRACE_S: Final = 60
"""`terminationGracePeriodSeconds` of a pod whose template does not say another."""

GRACE_MARGIN_S: Final = 5.0
"""So long before the kubelet kills what is left, or after three quarters of a short time, a process ends by itself."""


class PodStart(StartWish):
    """How the coordinator of a pod begins."""

    since_epoch: int = 0
    """Of an earlier coordinator with the same wish; 0 if there was none that came to one."""

    start_number: int = 1
    """Counts the pods that were started as the job's coordinator."""

    parallelism: int | None = None
    """How many workers the job is to have: that may change while the manifest of a revision stays. `None`: as the manifest says."""


@dataclass(frozen=True)
class Mounts:
    """Where everything is.

    Attributes:
        root: `/`, but in tests.
    """

    root: Path = Path("/")

    @property
    def run_dir(self) -> Path:
        """Lives as long as the pod."""
        return self.root / "var/lib/checkdam"

    @property
    def termination_log(self) -> Path:
        """Where Kubernetes looks for the cause of a failure."""
        return self.root / "dev/termination-log"

    @property
    def base_folder(self) -> Path:
        """With the user's modules, if a ConfigMap holds them; made where it is missing."""
        mounted = self.root / "etc/checkdam/program"
        if mounted.is_dir():
            return mounted
        empty = self.run_dir / "program"
        empty.mkdir(parents=True, exist_ok=True)
        return empty

    def auth(self, name: str) -> Path:
        """A secret or token."""
        return self.root / "etc/checkdam/auth" / name

    def manifest(self) -> dict[str, Any]:
        """The StreamJob, as it was written.

        Raises:
            CheckdamError: It is not there, or no JSON object.
        """
        path = self.root / "etc/checkdam/job/streamjob.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except OSError as error:
            raise CheckdamError(f"the job's manifest {path} cannot be read: {error.strerror}") from error
        except msgspec.DecodeError as error:
            raise CheckdamError(f"the job's manifest {path} is not one: {error}") from error


def worker_config(mounts: Mounts, environment: Mapping[str, str]) -> WorkerConfig:
    """The configuration of the worker of this pod.

    Raises:
        CheckdamError: Something is missing or wrong; names it.
    """
    manifest = mounts.manifest()
    index = _variable(environment, "CHECKDAM_INDEX")
    if not index.isdecimal():
        raise CheckdamError(f"CHECKDAM_INDEX must be a whole number (got {index!r})")
    return WorkerConfig(
        manifest=manifest,
        base_folder=str(mounts.base_folder),
        index=int(index),
        secret_file=str(mounts.auth("secret")),
        run_dir=str(mounts.run_dir),
        coordinator=_variable(environment, "CHECKDAM_COORDINATOR"),
        host=str(_address(environment)),
        data_port=DATA_PORT,
        name=_variable(environment, "CHECKDAM_POD_NAME"),
        termination_log=str(mounts.termination_log),
        stays=True,
        leave_patience_s=leave_patience_s(manifest, "worker"),
    )


def coordinator_config(
    mounts: Mounts, environment: Mapping[str, str], start: int, listen: str = ""
) -> CoordinatorConfig:
    """The configuration of the `start`-th coordinator of this pod.

    Args:
        mounts: Where everything is.
        environment: Variables.
        start: Counts the coordinators of this pod, from 1.
        listen: The address to listen on; empty for all of the pod, where `kubectl port-forward` finds it, too.

    Raises:
        CheckdamError: Something is missing or wrong; names it.
    """
    wish = _wish(environment)
    manifest = _scaled(mounts.manifest(), remembered_wanted(mounts.run_dir) or wish.parallelism)
    address = _address(environment)
    metrics_token = mounts.auth("metrics-token")
    address_file = mounts.run_dir / "coordinator.json"
    return CoordinatorConfig(
        manifest=manifest,
        base_folder=str(mounts.base_folder),
        secret_file=str(mounts.auth("secret")),
        token_file=str(mounts.auth("token")),
        metrics_token_file=str(metrics_token) if metrics_token.exists() else "",
        group_may_read=True,
        run_dir=str(mounts.run_dir),
        address_file=str(address_file),
        host=listen or ("::" if isinstance(address, IPv6Address) else "0.0.0.0"),
        control_port=CONTROL_PORT,
        http_port=HTTP_PORT,
        allowed_hosts=[str(address), *_service_names(manifest)],
        resume=wish.resume,
        since_epoch=max(wish.since_epoch, _published_epoch(address_file)),
        fresh=wish.fresh,
        restore_from=wish.restore_from,
        request=wish.request,
        expected_checkpoint=wish.expected_checkpoint,
        start_count=(wish.start_number - 1) * STARTS_PER_POD + start,
        external_schedule=True,
        on_signal="leave",
        leave_patience_s=leave_patience_s(manifest, "coordinator"),
        linger=True,
    )


def count_start(mounts: Mounts) -> int:
    """The number of the start that is about to be, counted in the pod's folder, which outlives its containers.

    Raises:
        OSError: The folder cannot be written.
    """
    path = mounts.run_dir / "starts"
    try:
        number = int(path.read_text()) + 1
    except (OSError, ValueError):
        number = 1
    write_atomically(path, str(number).encode())
    return number


def leave_patience_s(manifest: Mapping[str, Any], role: str) -> float:
    """How long after SIGTERM a process of a pod may go on, by the `terminationGracePeriodSeconds` of its template."""
    found: Any = manifest
    for name in ("spec", role, "podTemplate", "spec", "terminationGracePeriodSeconds"):
        found = found.get(name) if isinstance(found, Mapping) else None
    grace_s = found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else DEFAULT_GRACE_S
    return grace_s - min(GRACE_MARGIN_S, grace_s / 4)


def _scaled(manifest: dict[str, Any], parallelism: int | None) -> dict[str, Any]:
    spec = manifest.get("spec")
    if parallelism is None or not isinstance(spec, dict):
        return manifest
    return manifest | {"spec": spec | {"parallelism": parallelism}}


def _wish(environment: Mapping[str, str]) -> PodStart:
    text = environment.get("CHECKDAM_START", "") or "{}"
    try:
        return PodStart.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise CheckdamError(f"CHECKDAM_START must be the wish to start as JSON (got {text!r}): {error}") from error


def _address(environment: Mapping[str, str]) -> Any:
    text = _variable(environment, "CHECKDAM_POD_IP")
    try:
        return ip_address(text)
    except ValueError as error:
        raise CheckdamError(f"CHECKDAM_POD_IP must be an IP address (got {text!r})") from error


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise CheckdamError(f"the environment variable {name} must be set")
    return value


def _service_names(manifest: Mapping[str, Any]) -> list[str]:
    """What the coordinator's Service is called within the cluster."""
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping):
        return []
    name, namespace = f"{metadata.get('name')}-coordinator", metadata.get("namespace", "default")
    return [name, *(f"{name}.{namespace}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local"))]


def _published_epoch(address_file: Path) -> int:
    """Of the last coordinator of this pod that came to have one; 0 before."""
    try:
        return msgspec.json.decode(address_file.read_bytes(), type=Addresses).epoch
    except (OSError, msgspec.DecodeError):
        return 0


__all__ = [
    "CONTROL_PORT",
    "DATA_PORT",
    "HTTP_PORT",
    "Mounts",
    "PodStart",
    "coordinator_config",
    "count_start",
    "leave_patience_s",
    "worker_config",
]
