"""A job on a cluster, whichever it is: what kubectl says of it, and where its volumes are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from cluster.cluster import Cluster

_JOB: Final = "checkdam.dev/job"
_COMPONENT: Final = "app.kubernetes.io/component"
_POLL_S: Final = 0.05
_PATIENCE_S: Final = 120.0

T = TypeVar("T")


@dataclass(frozen=True)
class ClusterJob:
    """A StreamJob in a namespace of a cluster.

    Attributes:
        name: Of the StreamJob.
    """

    cluster: Cluster
    namespace: str
    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints in the namespace.

        Raises:
            CommandError: It failed.
        """
        return self.cluster.plane.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def wait(self, condition: str, patience_s: float = _PATIENCE_S) -> None:
        """Wait with `kubectl wait`.

        Raises:
            CommandError: It did not come to that.
        """
        self.kubectl("wait", f"streamjob/{self.name}", f"--for={condition}", f"--timeout={patience_s:.0f}s")

    def object(self) -> dict[str, Any]:
        """The StreamJob as the API server has it."""
        return dict(json.loads(self.kubectl("get", "streamjob", self.name, "--output=json")))

    def patch(self, **spec: Any) -> None:
        """Change parts of the StreamJob's `spec`; what is None is taken out."""
        self.kubectl("patch", "streamjob", self.name, "--type=merge", f"--patch={json.dumps({'spec': spec})}")

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the StreamJob, which it has."""
        return next(dict(found) for found in self.object()["status"]["conditions"] if found["type"] == kind)

    def message_of(self, kind: str, field: str, value: str) -> str | None:
        """The message of a condition of which a field has this value now; None if it has another."""
        condition = self.condition(kind)
        return str(condition["message"]) if condition[field] == value else None

    def stalled(self, reason: str) -> str:
        """The message of the condition `Stalled`, once it has this reason."""
        return self._message("Stalled", "reason", reason)

    def unhealthy(self) -> str:
        """The message of the condition `CheckpointHealthy`, once it is false."""
        return self._message("CheckpointHealthy", "status", "False")

    def _message(self, kind: str, field: str, value: str) -> str:
        self.wait(f"jsonpath={{.status.conditions[?(@.type=='{kind}')].{field}}}={value}")
        # It may be another one again by now: that of a job whose attempts fail changes every few seconds.
        return self.until(lambda: self.message_of(kind, field, value), f"condition {kind} with {field} {value}")

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        """Its pods that are not being deleted; `coordinator` or `worker` alone."""
        labels = f"{_JOB}={self.name}" + (f",{_COMPONENT}={component}" if component else "")
        found = json.loads(self.kubectl("get", "pods", f"--selector={labels}", "--output=json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self, component: str = "") -> list[str]:
        """The names of `pods`."""
        return sorted(pod["metadata"]["name"] for pod in self.pods(component))

    def volume(self, claim: str) -> Path:
        """What is on a claim, as this computer sees it, once the claim has a volume."""
        bound = ("wait", f"persistentvolumeclaim/{claim}", "--for=jsonpath={.status.phase}=Bound")
        self.kubectl(*bound, f"--timeout={_PATIENCE_S:.0f}s")
        name = self.kubectl("get", "persistentvolumeclaim", claim, "--output=jsonpath={.spec.volumeName}")
        return self.cluster.volumes / name

    def until(self, ready: Callable[[], T | None], what: str, patience_s: float = _PATIENCE_S) -> T:
        """What `ready` answers as soon as that is not None."""
        deadline_s = time.monotonic() + patience_s
        while (value := ready()) is None:
            assert time.monotonic() < deadline_s, f"no {what} after {patience_s:.0f} s"
            time.sleep(_POLL_S)
        return value

    def kill_process(self, pod: str, signal: str = "KILL") -> None:
        """Send a signal to what process 1 of a pod has started: its task process, or its coordinator."""
        self.kubectl("exec", pod, "--", "sh", "-c", f"kill -{signal} $(cat /proc/1/task/*/children)")
