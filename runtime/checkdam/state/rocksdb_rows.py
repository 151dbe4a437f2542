"""Rows in RocksDB: how keys and values of tables and timers are laid out as bytes.

::

    value table   group 2 | namespace 8 | key                     → updated 8 | value
    map table     group 2 | length of key 4 | key | sub-key       → updated 8 | value
    timers        group 2 | time 8 | key | namespace 8            → nothing

Numbers are big-endian, signed ones with their sign bit flipped, so that the order of the bytes is the order of the
numbers: the cells of a namespace, the entries of a key and the next timers of a key group are neighbours. The key group
comes first because key groups are what moves when a job is rescaled.
"""

from __future__ import annotations

from typing import Final

from checkdam.core.keys import decode_key, encode_key
from checkdam.state.base import Key

GROUP_BYTES: Final = 2
SPACE_BYTES: Final = GROUP_BYTES + 8
"""Length of key group and namespace, the prefix that the cells of a namespace share in a group."""

STAMP_BYTES: Final = 8

_SIGN: Final = 1 << 63


def pack_group(group: int) -> bytes:
    """A key group; `pack_group(g + 1)` is the end of all rows of g."""
    return group.to_bytes(GROUP_BYTES, "big")


def unpack_group(row: bytes) -> int:
    """The key group of any row."""
    return int.from_bytes(row[:GROUP_BYTES], "big")


def pack_number(number: int) -> bytes:
    """A signed 64-bit number whose bytes sort like numbers."""
    return (number + _SIGN).to_bytes(8, "big")


def unpack_number(data: bytes) -> int:
    """The inverse of `pack_number`."""
    return int.from_bytes(data, "big") - _SIGN


def after(prefix: bytes) -> bytes:
    """The least bytes that are greater than everything that begins with `prefix`, which must not be all 0xFF."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])


def map_prefix(group: bytes, key: Key) -> bytes:
    """What all rows of a key share in a map table."""
    encoded = encode_key(key)
    return group + len(encoded).to_bytes(4, "big") + encoded


def timer_row(group: bytes, time_ms: int, key: Key, namespace: int) -> bytes:
    """The row of a timer."""
    return group + pack_number(time_ms) + encode_key(key) + pack_number(namespace)


def read_timer_row(row: bytes) -> tuple[int, Key, int]:
    """Time, key and namespace of a timer."""
    time_end = GROUP_BYTES + 8
    return unpack_number(row[GROUP_BYTES:time_end]), decode_key(row[time_end:-8]), unpack_number(row[-8:])
