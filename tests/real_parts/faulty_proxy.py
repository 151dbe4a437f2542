"""A bad network in front of a real HTTP server: what a plan says happens to each request.

The proxy passes requests on unchanged, so signatures stay valid: a client needs to know no more than another endpoint.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

_HOP_BY_HOP: Final = frozenset({"connection", "expect", "keep-alive", "transfer-encoding"})
_UPSTREAM_TIMEOUT_S: Final = 60.0
_NOW: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection."""


class Fault(Enum):
    """What the network does to one request."""

    NONE = "it is passed on"
    RESET_BEFORE = "the connection breaks, and the server never hears of it"
    RESET_AFTER = "the server does it, and the connection breaks before the answer"
    TRUNCATED = "the server does it, and the answer breaks off in the middle"
    SILENT = "nothing answers until the client hangs up, and the server never hears of it"
    LATE = "nothing answers until the client hangs up, and then it arrives"
    UNCONDITIONAL = "it is passed on, and a condition that does not hold is answered like one that does"


@dataclass(frozen=True)
class Refusal:
    """An answer in S3's form that the server did not give: an HTTP status, an error code."""

    status: int
    code: str


@dataclass(frozen=True)
class Delay:
    """It is passed on, and answered, so many seconds later."""

    seconds: float


@dataclass(frozen=True)
class Request:
    """What a plan decides on.

    Attributes:
        number: Of this request, from 0, in order of arrival.
        method: `GET`, `PUT`, …
        path: Decoded, with the bucket.
        query: The first value of each parameter; one without a value has "".
    """

    number: int
    method: str
    path: str
    query: Mapping[str, str]


Trouble = Fault | Refusal | Delay
Plan = Callable[[Request], Trouble]


def works(request: Request) -> Fault:
    """No faults."""
    return Fault.NONE


class FaultyProxy:
    """A running proxy; `plan` may be set at any time and is asked by one thread at a time.

    Attributes:
        endpoint: Where clients reach it.
        plan: What happens to each request.
        seen: All requests so far, and what happened to each.
    """

    def __init__(self, target: str, server: _Server) -> None:
        self.endpoint = f"http://{server.server_address[0]!s}:{server.server_address[1]}"
        self.plan: Plan = works
        self.seen: list[tuple[Request, Trouble]] = []
        self._target = urlsplit(target).netloc
        self._server = server
        self._lock = threading.Lock()

    @contextmanager
    def away(self) -> Iterator[None]:
        """As if the server had ended: whoever connects is refused, and connections that are open break when they are used."""
        plan, self.plan = self.plan, lambda request: Fault.RESET_BEFORE
        self._server.refuse()
        try:
            yield
        finally:
            self.plan = plan
            self._server.start()

    def decide(self, method: str, target: str) -> Trouble:
        """What happens to a request."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        with self._lock:
            request = Request(len(self.seen), method, unquote(url.path), query)
            fault = self.plan(request)
            self.seen.append((request, fault))
            return fault

    def forward(self, method: str, target: str, headers: Any, body: bytes) -> tuple[HTTPResponse, bytes]:
        """The true server's answer."""
        connection = HTTPConnection(self._target, timeout=_UPSTREAM_TIMEOUT_S)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


@contextmanager
def faulty_proxy(target: str, address: str = "127.0.0.1") -> Iterator[FaultyProxy]:
    """A proxy in front of the server at `target`, for as long as the context is open.

    Args:
        target: Url of the true server.
        address: Where the proxy listens.
    """
    server = _Server((address, 0), _Handler, bind_and_activate=False)
    server.server_bind()
    server.proxy = proxy = FaultyProxy(target, server)
    server.start()
    try:
        yield proxy
    finally:
        server.stop()
        server.server_close()


class _Server(ThreadingHTTPServer):
    proxy: FaultyProxy
    request_queue_size = 64
    _loop: threading.Thread

    def start(self) -> None:
        """Take connections."""
        self.server_activate()
        self._loop = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._loop.start()

    def stop(self) -> None:
        """Take no more."""
        self.shutdown()
        self._loop.join()

    def refuse(self) -> None:
        """Take no more, and let the kernel refuse them. The port stays ours: nobody listens there, but nobody else gets it."""
        self.stop()
        self.socket.close()
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on us all the time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.decide(self.command, self.path)
        if isinstance(fault, Refusal):
            self._refuse(fault)
            return
        if isinstance(fault, Delay):
            time.sleep(fault.seconds)
            fault = Fault.NONE
        if fault in (Fault.SILENT, Fault.LATE):
            self._await_hang_up()
        if fault not in (Fault.RESET_BEFORE, Fault.SILENT):
            answer, content = proxy.forward(self.command, self.path, self.headers.items(), body)
            if fault is Fault.UNCONDITIONAL and answer.status == HTTPStatus.PRECONDITION_FAILED:
                answer.status, content = HTTPStatus.OK, b""
            if fault in (Fault.NONE, Fault.UNCONDITIONAL, Fault.TRUNCATED):
                self._answer(answer, content, truncated=fault is Fault.TRUNCATED)
                return
        self._reset()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _answer(self, answer: HTTPResponse, content: bytes, *, truncated: bool) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {*_HOP_BY_HOP, "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if length is not None and answer.status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if truncated else content)
        self.close_connection = self.close_connection or truncated

    def _refuse(self, refusal: Refusal) -> None:
        content = f"<Error><Code>{refusal.code}</Code><Message>planned</Message></Error>".encode()
        self.send_response_only(refusal.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _await_hang_up(self) -> None:
        self.connection.settimeout(_UPSTREAM_TIMEOUT_S)
        try:
            self.connection.recv(1)
        except OSError:
            pass

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
