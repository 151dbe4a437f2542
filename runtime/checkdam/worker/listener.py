"""Accepts the connections of peers: authenticates each in a thread of its own, and drops whoever cannot in time.

A stranger that connects and says nothing, or one byte now and then, must not keep peers waiting. So handshakes do not
share threads, and each has one deadline for the whole of it: the accepting thread cuts off those that are overdue.
The number of handshakes under way is bounded; above it strangers are dropped at once, oldest first, because a peer's
handshake takes a few milliseconds.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from checkdam.core.errors import AuthenticationError, CheckdamError
from checkdam.wire.auth import Purpose
from checkdam.wire.frames import authenticate_server

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
"""From the connection to the end of its handshake."""

MAX_HANDSHAKES: Final = 64
"""How many may be under way."""

PORT_PATIENCE_S: Final = 5.0
"""How long a port that is in use is waited for."""

_LOOK_EVERY_S: Final = 0.25
_PORT_RETRY_S: Final = 0.02


class Listener:
    """Listens until `close`.

    Args:
        host: The address to listen on.
        secret: The job's.
        admit: Called with what a proven peer wants, and its socket, which is the callee's from then on. Raises
            AuthenticationError if it may not. Runs in the handshake's thread.
        timeout_s: For a whole handshake.
        port: To listen on; 0: the system chooses one.

    Raises (on construction):
        CheckdamError: The address cannot be used.

    Attributes:
        address: Where it listens, (host, port).
        rejected: How many connections were dropped.
    """

    def __init__(
        self,
        host: str,
        secret: bytes,
        admit: Callable[[Purpose, socket.socket], None],
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
        port: int = 0,
    ) -> None:
        self.rejected = 0
        self._secret = secret
        self._admit = admit
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._closed = False
        # Handshakes under way, oldest first: socket → its deadline and its thread.
        self._under_way: dict[socket.socket, tuple[float, threading.Thread]] = {}
        self._socket = _listening(host, port)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._socket.settimeout(_LOOK_EVERY_S)
        self._thread = threading.Thread(target=self._run, name="accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, drop what has not been admitted, and wait for the threads."""
        self._closed = True
        try:
            # A thread blocked in accept() is not woken by close().
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join()
        self._socket.close()
        with self._lock:
            handshakes = list(self._under_way.items())
        for connection, (_, thread) in handshakes:
            _cut(connection)
            thread.join()

    def _run(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                connection = None
            except OSError as error:
                if self._closed:
                    return
                # Such as too many open files: whoever waits is accepted later.
                log.warning("cannot accept a connection: %s", error)
                time.sleep(_LOOK_EVERY_S)
                connection = None
            if connection is not None:
                self._begin(connection)
            self._cut_overdue()

    def _begin(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._welcome, args=(connection,), name="handshake", daemon=True)
        with self._lock:
            self._under_way[connection] = (time.monotonic() + self._timeout_s, thread)
        thread.start()

    def _cut_overdue(self) -> None:
        now = time.monotonic()
        with self._lock:
            excess = len(self._under_way) - MAX_HANDSHAKES
            for number, (connection, (deadline, _)) in enumerate(self._under_way.items()):
                if deadline < now or (number < excess and deadline < math.inf):
                    _cut(connection)

    def _welcome(self, connection: socket.socket) -> None:
        admitted = False
        try:
            connection.settimeout(self._timeout_s)
            purpose = authenticate_server(connection, self._secret)
            with self._lock:
                # The deadline is met: from here on only `close` may cut it off.
                self._under_way[connection] = (math.inf, threading.current_thread())
            if self._closed:
                raise AuthenticationError("this worker is closing")
            self._admit(purpose, connection)
            admitted = True
        except (OSError, ValueError, AuthenticationError) as error:
            log.warning("dropped a connection that could not authenticate: %s", error)
        finally:
            with self._lock:
                self._under_way.pop(connection, None)
                self.rejected += not admitted
            if not admitted:
                connection.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, as soon as the port is free: what a killed process has forked may hold it for a moment longer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PORT_PATIENCE_S
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise CheckdamError(
                    f"cannot listen for other workers at {host}, port {port}: {error.strerror}"
                ) from error
        time.sleep(_PORT_RETRY_S)


def _cut(connection: socket.socket) -> None:
    """End a connection that another thread is reading; that thread closes it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
