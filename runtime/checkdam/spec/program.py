"""What code a job runs: `spec.program`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from checkdam.spec.fields import Model, ObjectName, shown

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.]*", re.ASCII)


def _entrypoint(text: str) -> str:
    module, colon, function = text.partition(":")
    names = [*module.split("."), *function.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise ValueError(f"must be written as module:callable, such as flight_delays:build (got {shown(text)})")
    if module == "__main__":
        raise ValueError("must name a module that every process can import, which '__main__' is not (got '__main__')")
    return text


def _file_names(files: dict[str, str]) -> dict[str, str]:
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"must have plain file names such as flight_delays.py as its keys (got {shown(name)})")
    return files


class Program(Model):
    """The user's code, found by import in every process of the job."""

    entrypoint: Annotated[str, AfterValidator(_entrypoint)]
    """`module:callable`. The callable is given a `Pipeline` and the args, and adds sources, operators and sinks to it."""

    args: dict[str, Any] = {}
    """Arguments of the entrypoint, passed on as they are: any JSON values."""

    config_map: ObjectName = ""
    """Name of a ConfigMap of the job's namespace whose files are put on the import path. Not together with `inline`."""

    inline: Annotated[dict[str, str], AfterValidator(_file_names)] = {}
    """Files put on the import path: name → text, such as `{wordcount.py: "…"}`. Not together with `configMap`."""

    @property
    def module(self) -> str:
        """The module of the entrypoint."""
        return self.entrypoint.partition(":")[0]

    @property
    def function(self) -> str:
        """The callable's name within `module`."""
        return self.entrypoint.partition(":")[2]
