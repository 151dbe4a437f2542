"""The exchange: batches and control items between the task processes of an attempt, over TCP.

There is one connection per pair of workers; the one with the higher index connects. Both ends prove that they belong to
the job, the attempt and the pair before any frame is decoded. A frame names an edge; sender and receiver follow from the
connection. Credits flow back over the same connection.

Concurrency: one I/O thread owns reading: it is always reading, whatever the task thread does, and hands frames over by
appending to channels' queues. Writing belongs to whoever holds a connection's lock: the task thread writes straight to
the socket while that takes everything, and leaves the rest to the I/O thread. Connections are made by `connect`, in the
task thread, and accepted by a `Listener`. A broken connection fails the attempt,
once, by calling `fail`.
"""

from __future__ import annotations

import logging
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from checkdam.core.errors import AuthenticationError, CheckdamError
from checkdam.wire.auth import Purpose
from checkdam.wire.frames import FrameParser, authenticate_client
from checkdam.wire.messages import AttemptId
from checkdam.worker.channels import CREDIT, DATA, Input, Item, Output
from checkdam.worker.listener import HANDSHAKE_TIMEOUT_S, Listener

log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 256 * 1024
SOCKET_BUFFER_BYTES: Final = 1024 * 1024
CREDIT_SHARE: Final = 4
"""Credit is given back when a quarter of it has been read, so that small batches do not cost a frame each."""

_HEAD = struct.Struct(">IBH")
_CONTROL = struct.Struct(">IBHq")
_VALUE = struct.Struct(">q")


@dataclass(frozen=True)
class Identity:
    """Who this task process is."""

    job_id: str
    attempt: AttemptId
    index: int
    secret: bytes = field(repr=False)


class _Connection:
    """An authenticated connection to one peer."""

    def __init__(self, peer: int, connection: socket.socket) -> None:
        self.peer = peer
        self.socket = connection
        self.parser = FrameParser()
        self.lock = threading.Lock()
        self.backlog: deque[memoryview] = deque()

    def send(self, parts: list[bytes]) -> bool:
        """Write now what the socket takes; True if something is left for the I/O thread and nothing was before."""
        with self.lock:
            if self.backlog:
                self.backlog.extend(map(memoryview, parts))
                return False
            try:
                sent = self.socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The I/O thread sees the same break when it reads, and reports it.
                return False
            self.backlog.extend(_rest(parts, sent))
            return bool(self.backlog)

    def flush(self) -> bool:
        """Write on from the backlog; True if nothing is left."""
        with self.lock:
            backlog = self.backlog
            while backlog:
                parts = [backlog[n] for n in range(min(len(backlog), 64))]
                try:
                    sent = self.socket.sendmsg(parts)
                except BlockingIOError:
                    return False
                for part in parts:
                    if sent < len(part):
                        backlog[0] = part[sent:]
                        break
                    sent -= len(part)
                    backlog.popleft()
            return True


def _rest(parts: list[bytes], sent: int) -> list[memoryview]:
    left = []
    for part in parts:
        if sent >= len(part):
            sent -= len(part)
        else:
            left.append(memoryview(part)[sent:])
            sent = 0
    return left


class RemoteLink:
    """The way of one edge to one peer."""

    remote = True

    def __init__(self, exchange: Exchange, edge: int, peer: int) -> None:
        self._exchange = exchange
        self._edge = edge
        self._peer = peer

    def send(self, item: Item) -> None:
        kind, payload, _ = item
        if kind == DATA:
            self._exchange.send(self._peer, [_HEAD.pack(len(payload) + 3, DATA, self._edge), payload])
        else:
            self._exchange.send(self._peer, [_CONTROL.pack(11, kind, self._edge, payload)])


class Exchange:
    """All connections of one task process.

    Args:
        identity: Who we are.
        host: The address to listen on.
        wake: Makes the task loop look at its inputs; thread-safe.
        post: Hands a function to the task thread.
        fail: Called once, from any thread, when a connection breaks.
        port: The port to listen on; 0 for any.
    """

    def __init__(
        self,
        identity: Identity,
        host: str,
        wake: Callable[[], None],
        post: Callable[[Callable[[], None]], None],
        fail: Callable[[str], None],
        port: int = 0,
    ) -> None:
        self._identity = identity
        self._wake_loop = wake
        self._post = post
        self._fail = fail
        self._connections: dict[int, _Connection] = {}
        self._arrived = threading.Condition()
        self._inputs: dict[tuple[int, int], Input] = {}
        self._outputs: dict[tuple[int, int], Output] = {}
        self._closed = False
        self._listener = Listener(host, identity.secret, self._admit, port=port)
        self.address = self._listener.address
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._io = threading.Thread(target=self._run_io, name="exchange", daemon=True)

    @property
    def rejected_peers(self) -> int:
        """How many connections were dropped because they could not prove that they belong to the attempt."""
        return self._listener.rejected

    def add_input(self, edge: int, sender: int, channel: Input) -> None:
        """Frames of `edge` from worker `sender` go to `channel`. Before `start`."""
        self._inputs[edge, sender] = channel

    def add_output(self, edge: int, receiver: int, output: Output) -> None:
        """Credits for `edge` from worker `receiver` go to `output`. Before `start`."""
        self._outputs[edge, receiver] = output

    def link(self, edge: int, receiver: int) -> RemoteLink:
        """The way of `edge` to worker `receiver`."""
        return RemoteLink(self, edge, receiver)

    def granter(self, edge: int, sender: int, credit_bytes: int) -> Callable[[int], None]:
        """A function that gives credit for `edge` back to worker `sender`, a share at a time. Task thread."""
        owed = 0
        share = max(1, credit_bytes // CREDIT_SHARE)

        def grant(count_bytes: int) -> None:
            nonlocal owed
            owed += count_bytes
            if owed >= share:
                self.send(sender, [_CONTROL.pack(11, CREDIT, edge, owed)])
                owed = 0

        return grant

    def connect(self, addresses: list[tuple[str, int]], timeout_s: float) -> None:
        """Connect to all workers with a lower index and wait for those with a higher one.

        Raises:
            CheckdamError: Not all were connected in time.
        """
        deadline = time.monotonic() + timeout_s
        me = self._identity.index
        for peer in range(me):
            self._add(peer, self._dial(peer, addresses[peer], deadline))
        with self._arrived:
            while missing := sorted(set(range(len(addresses))) - set(self._connections) - {me}):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._closed:
                    raise CheckdamError(f"worker {me} waited {timeout_s:g} s for the connections of workers {missing}")
                self._arrived.wait(left_s)

    def start(self) -> None:
        """All connections and channels are there: start reading."""
        self._io.start()

    def send(self, peer: int, parts: list[bytes]) -> None:
        """Queue bytes for a peer; never blocks."""
        if self._connections[peer].send(parts):
            try:
                self._waker.send(b"w")
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Close everything; what breaks from now on is not reported."""
        self._closed = True
        self._listener.close()
        try:
            self._waker.send(b"x")
        except OSError:
            pass
        if self._io.ident is not None:
            self._io.join()
        for connection in self._connections.values():
            connection.socket.close()
        self._waker.close()
        self._woken.close()

    # Making connections

    def _purpose(self, client: int, server: int) -> Purpose:
        return Purpose("data", self._identity.job_id, str(self._identity.attempt), str(client), str(server))

    def _dial(self, peer: int, address: tuple[str, int], deadline: float) -> socket.socket:
        left_s = max(0.1, deadline - time.monotonic())
        connection: socket.socket | None = None
        try:
            connection = socket.create_connection(address, timeout=min(left_s, HANDSHAKE_TIMEOUT_S))
            authenticate_client(connection, self._identity.secret, self._purpose(self._identity.index, peer))
        except (OSError, AuthenticationError) as error:
            if connection is not None:
                connection.close()
            raise CheckdamError(f"cannot connect to worker {peer} at {address[0]}:{address[1]}: {error}") from error
        return connection

    def _admit(self, purpose: Purpose, connection: socket.socket) -> None:
        peer = int(purpose.client)
        if purpose != self._purpose(peer, self._identity.index) or peer <= self._identity.index:
            raise AuthenticationError("the peer wants another worker or attempt")
        self._add(peer, connection)

    def _add(self, peer: int, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        with self._arrived:
            if peer in self._connections:
                raise AuthenticationError(f"worker {peer} is connected already")
            self._connections[peer] = _Connection(peer, connection)
            self._arrived.notify_all()

    # The I/O thread

    def _run_io(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._woken, selectors.EVENT_READ, None)
                for connection in self._connections.values():
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                buffer = bytearray(RECEIVE_BYTES)
                while not self._closed:
                    for key, events in selector.select():
                        self._serve(selector, key.data, events, buffer)
        except Exception as error:
            if not self._closed:
                if not isinstance(error, OSError):
                    log.error("the exchange failed", exc_info=error)
                self._fail(str(error) or type(error).__name__)

    def _serve(
        self, selector: selectors.BaseSelector, connection: _Connection | None, events: int, buffer: bytearray
    ) -> None:
        if connection is None:
            self._drain_wakes()
            for other in self._connections.values():
                if not self._flush(other):
                    selector.modify(other.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, other)
            return
        if events & selectors.EVENT_WRITE and self._flush(connection):
            selector.modify(connection.socket, selectors.EVENT_READ, connection)
        if events & selectors.EVENT_READ:
            self._receive(connection, buffer)

    def _flush(self, connection: _Connection) -> bool:
        try:
            return connection.flush()
        except OSError as error:
            raise ConnectionError(f"the connection to worker {connection.peer} broke: {error}") from error

    def _drain_wakes(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _receive(self, connection: _Connection, buffer: bytearray) -> None:
        try:
            count = connection.socket.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionError(f"the connection to worker {connection.peer} broke: {error}") from error
        if not count:
            raise ConnectionError(f"worker {connection.peer} closed its connection")
        for body in connection.parser.feed(memoryview(buffer)[:count]):
            self._deliver(connection.peer, body)
        self._wake_loop()

    def _deliver(self, peer: int, body: bytes) -> None:
        kind = body[0]
        edge = int.from_bytes(body[1:3], "big")
        if kind == DATA:
            payload = memoryview(body)[3:]
            self._inputs[edge, peer].queue.append((DATA, payload, len(payload)))
            return
        (value,) = _VALUE.unpack_from(body, 3)
        if kind == CREDIT:
            output = self._outputs[edge, peer]
            self._post(lambda: output.grant(value))
        else:
            self._inputs[edge, peer].queue.append((kind, value, 0))
