"""The job that is measured on a cluster (`programs/steady_job.py`): how it is put there, what it has written, what its coordinator tells."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml

from cluster_job import ClusterJob
from outputs import Attempt, Output, first_after, outputs

WORKERS: Final = 2
_RESULTS: Final = "/results"
"""Where pods see the volume."""

_PROGRAM: Final = Path(__file__).resolve().parents[1] / "programs" / "steady_job.py"
_API: Final = "/apis/checkdam.dev/v1alpha1"
_FULL_CHECKPOINT: Final = """
import json, time, urllib.request
token = open("/etc/checkdam/auth/token").read().strip()
def ask(body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request("http://127.0.0.1:6471/v1/checkpoints", data, {"Authorization": f"Bearer {token}"})
    return json.load(urllib.request.urlopen(request))
began_ms, found = time.time() * 1000, []
while not found:
    ask({"full": True})
    time.sleep(0.1)
    found = [c for c in ask() if c["full"] and c["status"] == "COMPLETED" and c["triggeredMs"] >= began_ms]
print(json.dumps(found[0]))
"""
"""Asks a coordinator, in its pod, for a checkpoint that names no file of an older one, until there is one."""


@dataclass(frozen=True)
class SteadyJob(ClusterJob):
    """The job in a namespace of a cluster; its results are on a volume of its own."""

    name: str = "steady"

    def prepare(self) -> None:
        """Make what it needs, and wait until there is its volume, for which the job is not to be blamed."""
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": self.name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(claim))
        self.kubectl("create", "configmap", self.name, f"--from-file={_PROGRAM}")
        bound = "--for=jsonpath={.status.phase}=Bound"
        self.kubectl("wait", f"persistentvolumeclaim/{self.name}", bound, "--timeout=60s")

    def create(self, args: dict[str, Any], **spec: Any) -> float:
        """Create the StreamJob; returns when that was asked for, in seconds since 1970."""
        volumes = {
            "containers": [{"name": "checkdam", "volumeMounts": [{"name": "results", "mountPath": _RESULTS}]}],
            "volumes": [{"name": "results", "persistentVolumeClaim": {"claimName": self.name}}],
        }
        program = {"entrypoint": f"{_PROGRAM.stem}:build", "configMap": self.name}
        body = {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": self.name},
            "spec": {
                "program": {**program, "args": {"out": f"{_RESULTS}/out", **args}},
                "parallelism": WORKERS,
                "worker": {"podTemplate": {"spec": volumes}},
                "coordinator": {"podTemplate": {"spec": volumes}},
                **spec,
            },
        }
        asked_s = time.time()
        self.cluster.plane.call("POST", f"{_API}/namespaces/{self.namespace}/streamjobs", body)
        return asked_s

    @cached_property
    def folder(self) -> Path:
        """Where its output appears, as this computer sees it."""
        return self.volume(self.name) / "out"

    def outputs(self) -> list[Output]:
        """All that is visible."""
        return outputs(self.folder)

    def attempt(self) -> Attempt:
        """The last one that has written."""
        return max(output.attempt for output in self.outputs())

    def until_output_after(self, attempt: Attempt) -> Output:
        """The first output of a later attempt, as soon as there is one."""
        return self.until(lambda: first_after(self.outputs(), attempt), f"output of an attempt after {attempt}")

    def numbers(self) -> int:
        """How many numbers are visible."""
        return sum(file.read_bytes().count(b"\n") for file in self.folder.glob("*.jsonl"))

    def kill_task(self) -> float:
        """Kill the task process of a worker; returns when that was, in seconds since 1970."""
        script = "task=$(cat /proc/1/task/*/children); date +%s.%N; kill -KILL $task"
        return float(self.kubectl("exec", self.names("worker")[0], "--", "sh", "-c", script))

    def delete_worker(self) -> float:
        """Delete the pod of a worker, which may take leave; returns when that was asked for, in seconds since 1970."""
        name = self.names("worker")[0]
        asked_s = time.time()
        self.cluster.plane.call("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        return asked_s

    def full_checkpoint(self) -> dict[str, Any]:
        """What the coordinator tells of a checkpoint that holds everything."""
        [coordinator] = self.names("coordinator")
        return dict(json.loads(self.kubectl("exec", coordinator, "--", "python", "-c", _FULL_CHECKPOINT)))
