"""What somebody hears who asks an API server that is killed meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane

HALF = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"items": ['


@pytest.fixture(params=[b"", b"HTT", HALF], ids=["nothing", "half a line", "half of what it said"])
def dying(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """An API server that ends after it has begun to answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(request.param)

        thread = threading.Thread(target=answer)
        thread.start()
        host, port = server.getsockname()
        yield ControlPlane(f"http://{host}:{port}", "token", "", Path("/nowhere"), {})
        thread.join()


def test_an_answer_that_breaks_off_is_an_error_of_the_connection(dying: ControlPlane) -> None:
    with pytest.raises(OSError):
        dying.call("GET", "/api/v1/nodes")


def test_an_api_server_whose_answer_breaks_off_is_not_ready(dying: ControlPlane) -> None:
    assert not dying.answers()
