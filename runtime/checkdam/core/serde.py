"""How values become bytes, on the wire and in state.

A *declared* type (built-in, dataclass, msgspec Struct, TypedDict, NamedTuple, and containers and unions of these) travels
as MessagePack with a typed decoder: fast, readable by processes that run no user code, and able to evolve, since
classes are maps by field name: a new field with a default and a removed field do not hurt, and what was renamed is found
by its former name (`renames`). Everything else is pickled, unless the job forbids that; a batch of nothing but scalars
goes as MessagePack all the same, because it is faster.

Two mistakes must never pass in silence, for they would surface at the worst moment, a restore: a value that does not
fit its declared type, and a class that no other process can import. So exact types are checked for every batch, and of
the 1st, 2nd, 4th, 8th … batch a sample is decoded again and compared, which finds a wrong annotation at once.
"""

from __future__ import annotations

import inspect
import io
import pickle
import re
import types
from collections.abc import Callable
from typing import Any, Final, NoReturn, Protocol, TypeVar

import msgspec

from checkdam.core.annotations import declared_return_type, element_type, plain_type, type_text
from checkdam.core.declared import exact_types, examine
from checkdam.core.errors import ValueTypeError
from checkdam.core.formerly import successor_of
from checkdam.core.names import class_name, shown, why_out_of_reach
from checkdam.core.renames import renamer
from checkdam.core.schema import PICKLED, Schema, describe

T = TypeVar("T")

_UNDECLARED: Final = (None, Any, object, inspect.Parameter.empty)
_SAMPLE: Final = 64
"""How many values of a batch are decoded again to check them."""

_MSGPACK_PREFIX: Final = "msgpack:"
_SCALARS: Final = frozenset({str, int, float, bool, bytes, types.NoneType})
_UNCHANGING: Final = frozenset({"str", "int", "float", "bool", "bytes", "None", "tuple"})
_PICKLE_MODE, _MSGPACK_MODE = b"\x00", b"\x01"
_PICKLE_PROTOCOL: Final = 5

_encoder = msgspec.msgpack.Encoder()
_any_decoder = msgspec.msgpack.Decoder()


class Serde(Protocol):
    """Encodes lists of values, and single values, of one declared type or of any type.

    Attributes:
        name: The type for people, such as `msgpack:int` or `pickle`.
        schema: The type as checkpoints record it, to judge whether later code can read the values.
    """

    name: str
    schema: Schema

    def encode_many(self, values: list[Any]) -> bytes:
        """A list of values as bytes, for `decode_many`.

        Raises:
            ValueTypeError: A value does not fit the declared type, or cannot be pickled.
        """
        ...

    def decode_many(self, data: bytes | memoryview) -> list[Any]:
        """The values that `encode_many` was given.

        Raises:
            ValueTypeError: The bytes are of another type, or of a class that is gone.
        """
        ...

    def encode(self, value: Any) -> bytes:
        """A single value as bytes, for `decode`. Raises like `encode_many`."""
        ...

    def decode(self, data: bytes | memoryview) -> Any:
        """The value that `encode` was given. Raises like `decode_many`."""
        ...


def serde_for(declared: Any, where: str, allow_pickle: bool = True) -> Serde:
    """The serde of values declared as `declared` (`None`, `Any` or `object`: undeclared).

    Args:
        declared: A type, as annotations have it. For values that are all `None`, `types.NoneType`.
        where: What the values are, for errors, such as "the output of operator `parse`".
        allow_pickle: Whether values that MessagePack cannot carry without loss may be pickled.

    Raises:
        ValueTypeError: pickle would be needed but is not allowed, or a class lives in `__main__` or in a function.
    """
    if any(declared is each for each in _UNDECLARED):
        if not allow_pickle:
            raise ValueTypeError(
                f"{where} must have a declared type, because `allowPickle` is false (got none): "
                "annotate what the function returns, or allow pickle"
            )
        return PickleSerde(where)
    declared = plain_type(declared)
    findings = examine(declared)
    if findings.unreachable:
        raise ValueTypeError(f"{where} must be of a type that every process can import: {findings.unreachable}")
    obstacle = findings.obstacle
    if not obstacle:
        try:
            return MsgpackSerde(declared, where)
        except (TypeError, ValueError, NameError) as error:  # msgspec refuses it, such as some unions
            obstacle = str(error)
    if not allow_pickle:
        raise ValueTypeError(
            f"{where} must be of a type that needs no pickle, because `allowPickle` is false "
            f"(got `{type_text(declared)}`): {obstacle}"
        )
    return PickleSerde(where)


def is_joined(name: str) -> bool:
    """Whether `encode_many` of the serde of that name gives a MessagePack list of what its `encode` gives for each value.

    Such values can be taken apart, and put together, without knowing their type.
    """
    return name.startswith(_MSGPACK_PREFIX)


def never_changes(name: str) -> bool:
    """Whether values of the serde of that name cannot be changed in place, as far as the name tells: scalars, and tuples of them."""
    declared = name.removeprefix(_MSGPACK_PREFIX)
    return declared != name and _UNCHANGING.issuperset(re.findall(r"\w+", declared))


class MsgpackSerde:
    """Values of a declared type that MessagePack carries without loss; made by `serde_for`.

    Args:
        declared: The type.
        where: What the values are, for errors.
    """

    def __init__(self, declared: Any, where: str) -> None:
        self.name = f"{_MSGPACK_PREFIX}{type_text(declared)}"
        self._where = where
        self._text = type_text(declared)
        self._exact = exact_types(declared)
        self.schema = describe(declared)
        list_decoder, decoder = msgspec.msgpack.Decoder(list[declared]), msgspec.msgpack.Decoder(declared)
        self._decode_list = _with_renames(list_decoder.decode, renamer(self.schema, many=True))
        self._decode_one = _with_renames(decoder.decode, renamer(self.schema, many=False))
        self._calls = 0

    def encode_many(self, values: list[Any]) -> bytes:
        if not self._exact.issuperset(map(type, values)):
            self._refuse_types(values)
        try:
            data = _encoder.encode(values)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._misfit(error) from error
        self._calls += 1
        if self._calls & (self._calls - 1) == 0:
            self._check_sample(values[:_SAMPLE])
        return data

    def decode_many(self, data: bytes | memoryview) -> list[Any]:
        try:
            return self._decode_list(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._misfit(error) from error

    def encode(self, value: Any) -> bytes:
        if type(value) not in self._exact:
            self._refuse_types([value])
        try:
            data = _encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._misfit(error) from error
        self._calls += 1
        if self._calls & (self._calls - 1) == 0:
            self._check_sample([value])
        return data

    def decode(self, data: bytes | memoryview) -> Any:
        try:
            return self._decode_one(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._misfit(error) from error

    def _check_sample(self, sample: list[Any]) -> None:
        """Raise if values come back as something else."""
        data = _encoder.encode(sample)
        decoded = self.decode_many(data)
        if decoded == sample:
            return
        for original, back, again in zip(sample, decoded, self.decode_many(data), strict=True):
            # What differs from itself when decoded twice (NaN, classes without equality) tells nothing.
            if back != original and back == again:
                raise ValueTypeError(
                    f"{self._where} must be {self._text} in all its parts (got {shown(original)}, "
                    f"which comes back as {shown(back)})"
                )

    def _refuse_types(self, values: list[Any]) -> NoReturn:
        misfit = next(value for value in values if type(value) not in self._exact)
        raise ValueTypeError(
            f"{self._where} must be {self._text} (got {shown(misfit)} of type {class_name(type(misfit))}): "
            "correct the annotation, or convert the value"
        )

    def _misfit(self, error: Exception) -> ValueTypeError:
        return ValueTypeError(f"{self._where} must be {self._text} (got something else: {error})")


class PickleSerde:
    """Values of any type; made by `serde_for`.

    Args:
        where: What the values are, for errors.
    """

    def __init__(self, where: str) -> None:
        self.name = "pickle"
        self.schema = PICKLED
        self._where = where

    def encode_many(self, values: list[Any]) -> bytes:
        if _SCALARS.issuperset(map(type, values)):
            data = _scalars(values)
            if data is not None:
                return _MSGPACK_MODE + data
        return _PICKLE_MODE + self._pickle(values, values)

    def decode_many(self, data: bytes | memoryview) -> list[Any]:
        values: list[Any] = self.decode(data)
        return values

    def encode(self, value: Any) -> bytes:
        if type(value) in _SCALARS:
            data = _scalars(value)
            if data is not None:
                return _MSGPACK_MODE + data
        return _PICKLE_MODE + self._pickle(value, [value])

    def decode(self, data: bytes | memoryview) -> Any:
        view = memoryview(data)
        try:
            if view[:1] == _MSGPACK_MODE:
                return _any_decoder.decode(view[1:])
            return _unpickled(view[1:])
        except Exception as error:  # unpickling runs the classes' own code, which may raise anything
            raise ValueTypeError(f"{self._where} cannot be read back ({_cause(error)})") from error

    def _pickle(self, value: Any, candidates: list[Any]) -> bytes:
        try:
            data = pickle.dumps(value, _PICKLE_PROTOCOL)
        except Exception as error:  # pickling runs the classes' own code, which may raise anything
            culprit = next((each for each in candidates if not _can_pickle(each)), value)
            raise ValueTypeError(
                f"{self._where} must be of types that pickle can carry (got {shown(culprit)}: {_cause(error)})"
            ) from error
        if b"_main__" in data:  # cheap, and nearly always false
            _Inspector(self._where).dump(value)
        return data


class _Inspector(pickle.Pickler):
    """Pickles into nothing, and refuses classes and functions that other processes cannot import."""

    def __init__(self, where: str) -> None:
        super().__init__(io.BytesIO(), _PICKLE_PROTOCOL)
        self._where = where

    def reducer_override(self, obj: Any) -> Any:
        problem = why_out_of_reach(obj if isinstance(obj, type | types.FunctionType) else type(obj))
        if problem:
            raise ValueTypeError(f"{self._where} must be of types that every process can import: {problem}")
        return NotImplemented


class _Renaming(pickle.Unpickler):
    """Finds classes by their former names, too."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            successor = successor_of(f"{module}.{name}")
            if successor is None:
                raise
            return successor


def _unpickled(data: memoryview) -> Any:
    # Peers have proven that they know the job's secret, and who can write its storage may run code in it.
    try:
        return pickle.loads(data)  # noqa: S301
    except (ImportError, AttributeError):  # a class is not where it was
        return _Renaming(io.BytesIO(data)).load()


def _with_renames(
    decode: Callable[[bytes | memoryview], T], put_right: Callable[[bytes | memoryview], bytes | memoryview] | None
) -> Callable[[bytes | memoryview], T]:
    return decode if put_right is None else lambda data: decode(put_right(data))


def _scalars(value: Any) -> bytes | None:
    """One scalar or a list of them as MessagePack; `None` for an int beyond 64 bits or a lone surrogate."""
    try:
        return _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return None


def _can_pickle(value: Any) -> bool:
    try:
        pickle.dumps(value, _PICKLE_PROTOCOL)
    except Exception:
        return False
    return True


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


__all__ = [
    "MsgpackSerde",
    "PickleSerde",
    "Serde",
    "declared_return_type",
    "element_type",
    "is_joined",
    "never_changes",
    "serde_for",
]
