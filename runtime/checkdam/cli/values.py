"""Values as they are written on a command line: `key=value` pairs and places of storage."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import typer

_FILE_SCHEME: Final = "file://"


def parse_pairs(pairs: Iterable[str], flag: str) -> dict[str, Any]:
    """`["n=5", "window=1h"]` as a dictionary. A value that is JSON is decoded, anything else is a string.

    Args:
        pairs: As given.
        flag: Their flag, for errors.

    Raises:
        typer.BadParameter: One has no `=`, or a key is given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"`{flag}` must be key=value (got {pair!r})")
        if key in values:
            raise typer.BadParameter(
                f"`{flag} {key}=…` must be given once (got it twice); several values are a JSON list: {key}='[1, 2]'"
            )
        values[key] = _json_or_text(text)
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return text


def storage_uri(text: str, cwd: Path) -> str:
    """A place of storage as an absolute uri; a plain path, or a relative `file://` uri, is taken from `cwd`."""
    if text.startswith(_FILE_SCHEME):
        return (cwd / unquote(text.removeprefix(_FILE_SCHEME))).resolve().as_uri()
    return text if "://" in text else (cwd / text).resolve().as_uri()
