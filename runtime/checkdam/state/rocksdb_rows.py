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

from collections.abc import Iterable
from typing import Final

from checkdam.core.errors import CheckpointError
from checkdam.core.keys import decode_key, encode_key, key_hash
from checkdam.state.base import Key

GROUP_BYTES: Final = 2
SPACE_BYTES: Final = GROUP_BYTES + 8
"""Length of key group and namespace, the prefix that the cells of a namespace share in a group."""

LENGTH_BYTES: Final = 4
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


def not_owned(group: int, owned: range) -> CheckpointError:
    """What is to be said where there is state of a key group that a subtask does not own."""
    return CheckpointError(
        f"there is state of key group {group}, but this subtask owns {owned.start}..{owned.stop - 1}: "
        "a record was sent to the wrong subtask"
    )


class RowMaker:
    """Makes the rows' keys of a job with `max_parallelism` key groups, of which a subtask owns some.

    The key group comes from the encoded key, which is needed anyway: for keys that are not in a cache that is faster
    than remembering groups, and it takes no memory.
    """

    def __init__(self, max_parallelism: int, owned: range) -> None:
        self._max_parallelism = max_parallelism
        self._owned = owned
        self._heads = [pack_group(group) for group in range(max_parallelism)]

    def groups(self, keys: Iterable[Key]) -> list[int]:
        """The key group of each key."""
        return [key_hash(encoded) % self._max_parallelism for encoded in map(encode_key, keys)]

    def check_owned(self, keys: Iterable[Key]) -> None:
        """Raises: CheckpointError: a key is of a key group that is not owned here."""
        for group in self.groups(keys):
            if group not in self._owned:
                raise not_owned(group, self._owned)

    def value_rows(self, namespace: int, keys: Iterable[Key]) -> tuple[list[int], list[bytes]]:
        """The key group and the row of each key in a value table."""
        encoded_keys = list(map(encode_key, keys))
        groups = [key_hash(encoded) % self._max_parallelism for encoded in encoded_keys]
        heads, space = self._heads, pack_number(namespace)
        return groups, [heads[group] + space + encoded for group, encoded in zip(groups, encoded_keys, strict=True)]

    def map_prefix(self, key: Key) -> bytes:
        """What all rows of a key share in a map table; the encoded sub-key follows."""
        encoded = encode_key(key)
        return (
            self._heads[key_hash(encoded) % self._max_parallelism]
            + len(encoded).to_bytes(LENGTH_BYTES, "big")
            + encoded
        )

    def timer_row(self, time_ms: int, key: Key, namespace: int) -> bytes:
        """The row of a timer."""
        encoded = encode_key(key)
        head = self._heads[key_hash(encoded) % self._max_parallelism]
        return head + pack_number(time_ms) + encoded + pack_number(namespace)


def read_timer_row(row: bytes) -> tuple[int, Key, int]:
    """Time, key and namespace of a timer."""
    time_end = GROUP_BYTES + 8
    return unpack_number(row[GROUP_BYTES:time_end]), decode_key(row[time_end:-8]), unpack_number(row[-8:])
