"""What a declared type is, as data: recorded in checkpoints, and compared when a job with newer code restores one.

A schema says all that decides how a value is encoded and whether it can be decoded: the type's structure, and for each
class in it the fields with their types, whether they can be done without, and what they were called before. Classes stand
beside the type, by name, so that they may refer to themselves. `evolution` compares two schemas.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
from typing import Any, Final, Literal, NotRequired, Required

import msgspec
import msgspec.inspect

from checkdam.core.annotations import is_union, plain_type, type_text, with_variables
from checkdam.core.formerly import former_classes, former_fields, stored_names
from checkdam.core.names import class_name

Plain = str | int | None
"""What Literals and Enums consist of."""


class Compound(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type made of others.

    Attributes:
        of: `list`, `set`, `frozenset`, `dict`, `tuple`, `tuple...` (of any length), `union`, `literal`, or `bounded`: a type
            with the constraints of a `msgspec.Meta`, which are checked when a value is decoded.
        args: The types that it is made of.
        values: Those of a `literal`; the constraints, as text.
    """

    of: str
    args: list[TypeSchema] = []
    values: list[Plain] = []


TypeSchema = str | Compound
"""A built-in type or a class, by name, or a type made of others."""


class FieldSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field of a class.

    Attributes:
        type: Its type.
        optional: A value without it can be decoded: it has a default, or may be missing.
        sparse: Values may be stored without it.
        default: What stands for a missing value, as text; of fields that may be stored without it, and of Structs, which
            may come to leave them out.
        formerly: Names that it was stored under.
    """

    type: TypeSchema
    optional: bool = False
    sparse: bool = False
    default: str = ""
    formerly: list[str] = []


class ClassSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    """A class.

    Attributes:
        kind: What it is.
        fields: By the name that they are stored under, in order.
        values: Of an Enum: its members' values.
        array: Its fields are stored by position.
        strict: A value that has more fields cannot be decoded.
        lenient: An Enum that itself finds a member for an unknown value (`_missing_`).
        tag: Name and value of the field that tells it from other classes; empty if it has none.
        formerly: Names that the class had.
    """

    kind: Literal["dataclass", "struct", "typeddict", "namedtuple", "enum"]
    fields: dict[str, FieldSchema] = {}
    values: list[Plain] = []
    array: bool = False
    strict: bool = False
    lenient: bool = False
    tag: list[Plain] = []
    formerly: list[str] = []


class Schema(msgspec.Struct, frozen=True, omit_defaults=True):
    """A declared type.

    Attributes:
        type: The type; `pickle` where values are pickled, of which nothing is known beforehand.
        classes: All classes in it, by their names, type arguments included.
    """

    type: TypeSchema
    classes: dict[str, ClassSchema] = {}


_CONSTRAINTS: Final = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")

PICKLED: Final = Schema("pickle")
"""The schema of values that are pickled."""


def describe(declared: Any) -> Schema:
    """The schema of a type that `declared.examine` found nothing against."""
    classes: dict[str, ClassSchema] = {}
    return Schema(_describe(declared, classes), classes)


def _describe(declared: Any, classes: dict[str, ClassSchema]) -> TypeSchema:
    bounds = _bounds(declared)
    if bounds:
        return Compound("bounded", [_describe(plain_type(declared), classes)], bounds)
    declared = plain_type(declared)
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Literal:
        return Compound("literal", values=list(arguments))
    if is_union(declared):
        return Compound("union", [_describe(each, classes) for each in arguments])
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return Compound("tuple...", [_describe(arguments[0], classes)])
    if origin in (list, set, frozenset, dict, tuple):
        return Compound(origin.__name__, [_describe(each, classes) for each in arguments])
    name = type_text(declared)
    described = None if name in classes else _describe_class(origin or declared)
    if described is not None:
        classes[name] = described  # before its fields, which may refer to it
        variables = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
        fields = _fields(origin or declared, variables, classes)
        classes[name] = msgspec.structs.replace(described, fields=fields)
    return name


def _bounds(declared: Any) -> list[Plain]:
    """What values of an annotated type must fulfil beside being of the type."""
    if typing.get_origin(declared) in (Required, NotRequired):
        declared = typing.get_args(declared)[0]
    metas = [each for each in getattr(declared, "__metadata__", ()) if isinstance(each, msgspec.Meta)]
    named = [(name, getattr(meta, name)) for meta in metas for name in _CONSTRAINTS]
    return [f"{name}={value!r}" for name, value in named if value is not None]


def _describe_class(cls: Any) -> ClassSchema | None:
    """A class without its fields; `None` for a built-in type."""
    formerly = list(former_classes(cls))
    if issubclass(cls, enum.Enum):
        values = [member.value for member in cls]
        lenient = cls._missing_.__func__ is not enum.Enum._missing_.__func__  # type: ignore[attr-defined]
        return ClassSchema("enum", values=values, lenient=lenient, formerly=formerly)
    if dataclasses.is_dataclass(cls):
        return ClassSchema("dataclass", formerly=formerly)
    if typing.is_typeddict(cls):
        return ClassSchema("typeddict", formerly=formerly)
    if issubclass(cls, msgspec.Struct):
        config = cls.__struct_config__
        return ClassSchema(
            "struct",
            array=config.array_like,
            strict=config.forbid_unknown_fields,
            tag=[] if config.tag is None else [config.tag_field, config.tag],
            formerly=formerly,
        )
    if issubclass(cls, tuple):
        return ClassSchema("namedtuple", array=True, strict=True, formerly=formerly)
    return None


def _fields(cls: Any, variables: Mapping[Any, Any], classes: dict[str, ClassSchema]) -> dict[str, FieldSchema]:
    stored = stored_names(cls)
    if not stored:
        return {}
    hints, formerly = typing.get_type_hints(cls, include_extras=True), former_fields(cls)
    known = {field.name: field for field in msgspec.inspect.type_info(cls).fields}  # type: ignore[attr-defined]
    fields = {}
    for name, stored_name in stored.items():
        optional = not known[name].required
        sparse = optional and _omits(cls, name)
        fields[stored_name] = FieldSchema(
            _describe(with_variables(hints[name], variables), classes),
            optional=optional,
            sparse=sparse,
            default=_default_text(known[name]) if sparse or issubclass(cls, msgspec.Struct) else "",
            formerly=list(formerly.get(name, ())),
        )
    return fields


def _omits(cls: Any, name: str) -> bool:
    """Whether values may be stored without a field that has a default or may be missing."""
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_config__.omit_defaults and not cls.__struct_config__.array_like
    if dataclasses.is_dataclass(cls):
        return not cls.__dataclass_fields__[name].init
    return typing.is_typeddict(cls)


def _default_text(field: msgspec.inspect.Field) -> str:
    """What stands for a missing value: a default as JSON, or the name of what makes it; empty where there is nothing."""
    if field.default_factory is not msgspec.NODEFAULT:
        factory = field.default_factory
        return class_name(factory if hasattr(factory, "__qualname__") else type(factory))
    if field.default is msgspec.NODEFAULT:
        return ""
    try:
        return msgspec.json.encode(field.default, order="deterministic").decode()
    except (TypeError, ValueError):  # no value of the field's type, but something that marks a missing one
        return class_name(type(field.default))


__all__ = ["PICKLED", "ClassSchema", "Compound", "FieldSchema", "Plain", "Schema", "TypeSchema", "describe"]
