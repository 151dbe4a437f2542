"""Whether values that were stored as one type can be read as another. Pure; every difference is named.

The rules are those of the encoding: classes are maps by field name, so a field may go, and may come with a default; ints
are read as floats; a class is known by its name. What would be read as something else than it was is refused, even where
the bytes would do, as is what cannot be read at all: both would surface long after the restore, record by record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from checkdam.core.schema import PICKLED, ClassSchema, Compound, FieldSchema, Plain, Schema, TypeSchema

_WIDER: Final = frozenset({("int", "float"), ("bytes", "bytearray"), ("bytearray", "bytes")})
"""(stored, now) of built-in types where every stored value is read as its equal."""

_SEQUENCES: Final = frozenset({("list", "tuple..."), ("tuple...", "list"), ("set", "frozenset"), ("frozenset", "set")})
_NAMES: Final = {str: "str", int: "int", type(None): "None"}


def differences(stored: Schema, now: Schema) -> list[str]:
    """Why values stored as `stored` cannot be read as `now`: one sentence for each reason, with its remedy; empty if they can."""
    if stored == now:
        return []
    if PICKLED in (stored, now):
        return [
            "it is pickled now but had a declared type: declare the type again"
            if now == PICKLED
            else "it has a declared type now but was pickled: leave it undeclared"
        ]
    return list(dict.fromkeys(_Comparison(stored, now).of_types(stored.type, now.type, "the value")))


def schema_text(type_schema: TypeSchema) -> str:
    """A type as people write it."""
    if isinstance(type_schema, str):
        return type_schema
    parts = [*map(schema_text, type_schema.args)]
    match type_schema.of:
        case "union":
            return " | ".join(parts)
        case "literal":
            return f"Literal[{', '.join(map(repr, type_schema.values))}]"
        case "tuple...":
            return f"tuple[{parts[0]}, ...]"
        case "bounded":
            return parts[0]
        case of:
            return f"{of}[{', '.join(parts) or '()'}]"


class _Comparison:
    """Walks two schemas side by side; each pair of classes once, since classes may refer to themselves."""

    def __init__(self, stored: Schema, now: Schema) -> None:
        self._stored = stored.classes
        self._now = now.classes
        self._seen: set[tuple[str, str]] = set()

    def of_types(self, stored: TypeSchema, now: TypeSchema, where: str) -> Iterator[str]:
        """The differences of two types at the place `where`."""
        members = _members(stored)
        if len(members) > 1:
            for member in members:
                yield from self.of_types(member, now, where)
            return
        plain = _unbounded(stored)
        fitting = next((choice for choice in _choices(now) if self._fits(plain, _unbounded(choice))), None)
        if fitting is None:
            yield self._changed(plain, now, where)
            return
        required = [bound for bound in _bounds(fitting) if bound not in _bounds(stored)]
        if required:
            yield f"{where} must fulfil {', '.join(map(str, required))} now, which stored values need not"
        match plain, _unbounded(fitting):
            case Compound() as before, Compound() as after:
                for place, part_before, part_after in zip(_places(after, where), before.args, after.args, strict=True):
                    yield from self.of_types(part_before, part_after, place)
            case str() as before, str() as after if before in self._stored and after in self._now:
                yield from self._of_classes(before, after)

    def _fits(self, stored: TypeSchema, now: TypeSchema) -> bool:
        """Whether two types that are no unions go together, whatever they are made of."""
        match stored, now:
            case Compound(of="literal"), Compound(of="literal"):
                return set(stored.values) <= set(now.values)
            case Compound(of="literal"), str():
                return {_NAMES[type(value)] for value in stored.values} == {now}
            case Compound(), Compound():
                same = stored.of == now.of or (stored.of, now.of) in _SEQUENCES
                return same and len(stored.args) == len(now.args)
            case str(), str() if stored in self._stored:
                before = self._stored[stored]
                if now in self._now:
                    return _bare(stored) in (_bare(now), *self._now[now].formerly)
                return before.kind == "enum" and {_NAMES[type(value)] for value in before.values} == {now}
            case str(), str():
                return stored == now or (stored, now) in _WIDER
            case _:
                return False

    def _changed(self, stored: TypeSchema, now: TypeSchema, where: str) -> str:
        text = f"{where} is `{schema_text(now)}` now but was `{schema_text(stored)}`"
        if isinstance(stored, str) and stored in self._stored:
            return f'{text}; if that is the same class under a new name, decorate it with `@checkdam.formerly("{_bare(stored)}")`'
        return text

    def _of_classes(self, stored: str, now: str) -> Iterator[str]:
        if (stored, now) in self._seen:
            return
        self._seen.add((stored, now))
        before, after = self._stored[stored], self._now[now]
        if (before.kind == "enum") != (after.kind == "enum"):
            yield f"`{now}` is {_with_article(after.kind)} now but was {_with_article(before.kind)}"
        elif after.kind == "enum":
            gone = [value for value in before.values if value not in after.values]
            if gone and not after.lenient:
                yield (
                    f"`{now}` has no member with the value {', '.join(map(repr, gone))} any more: keep the member, or give "
                    "the Enum a `_missing_` that finds another"
                )
        elif before.array != after.array:
            yield f"`{now}` stores its fields by {_layout(after)} now but stored them by {_layout(before)}"
        elif (after.tag or after.array) and before.tag != after.tag:
            yield (
                f"`{now}` is told from others by {_tag_text(after.tag)} now but by {_tag_text(before.tag)} before: "
                "give the Struct the old `tag`"
            )
        else:
            yield from (self._of_positions if after.array else self._of_fields)(now, before, after)

    def _of_fields(self, name: str, before: ClassSchema, after: ClassSchema) -> Iterator[str]:
        found = set()
        for field_name, field in after.fields.items():
            stored_name = next((each for each in (field_name, *field.formerly) if each in before.fields), None)
            if stored_name is None:
                if not field.optional:
                    yield _lacking(f"`{name}.{field_name}`", field_name)
                continue
            found.add(stored_name)
            stored = before.fields[stored_name]
            yield from self.of_types(stored.type, field.type, f"`{name}.{field_name}`")
            yield from _absence(stored, field, f"`{name}.{field_name}`")
        yield from _refused(name, after, [each for each in before.fields if each not in found])

    def _of_positions(self, name: str, before: ClassSchema, after: ClassSchema) -> Iterator[str]:
        stored_names = list(before.fields)
        for position, (field_name, field) in enumerate(after.fields.items()):
            where = f"`{name}.{field_name}`"
            if position >= len(stored_names):
                if not field.optional:
                    yield _lacking(where, field_name)
            elif stored_names[position] not in (field_name, *field.formerly):
                yield (
                    f"{where} stands where `{stored_names[position]}` was, and fields of `{name}` are stored by position: "
                    "keep the order and add fields at the end; if it was only renamed, "
                    f'`@checkdam.formerly(fields={{"{field_name}": "{stored_names[position]}"}})` says so'
                )
            else:
                yield from self.of_types(before.fields[stored_names[position]].type, field.type, where)
        yield from _refused(name, after, stored_names[len(after.fields) :])


def _members(stored: TypeSchema) -> Sequence[TypeSchema]:
    """The types that a value may be of; each value of a Literal is one."""
    match stored:
        case Compound(of="union"):
            return [member for each in stored.args for member in _members(each)]
        case Compound(of="literal"):
            return [Compound("literal", values=[value]) for value in stored.values]
        case Compound(of="bounded"):
            return [Compound("bounded", [member], stored.values) for member in _members(stored.args[0])]
        case _:
            return [stored]


def _choices(now: TypeSchema) -> Sequence[TypeSchema]:
    match now:
        case Compound(of="union"):
            return [choice for member in now.args for choice in _choices(member)]
        case Compound(of="bounded"):
            return [Compound("bounded", [choice], now.values) for choice in _choices(now.args[0])]
        case _:
            return [now]


def _bounds(schema: TypeSchema) -> Sequence[Plain]:
    return schema.values if isinstance(schema, Compound) and schema.of == "bounded" else []


def _unbounded(schema: TypeSchema) -> TypeSchema:
    return schema.args[0] if isinstance(schema, Compound) and schema.of == "bounded" else schema


def _places(compound: Compound, where: str) -> list[str]:
    """How the parts of a type at the place `where` are called."""
    match compound.of:
        case "dict":
            return [f"a key of {where}", f"a value of {where}"]
        case "tuple":
            return [f"item {number} of {where}" for number in range(len(compound.args))]
        case _:
            return [f"an item of {where}"] * len(compound.args)


def _bare(name: str) -> str:
    """A class's name without type arguments."""
    return name.partition("[")[0]


def _lacking(where: str, name: str) -> str:
    return (
        f"{where} is new and has no default, which stored values need: give it one, or, if it was only renamed, say from "
        f'what with `@checkdam.formerly(fields={{"{name}": …}})`'
    )


def _absence(stored: FieldSchema, now: FieldSchema, where: str) -> Iterator[str]:
    if stored.sparse and not now.optional:
        yield f"{where} has no default any more, but values may have been stored without it: give it one"
    elif stored.sparse and stored.default != now.default:
        yield (
            f"{where} has {'another default' if not now.default else f'the default {now.default}'} now, but values were stored "
            f"without it where it was the default {stored.default}: keep the default, and the msgspec Struct"
        )


def _refused(name: str, now: ClassSchema, surplus: Sequence[str]) -> Iterator[str]:
    if surplus and now.strict:
        remedy = "keep them" if now.kind == "namedtuple" else "keep them, or take `forbid_unknown_fields` off"
        yield f"`{name}` refuses values with fields that it has not, but stored ones have {', '.join(surplus)}: {remedy}"


def _layout(schema: ClassSchema) -> str:
    return "position" if schema.array else "name"


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind == "enum" else f"a {kind}"


def _tag_text(tag: Sequence[Plain]) -> str:
    return f"{tag[0]} = {tag[1]!r}" if tag else "nothing"


__all__ = ["differences", "schema_text"]
