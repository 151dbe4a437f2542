"""Reading a field of every record of a batch at C speed.

Users name a field (`"carrier"`) or give a function. A named field is an item of mappings and an attribute of all other
objects; which of the two is decided once per batch, by the types that occur in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from checkdam.core.errors import PipelineError

Field = str | Callable[[Any], Any]
"""A field's name or a function of the record."""

Column = Callable[[Sequence[Any]], Iterable[Any]]
"""Reads a field of all records; lazily, in step with whoever iterates."""


def column(field: Field | None, where: str) -> Column:
    """How to read `field` of many records; `None` stands for the record itself.

    Args:
        field: What to read.
        where: The operator or function that was given the field, for the error.

    Raises:
        PipelineError: `field` is neither a name nor callable.
    """
    if field is None:
        return lambda values: values
    if isinstance(field, str):
        return _named_column(field)
    function = getter(field, where)
    # Not `map`: it would take a StopIteration that escapes from the function for the end of the batch.
    return lambda values: (function(value) for value in values)


def getter(field: Field | None, where: str) -> Callable[[Any], Any]:
    """How to read `field` of one record; see `column`.

    Raises:
        PipelineError: `field` is neither a name nor callable.
    """
    if field is None:
        return lambda value: value
    if isinstance(field, str):
        return field_getter(field)
    if not callable(field):
        raise PipelineError(f"{where}: the field must be a name or a function of the record (got {field!r})")
    return field


def field_getter(name: str) -> Callable[[Any], Any]:
    """A function that reads field `name` of mappings (`value[name]`) and of objects (`value.name`) alike."""
    from_item, from_attribute = operator.itemgetter(name), operator.attrgetter(name)

    def get(value: Any) -> Any:
        return from_item(value) if isinstance(value, dict) else from_attribute(value)

    return get


def _named_column(name: str) -> Column:
    item, attribute, either = operator.itemgetter(name), operator.attrgetter(name), field_getter(name)

    def read(values: Sequence[Any]) -> Iterable[Any]:
        mappings = [issubclass(kind, dict) for kind in set(map(type, values))]
        if all(mappings):
            return map(item, values)
        return map(either if any(mappings) else attribute, values)

    return read
