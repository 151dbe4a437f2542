"""How stored values are read where the job's own classes may not be at hand.

A checkpoint says of each state whether its values are MessagePack or pickled. MessagePack is readable by anybody: without the
declared type a dataclass comes out as a dictionary, a tuple as a list, and what goes back in is stored as it was. Unpickling runs
the code of the classes that the bytes name, so without the job's code only values of a few harmless built-in classes are
unpickled, and any other class is refused by name.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from checkdam.core.annotations import type_text
from checkdam.core.errors import IncompatibleCheckpointError, ValueTypeError
from checkdam.core.schema import Schema
from checkdam.core.serde import PickleSerde, Serde, serde_for
from checkdam.graph.model import Graph

_PICKLE: Final = "pickle"

_HARMLESS: Final = frozenset(
    {
        *(("builtins", name) for name in ("set", "frozenset", "complex", "bytearray", "range", "slice")),
        *(("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")),
        *(("collections", name) for name in ("deque", "Counter", "OrderedDict")),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
        ("checkdam.operators.aggregators", "Missing"),
    }
)
"""(module, name) of the classes that are unpickled without the job's code."""


class UntypedSerde:
    """Values as MessagePack has them, for states whose declared type is not at hand.

    Args:
        name: That of the serde that wrote them.
        where: What the values are, for errors.
    """

    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self.schema = Schema(name)
        self._where = where

    def encode_many(self, values: list[Any]) -> bytes:
        return self.encode(values)

    def decode_many(self, data: bytes | memoryview) -> list[Any]:
        values: list[Any] = self.decode(data)
        return values

    def encode(self, value: Any) -> bytes:
        try:
            return msgspec.msgpack.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueTypeError(
                f"{self._where} must be plain values, or give its type with `types=` ({error})"
            ) from error

    def decode(self, data: bytes | memoryview) -> Any:
        try:
            return msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueTypeError(f"{self._where} cannot be read: {error}") from error


class HarmlessPickleSerde(PickleSerde):
    """Pickled values without the job's code: all of `PickleSerde`, but classes beyond a few built-in ones are refused by name."""

    def decode(self, data: bytes | memoryview) -> Any:
        if bytes(data[:1]) != b"\x00":
            return super().decode(data)
        try:
            return _HarmlessUnpickler(io.BytesIO(data[1:]), self._where).load()
        except ValueTypeError:
            raise
        except Exception as error:  # malformed pickles raise anything
            raise ValueTypeError(f"{self._where} cannot be read back ({type(error).__name__}: {error})") from error


class _HarmlessUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, where: str) -> None:
        super().__init__(file)
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise ValueTypeError(
            f"{self._where} holds pickled objects of class `{module}.{name}`, and reading them runs that class's code: "
            f"name the pipeline whose code it is (`--entrypoint` on the command line, `pipeline=` in Python)"
        )


class Serdes:
    """The serdes of a checkpoint's states.

    Args:
        graph: Of the job's pipeline, where that is at hand: its types are used, and its classes trusted.
    """

    def __init__(self, graph: Graph | None = None) -> None:
        self._trusted = graph is not None
        self._known: Mapping[str, Serde] = {} if graph is None else _serdes_of(graph)

    def of(self, operator: str, name: str, stored: str, declared: Any = None) -> Serde:
        """The serde to read a stored state with, which is of the kind that it was stored by.

        Args:
            operator: Whose state it is.
            name: The state's.
            stored: The name of the serde that wrote it.
            declared: The type that the user says its values have; `None`: the pipeline's, else untyped.

        Raises:
            IncompatibleCheckpointError: It is stored as MessagePack, which cannot carry values of the declared type.
        """
        where = f"state `{name}` of operator `{operator}`"
        if stored == _PICKLE:
            return PickleSerde(where) if self._trusted or declared is not None else HarmlessPickleSerde(where)
        if declared is not None:
            serde = serde_for(declared, where)
            if serde.name == _PICKLE:
                raise IncompatibleCheckpointError(
                    f"{where} is stored as `{stored}`, which cannot hold values of `{type_text(declared)}`; "
                    "give the type that it was declared with"
                )
            return serde
        known = self.declared(operator, name)
        return UntypedSerde(stored, where) if known is None or known.name == _PICKLE else known

    def declared(self, operator: str, name: str) -> Serde | None:
        """The serde of a state that the pipeline declares; `None` if it does not, or is not at hand."""
        return self._known.get(f"{operator}/{name}")


def new_serde(operator: str, name: str, declared: Any) -> Serde:
    """The serde to write a state with whose values are declared to be of another type than they were.

    Raises:
        ValueTypeError: A class of the type cannot be imported by other processes.
    """
    return serde_for(declared, f"state `{name}` of operator `{operator}`")


def _serdes_of(graph: Graph) -> dict[str, Serde]:
    """`operator/state` → its serde, of all states that a pipeline declares."""
    found: dict[str, Serde] = {}
    for node in graph.nodes.values():
        if node.factory is not None:
            operator = node.factory()
            found |= {spec.id: spec.serde for spec in operator.tables()}
            found |= {f"{node.id}/{name}": serde for name, serde in operator.own_serdes().items()}
    return found
