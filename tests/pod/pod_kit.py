"""Pods as processes: each has a folder as its root and a loopback address of its own, so they run side by side on the fixed ports."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

JOBS = Path(__file__).parents[1] / "local" / "local_jobs.py"
DEADLINE_S = 40.0
HEARTBEAT = "2s"


def eventually(condition: Callable[[], T], what: str, timeout_s: float = DEADLINE_S) -> T:
    """Poll until `condition()` is true; returns it.

    Raises:
        AssertionError: It was not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not happen within {timeout_s:g} s: {what}"
        time.sleep(0.02)
    return found


class Pod:
    """One pod's process 1, and where it lives."""

    def __init__(
        self,
        root: Path,
        address: str,
        process: subprocess.Popen[bytes],
        log: Path,
        command: list[str],
        environment: dict[str, str],
    ) -> None:
        self.root = root
        self.address = address
        self.process = process
        self.log = log
        self.command = command
        self.environment = environment

    def child(self) -> int:
        """The process that process 1 keeps: the coordinator, or the task process of a worker."""
        found = eventually(lambda: psutil.Process(self.process.pid).children(), f"{self.root.name} has a child")
        return found[0].pid

    def terminate(self) -> None:
        """What the kubelet does first."""
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(DEADLINE_S)

    def delete(self) -> None:
        """What the kubelet does last."""
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    @property
    def termination_log(self) -> str:
        """What Kubernetes would show of its end."""
        return (self.root / "dev" / "termination-log").read_text()


class Cluster:
    """The pods of one job, and what an operator asks its coordinator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.spec: dict[str, Any] = {}
        self.parallelism = 2
        self.storage: dict[str, Any] = {"uri": f"file://{folder}/state"}
        self.pods: list[Pod] = []
        self._network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}"
        self._auth = {name: secrets.token_hex(16) for name in ("secret", "token", "metrics-token")}
        self.service = ""

    def job(self, function: str = "records", *, interval: str = "300ms", **args: Any) -> None:
        """Say what runs: a pipeline of `local_jobs`."""
        self.spec = {
            "program": {
                "entrypoint": f"local_jobs:{function}",
                "args": {"out": str(self.out), **args},
                "configMap": "code",
            },
            "parallelism": self.parallelism,
            "checkpoint": {"interval": interval, "storage": self.storage},
            "restart": {"strategy": "FixedDelay", "delay": "50ms", "attempts": 5},
            "runtime": {"heartbeatTimeout": HEARTBEAT},
        }

    # Pods

    def coordinator(self, *, place: int = 1, **start: Any) -> Pod:
        """A new coordinator pod, which is asked from now on.

        Args:
            place: What stands for its address; workers look for theirs at place 1, as at the address of a Service.
            start: The wish in its environment.
        """
        address = f"{self._network}.{place}"
        pod = self._start("coordinator", address, {"CHECKDAM_START": json.dumps(start)}, "--listen", address)
        self.service = pod.address
        return pod

    def worker(self, index: int) -> Pod:
        """A new worker pod."""
        environment = {"CHECKDAM_INDEX": str(index), "CHECKDAM_COORDINATOR": f"{self._network}.1:6470"}
        return self._start("worker", f"{self._network}.{len(self.pods) + 10}", environment)

    def again(self, pod: Pod) -> Pod:
        """The same pod with its container started again by the kubelet."""
        pod.delete()
        return self._run(pod.root, pod.address, pod.command, pod.environment)

    def workers(self) -> list[Pod]:
        """As many as the job wants."""
        return [self.worker(index) for index in range(self.parallelism)]

    def _start(self, role: str, address: str, environment: dict[str, str], *options: str) -> Pod:
        name = f"job-{role}-{len(self.pods)}"
        root = self.folder / name
        self._mount(root)
        command = [sys.executable, "-m", "checkdam.pod", role, "--root", str(root), *options]
        own = {"CHECKDAM_POD_NAME": name, "CHECKDAM_POD_IP": address}
        return self._run(root, address, command, {**os.environ, **own, **environment})

    def _run(self, root: Path, address: str, command: list[str], environment: dict[str, str]) -> Pod:
        log = root.with_suffix(f".{len(self.pods)}.log")
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        pod = Pod(root, address, process, log, command, environment)
        self.pods.append(pod)
        return pod

    def _mount(self, root: Path) -> None:
        for folder in ("etc/checkdam/job", "etc/checkdam/auth", "etc/checkdam/program", "var/lib/checkdam", "dev"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        manifest = {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "job", "namespace": "default", "uid": "0815"},
            "spec": self.spec,
        }
        (root / "etc/checkdam/job/streamjob.json").write_text(json.dumps(manifest))
        shutil.copy(JOBS, root / "etc/checkdam/program")
        for name, text in self._auth.items():
            path = root / "etc/checkdam/auth" / name
            path.write_text(text)
            # As Kubernetes mounts it with `defaultMode: 0440` and an fsGroup.
            path.chmod(0o440)

    def close(self) -> None:
        """End what is left."""
        for pod in self.pods:
            pod.delete()

    # The coordinator's API

    def ask(self, path: str, body: Any = None, *, token: str = "token") -> Any:
        """The answer of the coordinator to GET, or to POST with `body`; `None` while there is none.

        Raises:
            urllib.error.HTTPError: It refuses.
        """
        request = urllib.request.Request(
            f"http://{self.service}:6471{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._auth[token]}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                content = response.read()
                return json.loads(content) if response.headers.get_content_type() == "application/json" else content
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode())
            raise
        except (OSError, ValueError):
            return None

    def view(self) -> dict[str, Any]:
        """The job as its coordinator sees it; empty while nobody answers."""
        return dict(self.ask("/v1/job") or {})

    def until_state(self, *states: str) -> dict[str, Any]:
        """Wait until the job is in one of `states`."""
        return self.until(lambda view: view.get("state") in states, f"the job is {states}")

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until the job is so."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.view())
            return bool(seen) and condition(seen)

        try:
            eventually(look, what)
        except AssertionError as error:
            logs = "\n".join(f"--- {pod.root.name}\n{pod.said()[-3000:]}" for pod in self.pods)
            raise AssertionError(f"{error}; the job is {seen}\n{logs}") from error
        return seen

    def until_checkpoint(self, number: int) -> dict[str, Any]:
        """Wait until that checkpoint has completed in the running epoch."""
        return self.until(
            lambda view: view["state"] == "RUNNING" and (view["lastCheckpoint"] or {"id": -1})["id"] >= number,
            f"checkpoint {number}",
        )

    def until_read(self, count: int) -> None:
        """Wait until the sources have read so many records."""

        def read() -> bool:
            operators = self.ask("/v1/operators")
            return sum(operator["recordsOut"] for operator in operators if operator["kind"] == "source") >= count

        eventually(read, f"{count} records are read")

    # What is left

    def rows(self) -> list[Any]:
        """All committed rows, in order."""
        files = self.out.glob("*.json*")
        return sorted(json.loads(line) for file in files for line in file.read_text().splitlines())

    def journal(self) -> list[dict[str, Any]]:
        """All entries of the journal, oldest first."""
        files = sorted((self.folder / "state" / "default" / "job" / "journal").rglob("*"))
        return [json.loads(file.read_bytes()) for file in files if file.is_file()]
