"""Reading values whose fields were stored under other names.

MessagePack carries a class as a map by field name, and its typed decoder ignores names that it does not know. So an old
name is put right before decoding: the bytes are decoded to plain maps and lists, keys are renamed where the type says
that such a class stands, and the result is encoded again. That is done only for bytes in which an old name occurs at
all; whoever has no former names pays nothing, and whoever has some pays for one search.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from checkdam.core.schema import Compound, Schema, TypeSchema

_encoder = msgspec.msgpack.Encoder()
_any_decoder = msgspec.msgpack.Decoder()

_Rename = Callable[[Any], Any]
"""Plain data with old names → the same with present ones; may change what it is given."""


def renamer(schema: Schema, *, many: bool) -> Callable[[bytes | memoryview], bytes | memoryview] | None:
    """What puts old names in encoded values right; `None` for a type without former names.

    Args:
        schema: Of the declared type.
        many: The bytes are those of a list of values.
    """
    maps = [each for each in schema.classes.values() if not each.array]
    old_names = sorted({old for each in maps for field in each.fields.values() for old in field.formerly})
    if not old_names:
        return None
    marks = [_encoder.encode(name) for name in old_names]
    rename = _Renames(schema).of_type(schema.type)
    whole = partial(_items, rename) if many else rename

    def put_right(data: bytes | memoryview) -> bytes | memoryview:
        content = data if type(data) is bytes else bytes(data)
        for mark in marks:  # a plain loop: this is for every value that is read
            if mark in content:
                return _encoder.encode(whole(_any_decoder.decode(content)))
        return content

    return put_right


class _Renames:
    """Makes functions that rename, one for each class, as classes may refer to themselves."""

    def __init__(self, schema: Schema) -> None:
        self._classes = schema.classes
        self._fields: dict[str, list[tuple[str, list[str], _Rename]]] = {}

    def of_type(self, declared: TypeSchema) -> _Rename:
        """What renames values of a type."""
        if isinstance(declared, str):
            return partial(self._class_value, declared) if declared in self._classes else _same
        inner = [self.of_type(each) for each in declared.args]
        match declared.of:
            case "list" | "set" | "frozenset" | "tuple...":
                return partial(_items, inner[0])
            case "bounded":
                return inner[0]
            case "dict":
                return partial(_values, inner[1])  # a key has no fields: it is a scalar or a tuple
            case "tuple":
                return partial(_each, inner)
            case "union":
                return partial(self._member, declared, inner)
            case _:
                return _same

    def _class_value(self, name: str, value: Any) -> Any:
        schema = self._classes[name]
        fields = self._fields.get(name)
        if fields is None:
            each = schema.fields.items()
            fields = self._fields[name] = [(own, field.formerly, self.of_type(field.type)) for own, field in each]
        if schema.array:
            tags = [_same] if schema.tag else []
            return _each([*tags, *(rename for _, _, rename in fields)], value)
        if isinstance(value, dict):
            for own, formerly, rename in fields:
                stored = next((each for each in (own, *formerly) if each in value), None)
                if stored is not None:
                    value[own] = rename(value.pop(stored))
        return value

    def _member(self, union: Compound, inner: list[_Rename], value: Any) -> Any:
        """Of a union at most one member is a map, or they have tags, and at most one is an array."""
        for member, rename in zip(union.args, inner, strict=True):
            if self._may_be(member, value):
                return rename(value)
        return value

    def _may_be(self, member: TypeSchema, value: Any) -> bool:
        if isinstance(member, Compound) and member.of == "bounded":
            return self._may_be(member.args[0], value)
        if isinstance(member, Compound):
            return isinstance(value, dict if member.of == "dict" else list) and member.of != "literal"
        schema = self._classes.get(member)
        if schema is None or schema.kind == "enum":
            return False
        if schema.array:
            return isinstance(value, list) and (not schema.tag or value[:1] == schema.tag[1:])
        return isinstance(value, dict) and (not schema.tag or value.get(schema.tag[0]) == schema.tag[1])


def _same(value: Any) -> Any:
    return value


def _items(rename: _Rename, values: Any) -> Any:
    return [rename(value) for value in values] if isinstance(values, list) else values


def _values(rename: _Rename, values: Any) -> Any:
    return {key: rename(value) for key, value in values.items()} if isinstance(values, dict) else values


def _each(renames: list[_Rename], values: Any) -> Any:
    if not isinstance(values, list):
        return values
    return [rename(value) for rename, value in zip(renames, values, strict=False)] + values[len(renames) :]


__all__ = ["renamer"]
