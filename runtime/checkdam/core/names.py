"""How classes and values are named in errors, and whether another process can find a class by its name.

Every process of a job imports the user's code by module name; graphs and code are never shipped. A class that lives in
the started program (`__main__`) or inside a function therefore exists in one process only, and keys and values that
refer to it would be unreadable everywhere else.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

SHOWN_CHARACTERS: Final = 200
"""How much of a value's `repr` an error message carries."""

_STARTED_PROGRAM: Final = frozenset({"__main__", "__mp_main__"})


def class_name(cls: Any) -> str:
    """`module.Qualified.name`; the bare name of a built-in class."""
    module, name = cls.__module__, cls.__qualname__
    return str(name) if module == "builtins" else f"{module}.{name}"


def shown(value: object) -> str:
    """The `repr` of a value, cut to 200 characters; never raises."""
    try:
        text = repr(value)
    except Exception:
        return f"<a {class_name(type(value))} whose repr fails>"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def why_out_of_reach(cls: Any) -> str | None:
    """Why no other process of the job can have `cls`, and the remedy; `None` if nothing speaks against it."""
    if cls.__module__ in _STARTED_PROGRAM:
        return (
            f"`{class_name(cls)}` is defined in the program that was started; move it to a module that can be imported"
        )
    if "<locals>" in cls.__qualname__:
        return f"`{class_name(cls)}` is defined inside a function; move it to the top level of its module"
    return None


def find_class(module: str, qualname: str) -> type:
    """Import `module` and return its class `qualname`.

    Raises:
        LookupError: There is no such module, or no such class in it.
    """
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(f"there is no class `{module}.{qualname}`: {error}") from error
    if not isinstance(found, type):
        raise LookupError(f"`{module}.{qualname}` is not a class")
    return found
