"""Plays scheduler, kubelet and kube-proxy with real processes: a pod's command runs on this machine, at an address of the loopback of its own.

So operator, coordinators and workers are tried together, as they are, where no container can be run. Of a pod's specification this kubelet knows what jobs
use: command, environment (with the downward API), ConfigMaps, Secrets and empty folders, restarts with growing pauses, readiness over HTTP,
SIGTERM and then SIGKILL. Volumes lie below a folder of the pod, which its command is told by `--root`. The address of a Service, which nothing
on this machine answers at, is replaced in the environment of pods by one at which connections are led to the pod that the Service selects at
that moment. The test owns the processes: `kill`, `stop_pod` and `lose` do to them what happens on real nodes.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from checkdam.core.lifetime import die_with_parent
from cluster.control_plane import ControlPlane
from cluster.pod_status import crashed, restarts_of, running
from cluster.stub_kubelet import api_session

PROBE_S: Final = 0.1
VOLUME_RETRY_S: Final = 1.0
API_RETRY_S: Final = 0.5
FIRST_RESTART_S: Final = 0.3
"""The kubelet's first restart of a container comes after about a second, the next ones after 10 s and more; here all is faster."""

LONGEST_RESTART_S: Final = 10.0
NODE: Final = "here"

Body = dict[str, Any]


@dataclass
class RunningPod:
    """A pod whose process this kubelet runs.

    Attributes:
        body: The pod, as it was when it appeared.
        ip: Its address.
        root: The folder that stands for its file system.
        process: What runs now; `None` between two restarts.
        restarts: How often it was started again.
        lost: Nothing is told of it any more, as of a pod on a lost node.
        deleted: The pod, as it was when it began to be deleted.
    """

    body: Body
    ip: str
    root: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    lost: bool = False
    deleted: Body | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.body["metadata"]["uid"])

    @property
    def log(self) -> Path:
        """What its process has printed."""
        return self.root / "log"


class ProcessKubelet:
    """See `process_kubelet`, which makes it.

    Attributes:
        hidden: Variables of this process's environment that pods do not see, such as the keys of an S3 server.
        pods: Name → the pods that it runs; of several that had the name one after the other the last.
    """

    def __init__(self, session: aiohttp.ClientSession, namespace: str, folder: Path) -> None:
        self.hidden: frozenset[str] = frozenset()
        self.pods: dict[str, RunningPod] = {}
        self._before: list[RunningPod] = []
        self._session = session
        self._namespace = namespace
        self._folder = folder
        self._services: dict[str, Body] = {}
        self._proxies: dict[str, str] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._next_address = random.randrange(1 << 16, 1 << 24)

    # What a test does to pods

    def kill(self, name: str) -> None:
        """SIGKILL to the process of a pod, as when it runs out of memory; without effect where it ends just now."""
        process = self.pods[name].process
        assert process is not None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def kill_task(self, name: str) -> None:
        """SIGKILL to what the first process of a pod has started; it starts that again itself, without kubelet and API server."""
        pod = self.pods[name]
        assert pod.process is not None
        for pid in _processes_of(pod):
            if pid != pod.process.pid:
                os.kill(pid, signal.SIGKILL)

    def lose(self, name: str) -> None:
        """The pod's node is lost: its processes stand still, and nobody tells the API server of it any more."""
        self.pods[name].lost = True
        self.freeze(name)

    def find(self, name: str) -> None:
        """The node is back, with all that ran on it, and does what it has missed."""
        self.pods[name].lost = False
        self.thaw(name)
        self._end_if_deleted(self.pods[name])

    def freeze(self, name: str) -> None:
        """SIGSTOP to all processes of a pod."""
        _send(self.pods[name], signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT to all processes of a pod, if there are any left."""
        _send(self.pods[name], signal.SIGCONT)

    # Following the API server

    async def follow(self) -> None:
        """Run what there is to run, until cancelled."""
        await asyncio.gather(self._watch("services", self._on_service), self._watch("pods", self._on_pod))

    async def close(self) -> None:
        """End all processes."""
        for server in self._servers:
            server.close()
        pods = [*self._before, *self.pods.values()]
        running = [pod.task for pod in pods if pod.task is not None]
        for task in running:
            task.cancel()
        for pod in pods:
            _kill(pod)
            if pod.process is not None:
                await pod.process.wait()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*running, *self._connections, return_exceptions=True)

    async def _watch(self, plural: str, on_event: Any) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/{plural}"
        while True:
            with suppress(aiohttp.ClientError):
                found = await self._call("GET", path)
                self._on_list(plural, found["items"])
                for body in found["items"]:
                    on_event("MODIFIED", body)
                version = found["metadata"]["resourceVersion"]
                async with self._session.get(path, params={"watch": "true", "resourceVersion": version}) as answer:
                    async for line in answer.content:
                        event = msgspec.json.decode(line)
                        if event["type"] != "ERROR":
                            on_event(event["type"], event["object"])

    def _on_service(self, kind: str, body: Body) -> None:
        self._services[body["spec"]["clusterIP"]] = body

    def _on_pod(self, kind: str, body: Body) -> None:
        name = body["metadata"]["name"]
        pod, root = self.pods.get(name), self._folder / name
        if pod is not None and pod.uid != body["metadata"]["uid"]:
            # An operator that was started again may give a pod the name of one that is gone.
            if kind == "DELETED":
                return
            _kill(pod)
            self._before.append(self.pods.pop(name))
            pod, root = None, self._folder / f"{name}-{len(self._before)}"
        if kind == "DELETED":
            if pod is not None:
                _kill(pod)
            return
        if pod is None and body["status"].get("phase") == "Pending" and "deletionTimestamp" not in body["metadata"]:
            pod = RunningPod(body, self._address(), root)
            self.pods[name] = pod
            pod.task = asyncio.create_task(self._run(pod))
        elif pod is not None and "deletionTimestamp" in body["metadata"] and pod.deleted is None:
            pod.deleted = body
            self._end_if_deleted(pod)

    def _end_if_deleted(self, pod: RunningPod) -> None:
        if pod.deleted is not None and not pod.lost and pod.task is not None:
            running, pod.task = pod.task, asyncio.create_task(self._end(pod, pod.deleted))
            running.cancel()

    def _on_list(self, plural: str, bodies: list[Body]) -> None:
        """What has gone while nobody watched."""
        there = {body["metadata"]["uid"] for body in bodies}
        for pod in self.pods.values():
            if plural == "pods" and pod.uid not in there:
                _kill(pod)

    # One pod

    async def _run(self, pod: RunningPod) -> None:
        """Start the pod's process, and start it again whenever it ends."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod.name}"
        binding = {"target": {"kind": "Node", "name": NODE}, "metadata": {"name": pod.name}}
        try:
            await self._call("POST", f"{path}/binding", binding)
        except aiohttp.ClientResponseError:
            return  # it was deleted meanwhile
        while not await self._volumes_filled(pod):
            await asyncio.sleep(VOLUME_RETRY_S)
        pause_s = FIRST_RESTART_S
        while True:
            await self._start(pod)
            assert pod.process is not None
            await self._status(pod, running(pod.body, _now(), pod.ip, ready=False, restarts=pod.restarts))
            probing = asyncio.create_task(self._probe(pod))
            try:
                code = await pod.process.wait()
            finally:
                probing.cancel()
            pod.process = None
            if pod.lost:
                return
            message = _read(pod.root / "dev/termination-log")
            reason = "Completed" if code == 0 else "OOMKilled" if code == -signal.SIGKILL else "Error"
            await self._status(pod, crashed(pod.body, _now(), code if code >= 0 else 128 - code, reason, message))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RESTART_S)
            pod.restarts += 1

    async def _start(self, pod: RunningPod) -> None:
        container = pod.body["spec"]["containers"][0]
        program, *arguments = container["command"]
        arguments += ["--root", str(pod.root)]
        if pod.body["metadata"]["labels"]["app.kubernetes.io/component"] == "coordinator":
            arguments += ["--listen", pod.ip]  # there are others on this machine
        log = await asyncio.to_thread(pod.log.open, "ab")
        with log:
            pod.process = await asyncio.create_subprocess_exec(
                sys.executable if program == "python" else program,
                *arguments,
                env=await self._environment(pod, container),
                cwd=pod.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )

    async def _end(self, pod: RunningPod, body: Body) -> None:
        """SIGTERM, the grace period, SIGKILL, and the pod is gone."""
        if pod.process is not None:
            pod.process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(body["metadata"].get("deletionGracePeriodSeconds", 30)):
                    await pod.process.wait()
        _kill(pod)
        identity = {"gracePeriodSeconds": 0, "preconditions": {"uid": body["metadata"]["uid"]}}
        with suppress(aiohttp.ClientResponseError):
            await self._call("DELETE", f"/api/v1/namespaces/{self._namespace}/pods/{pod.name}", identity)

    async def _probe(self, pod: RunningPod) -> None:
        """Tell when the pod becomes ready: at once without a probe, or when its probe succeeds."""
        probe = pod.body["spec"]["containers"][0].get("readinessProbe")
        while probe is not None:
            url = f"http://{pod.ip}:{probe['httpGet']['port']}{probe['httpGet']['path']}"
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with aiohttp.ClientSession() as session, session.get(url) as answer:
                    if answer.status == 200:
                        break
            await asyncio.sleep(PROBE_S)
        await self._status(pod, running(pod.body, _now(), pod.ip, ready=True, restarts=pod.restarts))

    async def _status(self, pod: RunningPod, status: Body) -> None:
        if pod.lost:
            return
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod.name}/status"
        identity = {"name": pod.name, "uid": pod.body["metadata"]["uid"]}
        with suppress(aiohttp.ClientResponseError):
            pod.body = await self._call(
                "PATCH", path, {"metadata": identity, "status": status}, "application/merge-patch+json"
            )
        assert restarts_of(pod.body) >= 0

    # Volumes, environment, addresses

    async def _volumes_filled(self, pod: RunningPod) -> bool:
        """Fill the pod's volumes; false if something that they name is missing."""
        try:
            await self._fill_volumes(pod)
        except aiohttp.ClientResponseError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def _fill_volumes(self, pod: RunningPod) -> None:
        spec = pod.body["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (pod.root / "dev").mkdir(parents=True, exist_ok=True)
        for mount in spec["containers"][0]["volumeMounts"]:
            folder = pod.root / mount["mountPath"].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                found = await self._call(
                    "GET", f"/api/v1/namespaces/{self._namespace}/configmaps/{volume['configMap']['name']}"
                )
                _write_files(folder, {name: text.encode() for name, text in found["data"].items()}, 0o644)
            elif "secret" in volume:
                path = f"/api/v1/namespaces/{self._namespace}/secrets/{volume['secret']['secretName']}"
                found = await self._call("GET", path)
                _write_files(folder, {name: base64.b64decode(text) for name, text in found["data"].items()}, 0o440)

    async def _environment(self, pod: RunningPod, container: Body) -> dict[str, str]:
        made = {name: value for name, value in os.environ.items() if name not in self.hidden}
        metadata = pod.body["metadata"]
        fields = {"metadata.name": metadata["name"], "metadata.uid": metadata["uid"], "status.podIP": pod.ip}
        for variable in container["env"]:
            source = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            value = fields[source] if source else variable.get("value", "")
            made[variable["name"]] = await self._reachable(value)
        made["PATH"] = os.environ["PATH"]
        made["CHECKDAM_SECRETS_DIR"] = str(pod.root / "var/run/secrets/checkdam")
        return made

    async def _reachable(self, value: str) -> str:
        """The value, with the address of a Service replaced by one that leads to its pod."""
        ip, colon, port = value.rpartition(":")
        if not colon or ip not in self._services:
            return value
        if value not in self._proxies:
            local = self._address()

            async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)
                await self._lead(ip, int(port), reader, writer)

            self._servers.append(await asyncio.start_server(lead, local, int(port)))
            self._proxies[value] = f"{local}:{port}"
        return self._proxies[value]

    async def _lead(self, ip: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        selector = self._services[ip]["spec"]["selector"]
        chosen = [
            pod
            for pod in self.pods.values()
            if selector.items() <= pod.body["metadata"]["labels"].items() and pod.process is not None
        ]
        self._writers.append(writer)
        try:
            there, onward = await asyncio.open_connection(chosen[-1].ip, port) if chosen else (None, None)
        except OSError:
            there, onward = None, None
        if there is None or onward is None:
            writer.close()
            return
        self._writers.append(onward)
        await asyncio.gather(_copy(reader, onward), _copy(there, writer), return_exceptions=True)

    def _address(self) -> str:
        self._next_address = max(1 << 16, (self._next_address + 1) % (1 << 24))
        return f"127.{self._next_address >> 16}.{self._next_address >> 8 & 255}.{self._next_address & 255}"

    async def _call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """The answer of the API server, however long it does not answer."""
        data = None if body is None else msgspec.json.encode(body)
        while True:
            try:
                async with self._session.request(
                    method, path, data=data, headers={"Content-Type": content_type}
                ) as answer:
                    answer.raise_for_status()
                    return msgspec.json.decode(await answer.read())
            except (aiohttp.ClientConnectionError, TimeoutError):
                await asyncio.sleep(API_RETRY_S)


@asynccontextmanager
async def process_kubelet(plane: ControlPlane, namespace: str, folder: Path) -> AsyncIterator[ProcessKubelet]:
    """Runs the pods of a namespace until the context ends, which ends their processes.

    Args:
        plane: The control plane.
        namespace: Whose pods.
        folder: For the file systems of pods, and what they print.
    """
    async with api_session(plane) as session:
        kubelet = ProcessKubelet(session, namespace, folder)
        following = asyncio.create_task(kubelet.follow())
        try:
            yield kubelet
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await kubelet.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _write_files(folder: Path, files: dict[str, bytes], mode: int) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)


def _kill(pod: RunningPod) -> None:
    if pod.process is not None and pod.process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(pod.process.pid, signal.SIGKILL)
    shutil.rmtree(pod.root / "var", ignore_errors=True)


def _send(pod: RunningPod, number: signal.Signals) -> None:
    for pid in _processes_of(pod):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _processes_of(pod: RunningPod) -> list[int]:
    """All processes of a pod: those of the session that its first one leads."""
    found: list[int] = []
    if pod.process is None:
        return found
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if entry.name.isdecimal() and os.getsid(int(entry.name)) == pod.process.pid:
                found.append(int(entry.name))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-2048:]
    except OSError:
        return ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
