"""Runs the scripts for Argo CD as it does: Lua 5.1, the object as a global, the base and table libraries and the clock, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml
from lupa.lua51 import LuaError, LuaRuntime, lua_type

ROOT: Final = Path(__file__).resolve().parents[2]
ARGO_CD: Final = ROOT / "gitops" / "argocd"
CUSTOMIZATIONS: Final = ARGO_CD / "resource_customizations"
NOW: Final = datetime(2026, 3, 1, 9, tzinfo=UTC)
"""What the clock of the scripts says."""

_WITHHELD: Final = ("string", "math", "io", "debug", "coroutine", "package", "require", "dofile", "loadfile", "python")


def load(file: Path) -> Any:
    """What a YAML file holds; times stay text, as in JSON."""
    return yaml.load(file.read_text(), _JsonTypes)


class _JsonTypes(yaml.SafeLoader):
    """Reads what JSON has: a time is a text."""


_JsonTypes.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def run(script: str, obj: Mapping[str, Any]) -> Any:
    """What a script returns for an object, as JSON data.

    Raises:
        LuaError: The script fails, for example because it uses a library that Argo CD withholds.
    """
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.execute(f'getmetatable("").__index = nil {" ".join(f"{name} = nil" for name in _WITHHELD)}')
    lua.globals().os = lua.table_from({"date": _date, "time": lambda: int(NOW.timestamp())})
    lua.globals().obj = _to_lua(lua, obj)
    return _from_lua(lua.execute(script), obj)


def _date(form: str) -> str:
    assert form.startswith("!"), "the time must not depend on where Argo CD runs"
    return NOW.strftime(form[1:])


def _to_lua(lua: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return lua.table_from({name: _to_lua(lua, item) for name, item in value.items() if item is not None})
    if isinstance(value, list):
        return lua.table_from([_to_lua(lua, item) for item in value])
    return value


def _from_lua(value: Any, before: Any = None) -> Any:
    """As data. An empty table may be a list or a map: it is what it was before, as Argo CD takes it."""
    if lua_type(value) != "table":
        return int(value) if isinstance(value, float) and value.is_integer() else value
    items = dict(value.items())
    if not items:
        return before if before in ({}, []) else []
    if set(items) == set(range(1, len(items) + 1)):
        earlier = before if isinstance(before, list) else []
        return [
            _from_lua(items[place + 1], earlier[place] if place < len(earlier) else None) for place in range(len(items))
        ]
    known = before if isinstance(before, Mapping) else {}
    return {name: _from_lua(item, known.get(name)) for name, item in items.items()}


__all__ = ["ARGO_CD", "CUSTOMIZATIONS", "NOW", "ROOT", "LuaError", "load", "run"]
