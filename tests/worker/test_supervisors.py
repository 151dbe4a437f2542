"""A supervisor in a process of its own; the test plays the coordinator, and strikes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest
from worker_kit import poll_until

from checkdam.core.errors import CheckdamError
from checkdam.spec import parse_manifest
from checkdam.wire.frames import authenticate_server, frame, read_frame
from checkdam.wire.messages import (
    AssignSplits,
    AttemptId,
    Deploy,
    Drop,
    Failed,
    Hello,
    Leaving,
    Listening,
    Message,
    Ping,
    Pong,
    Shutdown,
    Welcome,
    decode_to_coordinator,
    encode,
)
from checkdam.worker import listener
from checkdam.worker.config import WorkerConfig

M = TypeVar("M", bound=Message)

SECRET = b"the job's secret"
JOBS = Path(__file__).parents[1] / "local"


class Connection:
    """The supervisor's connection, at the coordinator."""

    def __init__(self, connection: socket.socket, hello: Hello) -> None:
        self.socket = connection
        self.hello = hello

    def send(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(frame(encode(message)) for message in messages))

    def until(self, kind: type[M]) -> M:
        """The next message of that kind; what comes before it is dropped."""
        while not isinstance(message := decode_to_coordinator(read_frame(self.socket)), kind):
            pass
        return message

    def deploy(self, attempt: AttemptId) -> int:
        """Start an attempt; returns the task process."""
        self.send(Deploy(attempt, 0, 1, None))
        while (listening := self.until(Listening)).attempt != attempt:
            pass
        return listening.pid

    def break_off(self) -> None:
        """End it as a killed coordinator does: what is under way meets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Bench:
    """A supervisor and the place where it looks for its coordinator."""

    def __init__(self, folder: Path, heartbeat: str = "5s", **settings: Any) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(20)
        manifest = {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "supervised"},
            "spec": {
                "program": {"entrypoint": "local_jobs:records", "args": {"out": str(folder / "out")}},
                "checkpoint": {"interval": "1s", "storage": {"uri": f"file://{folder}/state"}},
                "runtime": {"heartbeatTimeout": heartbeat},
            },
        }
        self.heartbeat_ms = parse_manifest(manifest).spec.runtime.heartbeat_timeout_ms
        secret = folder / "secret"
        secret.write_bytes(SECRET)
        secret.chmod(0o600)
        config = WorkerConfig(
            manifest=parse_manifest(manifest).to_manifest(),
            base_folder=str(JOBS),
            index=0,
            secret_file=str(secret),
            run_dir=str(folder),
            coordinator=f"127.0.0.1:{self.server.getsockname()[1]}",
            **settings,
        )
        path = folder / "config.json"
        path.write_bytes(msgspec.json.encode(config))
        self.process = subprocess.Popen([sys.executable, "-m", "checkdam.worker", str(path)])
        self._accepted: list[socket.socket] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for connection in (self.server, *self._accepted):
            connection.close()

    def accept(self, epoch: int, refused: str = "") -> Connection:
        """Let the supervisor in."""
        connection, _ = self.server.accept()
        self._accepted.append(connection)
        connection.settimeout(20)
        authenticate_server(connection, SECRET)
        hello = decode_to_coordinator(read_frame(connection))
        assert isinstance(hello, Hello)
        found = Connection(connection, hello)
        found.send(Welcome(epoch, self.heartbeat_ms, refused))
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as found:
        yield found


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_coordinator_of_an_earlier_epoch_is_not_obeyed(bench: Bench) -> None:
    successor = bench.accept(epoch=7)
    assert successor.hello.epoch == 0
    successor.deploy(AttemptId(7, 1))
    successor.socket.close()
    woken = bench.accept(epoch=5)
    assert woken.hello.epoch == 7
    woken.send(Deploy(AttemptId(5, 1), 0, 1, None))
    with pytest.raises(ConnectionError):
        woken.until(Listening)
    woken.socket.close()
    bench.accept(epoch=8).deploy(AttemptId(8, 1))


def test_a_stopped_task_process_does_not_keep_the_supervisor_from_dropping_it(bench: Bench) -> None:
    coordinator = bench.accept(epoch=1)
    attempt = AttemptId(1, 1)
    task = coordinator.deploy(attempt)
    os.kill(task, signal.SIGSTOP)
    splits = [("split", "x" * 65_000, None)]
    for _ in range(64):
        coordinator.send(AssignSplits(attempt, "numbers", splits, exhausted=False, more=False))
    coordinator.send(Drop(attempt), Ping(5))
    assert coordinator.until(Pong).sequence == 5
    assert gone(task)


def test_a_task_process_dies_with_its_supervisor_even_if_it_cannot_look(bench: Bench) -> None:
    task = bench.accept(epoch=1).deploy(AttemptId(1, 1))
    os.kill(task, signal.SIGSTOP)
    bench.process.kill()
    poll_until(lambda: gone(task))


def test_a_task_process_does_not_outlive_the_silence_of_a_stopped_supervisor(tmp_path: Path) -> None:
    # Long enough for a task process to start: until it listens, nobody speaks to the supervisor here.
    with Bench(tmp_path, heartbeat="2s") as bench:
        task = bench.accept(epoch=1).deploy(AttemptId(1, 1))
        bench.process.send_signal(signal.SIGSTOP)
        poll_until(lambda: gone(task))


def test_the_supervisor_survives_the_end_of_task_process_and_coordinator_at_once(bench: Bench) -> None:
    for epoch in range(1, 6):
        coordinator = bench.accept(epoch)
        task = coordinator.deploy(AttemptId(epoch, 1))
        bench.process.send_signal(signal.SIGSTOP)
        os.kill(task, signal.SIGKILL)
        coordinator.break_off()
        bench.process.send_signal(signal.SIGCONT)
    bench.accept(6).deploy(AttemptId(6, 1))


def test_the_death_of_a_task_process_is_told_with_its_cause(bench: Bench) -> None:
    coordinator = bench.accept(epoch=1)
    os.kill(coordinator.deploy(AttemptId(1, 1)), signal.SIGKILL)
    failed = coordinator.until(Failed)
    assert (failed.attempt, failed.kind) == (AttemptId(1, 1), "process")
    assert "SIGKILL" in failed.error


def test_a_new_attempt_takes_the_place_of_the_one_before(bench: Bench) -> None:
    coordinator = bench.accept(epoch=1)
    first = coordinator.deploy(AttemptId(1, 1))
    coordinator.send(Drop(AttemptId(1, 1)))
    second = coordinator.deploy(AttemptId(1, 2))
    coordinator.send(Drop(AttemptId(1, 1)))
    third = coordinator.deploy(AttemptId(1, 3))
    assert gone(first)
    assert gone(second)
    assert not gone(third)


def test_a_supervisor_waits_longer_for_its_index_than_a_lost_one_is_missed(tmp_path: Path) -> None:
    with Bench(tmp_path, heartbeat="1s") as bench:
        for _ in range(3):
            bench.accept(epoch=1, refused="worker 0 is connected already").socket.close()
        assert bench.process.poll() is None
        while bench.process.poll() is None:
            bench.server.settimeout(0.5)
            try:
                bench.accept(epoch=1, refused="worker 0 is connected already").socket.close()
            except OSError:
                continue
        assert bench.process.returncode == 0


def test_shutdown_ends_the_supervisor_within_a_bound_although_its_task_process_is_stopped(bench: Bench) -> None:
    coordinator = bench.accept(epoch=1)
    task = coordinator.deploy(AttemptId(1, 1))
    os.kill(task, signal.SIGSTOP)
    coordinator.send(Shutdown("the job has ended"))
    # It gives up after CLOSE_TIMEOUT_S.
    assert bench.process.wait(20) == 0
    assert gone(task)


def in_a_pod(folder: Path, heartbeat: str = "5s", patience_s: float = 20.0) -> Bench:
    return Bench(folder, heartbeat, name="job-w0-abcde", stays=True, leave_patience_s=patience_s)


def test_in_a_pod_a_supervisor_outlives_its_job_and_serves_the_next_coordinator(tmp_path: Path) -> None:
    with in_a_pod(tmp_path) as bench:
        coordinator = bench.accept(epoch=1)
        assert coordinator.hello.instance.startswith("job-w0-abcde/")
        task = coordinator.deploy(AttemptId(1, 1))
        coordinator.send(Shutdown("the job has ended"))
        successor = bench.accept(epoch=2)
        assert gone(task)
        assert (successor.hello.epoch, successor.hello.instance) == (1, coordinator.hello.instance)
        successor.deploy(AttemptId(2, 1))


def test_in_a_pod_a_supervisor_does_not_end_because_it_is_refused(tmp_path: Path) -> None:
    with in_a_pod(tmp_path, heartbeat="100ms") as bench:
        began_s = time.monotonic()
        while time.monotonic() - began_s < 0.5:
            bench.accept(epoch=1, refused="worker 0 is connected already").socket.close()
        bench.accept(epoch=1).deploy(AttemptId(1, 1))


def test_in_a_pod_sigterm_is_a_wish_that_the_coordinator_grants(tmp_path: Path) -> None:
    with in_a_pod(tmp_path) as bench:
        coordinator = bench.accept(epoch=1)
        task = coordinator.deploy(AttemptId(1, 1))
        bench.process.send_signal(signal.SIGTERM)
        coordinator.until(Leaving)
        coordinator.send(Ping(1))
        assert coordinator.until(Pong).sequence == 1
        assert not gone(task)
        coordinator.send(Shutdown("the last checkpoint is done"))
        assert bench.process.wait(20) == 0
        assert gone(task)


@pytest.mark.parametrize("end", ["deadline", "connection", "second signal"])
def test_in_a_pod_a_worker_that_leaves_waits_for_a_coordinator_no_longer_than_it_may(tmp_path: Path, end: str) -> None:
    with in_a_pod(tmp_path, patience_s=0.5 if end == "deadline" else 60) as bench:
        coordinator = bench.accept(epoch=1)
        task = coordinator.deploy(AttemptId(1, 1))
        bench.process.send_signal(signal.SIGTERM)
        coordinator.until(Leaving)
        if end == "connection":
            coordinator.break_off()
        elif end == "second signal":
            bench.process.send_signal(signal.SIGTERM)
        assert bench.process.wait(20) == 0
        assert gone(task)


def test_a_worker_with_nothing_to_save_leaves_at_once(tmp_path: Path) -> None:
    with in_a_pod(tmp_path, patience_s=60) as bench:
        bench.accept(epoch=1)
        bench.process.send_signal(signal.SIGTERM)
        assert bench.process.wait(20) == 0


def test_the_next_task_process_listens_on_the_same_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Bench(tmp_path, data_port=port) as bench:
        coordinator = bench.accept(epoch=1)
        for number in (1, 2, 3):
            coordinator.send(Deploy(AttemptId(1, number), 0, 1, None))
            assert coordinator.until(Listening).port == port


def test_a_port_that_somebody_else_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PORT_PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CheckdamError, match=f"cannot listen for other workers at 127.0.0.1, port {port}"):
            listener.Listener("127.0.0.1", SECRET, lambda *peer: None, port=port)
