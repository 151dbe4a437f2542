"""The pipe between a supervisor and its task process: whole frames both ways, and neither end ever waits for the other.

Either process may be stopped for any time while the other must go on answering the coordinator and noticing its end.
So what the socket does not take stays in a backlog, and is written when there is room again. The backlog is bounded by
what is said within the heartbeat timeout: after that the silent side is given up.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from checkdam.wire.frames import FrameParser, frame

_RECEIVE_BYTES: Final = 1 << 20


class FramePipe:
    """One end of a connected stream socket, which it owns from now on.

    Concurrency: `send` and `flush` may be called from any thread, the rest from one.

    Args:
        connection: The socket; it is made non-blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._parser = FrameParser()
        self._lock = threading.Lock()
        self._backlog: deque[memoryview] = deque()
        self._waker: tuple[int, int] | None = None

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    @property
    def backlogged(self) -> bool:
        """Whether something waits for room: call `flush` when the socket is writable."""
        return bool(self._backlog)

    def send(self, body: bytes) -> bool:
        """Send a frame behind all earlier ones, without waiting; True if something waits for room.

        To an end that is gone it goes nowhere; `receive` tells that.

        Raises:
            FrameError: The body is longer than a frame may be; nothing of it was sent.
        """
        data = frame(body)
        with self._lock:
            self._backlog.append(memoryview(data))
            waits = not self._write()
            if waits and self._waker is not None:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._waker[1], b"w")
        return waits

    def flush(self) -> bool:
        """Write on; True if nothing waits any more."""
        with self._lock:
            return self._write()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is written, for at most `timeout_s`; returns whether it is."""
        deadline = time.monotonic() + timeout_s
        while not self.flush():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            poller = select.poll()
            poller.register(self._socket, select.POLLOUT)
            poller.poll(left_s * 1000)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for at most `timeout_s`, writing on where there is room; True if something can be received.

        It may return earlier, so that what another thread has sent meanwhile is looked after.
        """
        if self._waker is None:
            woken, waker = os.pipe()
            os.set_blocking(woken, False)
            os.set_blocking(waker, False)
            self._waker = woken, waker
        poller = select.poll()
        poller.register(self._waker[0], select.POLLIN)
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._backlog else 0))
        found = dict(poller.poll(timeout_s * 1000))
        if self._waker[0] in found:
            os.read(self._waker[0], 4096)
        event = found.get(self._socket.fileno(), 0)
        if event & select.POLLOUT:
            self.flush()
        return bool(event & ~select.POLLOUT)

    def receive(self) -> Iterator[bytes]:
        """The frames that are whole now; may be none.

        Raises:
            ConnectionError: The other end is gone, or speaks no frames.
        """
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the other end is gone")
        yield from self._parser.feed(data)

    def close(self) -> None:
        """Close the socket; what waits for room is dropped."""
        with self._lock:
            self._backlog.clear()
            self._socket.close()
            for descriptor in self._waker or ():
                os.close(descriptor)
            self._waker = None

    def _write(self) -> bool:
        backlog = self._backlog
        try:
            while backlog:
                sent = self._socket.send(backlog[0])
                if sent < len(backlog[0]):
                    backlog[0] = backlog[0][sent:]
                else:
                    backlog.popleft()
        except BlockingIOError:
            return False
        except OSError:
            # The other end is gone for good: whoever receives notices.
            backlog.clear()
        return True
