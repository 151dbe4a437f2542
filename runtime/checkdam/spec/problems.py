"""From a validator's errors to sentences that a user can act on.

Each sentence names the field as it stands in the manifest, says what it must be and what it is, and where a name was mistyped, which one
was likely meant: `spec.checkpoint.mode` must be one of 'ExactlyOnce', 'AtLeastOnce', 'AtMostOnce' (got 'exactly-once').
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from checkdam.spec.checks import shown

_TYPES: Final = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
BOUND_WORDS: Final = {"ge": "greater than or equal to", "le": "less than or equal to"}
"""Name of a bound in pydantic → how sentences call it."""

_BOUNDS: Final = {"greater_than_equal": "ge", "less_than_equal": "le"}


def sentences(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> list[str]:
    """One sentence for each of pydantic's errors about a manifest that `model` describes."""
    return [_sentence(error, model) for error in errors]


def field_path(location: Sequence[str | int]) -> str:
    """A location as a path: `spec.worker.env[2].name`, `spec.program.inline['a b.py']`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part == "[key]":
            path += " (a key of it)"
        elif part.isidentifier():
            path += f".{part}" if path else part
        else:
            path += f"[{part!r}]"
    return path


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    field = f"`{field_path(location)}`" if location else "the manifest"
    got = _got(error)
    if kind == "missing":
        return f"{field} must be given (got nothing)"
    if kind == "extra_forbidden":
        return f"{field} must be left out: there is no such field{_suggestion(location, model)}"
    if kind == "value_error":
        return f"{field} {context['error']}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ")
        return f"{field} must be {'one of ' if ',' in choices else ''}{choices}{got}"
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return f"{field} must be {BOUND_WORDS[bound]} {context[bound]:.15g}{got}"
    if kind in ("string_too_short", "too_short"):
        return f"{field} must not be empty{got}"
    if kind == "string_too_long":
        return f"{field} must be at most {context['max_length']} characters long (got {len(error['input'])})"
    if kind == "too_long":
        return f"{field} must have at most {context['max_length']} entries (got {len(error['input'])})"
    if kind in _TYPES:
        return f"{field} must be {_TYPES[kind]}{got}"
    return f"{field}: {error['msg']}{got}"


def _got(error: ErrorDetails) -> str:
    # What stands in an environment variable may be a secret, and messages end up in logs.
    return "" if "env" in error["loc"] else f" (got {shown(error['input'])})"


def _suggestion(location: Sequence[str | int], model: type[BaseModel]) -> str:
    *parents, name = location
    names = _field_names(parents, model)
    by_lower_case = {known.lower(): known for known in names}
    match = difflib.get_close_matches(str(name).lower().replace("_", ""), list(by_lower_case), n=1)
    if match:
        return f"; did you mean `{field_path([*parents, by_lower_case[match[0]]])}`?"
    return f"; the fields here are {', '.join(f'`{known}`' for known in names)}"


def _field_names(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        annotation = next(info.annotation for info in model.model_fields.values() if info.alias == part)
        model = next(models_in(annotation))
    return [info.alias or name for name, info in model.model_fields.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation such as `list[Model]` or `Model | None` mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType, list, dict, Mapping):
        for argument in get_args(annotation):
            yield from models_in(argument)
