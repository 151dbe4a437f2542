"""What can be set for the operator: environment variables `CHECKDAM_OPERATOR_<NAME>`, which the Helm chart fills from its values.

Each setting says its unit and why its default is what it is; the reference page is made from these words.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from checkdam.core.durations import parse_duration_ms
from checkdam.core.errors import CheckdamError
from checkdam.spec.checks import shown
from checkdam.spec.problems import sentences

PREFIX: Final = "CHECKDAM_OPERATOR_"

_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_SERVICE_LINK: Final = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_.*)?")
"""What Kubernetes puts into the environment of pods for a Service named `checkdam-operator`."""

_NAMESPACE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class SettingsError(CheckdamError):
    """Settings that are wrong; lists all problems at once."""


def _duration(value: object) -> object:
    if isinstance(value, str) and parse_duration_ms(value) <= 0:
        raise ValueError(f"must be longer than 0s (got {shown(value)})")
    return value


def _namespaces(value: object) -> object:
    for name in value if isinstance(value, tuple | list) else ():
        if not _NAMESPACE_NAME.fullmatch(str(name)):
            raise ValueError(f"must be names of namespaces, separated by commas (got {shown(name)})")
    return value


def _labels(value: object) -> object:
    for pair in value if isinstance(value, tuple | list) else ():
        name, equals, label = str(pair).partition("=")
        if not name or not equals or not label:
            raise ValueError(f"must be labels such as app=checkdam, separated by commas (got {shown(pair)})")
    return value


Duration = Annotated[str, BeforeValidator(_duration)]
Names = tuple[str, ...]


class Settings(BaseModel):
    """All settings of the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    namespaces: Annotated[Names, BeforeValidator(_namespaces)] = ()
    """Namespaces whose StreamJobs are run, separated by commas; empty for all. With a list, the operator needs permissions in these namespaces only."""

    runtime_image: str = ""
    """Image of jobs that name none. Without it, a StreamJob without `spec.image` is told that it needs one. The chart sets the runtime of its own version."""

    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Pull policy of job pods, where a pod template says nothing; empty for the cluster's default, which goes by the image's tag."""

    image_pull_secrets: Names = ()
    """Names of Secrets with registry credentials that job pods use, separated by commas. They must exist in the namespaces of the jobs."""

    unreachable_toleration: Duration = "10s"
    """How long a job pod stays on a node that does not answer before Kubernetes ends it. Kubernetes' own default of 5 minutes is longer than a stream
    should stand still; much shorter than 10 s, a short break of a node's connection would move all its pods."""

    pod_labels: Annotated[Names, BeforeValidator(_labels)] = ()
    """Labels of the operator's own pods, as `name=value`, separated by commas: network policies of jobs let these pods reach coordinators. Without them, whoever
    has a job's token may. The chart sets them."""

    metrics_namespaces: Annotated[Names, BeforeValidator(_namespaces)] = ()
    """Namespaces whose pods read metrics, separated by commas: network policies of jobs let them reach coordinators."""

    identity: str = ""
    """Name of this replica, as Lease, Events and logs show it; empty for the host name, which in a pod is the pod's. A random suffix keeps processes apart."""

    lease_name: Annotated[str, Field(min_length=1, max_length=253)] = "checkdam-operator"
    """Name of the Lease that decides which replica acts. Two installations that watch different namespaces need different ones only if they share a namespace."""

    lease_namespace: str = ""
    """Namespace of the Lease; empty for the one that the operator's pod is in, and `default` outside of a cluster."""

    workers: Annotated[int, Field(ge=1, le=200)] = 50
    """How many jobs are looked at at once. One look takes milliseconds, but one that has to wait for the limit of writes, or for something that does not answer,
    keeps its place meanwhile; jobs in trouble get at most half of these."""

    writes_per_second: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    """How many writes a second are sent to the API server, in the long run. A new job with two workers takes about a dozen; a small control plane
    manages several times as many beside its other work."""

    write_burst: Annotated[int, Field(ge=1, le=10_000)] = 200
    """How many writes may be sent at once after a quiet time, so that a single job never waits."""

    resync_interval: Duration = "5m"
    """How often everything is listed to find what the watch has missed. A list of 2,000 pods is 7 MB."""

    http_host: str = "0.0.0.0"
    """Address that health and metrics are served at: of all interfaces, since the kubelet and Prometheus come from other hosts; `::` where there is IPv6. On a loopback address, metrics need no token."""

    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port that health and metrics are served at; 0 for any."""

    metrics_token_file: str = ""
    """File with the token that `GET /metrics` needs. It is read anew for each request, so a Secret may be changed. Without it, metrics are served on loopback only."""

    log_format: Literal["json", "text"] = "json"
    """`json`, one object a line for collectors, or `text` for people."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The lowest level that is logged. `INFO` is a few lines for each thing that happens to a job, and nothing for what does not change."""

    kubeconfig: str = ""
    """Path of a kubeconfig; empty for the pod's service account and, outside of a cluster, `KUBECONFIG` or `~/.kube/config`."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **given: Any) -> Settings:
        """The settings of this process.

        Args:
            environment: Environment variables.
            given: Settings that take precedence, such as those of the command line; `None` for those that were not given.

        Raises:
            SettingsError: A variable is wrong, or there is none of that name.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for variable, text in environment.items():
            name = variable.removeprefix(PREFIX)
            if name == variable or _SERVICE_LINK.fullmatch(name):
                continue
            field = cls.model_fields.get(name.lower())
            if field is None:
                problems.append(f"`{variable}` is no setting; {_suggestion(variable)}")
                continue
            try:
                values[name.lower()] = _parsed(text.strip(), field.annotation)
            except ValueError as error:
                problems.append(f"`{variable}` {error}")
        values |= {name: value for name, value in given.items() if value is not None}
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            for sentence in sentences(error.errors(), cls):
                problems.append(re.sub(r"^`(\w+)", lambda found: f"`{PREFIX}{found[1].upper()}", sentence))
        if problems:
            raise SettingsError(
                "the operator's settings are not valid:\n" + "\n".join(f"  - {text}" for text in problems)
            )
        return settings

    @property
    def resync_interval_s(self) -> float:
        """The same in seconds."""
        return parse_duration_ms(self.resync_interval) / 1000

    @property
    def unreachable_toleration_s(self) -> int:
        """The same in whole seconds, as Kubernetes counts it; at least 1."""
        return max(1, parse_duration_ms(self.unreachable_toleration) // 1000)

    def process_identity(self) -> str:
        """A name for this process that no other process has; a new one with each call."""
        return f"{self.identity or socket.gethostname()}_{secrets.token_hex(4)}"

    def namespace_of_lease(self, own: Path = _OWN_NAMESPACE) -> str:
        """Where the Lease is.

        Args:
            own: File that tells a pod its namespace.
        """
        return self.lease_namespace or self.own_namespace(own) or "default"

    def own_namespace(self, own: Path = _OWN_NAMESPACE) -> str:
        """The namespace that the operator's pod is in; empty outside of a cluster.

        Args:
            own: File that tells a pod its namespace.
        """
        try:
            return own.read_text().strip()
        except FileNotFoundError:
            return ""


def variables() -> list[str]:
    """The names of all environment variables."""
    return [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]


def reference() -> str:
    """The reference page, as Markdown."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = f"`{default}`" if default != "" else "empty"
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {' '.join((field.description or '').split())} |")
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _parsed(text: str, annotation: Any) -> Any:
    """The text of a variable as a value of its setting's type."""
    if get_origin(annotation) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if annotation not in (int, float):
        return text
    try:
        return annotation(text)
    except ValueError:
        raise ValueError(f"must be {'an integer' if annotation is int else 'a number'} (got {shown(text)})") from None


def _suggestion(variable: str) -> str:
    likely = difflib.get_close_matches(variable, variables(), n=1)
    return f"did you mean `{likely[0]}`?" if likely else f"known are {', '.join(variables())}"
