"""The supervisor of a worker: keeps the connection to the coordinator and one task process per attempt.

It is small and has one thread, so it may fork at any time; the user's modules are imported and the graph is built before
the first fork, which makes a new task process a matter of milliseconds. Dropping an attempt is SIGKILL. It relays the
ordered stream of control messages between coordinator and task process, and answers heartbeats while there is none.

When the connection to the coordinator breaks, the task process goes: a coordinator adopts nothing of an earlier
connection. Then it connects again, to wherever the coordinator is by then.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from checkdam.api.entrypoint import load_graph
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.core.errors import AuthenticationError, CheckdamError
from checkdam.core.faultpoints import hit
from checkdam.graph.plan import make_plan
from checkdam.spec.manifest import parse_manifest
from checkdam.wire.auth import Purpose
from checkdam.wire.frames import FrameParser, authenticate_client, frame, read_frame
from checkdam.wire.messages import (
    AttemptId,
    Deploy,
    Drop,
    Failed,
    Hello,
    Message,
    Ping,
    Pong,
    Shutdown,
    Welcome,
    decode_to_worker,
    encode,
)
from checkdam.worker.config import WorkerConfig, load_config
from checkdam.worker.task import TaskSetup
from checkdam.worker.task import main as run_task

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 0.5
RETRY_S: Final = 0.15
HANDSHAKE_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 5.0
"""How long a task process may take to close its sinks and functions when the job has ended."""

REFUSALS: Final = 20
"""After so many refusals in a row (another supervisor holds the index) the process ends: it has been replaced."""


class _Child:
    """The task process of one attempt."""

    def __init__(self, attempt: AttemptId, pid: int, control: socket.socket, directory: Path) -> None:
        self.attempt = attempt
        self.pid = pid
        self.control = control
        self.directory = directory
        self.parser = FrameParser()


class Supervisor:
    """One worker's supervisor; `run` returns the exit code.

    Raises (on construction):
        CheckdamError: The manifest, the entrypoint or the storage is wrong.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._job = parse_manifest(config.manifest)
        self._run_dir = Path(config.run_dir)
        self._instance = secrets.token_hex(8)
        self._secret = config.secret
        storage = self._job.spec.checkpoint.storage
        self._storage = open_storage(
            storage.uri,
            self._job.job_id,
            base=Path(config.base_folder),
            memory_limit_bytes=storage.memory_limit_bytes,
        )
        graph = load_graph(self._job, Path(config.base_folder), self._run_dir / "inline")
        self._plan = make_plan(graph)
        self._connection: socket.socket | None = None
        self._parser = FrameParser()
        self._child: _Child | None = None
        self._selector = selectors.DefaultSelector()
        self._heartbeat_timeout_s = 10.0
        self._last_heard = time.monotonic()
        self._refusals = 0
        self._exit_code: int | None = None
        self._signals, write_end = socket.socketpair()
        self._signals.setblocking(False)
        write_end.setblocking(False)
        self._signal_writer = write_end

    def run(self) -> int:
        """Serve until told to shut down, until replaced, or until whoever started us is gone."""
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)
        if self._config.lifeline_fd >= 0:
            self._selector.register(self._config.lifeline_fd, selectors.EVENT_READ, self._on_lifeline)
        while self._exit_code is None:
            if self._connection is None and not self._connect():
                self._wait(RETRY_S)
                continue
            self._wait(self._heartbeat_timeout_s / 4)
            if self._connection is not None and time.monotonic() - self._last_heard > self._heartbeat_timeout_s:
                self._disconnect("the coordinator was silent for too long")
        self._drop_child()
        if self._connection is not None:
            self._connection.close()
        return self._exit_code

    # The coordinator

    def _connect(self) -> bool:
        try:
            address = self._config.coordinator_address()
            connection = socket.create_connection(address, timeout=CONNECT_TIMEOUT_S)
        except (OSError, CheckdamError):
            return False
        try:
            connection.settimeout(HANDSHAKE_TIMEOUT_S)
            purpose = Purpose("control", self._job.job_id, "", f"{self._config.index}/{self._instance}", "coordinator")
            authenticate_client(connection, self._secret, purpose)
            connection.sendall(
                frame(encode(Hello(self._job.job_id, self._config.index, self._instance, os.getpid())))
            )
            welcome = decode_to_worker(read_frame(connection))
        except (OSError, AuthenticationError) as error:
            log.info("no connection to the coordinator yet: %s", error)
            connection.close()
            return False
        if not isinstance(welcome, Welcome) or welcome.refused:
            connection.close()
            self._on_refused(welcome.refused if isinstance(welcome, Welcome) else "no welcome")
            return False
        self._refusals = 0
        self._heartbeat_timeout_s = welcome.heartbeat_timeout_ms / 1000
        self._last_heard = time.monotonic()
        connection.settimeout(HANDSHAKE_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._parser = connection, FrameParser()
        self._selector.register(connection, selectors.EVENT_READ, self._on_coordinator)
        return True

    def _on_refused(self, reason: str) -> None:
        self._refusals += 1
        if self._refusals >= REFUSALS:
            log.warning("worker %d was refused: %s; it has been replaced and ends", self._config.index, reason)
            self._exit_code = 0

    def _disconnect(self, reason: str) -> None:
        log.warning("worker %d lost the coordinator: %s", self._config.index, reason)
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
        self._drop_child()

    def _on_coordinator(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            data = connection.recv(1 << 20)
            if not data:
                self._disconnect("it closed the connection")
                return
            self._last_heard = time.monotonic()
            for body in self._parser.feed(data):
                self._handle(decode_to_worker(body), body)
        except OSError as error:
            self._disconnect(str(error))

    def _handle(self, message: Message, body: bytes) -> None:
        if isinstance(message, Deploy):
            self._deploy(message)
        elif isinstance(message, Drop):
            if self._child is not None and self._child.attempt <= message.attempt:
                self._drop_child()
        elif isinstance(message, Shutdown):
            log.info("shutting down: %s", message.reason)
            self._end_child(frame(body))
            self._exit_code = 0
        elif isinstance(message, Ping) and self._child is None:
            self._send(frame(encode(Pong(message.sequence))))
        elif self._child is not None and getattr(message, "attempt", self._child.attempt) == self._child.attempt:
            try:
                self._child.control.sendall(frame(body))
            except OSError:
                # It is dying; SIGCHLD follows.
                pass

    def _send(self, data: bytes) -> None:
        if self._connection is None:
            return
        try:
            self._connection.sendall(data)
        except OSError as error:
            self._disconnect(str(error))

    # The task process

    def _deploy(self, deploy: Deploy) -> None:
        self._drop_child()
        directory = self._run_dir / f"attempt-{deploy.attempt}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        hit("supervisor-fork")
        pid = os.fork()
        if pid == 0:
            self._become_task(deploy, directory, ours, theirs)
        theirs.close()
        self._child = _Child(deploy.attempt, pid, ours, directory)
        self._selector.register(ours, selectors.EVENT_READ, self._on_child)

    def _become_task(self, deploy: Deploy, directory: Path, ours: socket.socket, theirs: socket.socket) -> None:
        """In the child: let go of everything that is the supervisor's, and run."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._selector.close()
            for inherited in (self._connection, self._signals, self._signal_writer, ours):
                if inherited is not None:
                    inherited.close()
            if self._config.lifeline_fd >= 0:
                os.close(self._config.lifeline_fd)
            run_task(
                TaskSetup(
                    job=self._job,
                    plan=self._plan,
                    deploy=deploy,
                    secret=self._secret,
                    storage=self._storage,
                    directory=directory,
                    host=self._config.host,
                    control=theirs,
                    heartbeat_timeout_s=self._heartbeat_timeout_s,
                )
            )
        finally:
            os._exit(1)

    def _on_child(self) -> None:
        child = self._child
        if child is None:
            return
        try:
            data = child.control.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(child.control)
            return
        # The task process frames its messages as we do: they are passed on whole, so that ours never fall in between.
        for body in child.parser.feed(data):
            self._send(frame(body))

    def _drop_child(self) -> None:
        """SIGKILL, reap and clean up."""
        child = self._child
        if child is None:
            return
        self._child = None
        try:
            os.kill(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(child.pid, 0)
        except ChildProcessError:
            pass
        self._forget(child)

    def _end_child(self, farewell: bytes) -> None:
        """Let the task process close what it holds, for a bounded time."""
        child = self._child
        if child is None:
            return
        try:
            child.control.sendall(farewell)
            child.control.settimeout(CLOSE_TIMEOUT_S)
            while child.control.recv(1 << 20):
                pass
        except OSError:
            pass

    def _forget(self, child: _Child) -> None:
        try:
            self._selector.unregister(child.control)
        except KeyError:
            pass
        child.control.close()
        shutil.rmtree(child.directory, ignore_errors=True)

    # Signals and time

    def _wait(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def _on_sigterm(self, *_: object) -> None:
        self._exit_code = 0

    def _on_lifeline(self) -> None:
        self._exit_code = 0

    def _on_signal(self) -> None:
        try:
            while self._signals.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._child
            if child is not None and pid == child.pid:
                self._drain(child)
                self._child = None
                self._forget(child)
                cause = _describe(os.waitstatus_to_exitcode(status))
                self._send(frame(encode(Failed(child.attempt, f"the task process {cause}", "process"))))

    def _drain(self, child: _Child) -> None:
        """Pass on what the dead process said last: it names the cause."""
        child.control.setblocking(False)
        try:
            while data := child.control.recv(1 << 20):
                for body in child.parser.feed(data):
                    self._send(frame(body))
        except OSError:
            pass


def _describe(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def main(config_path: str) -> int:
    """The worker program: `python -m checkdam.worker CONFIG`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker %(message)s", stream=sys.stderr)
    config = load_config(Path(config_path))
    try:
        return Supervisor(config).run()
    except CheckdamError as error:
        log.error("%s", error)
        if config.termination_log:
            Path(config.termination_log).write_text(str(error))
        return 1
