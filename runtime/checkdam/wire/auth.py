"""Proof of belonging to a job, before a single frame of a connection is decoded.

Values on the wire may be pickled, and unpickling a stranger's bytes is remote code execution. So both ends prove that
they know the job's secret, by a challenge and a response over both nonces, both roles and what the connection is for
(job, attempt, ids): a proof is good for one connection, in one direction, for one purpose. The three messages are of a
fixed type, at most `HANDSHAKE_LIMIT_BYTES` long, and decoded by a typed decoder that can build nothing but strings and bytes.

There is no I/O here: the two classes make and check messages, and both the asyncio server of the coordinator and the
sockets of the workers carry them.

::

    client → server   Introduction(purpose, nonce_c)
    server → client   Challenge(nonce_s, HMAC(secret, "server" nonce_c nonce_s purpose))
    client → server   Response(HMAC(secret, "client" nonce_s nonce_c purpose))
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any, Final, TypeVar

import msgspec

from checkdam.core.errors import AuthenticationError

M = TypeVar("M")

HANDSHAKE_LIMIT_BYTES: Final = 4096
"""No frame before the end of the handshake may be longer."""


class Purpose(msgspec.Struct, frozen=True, array_like=True):
    """What a connection is for: `control` (worker → coordinator) or `data` (worker → worker).

    Attributes:
        kind: `control` or `data`.
        job_id: The job.
        attempt: `<epoch>.<attempt>` for data; empty for control.
        client: Who connects: the worker's index, and for control its instance.
        server: To whom: the worker's index, or `coordinator`.
    """

    kind: str
    job_id: str
    attempt: str
    client: str
    server: str


class _Introduction(msgspec.Struct, frozen=True, array_like=True, tag="checkdam/1"):
    purpose: Purpose
    nonce: bytes


class _Challenge(msgspec.Struct, frozen=True, array_like=True, tag="challenge"):
    nonce: bytes
    mac: bytes


class _Response(msgspec.Struct, frozen=True, array_like=True, tag="response"):
    mac: bytes


# Made once and here: msgspec crashes the process when several threads are the first to use a type.
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (_Introduction, _Challenge, _Response)
}


def _mac(secret: bytes, role: bytes, first: bytes, second: bytes, purpose: Purpose) -> bytes:
    parts = (role, first, second, msgspec.msgpack.encode(purpose))
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(secret, framed, "sha256")


def _decode(body: bytes, kind: type[M]) -> M:
    if len(body) > HANDSHAKE_LIMIT_BYTES:
        raise AuthenticationError("the peer's handshake is too long")
    try:
        message: M = _decoders[kind].decode(body)
    except msgspec.DecodeError:
        raise AuthenticationError("the peer does not speak Checkdam's handshake") from None
    return message


class ClientHandshake:
    """The end that connects: send `introduction`, feed the answer to `respond`, send what it returns."""

    def __init__(self, secret: bytes, purpose: Purpose) -> None:
        self._secret = secret
        self._purpose = purpose
        self._nonce = secrets.token_bytes(32)

    def introduction(self) -> bytes:
        """The first message."""
        return msgspec.msgpack.encode(_Introduction(self._purpose, self._nonce))

    def respond(self, challenge: bytes) -> bytes:
        """Check the server's proof and return ours.

        Raises:
            AuthenticationError: The server does not know the secret.
        """
        message = _decode(challenge, _Challenge)
        expected = _mac(self._secret, b"server", self._nonce, message.nonce, self._purpose)
        if not hmac.compare_digest(expected, message.mac):
            raise AuthenticationError("the server could not prove that it belongs to the job")
        return msgspec.msgpack.encode(
            _Response(_mac(self._secret, b"client", message.nonce, self._nonce, self._purpose))
        )


class ServerHandshake:
    """The end that listens: feed the introduction to `challenge`, send what it returns, feed the answer to `verify`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonce = secrets.token_bytes(32)
        self._client_nonce = b""
        self._purpose: Purpose | None = None

    def challenge(self, introduction: bytes) -> bytes:
        """The answer to an introduction.

        Raises:
            AuthenticationError: It is none.
        """
        message = _decode(introduction, _Introduction)
        self._purpose, self._client_nonce = message.purpose, message.nonce
        return msgspec.msgpack.encode(
            _Challenge(self._nonce, _mac(self._secret, b"server", message.nonce, self._nonce, message.purpose))
        )

    def verify(self, response: bytes) -> Purpose:
        """What the client, now proven to know the secret, wants.

        Raises:
            AuthenticationError: The client does not know the secret.
        """
        message = _decode(response, _Response)
        if self._purpose is None:
            raise AuthenticationError("the peer skipped the introduction")
        expected = _mac(self._secret, b"client", self._nonce, self._client_nonce, self._purpose)
        if not hmac.compare_digest(expected, message.mac):
            raise AuthenticationError("the client could not prove that it belongs to the job")
        return self._purpose
