"""The operator as a process of its own, against a real API server, and what tests ask that server about jobs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from checkdam.core.lifetime import die_with_parent
from cluster.control_plane import ApiError, ControlPlane

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.1
IMAGE: Final = "checkdam-runtime:test"

Body = dict[str, Any]


class OperatorProcess:
    """One replica of the operator that watches one namespace.

    Args:
        plane: The control plane.
        namespace: What it watches; its Lease is there, too.
        log: File for what it logs.
    """

    def __init__(self, plane: ControlPlane, namespace: str, log: Path) -> None:
        self._plane = plane
        self._namespace = namespace
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self.settings: dict[str, str] = {}
        self.program = ["-m", "checkdam_operator"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start a process; returns when it serves health."""
        environment = {
            **os.environ,
            **self._plane.environment(),
            "CHECKDAM_OPERATOR_NAMESPACES": self._namespace,
            "CHECKDAM_OPERATOR_LEASE_NAMESPACE": self._namespace,
            "CHECKDAM_OPERATOR_RUNTIME_IMAGE": IMAGE,
            "CHECKDAM_OPERATOR_HTTP_HOST": "127.0.0.1",
            "CHECKDAM_OPERATOR_HTTP_PORT": "0",
            **self.settings,
        }
        before = self.log.stat().st_size if self.log.exists() else 0
        with await asyncio.to_thread(self.log.open, "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.program,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        await eventually(lambda: self._port_in(before), f"the operator to listen; see {self.log}")

    def _port_in(self, since: int) -> bool:
        text = self.log.read_text()[since:]
        found = re.search(r"serving health and metrics at [^ ]+:(\d+)", text)
        if found is not None:
            self.port = int(found[1])
        return found is not None

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of an answer of its HTTP server."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.status, await answer.text()

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def until_dead(self, patience_s: float) -> None:
        """Wait until the process has ended by itself; after the patience it is killed."""
        assert self._process is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), patience_s)
        await self.kill()

    async def keep(self) -> None:
        """Start the process again whenever it ends, as a Deployment does, until cancelled."""
        while True:
            assert self._process is not None
            await self._process.wait()
            await self.start()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), PATIENCE_S)


@asynccontextmanager
async def operator_process(
    plane: ControlPlane, namespace: str, folder: Path, **settings: str
) -> AsyncIterator[OperatorProcess]:
    """An operator that runs until the context ends; `settings` are environment variables."""
    operator = OperatorProcess(plane, namespace, folder / "operator.log")
    operator.settings.update(settings)
    await operator.start()
    try:
        yield operator
    finally:
        await operator.stop()


async def eventually(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until `holds` returns something true, and return that; it is called in a thread."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        found = await asyncio.to_thread(holds)
        if found:
            return found
        if loop.time() > deadline:
            raise AssertionError(f"waited {patience_s:g} s in vain for {what}")
        await asyncio.sleep(POLL_S)


class Jobs:
    """What tests do to the StreamJobs of a namespace, and ask about them. All of it blocks: call it in a thread, or by `eventually`."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self._jobs = f"/apis/checkdam.dev/v1alpha1/namespaces/{namespace}/streamjobs"
        self._core = f"/api/v1/namespaces/{namespace}"

    def create(self, name: str = "words", **spec: Any) -> Body:
        """Create a job of two workers."""
        whole: Body = {
            "program": {"entrypoint": "words:build"},
            "parallelism": 2,
            "checkpoint": {"storage": {"uri": "s3://bucket/jobs"}},
            **spec,
        }
        body = {"apiVersion": "checkdam.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": name}, "spec": whole}
        created: Body = self.plane.call("POST", self._jobs, body)
        return created

    def get(self, name: str = "words") -> Body:
        """The job."""
        found: Body = self.plane.call("GET", f"{self._jobs}/{name}")
        return found

    def status(self, name: str = "words") -> Body:
        """Its status."""
        status: Body = self.get(name).get("status", {})
        return status

    def condition(self, kind: str, name: str = "words") -> Body:
        """One of its conditions; empty before it is there."""
        conditions = self.status(name).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def patch(self, spec: Body, name: str = "words") -> None:
        """Change its spec by a merge patch."""
        self.plane.call("PATCH", f"{self._jobs}/{name}", {"spec": spec}, "application/merge-patch+json")

    def delete(self, name: str = "words", policy: str = "Background") -> None:
        """Delete it."""
        self.plane.call("DELETE", f"{self._jobs}/{name}", {"propagationPolicy": policy})

    def exists(self, name: str = "words") -> bool:
        """Whether it is still there."""
        try:
            self.get(name)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def list(self, plural: str, selector: str = "checkdam.dev/job") -> list[Body]:
        """Objects of the core group that belong to jobs."""
        found = self.plane.call("GET", f"{self._core}/{plural}?labelSelector={selector}")
        items: list[Body] = found["items"]
        return items

    def pods(self, role: str = "", *, ending: bool = False) -> list[Body]:
        """The pods of jobs that are not being deleted, by name."""
        pods = [pod for pod in self.list("pods") if ending or "deletionTimestamp" not in pod["metadata"]]
        if role:
            pods = [pod for pod in pods if pod["metadata"]["labels"]["app.kubernetes.io/component"] == role]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def ready_pods(self, role: str = "") -> list[str]:
        """Names of those that are Ready."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(role)
            if any(
                found["type"] == "Ready" and found["status"] == "True" for found in pod["status"].get("conditions", [])
            )
        ]

    def delete_pod(self, name: str) -> None:
        """Delete a pod, gracefully."""
        self.plane.call("DELETE", f"{self._core}/pods/{name}")

    def events(self) -> list[Body]:
        """Events about jobs."""
        found = self.plane.call("GET", f"{self._core}/events?fieldSelector=involvedObject.kind=StreamJob")
        items: list[Body] = found["items"]
        return items

    def reasons(self) -> set[str]:
        """The reasons of the events about jobs."""
        return {event["reason"] for event in self.events()}

    def create_object(self, path: str, body: Body) -> Body:
        """Create any object of the namespace; `path` follows the namespace in the core group."""
        made: Body = self.plane.call("POST", f"{self._core}/{path}", body)
        return made

    def config_map(self, name: str, **files: str) -> None:
        """Create a ConfigMap."""
        self.create_object(
            "configmaps", {"metadata": {"name": name}, "data": {f"{key}.py": text for key, text in files.items()}}
        )

    def savepoint(self, name: str, **spec: Any) -> None:
        """Create a Savepoint."""
        path = f"/apis/checkdam.dev/v1alpha1/namespaces/{self.namespace}/savepoints"
        body = {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "Savepoint",
            "metadata": {"name": name},
            "spec": {"job": "words", **spec},
        }
        self.plane.call("POST", path, body)

    def savepoint_status(self, name: str) -> Body:
        """The status of a Savepoint."""
        path = f"/apis/checkdam.dev/v1alpha1/namespaces/{self.namespace}/savepoints/{name}"
        found: Body = self.plane.call("GET", path).get("status", {})
        return found

    def delete_savepoint(self, name: str) -> None:
        """Delete a Savepoint."""
        self.plane.call("DELETE", f"/apis/checkdam.dev/v1alpha1/namespaces/{self.namespace}/savepoints/{name}")

    def described(self) -> str:
        """All there is, for a failure's message."""
        return json.dumps({"jobs": self.plane.call("GET", self._jobs)["items"], "events": self.events()}, indent=1)
