"""What the coordinator's tests share: a small graph, a job, a coordinator in this process, and scripted workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.connectors.base import Source, Split, SplitReader
from checkdam.coordinator.app import coordinate
from checkdam.coordinator.config import Addresses, CoordinatorConfig
from checkdam.coordinator.ending import OUTCOME_FILE, Ending
from checkdam.core.keys import key_group_range
from checkdam.core.schema import PICKLED
from checkdam.graph.model import Edge, Graph, Node, Partition, SourceSpec
from checkdam.graph.plan import fingerprint
from checkdam.spec import StreamJob, parse_manifest
from checkdam.wire.auth import ClientHandshake, Purpose
from checkdam.wire.frames import frame, receive_frame
from checkdam.wire.messages import (
    Abort,
    Ack,
    AssignSplits,
    Committed,
    Complete,
    Deploy,
    Drop,
    Ended,
    Failed,
    Hello,
    Listening,
    Message,
    Peers,
    Ping,
    Pong,
    Ready,
    Shutdown,
    Start,
    Trigger,
    Welcome,
    decode_to_worker,
    encode,
)

M = TypeVar("M", bound=Message)

SECRET = b"the job's secret"
TOKEN = "the job's token"
DEADLINE_S = 30.0


class Numbers(Source[int]):
    """A source that is never opened: its splits are all that the coordinator sees."""

    def __init__(
        self,
        splits: list[str],
        *,
        bounded: bool = True,
        concurrent: bool = False,
        interval_ms: int = 0,
        reserve: bool = True,
    ) -> None:
        self.found = splits
        self.bounded = bounded
        self.concurrent = concurrent
        self.discovery_interval_ms = interval_ms
        self.can_reserve = reserve

    def splits(self, parallelism: int) -> list[Split]:
        return [Split(name, {"path": name}) for name in self.found]

    def open(self, split: Split, position: Any) -> SplitReader[int]:
        raise AssertionError("the coordinator opens no split")


class AnySerde:
    """A serde in name only."""

    name = "pickle"
    schema = PICKLED

    def encode_many(self, values: list[Any]) -> bytes:
        return b""

    def decode_many(self, data: bytes | memoryview) -> list[Any]:
        return []

    def encode(self, value: Any) -> bytes:
        return b""

    def decode(self, data: bytes | memoryview) -> Any:
        return None


def graph_of(
    source: Source[int] | None = None, *, sink: str = "out", keyed: str = "count", state: str = "int"
) -> Graph:
    """numbers → count (keyed) → out (two-phase)."""
    nodes = [
        Node("numbers", "source", None, source=SourceSpec(source or Numbers(["a", "b", "c"]), None)),
        Node(keyed, "aggregate", None, keyed=True, state={f"{keyed}/sum": state}),
        Node(sink, "sink", None, two_phase=True),
    ]
    edges = [
        Edge("numbers", keyed, Partition.HASH, AnySerde()),
        Edge(keyed, sink, Partition.FORWARD, AnySerde()),
    ]
    return Graph({node.id: node for node in nodes}, edges)


def job_of(
    tmp_path: Path, *, parallelism: int = 2, restart: dict[str, Any] | None = None, **settings: Any
) -> StreamJob:
    """A StreamJob with short intervals; `checkpoint__x=…` and `runtime__x=…` set fields of these parts."""
    checkpoint: dict[str, Any] = {
        "interval": "1h",
        "storage": {"uri": f"file://{tmp_path}/checkpoints"},
        "tolerableFailures": 2,
    }
    runtime: dict[str, Any] = {"heartbeatTimeout": "2s"}
    spec: dict[str, Any] = {
        "program": {"entrypoint": "somewhere:build"},
        "parallelism": parallelism,
        "restart": restart or {"strategy": "FixedDelay", "delay": "10ms", "attempts": 3},
        "checkpoint": checkpoint,
        "runtime": runtime,
    }
    for name, value in settings.items():
        part, _, inner = name.partition("__")
        if inner:
            {"checkpoint": checkpoint, "runtime": runtime}[part][inner] = value
        else:
            spec[name] = value
    return parse_manifest(
        {"apiVersion": "checkdam.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "test"}, "spec": spec}
    )


def storage_of(tmp_path: Path) -> FileStorage:
    """The job's folder."""
    return FileStorage(tmp_path / "checkpoints" / "default" / "test")


def config_of(tmp_path: Path, job: StreamJob, **settings: Any) -> CoordinatorConfig:
    """A configuration whose files are in `tmp_path`; each coordinator gets an address file of its own."""
    for name, content in (("secret", SECRET), ("token", TOKEN.encode())):
        path = tmp_path / name
        if not path.exists():
            path.write_bytes(content)
            path.chmod(0o600)
    run_dir = tmp_path / f"run-{time.monotonic_ns()}"
    run_dir.mkdir()
    return CoordinatorConfig(
        manifest=job.to_manifest(),
        base_folder=str(tmp_path),
        secret_file=str(tmp_path / "secret"),
        token_file=str(tmp_path / "token"),
        run_dir=str(run_dir),
        address_file=str(run_dir / "address.json"),
        **settings,
    )


async def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll until `condition` holds; fails after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError(f"it did not happen within {DEADLINE_S} s: {what or condition}")


async def published(config: CoordinatorConfig) -> Addresses:
    """The addresses of a coordinator, as soon as it is listening."""
    path = Path(config.address_file)
    await eventually(path.exists, "the address file")
    return msgspec.json.decode(path.read_bytes(), type=Addresses)


async def call(addresses: Addresses, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """A request to the HTTP API of a coordinator: status and decoded answer."""
    url = f"http://{addresses.http_host}:{addresses.http_port}{path}"
    sent = {"Authorization": f"Bearer {TOKEN}"} | headers
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body, headers=sent) as answer:
        data = await answer.read()
        return answer.status, (msgspec.json.decode(data) if answer.content_type == "application/json" else data)


@dataclass
class Running:
    """A coordinator in this process."""

    config: CoordinatorConfig
    job: StreamJob
    graph: Graph
    task: asyncio.Task[int]
    addresses: Addresses

    async def exit_code(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.task

    def ending(self) -> Ending:
        return ending_of(self.config)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """A request to the HTTP API: status and decoded answer."""
        return await call(self.addresses, method, path, body, **headers)

    async def trigger(self, **wish: Any) -> tuple[int, str]:
        """Ask for a checkpoint: its number, and how it stands."""
        status, answer = await self.call("POST", "/v1/checkpoints", wish)
        assert status == 202, answer
        return answer["id"], answer["status"]

    async def state(self) -> str:
        return (await self.call("GET", "/v1/job"))[1]["state"]

    async def until_state(self, *states: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            _, view = await self.call("GET", "/v1/job")
            if view["state"] in states:
                return view
            await asyncio.sleep(0.01)
        raise AssertionError(f"the job should be {states} (it is {view['state']})")


def ending_of(config: CoordinatorConfig) -> Ending:
    """How a coordinator says that it ended."""
    return msgspec.json.decode((Path(config.run_dir) / OUTCOME_FILE).read_bytes(), type=Ending)


@asynccontextmanager
async def coordinator(
    tmp_path: Path,
    job: StreamJob | None = None,
    graph: Graph | None = None,
    *,
    storage: Storage | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """A coordinator, running; ended by force at the end of the block if it still is."""
    job = job or job_of(tmp_path)
    graph = graph or graph_of()
    config = config_of(tmp_path, job, **settings)
    task = asyncio.create_task(coordinate(config, job, graph, storage or storage_of(tmp_path)))
    address = asyncio.create_task(published(config))
    await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
    if task.done() and not address.done():
        address.cancel()
        raise AssertionError(f"the coordinator ended before it was listening: {ending_of(config)}")
    try:
        yield Running(config, job, graph, task, await address)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def ending_at_once(
    tmp_path: Path, job: StreamJob | None = None, graph: Graph | None = None, **settings: Any
) -> Ending:
    """How a coordinator ends that is expected to end without any worker."""
    job = job or job_of(tmp_path)
    config = config_of(tmp_path, job, **settings)
    async with asyncio.timeout(DEADLINE_S):
        code = await coordinate(config, job, graph or graph_of(), storage_of(tmp_path))
    ending = ending_of(config)
    assert ending.exit_code == code
    return ending


@dataclass
class Worker:
    """A scripted worker: it does what is right unless told otherwise, and keeps all it was told."""

    index: int
    graph: Graph
    job_id: str = "default/test"
    acks: bool = True
    commits: bool = True
    pongs: bool = True
    listens: bool = True
    readies: bool = True
    fingerprint: str = ""
    instance: str = ""
    epoch: int = 0
    received: list[Message] = field(default_factory=list)
    closed: bool = False
    attempt: Any = None
    file_bytes: bytes = b"state"
    _reader: Any = None
    _writer: Any = None
    _task: Any = None

    async def connect(self, addresses: Addresses, secret: bytes = SECRET) -> Worker:
        self._reader, self._writer = await asyncio.open_connection(addresses.control_host, addresses.control_port)
        handshake = ClientHandshake(secret, Purpose("control", self.job_id, "", str(self.index), "coordinator"))
        self._writer.write(frame(handshake.introduction()))
        self._writer.write(frame(handshake.respond(await receive_frame(self._reader))))
        self.instance = self.instance or f"instance-{self.index}-{time.monotonic_ns()}"
        self.send(Hello(self.job_id, self.index, self.instance, os.getpid(), self.epoch))
        welcome = decode_to_worker(await receive_frame(self._reader))
        assert isinstance(welcome, Welcome)
        self.received.append(welcome)
        self._task = asyncio.create_task(self._listen())
        return self

    @property
    def welcome(self) -> Welcome:
        return self.of(Welcome)[0]

    def send(self, message: Message) -> None:
        self._writer.write(frame(encode(message)))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._writer is None:
            return
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        self.closed = True

    def of(self, kind: type[M]) -> list[M]:
        """All messages of that kind, oldest first."""
        return [message for message in self.received if isinstance(message, kind)]

    async def until(self, kind: type[M], count: int = 1) -> M:
        """Wait for the `count`-th message of that kind."""
        await eventually(lambda: len(self.of(kind)) >= count, f"worker {self.index} should get {count} {kind.__name__}")
        return self.of(kind)[count - 1]

    def ack(self, trigger: Trigger, **changes: Any) -> None:
        self.send(self.acknowledgement(trigger, **changes))

    def acknowledgement(self, trigger: Trigger, **changes: Any) -> Ack:
        handle = FileHandle("state", len(self.file_bytes), "0" * 64, inline=self.file_bytes)
        groups = key_group_range(128, self.of(Deploy)[-1].parallelism, self.index)
        snapshots = changes.pop("snapshots", None) or [
            SubtaskSnapshot("numbers", self.index, operators=changes.pop("operators", {})),
            SubtaskSnapshot("count", self.index, (groups.start, groups.stop), files=changes.pop("files", [handle])),
        ]
        return Ack(
            **(
                {
                    "attempt": trigger.attempt,
                    "checkpoint": trigger.checkpoint,
                    "snapshots": snapshots,
                    "processing_time_ms": 5,
                }
                | changes
            )
        )

    def ended(self) -> None:
        self.send(Ended(self.attempt))

    def fail(self, kind: str, error: str) -> None:
        self.send(Failed(self.attempt, error, kind))

    async def _listen(self) -> None:
        try:
            while True:
                message = decode_to_worker(await receive_frame(self._reader))
                self._answer(message)
                if not isinstance(message, Ping):
                    self.received.append(message)
        except (asyncio.IncompleteReadError, OSError):
            self.closed = True

    def _answer(self, message: Message) -> None:
        if isinstance(message, Ping) and self.pongs:
            self.send(Pong(message.sequence))
        elif isinstance(message, Deploy):
            self.attempt = message.attempt
            if self.listens:
                self.send(
                    Listening(
                        message.attempt, "127.0.0.1", 40000 + self.index, self.fingerprint or fingerprint(self.graph), 1
                    )
                )
        elif isinstance(message, Peers) and self.readies:
            self.send(Ready(message.attempt, 10))
        elif isinstance(message, Trigger) and self.acks:
            self.ack(message)
        elif isinstance(message, Complete) and self.commits:
            self.send(Committed(message.attempt, message.checkpoint))


@asynccontextmanager
async def workers(running: Running, count: int | None = None, **settings: Any) -> AsyncIterator[list[Worker]]:
    """All workers of a job, connected."""
    found = [
        await Worker(index, running.graph, **settings).connect(running.addresses)
        for index in range(running.job.spec.parallelism if count is None else count)
    ]
    try:
        yield found
    finally:
        for worker in found:
            await worker.close()


async def started(found: list[Worker], attempt: int = 1) -> None:
    """Wait until all workers have been told to start for the `attempt`-th time."""
    for worker in found:
        await worker.until(Start, attempt)


@asynccontextmanager
async def process(
    tmp_path: Path, fault: str = "", strike: str = "SIGKILL", interval: str = "20ms", **settings: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, CoordinatorConfig]]:
    """A coordinator process, killed at the end of the block if it is still there."""
    job = job_of(tmp_path, checkpoint__interval=interval, runtime__heartbeatTimeout="500ms")
    config = config_of(tmp_path, job, **settings)
    path = Path(config.run_dir) / "config.json"
    path.write_bytes(msgspec.json.encode(config))
    script = Path(__file__).with_name("coordinator_process.py")
    environment = {**os.environ, "CHECKDAM_FAULT": fault, "CHECKDAM_FAULT_SIGNAL": strike}
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(path), env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield child, config
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def connected(addresses: Addresses) -> list[Worker]:
    """Two workers of a coordinator that runs elsewhere."""
    return [await Worker(index, graph_of()).connect(addresses) for index in range(2)]


def journal_kinds(tmp_path: Path) -> list[str]:
    """The kinds of all entries of the job's journal."""
    storage = storage_of(tmp_path)
    tail = Journal(storage).tail()
    assert tail is not None
    paths = sorted(file.path for file in storage.list("journal"))
    return [msgspec.json.decode(storage.read(path))["kind"] for path in paths]


__all__ = [
    "SECRET",
    "TOKEN",
    "Abort",
    "AnySerde",
    "AssignSplits",
    "Drop",
    "Numbers",
    "Running",
    "Shutdown",
    "Worker",
    "call",
    "config_of",
    "connected",
    "coordinator",
    "ending_at_once",
    "ending_of",
    "eventually",
    "graph_of",
    "job_of",
    "journal_kinds",
    "process",
    "published",
    "started",
    "storage_of",
    "workers",
]
