"""The coordinator's HTTP API, seen from the same machine.

The address file says where the coordinator is; it changes with every coordinator, so it is read anew for each request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec


class CoordinatorApi:
    """A client of the job's coordinator.

    Args:
        address_file: Written by each coordinator.
        token: Of the API.
        timeout_s: For one request.
    """

    def __init__(self, address_file: Path, token: str, timeout_s: float = 2.0) -> None:
        self._address_file = address_file
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=timeout_s)
        )

    async def get(self, path: str) -> Any:
        """The JSON answer of `GET path`; `None` if the coordinator cannot be reached or refuses."""
        return await self._request("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer of `POST path`; `None` if the coordinator cannot be reached or refuses."""
        return await self._request("POST", path, body)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            found = msgspec.json.decode(self._address_file.read_bytes())
            url = f"http://{found['http_host']}:{found['http_port']}{path}"
            async with self._session.request(method, url, json=body) as response:
                return await response.json() if response.status < 400 else None
        except (OSError, aiohttp.ClientError, TimeoutError, msgspec.DecodeError, KeyError):
            return None
