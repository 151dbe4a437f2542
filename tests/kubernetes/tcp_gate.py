"""A gate on the way to a server: while it is shut, connections are refused and those that there are break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Gate:
    """See the module.

    Attributes:
        url: Leads through the gate.
    """

    url: str = ""
    _is_open: bool = True
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def shut(self) -> None:
        """Let nothing pass."""
        self._is_open = False
        for writer in self._writers:
            writer.transport.abort()

    def open(self) -> None:
        """Let pass what comes from now on."""
        self._is_open = True

    async def lead(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Lead one connection through."""
        if not self._is_open:
            writer.transport.abort()
            return
        try:
            there, onward = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, onward}
        self._writers |= ends
        try:
            await asyncio.gather(_copy(reader, onward), _copy(there, writer))
        finally:
            self._writers -= ends


@asynccontextmanager
async def tcp_gate(url: str) -> AsyncIterator[Gate]:
    """An open gate before the server at `url`."""
    parts, gate = urlsplit(url), Gate()
    assert parts.hostname is not None
    assert parts.port is not None
    host, port = parts.hostname, parts.port
    leading: set[asyncio.Task[None]] = set()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        leading.add(task)
        task.add_done_callback(leading.discard)
        await gate.lead(host, port, reader, writer)

    server = await asyncio.start_server(lead, "127.0.0.1", 0)
    gate.url = f"{parts.scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield gate
    finally:
        server.close()
        gate.shut()
        await asyncio.gather(*leading)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
