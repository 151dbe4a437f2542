"""Plays scheduler and kubelet of a control plane without nodes: pods become Running and Ready, end when they are deleted, and fail on demand.

Nothing is run. A pod gets a node, then, in one write, the status that a kubelet would have come to step by step. It costs
two requests, so thousands of pods are cheap. What shall become of which pod is up to a function; what happens to a pod that
runs is a call. Addresses of pods are of the loopback, so that a test can listen where it says that a pod does.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import aiohttp
import msgspec

from cluster.control_plane import ControlPlane
from cluster.pod_status import (
    Pod,
    Status,
    crashed,
    failed,
    image_pull_error,
    ip_of,
    restarts_of,
    running,
    unschedulable,
)

NODE: Final = "stub"
_CONNECTIONS: Final = 16
_RETRY_S: Final = 0.2
_LEAVE_S: Final = 5.0
_LEAVE_POLL_S: Final = 0.002
_LINE_BYTES: Final = 4 * 1024 * 1024
_MERGE_PATCH: Final = "application/merge-patch+json"
_GONE: Final = frozenset({404, 409})
"""Answers to a write for a pod that is not there any more, or not the same."""


@dataclass(frozen=True)
class Behaviour:
    """What becomes of a pod.

    Attributes:
        schedulable: Otherwise it stays Pending without a node.
        pullable: Otherwise it stays Pending with an image pull error.
        ready: Otherwise it runs, but never is Ready.
        start_s: From its creation until it runs.
        termination_s: From its deletion until it is gone; `None` is never, as on a node that is lost.
        ip: Its address; empty for one of the loopback that nobody else uses.
    """

    schedulable: bool = True
    pullable: bool = True
    ready: bool = True
    start_s: float = 0.0
    termination_s: float | None = 0.0
    ip: str = ""


@asynccontextmanager
async def stub_kubelet(
    plane: ControlPlane,
    namespace: str | None = None,
    behaviour: Callable[[Pod], Behaviour] = lambda pod: Behaviour(),
) -> AsyncIterator[StubKubelet]:
    """A kubelet that lives until the context ends; what it was about to do then is not done.

    Args:
        namespace: The one whose pods it owns; all if `None`. No two may own the same.
        behaviour: Asked once when a pod appears and once when it is deleted.

    Raises:
        ExceptionGroup: When the context ends: the API server had refused what it should not.
    """
    async with api_session(plane) as session:
        kubelet = StubKubelet(session, namespace, behaviour)
        following = asyncio.create_task(kubelet.follow())
        try:
            yield kubelet
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


class StubKubelet:
    """See `stub_kubelet`, which makes it.

    Attributes:
        behaviour: May be replaced; what has begun goes on as it was to.
    """

    def __init__(
        self, session: aiohttp.ClientSession, namespace: str | None, behaviour: Callable[[Pod], Behaviour]
    ) -> None:
        self._session = session
        self._pods = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self.behaviour = behaviour
        self._begun: set[str] = set()
        self._ending: set[str] = set()
        self._next_address = random.randrange(1 << 16, 1 << 24)

    async def crash(
        self, namespace: str, name: str, exit_code: int = 1, reason: str = "Error", message: str = ""
    ) -> None:
        """End the containers of a pod that runs: they are `terminated` until `restart`.

        Raises:
            aiohttp.ClientResponseError: There is no such pod.
            ValueError: It does not run.
        """
        await self._change(namespace, name, lambda pod, now: crashed(pod, now, exit_code, reason, message))

    async def restart(self, namespace: str, name: str) -> None:
        """Start the containers of a pod that crashed once more; their `restartCount` goes up by one.

        Raises:
            aiohttp.ClientResponseError: There is no such pod.
            ValueError: It never ran.
        """
        await self._change(
            namespace,
            name,
            lambda pod, now: running(pod, now, ip_of(pod), True, restarts_of(pod) + 1),
        )

    async def fail(self, namespace: str, name: str, reason: str = "Evicted", message: str = "") -> None:
        """Let a pod end in phase Failed.

        Raises:
            aiohttp.ClientResponseError: There is no such pod.
        """
        await self._change(namespace, name, lambda pod, now: failed(pod, now, reason, message))

    async def follow(self) -> None:
        """Watch pods and play their part, for ever."""
        async with asyncio.TaskGroup() as work:
            while True:
                try:
                    await self._watch(await self._list(work), work)
                except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                    await asyncio.sleep(_RETRY_S)

    async def _list(self, work: asyncio.TaskGroup) -> str:
        """Look at all pods; return the version from which to watch."""
        async with self._session.get(self._pods) as answer:
            answer.raise_for_status()
            found = msgspec.json.decode(await answer.read())
        for pod in found["items"]:
            self._look_at(pod, work)
        return str(found["metadata"]["resourceVersion"])

    async def _watch(self, version: str, work: asyncio.TaskGroup) -> None:
        """Look at pods that change, until the server ends the watch or has forgotten the version."""
        async with self._session.get(self._pods, params={"watch": "true", "resourceVersion": version}) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                event = msgspec.json.decode(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] == "DELETED":
                    self._begun.discard(event["object"]["metadata"]["uid"])
                    self._ending.discard(event["object"]["metadata"]["uid"])
                else:
                    self._look_at(event["object"], work)

    def _look_at(self, pod: Pod, work: asyncio.TaskGroup) -> None:
        uid = pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self._ending:
                self._ending.add(uid)
                work.create_task(self._end(pod))
        elif uid not in self._begun:
            self._begun.add(uid)
            if pod["status"]["phase"] == "Pending":
                work.create_task(self._begin(pod))

    async def _begin(self, pod: Pod) -> None:
        behaviour = self.behaviour(pod)
        await asyncio.sleep(behaviour.start_s)
        if not behaviour.schedulable:
            await self._write(pod, unschedulable(pod, _now()))
            return
        if "nodeName" not in pod["spec"]:
            binding = {"target": {"kind": "Node", "name": NODE}, "metadata": _identity(pod)}
            if not await self._send("POST", f"{_path(pod)}/binding", binding):
                return
        ip = behaviour.ip or self._address()
        if not behaviour.pullable:
            await self._write(pod, image_pull_error(pod, _now(), ip))
        else:
            await self._write(pod, running(pod, _now(), ip, behaviour.ready))

    async def _end(self, pod: Pod) -> None:
        termination_s = self.behaviour(pod).termination_s
        if termination_s is None:
            return
        await asyncio.sleep(termination_s)
        uid = pod["metadata"]["uid"]
        await self._send("DELETE", _path(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    async def _change(self, namespace: str, name: str, next_status: Callable[[Pod, str], Status]) -> None:
        async with self._session.get(f"/api/v1/namespaces/{namespace}/pods/{name}") as answer:
            answer.raise_for_status()
            pod = msgspec.json.decode(await answer.read())
        await self._write(pod, next_status(pod, _now()))

    async def _write(self, pod: Pod, status: Status) -> None:
        await self._send("PATCH", f"{_path(pod)}/status", {"metadata": _identity(pod), "status": status}, _MERGE_PATCH)

    async def _send(self, method: str, path: str, body: Any, content_type: str = "application/json") -> bool:
        """Whether the pod was still there; waits for a server that is away."""
        content, headers = msgspec.json.encode(body), {"Content-Type": content_type}
        while True:
            try:
                async with self._session.request(method, path, data=content, headers=headers) as answer:
                    if answer.status in _GONE:
                        return False
                    answer.raise_for_status()
                    return True
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(_RETRY_S)

    def _address(self) -> str:
        """Of a range that starts somewhere else in each kubelet, and not used by the machine itself."""
        self._next_address = max(1 << 16, (self._next_address + 1) % (1 << 24))
        return f"127.{self._next_address >> 16}.{self._next_address >> 8 & 255}.{self._next_address & 255}"


@asynccontextmanager
async def api_session(plane: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose connections are closed when it is.

    That of the watch is cut off in the middle of an answer. TLS then takes leave in the background, which nobody waits for, and
    which a loop that is closed next would never come to.
    """
    sockets: WeakSet[socket.socket] = WeakSet()

    def new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        sockets.add(made)
        return made

    session = aiohttp.ClientSession(
        base_url=plane.url,
        headers={"Authorization": f"Bearer {plane.token}"},
        connector=aiohttp.TCPConnector(ssl=plane.tls(), limit=_CONNECTIONS, socket_factory=new_socket),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        read_bufsize=_LINE_BYTES,
    )
    try:
        async with session:
            yield session
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                while any(used.fileno() != -1 for used in sockets):
                    await asyncio.sleep(_LEAVE_POLL_S)


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _identity(pod: Pod) -> dict[str, str]:
    """What makes the API server refuse a write to another pod of the same name."""
    return {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
