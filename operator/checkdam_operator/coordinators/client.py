"""Requests to the HTTP API of coordinators, by their pods' addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from checkdam.core.errors import CheckdamError
from checkdam_operator.metrics import COORDINATOR_REQUESTS, OperatorMetrics

CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 5.0
"""For an answer that the coordinator does not hold back on purpose; its event loop answers within milliseconds."""

MOST_CONNECTIONS: Final = 4096
"""Each job takes one connection that waits for news, and for moments others."""


class CoordinatorRefusedError(CheckdamError):
    """A coordinator has answered with an error.

    Args:
        status: The HTTP status.
        message: What it said.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class CoordinatorUnreachableError(CheckdamError):
    """A coordinator has not answered, or not in a way that can be understood."""


@dataclass(frozen=True)
class Address:
    """Where a coordinator is.

    Attributes:
        host: The pod's IP.
        port: Of the HTTP API.
        token: Opens it; never shown.
    """

    host: str
    port: int
    token: str = field(repr=False)

    @property
    def url(self) -> str:
        """The beginning of every url."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class CoordinatorApi(Protocol):
    """Asks coordinators."""

    async def ask(self, address: Address, method: str, path: str, body: Any = None, *, wait_s: float = 0.0) -> Any:
        """The JSON answer to a request.

        Args:
            address: Whom to ask.
            method: GET or POST.
            path: With its query.
            body: JSON.
            wait_s: How long the coordinator may hold the answer back on purpose.

        Raises:
            CoordinatorRefusedError: It answered with an error.
            CoordinatorUnreachableError: It did not answer.
        """
        ...


class HttpCoordinatorApi:
    """Asks coordinators over HTTP. To be made within the event loop that uses it, and closed.

    Args:
        metrics: Counts requests.
    """

    def __init__(self, metrics: OperatorMetrics | None = None) -> None:
        self._metrics = metrics or OperatorMetrics()
        connector = aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=60.0)
        # Coordinators set no cookies; looking for them would be a part of each request.
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, address: Address, method: str, path: str, body: Any = None, *, wait_s: float = 0.0) -> Any:
        """See `CoordinatorApi`."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S + wait_s, connect=CONNECT_TIMEOUT_S)
        headers = {"Authorization": f"Bearer {address.token}"}
        data = None if body is None else msgspec.json.encode(body)
        code = "0"
        try:
            async with self._session.request(
                method, address.url + path, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                content = await answer.read()
                status = answer.status
                code = str(status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise CoordinatorUnreachableError(
                f"{address.host} does not answer: {error or type(error).__name__}"
            ) from error
        finally:
            self._metrics.count(COORDINATOR_REQUESTS, _operation(method, path), code)
        try:
            decoded = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise CoordinatorUnreachableError(f"{address.host} answered with no JSON: {error}") from error
        if status >= 400:
            problem = decoded.get("error", "") if isinstance(decoded, dict) else ""
            raise CoordinatorRefusedError(status, str(problem) or f"status {status}")
        return decoded


def _operation(method: str, path: str) -> str:
    """What a request does, without what tells one request of the kind from another: `GET /v1/savepoints`."""
    return f"{method} {'/'.join(path.partition('?')[0].split('/')[:3])}"
