"""What users declare about their values, read from their annotations.

Declaring is optional: whatever has no annotation, or one that cannot be resolved, counts as undeclared and is no error.
"""

from __future__ import annotations

import collections
import functools
import inspect
import types
import typing
from collections import abc
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, Union

from checkdam.core.names import class_name

_WRAPPERS: Final = frozenset({typing.Required, typing.NotRequired, typing.Final, typing.ClassVar})
_SEQUENCES: Final = frozenset(
    {
        list,
        set,
        frozenset,
        collections.deque,
        abc.Iterable,
        abc.Iterator,
        abc.Generator,
        abc.Collection,
        abc.Sequence,
        abc.MutableSequence,
        abc.Set,
        abc.MutableSet,
        abc.AsyncIterable,
        abc.AsyncIterator,
        abc.AsyncGenerator,
    }
)


class _ReturnOnly:
    """An object with nothing but a return annotation, for `typing.get_type_hints`."""

    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"return": annotation}


def declared_return_type(function: Any) -> Any | None:
    """What a callable says that it returns: a function's or method's return annotation, a class itself.

    `None` if it says nothing, or something that cannot be resolved; a function that returns nothing has `NoneType`.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return function
    try:
        function = inspect.unwrap(function)
        if not isinstance(function, types.FunctionType | types.MethodType):
            function = type(function).__call__
        function = getattr(function, "__func__", function)
        # Only the return annotation: a parameter's that cannot be resolved is none of our business.
        annotation = _ReturnOnly(function.__annotations__["return"])
        return typing.get_type_hints(annotation, globalns=function.__globals__)["return"]
    except Exception:  # an annotation is the user's code and may do anything when it is evaluated
        return None


def element_type(declared: Any) -> Any | None:
    """`T` of a declared `list[T]`, `Iterable[T]`, `Iterator[T]`, `Generator[T, …]`, `tuple[T, ...]` or the like; else `None`."""
    declared = plain_type(declared)
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in _SEQUENCES and arguments:
        return arguments[0]
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    return None


def plain_type(declared: Any) -> Any:
    """A type without what does not change its values: `Annotated`, `NewType`, `type` aliases, `Required` and the like."""
    while True:
        if typing.get_origin(declared) is Annotated or typing.get_origin(declared) in _WRAPPERS:
            declared = typing.get_args(declared)[0]
        elif isinstance(declared, typing.NewType):
            declared = declared.__supertype__
        elif hasattr(declared, "__value__") and hasattr(declared, "__type_params__") and not isinstance(declared, type):
            declared = declared.__value__  # a `type` alias of Python 3.12
        else:
            return types.NoneType if declared is None else declared


def with_variables(declared: Any, variables: Mapping[Any, Any]) -> Any:
    """A type with the type variables in it replaced by what they stand for, where that is known."""
    if isinstance(declared, TypeVar):
        return variables.get(declared, declared)
    parameters = () if isinstance(declared, type) else getattr(declared, "__parameters__", ())
    return declared[tuple(variables.get(each, each) for each in parameters)] if parameters else declared


def is_union(declared: Any) -> bool:
    """Whether a type is `A | B`, `Union[A, B]` or `Optional[A]`."""
    return typing.get_origin(declared) in (Union, types.UnionType)


def type_text(declared: Any) -> str:
    """A type as stable text with the modules of its classes, such as `tuple[str, int]` or `trades.Trade | None`."""
    declared = plain_type(declared)
    if declared is types.NoneType:
        return "None"
    if declared is Ellipsis:
        return "..."
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if is_union(declared):
        return " | ".join(map(type_text, arguments))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if isinstance(origin, type):
        return f"{class_name(origin)}[{', '.join(map(type_text, arguments)) or '()'}]"
    return class_name(declared) if isinstance(declared, type) else repr(declared)
