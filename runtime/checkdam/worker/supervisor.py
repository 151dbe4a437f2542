"""The supervisor of a worker: keeps the connection to the coordinator and one task process per attempt.

It is small and has one thread, so it may fork at any time; the user's modules are imported and the graph is built before
the first fork, which makes a new task process a matter of milliseconds. Dropping an attempt is SIGKILL. It relays the
ordered stream of control messages between coordinator and task process, and answers heartbeats while there is none.

When the connection to the coordinator breaks, the task process goes: a coordinator adopts nothing of an earlier
connection. Then it connects again, to wherever the coordinator is by then. It never goes back: a coordinator of a lower
epoch than one it has served has been replaced, whether it knows that or not, and is not obeyed.

It waits for nobody for longer than a few seconds: what a stopped task process does not take stays in a backlog until the
coordinator, which hears nothing of it either, gives the attempt up.

In a pod it ends by SIGTERM alone, because whoever ends by himself is started again: when its job has ended, or another worker has its
index, it is idle and goes on looking for a coordinator. And SIGTERM is a wish there: it tells the coordinator, and its task process works on
until the coordinator has taken a last checkpoint and lets it go.
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
import traceback
from pathlib import Path
from typing import Final

import msgspec

from checkdam.api.entrypoint import INLINE_FOLDER, load_graph
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.core.errors import AuthenticationError, CheckdamError
from checkdam.core.exits import describe_exit, write_termination_log
from checkdam.core.faultpoints import hit
from checkdam.core.lifetime import die_with_parent
from checkdam.core.memory_kills import memory_kills
from checkdam.graph.plan import make_plan
from checkdam.spec.manifest import parse_manifest
from checkdam.spec.pods import memory_remedy
from checkdam.wire.auth import Purpose
from checkdam.wire.frames import FrameError, FrameParser, authenticate_client, frame, read_frame
from checkdam.wire.messages import (
    AttemptId,
    Deploy,
    Drop,
    Failed,
    Hello,
    Leaving,
    Message,
    Ping,
    Pong,
    Shutdown,
    Welcome,
    decode_to_worker,
    encode,
)
from checkdam.worker.config import WorkerConfig, load_config
from checkdam.worker.memory import MemoryBound, memory_bound
from checkdam.worker.pipe import FramePipe
from checkdam.worker.task import TaskSetup
from checkdam.worker.task import main as run_task

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 0.5
RETRY_S: Final = 0.15
HANDSHAKE_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 5.0
"""How long a task process may take to close its sinks and functions when the job has ended."""

REFUSED_TIMEOUTS: Final = 2
"""A supervisor that was refused for so many heartbeat timeouts ends: it has been replaced. One timeout may pass before the
coordinator notices that whoever held the index, on a machine that is gone, will never come back."""


class _Child:
    """The task process of one attempt."""

    def __init__(self, attempt: AttemptId, pid: int, pipe: FramePipe, directory: Path) -> None:
        self.attempt = attempt
        self.pid = pid
        self.pipe = pipe
        self.directory = directory
        self._memory_kills = memory_kills()

    def describe_end(self, code: int) -> str:
        """How it has ended, and what to do about it if that is known."""
        for_memory = memory_kills() > self._memory_kills
        remedy = f"; {memory_remedy('worker')}" if for_memory and code == -signal.SIGKILL else ""
        return f"the task process {describe_exit(code, for_memory=for_memory)}{remedy}"


class Supervisor:
    """One worker's supervisor; `run` returns the exit code.

    Raises (on construction):
        CheckdamError: The manifest, the entrypoint or the storage is wrong.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._job = parse_manifest(config.manifest)
        self._run_dir = Path(config.run_dir)
        unique = secrets.token_hex(8)
        self._instance = f"{config.name}/{unique}" if config.name else unique
        self._secret = config.secret
        storage = self._job.spec.checkpoint.storage
        self._storage = open_storage(storage, self._job.job_id, base=Path(config.base_folder))
        graph = load_graph(self._job, Path(config.base_folder), self._run_dir / INLINE_FOLDER)
        self._plan = make_plan(graph)
        self._connection: socket.socket | None = None
        self._parser = FrameParser()
        self._child: _Child | None = None
        self._parallelism = 0
        self._selector = selectors.DefaultSelector()
        self._heartbeat_timeout_s = 10.0
        self._last_heard = time.monotonic()
        self._epoch = 0
        self._refused_since: float | None = None
        self._exit_code: int | None = None
        self._told_to_leave = False
        self._leave_by: float | None = None
        self._signals, write_end = socket.socketpair()
        self._signals.setblocking(False)
        write_end.setblocking(False)
        self._signal_writer = write_end

    def run(self) -> int:
        """Serve until told to shut down, until replaced, or until whoever started us is gone; in a pod until SIGTERM."""
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
            now = time.monotonic()
            if self._connection is not None and now - self._last_heard > self._heartbeat_timeout_s:
                self._disconnect("the coordinator was silent for too long")
            if self._leave_by is not None and now > self._leave_by:
                log.warning("worker %d was not let go in time and leaves all the same", self._config.index)
                self._exit_code = 0
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
            self._refused_since = None
            return False
        try:
            # One that is stopped lets us in and says nothing: its successor may be there before the timeout is over.
            heartbeat_timeout_s = self._job.spec.runtime.heartbeat_timeout_ms / 1000
            connection.settimeout(min(HANDSHAKE_TIMEOUT_S, max(1.0, heartbeat_timeout_s)))
            purpose = Purpose("control", self._job.job_id, "", f"{self._config.index}/{self._instance}", "coordinator")
            authenticate_client(connection, self._secret, purpose)
            connection.sendall(
                frame(encode(Hello(self._job.job_id, self._config.index, self._instance, os.getpid(), self._epoch)))
            )
            welcome = decode_to_worker(read_frame(connection))
        except (OSError, AuthenticationError, msgspec.DecodeError) as error:
            log.info("no connection to the coordinator yet: %s", error)
            connection.close()
            return False
        refused = self._refusal(welcome)
        if refused or not isinstance(welcome, Welcome):
            connection.close()
            self._on_refused(refused)
            return False
        self._refused_since = None
        self._epoch = welcome.epoch
        self._heartbeat_timeout_s = welcome.heartbeat_timeout_ms / 1000
        self._last_heard = time.monotonic()
        connection.settimeout(HANDSHAKE_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._parser = connection, FrameParser()
        self._selector.register(connection, selectors.EVENT_READ, self._on_coordinator)
        return True

    def _refusal(self, welcome: Message) -> str:
        """Why this coordinator and this supervisor do not work together; empty if they do."""
        if not isinstance(welcome, Welcome):
            return "it did not say Welcome"
        if not welcome.refused and welcome.epoch < self._epoch:
            return f"its epoch {welcome.epoch} is over: epoch {self._epoch} has begun"
        return welcome.refused

    def _on_refused(self, reason: str) -> None:
        now = time.monotonic()
        if self._refused_since is None:
            log.info("worker %d and the coordinator do not come together: %s", self._config.index, reason)
            self._refused_since = now
        patience_s = REFUSED_TIMEOUTS * self._job.spec.runtime.heartbeat_timeout_ms / 1000
        if now - self._refused_since > patience_s and not self._config.stays:
            log.warning("worker %d was refused: %s; it has been replaced and ends", self._config.index, reason)
            self._exit_code = 0

    def _disconnect(self, reason: str) -> None:
        log.warning("worker %d lost the coordinator: %s", self._config.index, reason)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
        self._drop_child()
        if self._leave_by is not None:
            self._exit_code = 0  # there is nothing left to save

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
                if self._connection is not connection:
                    return  # lost while an earlier message was handled: what came after it counts no more
                self._handle(decode_to_worker(body), body)
        except (OSError, msgspec.DecodeError) as error:
            self._disconnect(str(error))

    def _handle(self, message: Message, body: bytes) -> None:
        if isinstance(message, Deploy):
            self._deploy(message)
        elif isinstance(message, Drop):
            if self._child is not None and self._child.attempt <= message.attempt:
                self._drop_child()
        elif isinstance(message, Shutdown):
            log.info("shutting down: %s", message.reason)
            self._end_child(body)
            if self._config.stays:
                self._hang_up()
            else:
                self._exit_code = 0
        elif isinstance(message, Ping) and self._child is None:
            self._send(frame(encode(Pong(message.sequence))))
        elif self._child is not None and getattr(message, "attempt", self._child.attempt) == self._child.attempt:
            self._child.pipe.send(body)
            self._watch_child(self._child)

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
        if deploy.parallelism != self._parallelism:
            self._parallelism = deploy.parallelism
            log.info("worker %d of %d: %s", deploy.index, deploy.parallelism, self._memory_bound())
        directory = self._run_dir / f"attempt-{deploy.attempt}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        ours, theirs = socket.socketpair()
        supervisor = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        hit("supervisor-fork")
        pid = os.fork()
        if pid == 0:
            self._become_task(deploy, directory, supervisor, ours, theirs)
        theirs.close()
        self._child = _Child(deploy.attempt, pid, FramePipe(ours), directory)
        self._selector.register(self._child.pipe, selectors.EVENT_READ, self._on_child)

    def _memory_bound(self) -> MemoryBound:
        spec = self._job.spec
        return memory_bound(
            self._plan,
            self._parallelism,
            spec.runtime.channel_credit_bytes,
            spec.runtime.batch_size,
            spec.state_backend.type,
            spec.state_backend.rocksdb.memory_bytes,
        )

    def _become_task(
        self, deploy: Deploy, directory: Path, supervisor: int, ours: socket.socket, theirs: socket.socket
    ) -> None:
        """In the child: let go of everything that is the supervisor's, and run."""
        try:
            die_with_parent(supervisor)
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
                    local_folder=self._config.local_folder,
                    host=self._config.host,
                    port=self._config.data_port,
                    control=theirs,
                    heartbeat_timeout_s=self._heartbeat_timeout_s,
                )
            )
        finally:
            os._exit(1)

    def _watch_child(self, child: _Child) -> None:
        """Look for room as well while something waits for it."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.pipe.backlogged else 0)
        try:
            self._selector.modify(child.pipe, events, self._on_child)
        except KeyError:
            pass  # its end of the pipe is closed: SIGCHLD follows

    def _on_child(self) -> None:
        child = self._child
        if child is None:
            return
        child.pipe.flush()
        try:
            for body in child.pipe.receive():
                self._send(frame(body))
        except FrameError as error:
            log.error("the task process of attempt %s speaks no frames: %s", child.attempt, error)
            self._drop_child()
            self._send(frame(encode(Failed(child.attempt, f"the task process speaks no frames: {error}", "process"))))
        except ConnectionError:
            self._unwatch(child)
        else:
            if self._child is child:
                self._watch_child(child)

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
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        child.pipe.send(farewell)
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                if child.pipe.wait(left_s):
                    for _ in child.pipe.receive():
                        pass  # nobody listens any more
        except ConnectionError:
            pass

    def _unwatch(self, child: _Child) -> None:
        try:
            self._selector.unregister(child.pipe)
        except (KeyError, ValueError):
            pass

    def _forget(self, child: _Child) -> None:
        self._unwatch(child)
        child.pipe.close()
        shutil.rmtree(child.directory, ignore_errors=True)

    # Signals and time

    def _wait(self, timeout_s: float) -> None:
        if self._leave_by is not None:
            timeout_s = min(timeout_s, max(0.0, self._leave_by - time.monotonic()))
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def _on_sigterm(self, *_: object) -> None:
        # Only noted here, wherever it comes; the loop acts.
        if self._told_to_leave or not self._config.leave_patience_s:
            self._exit_code = 0
        self._told_to_leave = True

    def _leave(self) -> None:
        """Ask for a last checkpoint, where there is anything to save."""
        if self._connection is None or self._child is None:
            self._exit_code = 0
            return
        self._leave_by = time.monotonic() + self._config.leave_patience_s
        self._send(frame(encode(Leaving())))

    def _on_lifeline(self) -> None:
        self._exit_code = 0

    def _on_signal(self) -> None:
        try:
            while self._signals.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._reap()
        if self._told_to_leave and self._leave_by is None:
            self._leave()

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
                # First: a connection that breaks meanwhile must find nothing to drop.
                self._child = None
                self._drain(child)
                self._forget(child)
                cause = child.describe_end(os.waitstatus_to_exitcode(status))
                self._send(frame(encode(Failed(child.attempt, cause, "process"))))

    def _drain(self, child: _Child) -> None:
        """Pass on what the dead process said last: it names the cause."""
        try:
            while child.pipe.wait(0):
                for body in child.pipe.receive():
                    self._send(frame(body))
        except ConnectionError:
            pass


def main(config_path: str) -> int:
    """The worker program: `python -m checkdam.worker CONFIG`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker %(message)s", stream=sys.stderr)
    return supervise(load_config(Path(config_path)))


def supervise(config: WorkerConfig) -> int:
    """Run a worker to its end; returns the exit code, and leaves what it failed with in the log and where the configuration says."""
    try:
        return Supervisor(config).run()
    except CheckdamError as error:
        log.error("%s", error)
        write_termination_log(config.termination_log, str(error))
    except Exception:
        log.exception("the supervisor has failed")
        write_termination_log(config.termination_log, traceback.format_exc())
    return 1
