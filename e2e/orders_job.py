"""The example `orders` as the job that tests break: how it is put on the cluster, and whether its output is what it must be.

Its receipts are numbered within each shop, so what is lost leaves a gap and what comes twice a number that comes twice, and
both can be told while it runs. They are in files that appear with checkpoints, on a volume that is a folder of this computer.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from cluster.cluster import Cluster

NAME: Final = "orders"
_EXAMPLE: Final = Path(__file__).resolve().parents[1] / "examples" / NAME
_JOB: Final = "checkdam.dev/job"
_COMPONENT: Final = "app.kubernetes.io/component"
_POLL_S: Final = 0.05
_PATIENCE_S: Final = 120.0


@dataclass(frozen=True)
class OrdersJob:
    """The example in a namespace of a cluster."""

    cluster: Cluster
    namespace: str

    def apply(self, **spec: Any) -> None:
        """Apply the example as its folder has it.

        Args:
            spec: Replaces parts of `spec`; `args` is merged into `program.args`.
        """
        documents = list(yaml.safe_load_all(self.kubectl("kustomize", str(_EXAMPLE))))
        job = next(document for document in documents if document["kind"] == "StreamJob")
        job["spec"]["program"]["args"] |= spec.pop("args", {})
        job["spec"] |= spec
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

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
        self.kubectl("wait", f"streamjob/{NAME}", f"--for={condition}", f"--timeout={patience_s:.0f}s")

    def object(self) -> dict[str, Any]:
        """The StreamJob as the API server has it."""
        return dict(json.loads(self.kubectl("get", "streamjob", NAME, "--output=json")))

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        """Its pods that are not being deleted; `coordinator` or `worker` alone."""
        labels = f"{_JOB}={NAME}" + (f",{_COMPONENT}={component}" if component else "")
        found = json.loads(self.kubectl("get", "pods", f"--selector={labels}", "--output=json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self, component: str = "") -> list[str]:
        """The names of `pods`."""
        return sorted(pod["metadata"]["name"] for pod in self.pods(component))

    def output(self, folder: str = "results") -> Path:
        """A folder of its volume, as this computer sees it: that with the receipts. The API server is asked once only."""
        return self._volume / folder

    @cached_property
    def _volume(self) -> Path:
        claim = self.kubectl("get", "persistentvolumeclaim", NAME, "--output=jsonpath={.spec.volumeName}")
        assert claim, f"the claim {NAME} has no volume yet"
        return self.cluster.volumes / claim

    def check(self, folder: str = "results") -> int:
        """How many receipts there are in a folder of its volume, none of which is missing or comes twice."""
        number, problems = _example().problems(self.output(folder))
        assert not problems
        return int(number)

    def until_more(self, than: int, patience_s: float = _PATIENCE_S) -> int:
        """How many receipts there are as soon as there are more than that; all of them are right."""
        return self.until(
            lambda: number if (number := self.check()) > than else None, f"more than {than} receipts", patience_s
        )

    def until(self, ready: Callable[[], int | None], what: str, patience_s: float = _PATIENCE_S) -> int:
        """What `ready` answers as soon as that is not None."""
        deadline_s = time.monotonic() + patience_s
        while (value := ready()) is None:
            assert time.monotonic() < deadline_s, f"no {what} after {patience_s:.0f} s"
            time.sleep(_POLL_S)
        return value

    def kill_process(self, pod: str, signal: str = "KILL") -> None:
        """Send a signal to what process 1 of a pod has started: its task process, or its coordinator."""
        self.kubectl("exec", pod, "--", "sh", "-c", f"kill -{signal} $(cat /proc/1/task/*/children)")


def _example() -> Any:
    """The example's own module, which knows what is right."""
    spec = importlib.util.spec_from_file_location(NAME, _EXAMPLE / "orders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
