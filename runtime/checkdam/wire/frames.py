"""Frames: how messages are cut out of a byte stream.

A frame is a length (4 bytes, big-endian) and so many bytes. Frames of more than `MAX_FRAME_BYTES` are refused on both
ends, so a broken or hostile peer cannot make a process allocate without bound.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Final

from checkdam.wire.auth import HANDSHAKE_LIMIT_BYTES, ClientHandshake, Purpose, ServerHandshake

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""The longest frame. A batch that would be longer is split by its sender."""

LENGTH_BYTES: Final = 4


class FrameError(ConnectionError):
    """The stream does not consist of frames, or one is too long."""


def frame(body: bytes) -> bytes:
    """`body` with its length before it.

    Raises:
        FrameError: It is longer than MAX_FRAME_BYTES.
    """
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame must be at most {MAX_FRAME_BYTES} bytes (got {len(body)})")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameParser:
    """Cuts frames out of bytes as they arrive.

    Args:
        limit_bytes: The longest frame accepted.
    """

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Add received bytes; yields each frame's body that is now whole.

        Raises:
            FrameError: A frame is longer than the limit.
        """
        buffer = self._buffer
        buffer += data
        start, size = 0, len(buffer)
        try:
            while size - start >= LENGTH_BYTES:
                length = int.from_bytes(buffer[start : start + LENGTH_BYTES], "big")
                if length > self._limit_bytes:
                    raise FrameError(f"a frame must be at most {self._limit_bytes} bytes (got {length})")
                end = start + LENGTH_BYTES + length
                if end > size:
                    break
                body = bytes(memoryview(buffer)[start + LENGTH_BYTES : end])
                start = end
                yield body
        finally:
            del buffer[:start]


def read_frame(connection: socket.socket, limit_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Block until one frame has come, reading not a byte beyond it.

    Raises:
        FrameError: It is too long.
        ConnectionError: The stream ended before the frame did.
    """
    length = int.from_bytes(_read_exactly(connection, LENGTH_BYTES), "big")
    if length > limit_bytes:
        raise FrameError(f"a frame must be at most {limit_bytes} bytes (got {length})")
    return _read_exactly(connection, length)


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        data = connection.recv(count - len(parts))
        if not data:
            raise ConnectionError("the connection was closed")
        parts += data
    return bytes(parts)


def authenticate_client(connection: socket.socket, secret: bytes, purpose: Purpose) -> None:
    """Do the client's side of the handshake on a blocking socket that has a timeout.

    Raises:
        AuthenticationError: The server does not know the secret.
        OSError: The connection broke or timed out; a server that does not trust us closes it.
    """
    handshake = ClientHandshake(secret, purpose)
    connection.sendall(frame(handshake.introduction()))
    connection.sendall(frame(handshake.respond(read_frame(connection, HANDSHAKE_LIMIT_BYTES))))


def authenticate_server(connection: socket.socket, secret: bytes) -> Purpose:
    """Do the server's side on a blocking socket that has a timeout; returns what the proven client wants.

    Raises:
        AuthenticationError: The client does not know the secret.
        OSError: The connection broke or timed out.
    """
    handshake = ServerHandshake(secret)
    connection.sendall(frame(handshake.challenge(read_frame(connection, HANDSHAKE_LIMIT_BYTES))))
    return handshake.verify(read_frame(connection, HANDSHAKE_LIMIT_BYTES))


async def receive_frame(reader: asyncio.StreamReader, limit_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """One frame from an asyncio stream.

    Raises:
        FrameError: It is too long.
        asyncio.IncompleteReadError: The stream ended.
    """
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if length > limit_bytes:
        raise FrameError(f"a frame must be at most {limit_bytes} bytes (got {length})")
    return await reader.readexactly(length)


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes) -> Purpose:
    """Do the server's side of the handshake on asyncio streams; give it a timeout from outside.

    Raises:
        AuthenticationError: The client does not know the secret.
        OSError, asyncio.IncompleteReadError: The connection broke.
    """
    handshake = ServerHandshake(secret)
    writer.write(frame(handshake.challenge(await receive_frame(reader, HANDSHAKE_LIMIT_BYTES))))
    await writer.drain()
    return handshake.verify(await receive_frame(reader, HANDSHAKE_LIMIT_BYTES))


__all__ = [
    "LENGTH_BYTES",
    "MAX_FRAME_BYTES",
    "FrameError",
    "FrameParser",
    "accept",
    "authenticate_client",
    "authenticate_server",
    "frame",
    "read_frame",
    "receive_frame",
]
