"""The file format of keyed state, which every backend restores: `state.blocks`, described by `state.json`.

A file is a sequence of blocks in ascending order of key groups, so that one key group is one range of bytes and can be
read alone. A block belongs to one key group and one table, or one operator's timers, and holds up to some ten thousand
rows *by column*: encoding and compressing a column at once is several times faster, and smaller, than row by row.
What reads or writes a file holds one block in memory at a time. In a log of changes a block has the rows of any key groups, and
ANY_GROUP in place of one.

::

    block   = group u16 | section u16 | length u32 | zstd( MessagePack [heads, counts, keys, times, values, deleted, apart, gone] )

Numbers are big-endian; `section` is an index into the tables of `state.json`, followed by its timers. Rows come in runs
that share a head: in value tables the head is the namespace and the keys are keys; in map tables the head is the key
and the keys are sub-keys; timers have no heads, and the namespaces in place of values. `times` are last updates, or
when a timer is due, as little-endian signed 64-bit integers. Values are encoded together by `Serde.encode_many`, or, by
writers that have them as bytes and do not know their type, as a list of what `Serde.encode` made of each (`values_apart`).
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import zstandard

from checkdam.core.errors import CorruptCheckpointError
from checkdam.state.base import LocalFile

BLOCK_ROWS: Final = 16_384
"""The most rows of a block."""

BLOCK_BYTES: Final = 4 << 20
"""About how large the values of a block may become; with `BLOCK_ROWS` it bounds the memory of reader and writer."""

ANY_GROUP: Final = 0xFFFF
"""In place of a key group: the rows are of any. Key groups end far below."""

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
        values_apart: `values` is a MessagePack list of what `Serde.encode` made of each value.
        gone: In a log of changes: what earlier blocks of it say of these rows is void, for the database has them, or has them not.
            A head without keys stands for all of its namespace.
    """

    heads: bytes
    counts: bytes
    keys: bytes
    times: bytes = b""
    values: bytes = b""
    deleted: bool = False
    values_apart: bool = False
    gone: bool = False


# Made once and here: msgspec crashes the process when several threads are the first to use a type.
_block_decoder = msgspec.msgpack.Decoder(Block)


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
        written = len(header) + len(body)
        if group != ANY_GROUP:
            start, length = self._offsets.get(group, (self._size_bytes, 0))
            self._offsets[group] = (start, length + written)
        self._size_bytes += written

    def finish(self) -> LocalFile:
        """Complete the file and describe it."""
        self._file.close()
        return LocalFile(self._path.name, self._path, self._size_bytes, self._digest.hexdigest(), self._offsets)

    def close(self) -> None:
        """Close the file, whatever is in it; to be called in any case."""
        self._file.close()


class StoredBlock(NamedTuple):
    """Where a block is.

    Attributes:
        path: The file.
        group: Its key group, or ANY_GROUP.
        section: Which table or timers it belongs to.
        offset: Where its body begins in the file.
        size_bytes: How long the body is, as it is stored.
    """

    path: Path
    group: int
    section: int
    offset: int
    size_bytes: int

    def open(self, where: str) -> Block:
        """Read the block, named `where` in errors.

        Raises:
            CorruptCheckpointError: It cannot be read, or is no block.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                body = file.read(self.size_bytes)
            return _block_decoder.decode(zstandard.ZstdDecompressor().decompress(body))
        except (OSError, zstandard.ZstdError, msgspec.DecodeError) as error:
            raise CorruptCheckpointError(f"a block of {where} cannot be read from {self.path}: {error}") from error


def find_blocks(path: Path, groups: range) -> Iterator[StoredBlock]:
    """The blocks of the key groups in `groups`, or of any, in the order of the file, by reading their headers alone.

    Raises:
        CorruptCheckpointError: The file is missing or ends in the middle of a block.
    """
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            offset = 0
            while offset < size_bytes:
                file.seek(offset)
                header = file.read(_HEADER.size)
                offset += _HEADER.size
                if len(header) == _HEADER.size:
                    group, section, length = _HEADER.unpack(header)
                    offset += length
                if offset > size_bytes:
                    raise CorruptCheckpointError(f"{path} ends in the middle of a block")
                if group in groups or group == ANY_GROUP:
                    yield StoredBlock(path, group, section, offset - length, length)
    except OSError as error:
        raise CorruptCheckpointError(f"cannot read {path}: {error}") from error
