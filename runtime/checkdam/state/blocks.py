"""The file format of the hashmap backend's snapshots.

A file is a sequence of blocks in ascending order of key groups, so that one key group is one range of bytes and can be
read alone. A block belongs to one key group and one table, or one operator's timers, and holds up to some ten thousand
rows *by column*: encoding and compressing a column at once is several times faster, and smaller, than row by row.

::

    block   = group u16 | section u16 | length u32 | zstd( MessagePack [heads, counts, keys, times, values, deleted] )

Numbers are big-endian; `section` is an index into the tables of `state.json`, followed by its timers. Rows come in runs
that share a head: in value tables the head is the namespace and the keys are keys; in map tables the head is the key
and the keys are sub-keys; timers have no heads, and the namespaces in place of values. `times` are last updates, or
when a timer is due, as little-endian signed 64-bit integers.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from checkdam.core.errors import CorruptCheckpointError
from checkdam.state.base import LocalFile

BLOCK_ROWS: Final = 16_384
"""Rows of a full block; bounds the memory of reader and writer."""

_HEADER: Final = struct.Struct(">HHI")
_COMPRESSION_LEVEL: Final = 1


class Block(msgspec.Struct, array_like=True):
    """Rows of one key group of one table; see the module's description.

    Attributes:
        heads: `encode_keys` of the heads.
        counts: How many rows each head has, as `pack_ints`.
        keys: `encode_keys`.
        times: `pack_ints`.
        values: `Serde.encode_many`, or `pack_ints`.
        deleted: The rows are deleted ones: an addition to a database that may hold them. Tables have no times and values then.
    """

    heads: bytes
    counts: bytes
    keys: bytes
    times: bytes = b""
    values: bytes = b""
    deleted: bool = False


def pack_ints(numbers: Iterable[int]) -> bytes:
    """Signed 64-bit integers, little-endian, one after the other."""
    packed = array("q", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ints(data: bytes) -> list[int]:
    """The inverse of `pack_ints`."""
    packed = array("q")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()


class BlockWriter:
    """Writes one file of blocks; groups must come in ascending order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
        self._offsets: dict[int, tuple[int, int]] = {}
        self._size_bytes = 0

    def write(self, group: int, section: int, block: Block) -> None:
        """Append a block."""
        body = self._compressor.compress(msgspec.msgpack.encode(block))
        header = _HEADER.pack(group, section, len(body))
        for part in (header, body):
            self._file.write(part)
            self._digest.update(part)
        start, length = self._offsets.get(group, (self._size_bytes, 0))
        written = len(header) + len(body)
        self._offsets[group] = (start, length + written)
        self._size_bytes += written

    def finish(self) -> LocalFile:
        """Complete the file and describe it."""
        self._file.close()
        return LocalFile(self._path.name, self._path, self._size_bytes, self._digest.hexdigest(), self._offsets)

    def close(self) -> None:
        """Close the file, whatever is in it; to be called in any case."""
        self._file.close()


def read_blocks(path: Path, groups: range) -> Iterator[tuple[int, bytes]]:
    """The blocks of the key groups in `groups`, as (section, body for `open_block`), in the order of the file.

    Raises:
        CorruptCheckpointError: The file is missing or ends in the middle of a block.
    """
    try:
        with path.open("rb") as file:
            while header := file.read(_HEADER.size):
                if len(header) < _HEADER.size:
                    raise CorruptCheckpointError(f"{path} ends in the middle of a block")
                group, section, length = _HEADER.unpack(header)
                body = file.read(length)
                if len(body) < length:
                    raise CorruptCheckpointError(f"{path} ends in the middle of a block")
                if group in groups:
                    yield section, body
    except OSError as error:
        raise CorruptCheckpointError(f"cannot read {path}: {error}") from error


def open_block(body: bytes, where: str) -> Block:
    """Decompress a block, named `where` in errors.

    Raises:
        CorruptCheckpointError: It is no block.
    """
    try:
        return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(body), type=Block)
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise CorruptCheckpointError(f"a block of {where} cannot be read: {error}") from error
