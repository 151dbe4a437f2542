"""Which declared types MessagePack carries without loss.

MessagePack through msgspec is fast, and lets types evolve, but it knows no types of its own: what comes back is decided
by the declared type alone. So a type qualifies only if it says everything. `dict[str, Any]` does not (a tuple within
would come back as a list), nor does a class that msgspec cannot build; those are left to pickle.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import types
import typing
import uuid
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from checkdam.core.annotations import is_union, plain_type, type_text, with_variables
from checkdam.core.names import class_name, why_out_of_reach

_SCALARS: Final = frozenset(
    {
        bool,
        int,
        float,
        str,
        bytes,
        bytearray,
        types.NoneType,
        decimal.Decimal,
        uuid.UUID,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
    }
)
_CONTAINERS: Final = frozenset({list, dict, tuple, set, frozenset})
_LITERALS: Final = frozenset({str, int, types.NoneType})


@dataclass
class Findings:
    """What speaks against a declared type; empty texts where nothing does.

    Attributes:
        obstacle: Why MessagePack cannot carry it without loss.
        unreachable: Why other processes cannot import a class in it, and the remedy.
    """

    obstacle: str = ""
    unreachable: str = ""
    _seen: set[Any] = field(default_factory=set, repr=False)


def examine(declared: Any) -> Findings:
    """Walk a declared type and the fields of the classes in it."""
    findings = Findings()
    _walk(declared, findings)
    return findings


def exact_types(declared: Any) -> frozenset[type]:
    """The exact types that values of a declared type have; an instance of a subclass would be cut down to the declared one."""
    declared = plain_type(declared)
    if is_union(declared):
        return frozenset().union(*map(exact_types, typing.get_args(declared)))
    cls = typing.get_origin(declared) or declared
    if cls is Literal:
        return frozenset(map(type, typing.get_args(declared)))
    if cls is float:
        return frozenset({float, int})  # as Python's typing has it; an int comes back as the float that equals it
    return frozenset({dict if typing.is_typeddict(cls) else cls})


def _walk(declared: Any, findings: Findings) -> None:
    declared = plain_type(declared)
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Literal:
        if not _LITERALS.issuperset(map(type, arguments)):
            _note(findings, f"`{type_text(declared)}` has values other than str, int and None")
    elif origin in _CONTAINERS or is_union(declared):
        for argument in arguments:
            if argument is not Ellipsis:
                _walk(argument, findings)
    elif isinstance(origin or declared, type):
        _walk_class(origin or declared, arguments, findings)
    else:
        _note(findings, f"`{type_text(declared)}` does not say what its values are")


def _walk_class(cls: Any, arguments: tuple[Any, ...], findings: Findings) -> None:
    if cls in _SCALARS or (cls, arguments) in findings._seen:
        return
    findings._seen.add((cls, arguments))
    findings.unreachable = findings.unreachable or why_out_of_reach(cls) or ""
    if cls in _CONTAINERS or cls in (Any, object):
        _note(findings, f"`{type_text(cls)}` does not say what is in it")
    elif issubclass(cls, enum.Enum):
        if issubclass(cls, enum.Flag) or {type(member.value) for member in cls} not in ({str}, {int}):
            _note(findings, f"`{class_name(cls)}` is an Enum whose values are not all str, or all int")
    else:
        variables = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
        for field_type in _field_types(cls, findings):
            _walk(with_variables(field_type, variables), findings)


def _field_types(cls: Any, findings: Findings) -> list[Any]:
    if dataclasses.is_dataclass(cls):
        names = [each.name for each in dataclasses.fields(cls)]
    elif issubclass(cls, msgspec.Struct):
        names = list(cls.__struct_fields__)
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        names = list(cls._fields)
    elif typing.is_typeddict(cls):
        names = list(cls.__required_keys__ | cls.__optional_keys__)
    else:
        _note(findings, f"`{class_name(cls)}` is no dataclass, msgspec Struct, TypedDict, NamedTuple or built-in type")
        return []
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:  # an annotation is the user's code and may do anything when it is evaluated
        _note(findings, f"the annotations of `{class_name(cls)}` cannot be resolved: {error}")
        return []
    return [hints.get(name, Any) for name in names]


def _note(findings: Findings, obstacle: str) -> None:
    findings.obstacle = findings.obstacle or obstacle
