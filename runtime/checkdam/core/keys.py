"""How keys are spread: hashes, key groups and their owners, and lists of keys on the wire.

A record goes to the subtask that owns its key group, and its state lies under that group, so both must come out the
same in every process and after every restore: the group is a stable hash of the key's own encoding (`key_encoding`),
modulo max parallelism. Subtasks own contiguous ranges of groups.

Everything here that takes a list is made for hot paths: no Python call per key where a dictionary or C code will do.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from checkdam.core.key_encoding import check_key_type, decode_key, encode_key

MAX_KEY_GROUPS: Final = 32768
"""The largest max parallelism: key groups are stored in two bytes."""

PLAIN_KEY_TYPES: Final = frozenset({str, int, float, bool, bytes})
"""Exact types of which a list of keys travels as one untyped MessagePack array."""


def key_hash(encoded: bytes) -> int:
    """A stable hash of an encoded key, 0 ≤ hash < 2^32: CRC-32, mixed by the finalizer of Murmur3.

    CRC-32 alone is linear: keys that differ in their last bits would fill only some of 2^n key groups.
    """
    mixed = zlib.crc32(encoded)
    mixed = ((mixed ^ mixed >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return mixed ^ mixed >> 16


def key_group(key: Any, max_parallelism: int) -> int:
    """The key group of a key, 0 ≤ group < `max_parallelism`.

    Raises:
        KeyTypeError: The key has no stable encoding.
    """
    return key_hash(encode_key(key)) % max_parallelism


def key_group_range(max_parallelism: int, parallelism: int, index: int) -> range:
    """The contiguous key groups that subtask `index` of `parallelism` owns; every group has exactly one owner.

    Raises:
        ValueError: The three do not go together.
    """
    _check_parallelism(max_parallelism, parallelism)
    if not 0 <= index < parallelism:
        raise ValueError(f"`index` must be in 0..{parallelism - 1} (got {index})")
    start = -(-index * max_parallelism // parallelism)
    last = ((index + 1) * max_parallelism - 1) // parallelism
    return range(start, last + 1)


def owner_of(key_group: int, max_parallelism: int, parallelism: int) -> int:
    """The index of the subtask that owns a key group: the inverse of `key_group_range`.

    Raises:
        ValueError: The three do not go together.
    """
    _check_parallelism(max_parallelism, parallelism)
    if not 0 <= key_group < max_parallelism:
        raise ValueError(f"`key_group` must be in 0..{max_parallelism - 1} (got {key_group})")
    return key_group * parallelism // max_parallelism


def _check_parallelism(max_parallelism: int, parallelism: int) -> None:
    if not 1 <= max_parallelism <= MAX_KEY_GROUPS:
        raise ValueError(f"`max_parallelism` must be in 1..{MAX_KEY_GROUPS} (got {max_parallelism})")
    if not 1 <= parallelism <= max_parallelism:
        raise ValueError(f"`parallelism` must be in 1..{max_parallelism}, the number of key groups (got {parallelism})")


class KeyGroups(dict[Any, int]):
    """Key → key group, remembered: a dictionary that computes what it lacks and is emptied when it is full.

    On hot paths use `list(map(groups.__getitem__, keys))`. A known key is found by Python's equality
    alone, so a key of a forbidden type that equals a known one (`Decimal(1)` and 1) is not noticed here: call
    `check_key_types` where keys come from user code.

    Args:
        max_parallelism: The number of key groups.
        capacity: How many keys are remembered at most; they are kept alive.
    """

    def __init__(self, max_parallelism: int, capacity: int = 1 << 20) -> None:
        super().__init__()
        _check_parallelism(max_parallelism, 1)
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1 (got {capacity})")
        self.max_parallelism = max_parallelism
        self.capacity = capacity

    def __missing__(self, key: Any) -> int:
        group = key_hash(encode_key(key)) % self.max_parallelism
        if len(self) >= self.capacity:
            self.clear()
        self[key] = group
        return group


def check_key_types(keys: list[Any]) -> bool:
    """Whether all keys are of plain types; cheap enough for every batch (one pass, no Python call per key).

    False means that they are allowed as far as their outer types tell, but of richer types than `PLAIN_KEY_TYPES`.

    Raises:
        KeyTypeError: A key is of a type that is never allowed.
    """
    kinds = set(map(type, keys))
    if kinds <= PLAIN_KEY_TYPES:
        return True
    for kind in kinds:
        check_key_type(kind)
    return False


# Lists of keys, for the wire

_PLAIN_MODE, _TUPLE_MODE, _TABLE_MODE = b"\x00", b"\x01", b"\x02"
_SCALAR_TAGS: Final = frozenset(encode_key(key)[0] for key in (0, 0.5, "", b""))
_msgpack = msgspec.msgpack.Encoder()
_plain_decoder = msgspec.msgpack.Decoder(list[Any])
_tuple_decoder = msgspec.msgpack.Decoder(list[tuple[Any, ...]])
_table_decoder = msgspec.msgpack.Decoder(tuple[list[bytes], list[int]])


def encode_keys(keys: list[Any]) -> bytes:
    """A list of keys as bytes, for `decode_keys`.

    Plain keys, and flat tuples of them, travel as MessagePack; all others as a table of the distinct keys, each in its own
    encoding, and an index into it for every key. Unlike `encode_key` this is no canonical form.

    Raises:
        KeyTypeError: A key has no stable encoding.
    """
    try:
        if check_key_types(keys):
            return _PLAIN_MODE + _msgpack.encode(keys)
        if set(map(type, keys)) == {tuple} and PLAIN_KEY_TYPES.issuperset(
            map(type, itertools.chain.from_iterable(keys))
        ):
            return _TUPLE_MODE + _msgpack.encode(keys)
    except (OverflowError, UnicodeEncodeError):
        pass  # an int beyond 64 bits or a lone surrogate, which MessagePack cannot carry
    return _TABLE_MODE + _encode_table(keys)


def decode_keys(data: bytes | memoryview) -> list[Any]:
    """The keys that `encode_keys` was given, each equal to the original.

    Raises:
        KeyTypeError: One is of a class that is gone, or has changed since.
        ValueError: These are not the bytes of a list of keys.
    """
    view = memoryview(data)
    mode, body = bytes(view[:1]), view[1:]
    if mode == _PLAIN_MODE:
        return _plain_decoder.decode(body)
    if mode == _TUPLE_MODE:
        return _tuple_decoder.decode(body)
    if mode != _TABLE_MODE:
        raise ValueError(f"not a list of keys: it begins with {mode!r}")
    encoded, indices = _table_decoder.decode(body)
    distinct = list(map(decode_key, encoded))
    return [distinct[index] for index in indices]


def split_keys(data: bytes | memoryview) -> list[bytes]:
    """What `encode_key` makes of each key that `encode_keys` was given, without the classes that keys may be of.

    Raises:
        ValueError: These are not the bytes of a list of keys.
    """
    if bytes(data[:1]) != _TABLE_MODE:
        return list(map(encode_key, decode_keys(data)))
    encoded, indices = _table_decoder.decode(memoryview(data)[1:])
    return [encoded[index] for index in indices]


def join_keys(encoded: list[bytes]) -> bytes:
    """What `encode_keys` makes of keys that are given as `encode_key` made them, without the classes that they may be of."""
    if _SCALAR_TAGS.issuperset([key[0] for key in encoded]):
        return encode_keys(list(map(decode_key, encoded)))
    places: dict[bytes, int] = {}
    indices = [places.setdefault(key, len(places)) for key in encoded]
    return _TABLE_MODE + _msgpack.encode((list(places), indices))


def check_hashable(keys: Iterable[Any]) -> None:
    """Say in our words which of `keys` Python refuses in a dictionary, if one is among them.

    Raises:
        KeyTypeError: One is.
    """
    for key in keys:
        try:
            hash(key)
        except TypeError:
            encode_key(key)
            raise


def _encode_table(keys: list[Any]) -> bytes:
    table: dict[Any, int] = {}
    try:
        indices = [table.setdefault(key, len(table)) for key in keys]
    except TypeError:
        check_hashable(keys)
        raise
    return _msgpack.encode((list(map(encode_key, table)), indices))


__all__ = [
    "MAX_KEY_GROUPS",
    "PLAIN_KEY_TYPES",
    "KeyGroups",
    "check_hashable",
    "check_key_types",
    "decode_key",
    "decode_keys",
    "encode_key",
    "encode_keys",
    "join_keys",
    "key_group",
    "key_group_range",
    "key_hash",
    "owner_of",
    "split_keys",
]
