"""The reference page of StreamJob, made from the models: `python -m checkdam.spec.reference docs/reference/streamjob.md`.

The page is kept in the repository, so that it can be read there; a test holds it equal to what this module makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from checkdam.spec.fields import Duration, PositiveDuration, Quantity
from checkdam.spec.problems import models_in
from checkdam.spec.streamjob import StreamJob

EXAMPLE: Final = """\
apiVersion: checkdam.dev/v1alpha1
kind: StreamJob
metadata:
  name: flight-delays
spec:
  program:
    entrypoint: flight_delays:build
    args: {window: 1h}
  parallelism: 2
  stateBackend: {type: rocksdb, rocksdb: {memory: 512Mi}}
  checkpoint:
    interval: 10s
    mode: ExactlyOnce
    storage: {uri: "file:///var/lib/checkdam"}
  restart: {strategy: ExponentialDelay, initialDelay: 1s, maxDelay: 1m}
"""
"""The manifest at the top of the page."""

_INTRODUCTION: Final = f"""\
# StreamJob

<!-- Made by `make docs-reference` from the models in runtime/checkdam/spec; edit those. -->

A StreamJob describes a stateful stream job: its code, its parallelism, its checkpoints. The same manifest runs on one machine
(`checkdam run job.yaml`) and in a cluster. `checkdam validate job.yaml` lists every problem of a manifest at once.

```yaml
{EXAMPLE}```

* A **duration** is a whole number with a unit of `ms`, `s`, `m` or `h`, or several together: `500ms`, `10s`, `1m30s`.
* A **size** is a number of bytes as Kubernetes writes it: `65536`, `256Ki`, `512Mi`, `2G`.
* Fields that are not listed here are refused. `null` is the same as leaving a field out.
"""

_NAMED_TYPES: Final[dict[tuple[Any, ...], str]] = {
    get_args(Duration)[1:]: "duration",
    get_args(PositiveDuration)[1:]: "duration",
    get_args(Quantity)[1:]: "size",
}
_PLAIN_TYPES: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "true or false"}


def reference() -> str:
    """The page, as Markdown."""
    return "\n".join([_INTRODUCTION, *_sections("", StreamJob)])


def _sections(path: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## {f'`{path}`' if path else 'The resource'}\n\n{_text(model.__doc__)}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    for name, info in model.model_fields.items():
        cells = (f"`{info.alias or name}`", _type(info), _default(info), _text(info.description))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    for name, info in model.model_fields.items():
        for child in models_in(info.annotation):
            suffix = "[]" if get_origin(info.annotation) is list else ""
            yield from _sections(f"{path}.{info.alias or name}{suffix}".removeprefix("."), child)


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _type(info: FieldInfo) -> str:
    annotation: Any = info.annotation
    validators = tuple(info.metadata)
    if NoneType in get_args(annotation):
        [annotation] = [member for member in get_args(annotation) if member is not NoneType]
    if get_origin(annotation) is Annotated:
        annotation, *rest = get_args(annotation)
        validators = tuple(rest)
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is list:
        return "list"
    return _NAMED_TYPES.get(validators) or _PLAIN_TYPES.get(annotation, "mapping")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.default
    if default is None or default == "" or default == {} or default == [] or isinstance(default, BaseModel):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def main(arguments: list[str]) -> None:
    """Write the page to the file that is named, or print it."""
    if arguments:
        Path(arguments[0]).write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main(sys.argv[1:])
