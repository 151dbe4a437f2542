"""The bad network itself, as far as tests of storage do not show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from faulty_proxy import FaultyProxy, Refusal, faulty_proxy

REFUSES = Refusal(503, "SlowDown")


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    """In front of nothing."""
    with faulty_proxy("http://127.0.0.1:1") as running:
        running.plan = lambda request: REFUSES
        yield running


def status(connection: HTTPConnection) -> int:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def connection_to(proxy: FaultyProxy) -> HTTPConnection:
    return HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=10)


def test_a_server_that_is_away_refuses_and_breaks_connections_and_is_found_again_where_it_was(
    proxy: FaultyProxy,
) -> None:
    for _ in range(2):
        with closing(connection_to(proxy)) as kept, closing(connection_to(proxy)) as another:
            assert status(kept) == REFUSES.status
            with proxy.away():
                with pytest.raises(ConnectionRefusedError):
                    another.connect()
                with pytest.raises(ConnectionResetError):
                    status(kept)
            assert status(another) == REFUSES.status
