"""What stored values' classes and fields were called before: `@formerly`.

Values in state outlive the code that wrote them. A field is found again by its name, and a class is known to be the same
by its name, so a class that is renamed, moved, or whose field is renamed has to say what the name was. The old names are
read for as long as the class says so, since RocksDB, and savepoints made of it, keep values as they were written.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from checkdam.core.errors import PipelineError
from checkdam.core.names import class_name, find_class

C = TypeVar("C", bound=type)

_ATTRIBUTE: Final = "__checkdam_formerly__"


@dataclass(frozen=True)
class _Former:
    """What one class says of itself: names of the class, and its field → what that was stored as."""

    classes: tuple[str, ...]
    fields: Mapping[str, tuple[str, ...]]


_successors: dict[str, tuple[str, str]] = {}
"""Former name of a class → module and name of the class now: pickled values name their classes."""


def formerly(*classes: str, fields: Mapping[str, str | Sequence[str]] | None = None) -> Callable[[C], C]:
    """Say what a class, or fields of it, were called when values in state were written.

    A class decorator for dataclasses, msgspec Structs, TypedDicts, NamedTuples and Enums, put above all others::

        @checkdam.formerly("orders.Order", fields={"amount": "qty"})
        @dataclass
        class Purchase: ...

    Values stored under the old names are read under the new ones. Keep the names for as long as savepoints or RocksDB state
    may hold such values; Checkdam refuses a restore that misses one.

    Args:
        classes: Former names of the class, each with its module. Subclasses do not inherit them.
        fields: Field → the name, or names, that it was stored under. Subclasses inherit them, except those of a TypedDict.

    Raises:
        PipelineError: A name is not one, is no field, or an old name is that of another field; or the class has it already.
    """
    for name in classes:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")) or "." not in name:
            raise PipelineError(
                f"`formerly` takes names of classes with their module, as in 'orders.Order' (got {name!r})"
            )
    renamed = {new: (old,) if isinstance(old, str) else tuple(old) for new, old in (fields or {}).items()}

    def decorate(cls: C) -> C:
        if _ATTRIBUTE in vars(cls):
            raise PipelineError(f"`formerly` stands twice at `{class_name(cls)}`; give all names to one")
        _check_fields(cls, renamed)
        setattr(cls, _ATTRIBUTE, _Former(classes, renamed))
        _successors.update(dict.fromkeys(classes, (cls.__module__, cls.__qualname__)))
        return cls

    return decorate


def former_classes(cls: type) -> tuple[str, ...]:
    """The names that `cls` itself had before."""
    former = vars(cls).get(_ATTRIBUTE)
    return former.classes if isinstance(former, _Former) else ()


def former_fields(cls: type) -> dict[str, tuple[str, ...]]:
    """Field of `cls`, own or inherited → the names that it was stored under."""
    found: dict[str, tuple[str, ...]] = {}
    for base in cls.__mro__:
        former = vars(base).get(_ATTRIBUTE)
        if isinstance(former, _Former):
            for field, names in former.fields.items():
                found[field] = (*found.get(field, ()), *names)
    return found


def successor_of(name: str) -> type | None:
    """The class that says it was formerly called `name`; `None` if no module that was imported has one.

    Raises:
        LookupError: It cannot be found in its own module.
    """
    # By its name: a decorator above `formerly` may have put another class in the place of the one seen here.
    return find_class(*_successors[name]) if name in _successors else None


def _check_fields(cls: type, renamed: Mapping[str, tuple[str, ...]]) -> None:
    if not renamed:
        return
    stored = stored_names(cls)
    old_names = [old for names in renamed.values() for old in names]
    for new in renamed:
        if new not in stored:
            raise PipelineError(
                f"`formerly` of `{class_name(cls)}` names the field {new!r}, which it has not (its fields: "
                f"{', '.join(stored) or 'none'}); put the decorator above @dataclass"
            )
    for old in old_names:
        if old in stored.values() or old_names.count(old) > 1:
            raise PipelineError(
                f"`formerly` of `{class_name(cls)}` gives the old name {old!r} to one field, but another one bears or bore "
                "it too: stored values could not tell the two apart, so give the other one a new name"
            )


def stored_names(cls: Any) -> dict[str, str]:
    """Field → the name that it is stored under now, in the order of declaration; empty for a class without fields."""
    if dataclasses.is_dataclass(cls):
        return {each.name: each.name for each in dataclasses.fields(cls)}
    if issubclass(cls, msgspec.Struct):
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return {name: name for name in cls._fields}
    if typing.is_typeddict(cls):
        return {name: name for name in cls.__annotations__}
    return {}


__all__ = ["former_classes", "former_fields", "formerly", "stored_names", "successor_of"]
