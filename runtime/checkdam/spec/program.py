"""What code a job runs: `spec.program`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import Field

from checkdam.spec.checks import Check, cel_matches
from checkdam.spec.fields import Model, ObjectName

_FILE_NAME: Final = "[A-Za-z0-9_][-A-Za-z0-9_.]*"
_IDENTIFIER: Final = r"[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*"
_NAMES: Final = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"


def _names_a_callable(text: str) -> bool:
    module, _, function = text.partition(":")
    return all(name.isidentifier() for name in (*module.split("."), *function.split(".")))


def _wrong_names(files: dict[str, str]) -> list[str]:
    return [name for name in files if not re.fullmatch(_FILE_NAME, name, re.ASCII)]


Entrypoint = Annotated[
    str,
    Field(max_length=1024),
    Check(
        holds=_names_a_callable,
        cel=cel_matches("self", f"{_NAMES}:{_NAMES}"),
        must="must be written as module:callable, such as flight_delays:build",
    ),
    Check(
        holds=lambda text: not text.startswith("__main__:"),
        cel="!self.startsWith('__main__:')",
        must="must name a module that every process can import, which '__main__' is not",
    ),
]
"""A callable in a module."""

Files = Annotated[
    dict[str, str],
    Field(max_length=64),
    Check(
        holds=lambda files: not _wrong_names(files),
        cel=f"self.all(name, {cel_matches('name', _FILE_NAME)})",
        must="must have plain file names such as flight_delays.py as its keys",
        culprit=lambda files: _wrong_names(files)[0],
        culprit_cel=f"self.filter(name, !{cel_matches('name', _FILE_NAME)})[0]",
    ),
]
"""Names of files → their texts."""


class Program(Model):
    """The user's code, found by import in every process of the job."""

    entrypoint: Entrypoint
    """`module:callable`. The callable is given a `Pipeline` and the args, and adds sources, operators and sinks to it."""

    args: dict[str, Any] = {}
    """Arguments of the entrypoint, passed on as they are: any JSON values."""

    config_map: ObjectName = ""
    """Name of a ConfigMap of the job's namespace whose files are put on the import path. Not together with `inline`."""

    inline: Files = {}
    """Files put on the import path: name → text, such as `{wordcount.py: "…"}`. Not together with `configMap`."""

    @property
    def module(self) -> str:
        """The module of the entrypoint."""
        return self.entrypoint.partition(":")[0]

    @property
    def function(self) -> str:
        """The callable's name within `module`."""
        return self.entrypoint.partition(":")[2]
