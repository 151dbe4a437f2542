"""How a key becomes bytes that are the same in every process, on every Python, for as long as a checkpoint lives.

Pickle cannot serve (equal tuples pickle differently) and neither can a general format (1, 1.0 and True are one key to
Python), so keys have an encoding of their own, with one law:

    a == b  ⇔  encode_key(a) == encode_key(b)

The first byte is a tag that names kind and version at once: a later version takes new tags and still reads these.

    ====  =================  ===========================================================================
    0x10  int < −2^63        complemented length (4 bytes), complemented magnitude
    0x11  int of 64 bits     8 bytes, big-endian, sign flipped; True, 1 and 1.0 are the same key
    0x12  int ≥ 2^63         length (4 bytes), magnitude
    0x13  float              IEEE 754 double, big-endian; only what no int equals; never NaN
    0x14  str                UTF-8, lone surrogates passed through
    0x15  bytes              as they are
    0x16  tuple              each element with its length before it
    0x17  Enum               class, member name
    0x18  frozen dataclass   class, CRC-32 of the names of the compared fields, their values
    ====  =================  ===========================================================================

All numbers are big-endian, so within ints of any size the order of the bytes is the order of the values, which state
backends use for sub-keys. What inherits its equality from int, float, str, bytes or tuple (IntEnum, StrEnum, namedtuple)
equals its plain value and is encoded as such; so a decoded key *equals* the original but may be of the plainer type.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from checkdam.core.errors import KeyTypeError
from checkdam.core.names import class_name, find_class, shown, why_out_of_reach

_BIG_NEGATIVE, _INT, _BIG_POSITIVE, _FLOAT, _STR, _BYTES, _TUPLE, _ENUM, _DATACLASS = range(0x10, 0x19)
_STR_TAG, _BYTES_TAG, _TUPLE_TAG = bytes([_STR]), bytes([_BYTES]), bytes([_TUPLE])
_ENUM_TAG, _DATACLASS_TAG = bytes([_ENUM]), bytes([_DATACLASS])

_ALLOWED = (
    "a key must be a str, bytes, int, float or bool, an Enum member, a tuple of these, "
    "or an instance of a frozen dataclass of these"
)

_INT64 = struct.Struct(">BQ")
_DOUBLE = struct.Struct(">Bd")
_BIG_HEAD = struct.Struct(">BI")
_MAX_UINT32 = 2**32 - 1
_SIGN = 1 << 63

_Encoder = Callable[[Any], bytes]


def encode_key(key: Any) -> bytes:
    """The stable bytes of a key.

    Raises:
        KeyTypeError: The key, or a part of it, is of a type that has no stable encoding, or is NaN.
    """
    return _encoders[type(key)](key)


def decode_key(data: bytes | memoryview) -> Any:
    """A key equal to the one that was encoded.

    Raises:
        KeyTypeError: It is of a class that is gone, or has changed since.
        ValueError: These are not the bytes of a key.
    """
    data = bytes(data)
    try:
        return _decoders[data[0]](data)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"not an encoded key: {shown(data)} ({error})") from error


def check_key_type(cls: type) -> None:
    """Raises: KeyTypeError: no instance of `cls` can be a key."""
    _encoders[cls]


# Single keys: one encoder for each type, made when the type is first seen


def _encode_int(key: int) -> bytes:
    try:
        return _INT64.pack(_INT, key + _SIGN)
    except struct.error:
        return _encode_big_int(key)


def _encode_big_int(key: int) -> bytes:
    size = (key.bit_length() + 7) // 8
    if size > _MAX_UINT32:
        raise KeyTypeError(f"an int that is a key must have at most {_MAX_UINT32} bytes (got {size})")
    if key > 0:
        return _BIG_HEAD.pack(_BIG_POSITIVE, size) + key.to_bytes(size, "big")
    complement = (1 << 8 * size) - 1 + key
    return _BIG_HEAD.pack(_BIG_NEGATIVE, _MAX_UINT32 - size) + complement.to_bytes(size, "big")


def _encode_float(key: float) -> bytes:
    if key.is_integer():
        return _encode_int(int(key))
    if key != key:
        raise KeyTypeError("a key must not be NaN: it is not equal to itself, so its state could never be found again")
    return _DOUBLE.pack(_FLOAT, key)


def _encode_str(key: str) -> bytes:
    try:
        return _STR_TAG + key.encode()
    except UnicodeEncodeError:
        return _STR_TAG + key.encode("utf-8", "surrogatepass")


def _encode_bytes(key: bytes) -> bytes:
    return _BYTES_TAG + key


def _encode_tuple(key: tuple[Any, ...]) -> bytes:
    return _encode_parts(_TUPLE_TAG, tuple.__iter__(key))


def _encode_parts(head: bytes, keys: Iterable[Any]) -> bytes:
    """`head` and, with its length before it, the encoding of each of `keys`."""
    joined = [head]
    for key in keys:
        part = _encoders[type(key)](key)
        joined += _length_prefix(len(part)), part
    return b"".join(joined)


_SHORT_LENGTHS = [bytes([length]) for length in range(255)]


def _length_prefix(length: int) -> bytes:
    """One byte below 255, else 0xFF and four bytes."""
    return _SHORT_LENGTHS[length] if length < 255 else b"\xff" + length.to_bytes(4, "big")


class _Encoders(dict[type, _Encoder]):
    """Type → its encoder. Types that are refused are never remembered, so each key of such a type raises."""

    def __missing__(self, cls: type) -> _Encoder:
        self[cls] = encoder = _encoder_for(cls)
        return encoder


_encoders = _Encoders(
    {
        str: _encode_str,
        int: _encode_int,
        bool: _encode_int,
        float: _encode_float,
        bytes: _encode_bytes,
        tuple: _encode_tuple,
    }
)

# Base → how to get the plain value out of an instance of a subclass, whatever the subclass overrides.
_plain_value: dict[Any, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__index__,
    float: float.__float__,
    bytes: lambda key: b"".join((key,)),
    tuple: lambda key: tuple(tuple.__iter__(key)),
}


def _encoder_for(cls: Any) -> _Encoder:
    """How instances of `cls`, which is none of the plain types itself, are encoded. Raises KeyTypeError if they are not."""
    for base, plain in _plain_value.items():
        if issubclass(cls, base) and cls.__eq__ is base.__eq__ and cls.__hash__ is base.__hash__:
            encode = _encoders[base]
            return lambda key: encode(plain(key))
    if issubclass(cls, enum.Enum):
        return _enum_encoder(cls)
    if dataclasses.is_dataclass(cls):
        return _dataclass_encoder(cls)
    if issubclass(cls, tuple(_plain_value)):
        raise _refusal(cls, "it does not compare like its base class: convert the key to the plain type")
    raise _refusal(cls, "convert the key, for instance with str(), or use a tuple of its parts")


def _refusal(cls: type, reason: str) -> KeyTypeError:
    return KeyTypeError(f"{_ALLOWED} (got {class_name(cls)}): {reason}")


def _encoded_class(cls: type) -> bytes:
    """The name of a class, as every process finds it, with its length before it."""
    problem = why_out_of_reach(cls)
    if problem:
        raise _refusal(cls, problem)
    name = f"{cls.__module__}:{cls.__qualname__}"
    try:
        reachable = find_class(cls.__module__, cls.__qualname__) is cls
    except LookupError:
        reachable = False
    if not reachable:
        raise _refusal(cls, f"other processes cannot find the class by its name `{name}`")
    return _length_prefix(len(name.encode())) + name.encode()


def _enum_encoder(cls: type[enum.Enum]) -> _Encoder:
    if issubclass(cls, enum.Flag):
        raise _refusal(cls, "combinations of flags have no name of their own: use the flag's `value`")
    if cls.__eq__ is not object.__eq__ or cls.__hash__ is not enum.Enum.__hash__:
        raise _refusal(cls, "an Enum with an equality of its own: use the member's `value` or `name`")
    head = _ENUM_TAG + _encoded_class(cls)
    return lambda key: head + key.name.encode()


def _dataclass_encoder(cls: Any) -> _Encoder:
    names = _compared_fields(cls)
    head = _DATACLASS_TAG + _encoded_class(cls) + _field_check(names)
    return lambda key: _encode_parts(head, [getattr(key, name) for name in names])


@lru_cache(maxsize=1024)
def _compared_fields(cls: Any) -> tuple[str, ...]:
    """The names of the fields that make up the equality of a dataclass; raises KeyTypeError where that is not so simple."""
    parameters = cls.__dataclass_params__
    if not (parameters.frozen and parameters.eq):
        raise _refusal(cls, "declare it with @dataclass(frozen=True), so that a key cannot change and has an equality")
    # An __eq__ that the user wrote is kept by @dataclass; the generated one is compiled from no file.
    code = getattr(cls.__eq__, "__code__", None)
    if code is None or code.co_filename != "<string>":
        raise _refusal(cls, "it has an equality of its own, which its fields alone do not tell")
    if cls.__hash__ is None:
        raise _refusal(cls, "it cannot be hashed")
    if cls.__new__ is not object.__new__:
        raise _refusal(cls, "it is created by a __new__ of its own or of a built-in base")
    for field in dataclasses.fields(cls):
        if not field.compare and not _has_default(field):
            raise _refusal(
                cls, f"its field `{field.name}` takes no part in the equality and has no default, so it would be lost"
            )
    return tuple(field.name for field in dataclasses.fields(cls) if field.compare)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _field_check(names: tuple[str, ...]) -> bytes:
    """Tells decoding that fields were renamed, added or put in another order since."""
    return zlib.crc32(",".join(names).encode()).to_bytes(4, "big")


def _decode_int(data: bytes) -> int:
    value: int = _INT64.unpack(data)[1]
    return value - _SIGN


def _decode_big_positive(data: bytes) -> int:
    return int.from_bytes(_big_magnitude(data, _BIG_HEAD.unpack_from(data)[1]), "big")


def _decode_big_negative(data: bytes) -> int:
    size: int = _MAX_UINT32 - _BIG_HEAD.unpack_from(data)[1]
    return int.from_bytes(_big_magnitude(data, size), "big") - ((1 << 8 * size) - 1)


def _big_magnitude(data: bytes, size: int) -> bytes:
    if len(data) != _BIG_HEAD.size + size:
        raise IndexError(f"{len(data)} bytes, not {_BIG_HEAD.size + size}")
    return data[_BIG_HEAD.size :]


def _decode_float(data: bytes) -> float:
    value: float = _DOUBLE.unpack(data)[1]
    return value


def _decode_str(data: bytes) -> str:
    return str(data[1:], "utf-8", "surrogatepass")


def _decode_bytes(data: bytes) -> bytes:
    return data[1:]


def _decode_tuple(data: bytes) -> tuple[Any, ...]:
    return tuple([_decoders[part[0]](part) for part in _split_parts(data, 1)])


def _decode_enum(data: bytes) -> enum.Enum:
    name, end = _read_part(data, 1)
    cls = _class_named(name)
    member = data[end:].decode()
    if not issubclass(cls, enum.Enum) or member not in cls.__members__:
        raise KeyTypeError(
            f"the key `{name.decode()}.{member}` was written by a class that has changed: it is no Enum member now"
        )
    return cls.__members__[member]


def _decode_dataclass(data: bytes) -> Any:
    name, end = _read_part(data, 1)
    cls = _class_named(name)
    if not dataclasses.is_dataclass(cls):
        raise KeyTypeError(f"a key was written by the dataclass `{name.decode()}`, which is no dataclass now")
    names = _compared_fields(cls)
    parts = _split_parts(data, end + 4)
    if data[end : end + 4] != _field_check(names) or len(parts) != len(names):
        raise KeyTypeError(
            f"a key was written by the dataclass `{name.decode()}`, whose compared fields have changed since"
        )
    # Not by its constructor: a __post_init__ that changes fields would make another key of it.
    key = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if not field.compare:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            object.__setattr__(key, field.name, default)
    for field_name, part in zip(names, parts, strict=True):
        object.__setattr__(key, field_name, _decoders[part[0]](part))
    return key


@lru_cache(maxsize=1024)
def _class_named(name: bytes) -> type:
    module, _, qualname = name.decode().partition(":")
    try:
        return find_class(module, qualname)
    except LookupError as error:
        raise KeyTypeError(f"a key cannot be read back: {error}; was the class moved or renamed?") from error


def _read_part(data: bytes, start: int) -> tuple[bytes, int]:
    """The part whose length stands at `start`, and where it ends."""
    size = data[start]
    start += 1
    if size == 255:
        size = int.from_bytes(data[start : start + 4], "big")
        start += 4
    end = start + size
    if end > len(data):
        raise IndexError(f"cut off after {len(data)} bytes")
    return data[start:end], end


def _split_parts(data: bytes, start: int) -> list[bytes]:
    parts, end = [], len(data)
    while start < end:
        part, start = _read_part(data, start)
        parts.append(part)
    return parts


def _unknown_tag(data: bytes) -> Any:
    raise IndexError(f"unknown tag {data[0]:#04x}")


_decoders: list[Callable[[bytes], Any]] = [_unknown_tag] * 256
for _tag, _decoder in {
    _BIG_NEGATIVE: _decode_big_negative,
    _INT: _decode_int,
    _BIG_POSITIVE: _decode_big_positive,
    _FLOAT: _decode_float,
    _STR: _decode_str,
    _BYTES: _decode_bytes,
    _TUPLE: _decode_tuple,
    _ENUM: _decode_enum,
    _DATACLASS: _decode_dataclass,
}.items():
    _decoders[_tag] = _decoder
