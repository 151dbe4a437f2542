"""Columns into records: how values that were read column by column become dictionaries or objects of a declared type."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

Columns = Sequence[Sequence[Any]]

_NATIVE = (int, float, str, bool, type(None))


@dataclasses.dataclass(frozen=True)
class RecordType:
    """A record type as its fields.

    Attributes:
        types: Column name → declared type, in the order of the fields.
        required: The columns that must be there.
        make: Given the names of columns that are there, a function from those columns to records.
    """

    types: dict[str, Any]
    required: frozenset[str]
    make: Callable[[Sequence[str]], Callable[[Columns], list[Any]]]


def dictionaries(names: Sequence[str]) -> Callable[[Columns], list[Any]]:
    """A function from columns, in the order of `names`, to one dictionary a row."""
    keys = tuple(names)
    if len(keys) == 1:
        (key,) = keys
        return lambda columns: [{key: value} for value in columns[0]]
    # All of it in C: a comprehension would call zip with keyword arguments for each row.
    return lambda columns: list(map(dict, map(zip, repeat(keys), zip(*columns, strict=True))))


def record_type(declared: Any) -> RecordType:
    """The fields of a dataclass, `msgspec.Struct`, NamedTuple or TypedDict.

    Raises:
        ValueError: it is none of these.
    """
    if is_typeddict(declared):
        return RecordType(get_type_hints(declared), declared.__required_keys__, dictionaries)
    if not isinstance(declared, type):
        raise _not_a_record(declared)
    if issubclass(declared, msgspec.Struct):
        members = msgspec.structs.fields(declared)
        return _constructed(
            declared,
            {member.encode_name: member.type for member in members},
            frozenset(member.encode_name for member in members if member.required),
            {member.encode_name: member.name for member in members},
        )
    hints = get_type_hints(declared)
    if dataclasses.is_dataclass(declared):
        fields = [field for field in dataclasses.fields(declared) if field.init]
        names = [field.name for field in fields]
        missing = dataclasses.MISSING
        required = [field.name for field in fields if field.default is missing and field.default_factory is missing]
    elif issubclass(declared, tuple) and hasattr(declared, "_fields"):
        names = list(declared._fields)
        required = [name for name in names if name not in declared._field_defaults]  # type: ignore[attr-defined]
    else:
        raise _not_a_record(declared)
    types_by_column = {name: hints.get(name, Any) for name in names}
    return _constructed(declared, types_by_column, frozenset(required), {name: name for name in names})


def _not_a_record(declared: Any) -> ValueError:
    return ValueError(
        f"the record type must be a dataclass, msgspec.Struct, NamedTuple or TypedDict (got {declared!r})"
    )


def _constructed(
    declared: Callable[..., Any],
    types_by_column: dict[str, Any],
    required: frozenset[str],
    argument_of: dict[str, str],
) -> RecordType:
    parameters = inspect.signature(declared).parameters.values()
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]

    def make(names: Sequence[str]) -> Callable[[Columns], list[Any]]:
        arguments = [argument_of[name] for name in names]
        if arguments == positional[: len(arguments)]:
            return lambda columns: list(map(declared, *columns))
        return lambda columns: [
            declared(**dict(zip(arguments, row, strict=True))) for row in zip(*columns, strict=True)
        ]

    return RecordType(types_by_column, required, make)


def is_optional(declared: Any) -> bool:
    """Whether `None` is a value of the type."""
    return declared is None or declared is Any or type(None) in union_members(declared)


def union_members(declared: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return get_args(declared) if get_origin(declared) in (Union, types.UnionType) else (declared,)


def dictionary_type(column_types: Sequence[Any]) -> Any:
    """The type of dictionaries with values of these types, `None` if it cannot be told apart once it is encoded."""
    members = {member for column_type in column_types for member in union_members(column_type)}
    if not members or not members <= set(_NATIVE):
        return None
    return dict[str, Union[tuple(sorted(members, key=str))]]  # type: ignore[misc]  # noqa: UP007
