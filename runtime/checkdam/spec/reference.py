"""The reference pages of StreamJob and Savepoint, made from the models: `python -m checkdam.spec.reference docs/reference`.

The pages are kept in the repository, so that they can be read there; a test holds them equal to what this module makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from checkdam.spec.descriptions import describe
from checkdam.spec.fields import Duration, OptionalDuration, PositiveDuration, Quantity
from checkdam.spec.problems import models_in
from checkdam.spec.savepoint import Savepoint, SavepointStatus
from checkdam.spec.status import StreamJobStatus
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
"""The manifest at the top of the page of StreamJob."""

SAVEPOINT_EXAMPLE: Final = """\
apiVersion: checkdam.dev/v1alpha1
kind: Savepoint
metadata:
  name: before-the-sale
spec:
  job: flight-delays
  onDelete: Delete
"""
"""The manifest at the top of the page of Savepoint."""

_STREAM_JOB: Final = f"""\
# StreamJob

<!-- Made by `make docs-reference` from the models in runtime/checkdam/spec; edit those. -->

A StreamJob describes a stateful stream job: its code, its parallelism, its checkpoints. The same manifest runs on one machine
(`checkdam run job.yaml`) and in a cluster. `checkdam validate job.yaml` lists every problem of a manifest at once.

```yaml
{EXAMPLE}```

* A **duration** is a whole number with a unit of `ms`, `s`, `m` or `h`, or several together: `500ms`, `10s`, `1m30s`.
* A **size** is a number of bytes as Kubernetes writes it: `65536`, `256Ki`, `512Mi`, `2G`.
* Fields that are not listed here are refused. `null` is the same as leaving a field out.

## In a cluster

`kubectl apply` refuses a wrong manifest with the sentences of `checkdam validate`, for the same rules are part of the resource's definition. The API server has
words of its own, and comes to no other rule while one of these is broken, for

* fields that do not exist, required ones that are missing, values of a wrong type, and words that are none of those allowed;
* texts that are too long and lists or mappings with too many entries.

In parts of lists, such as `spec.worker.env[2].name`, the server puts the field's name before the sentence. It leaves the value out where that has line breaks.
A `spec.savepoints.schedule` with days that its months lack, such as `0 0 30 2 *`, it takes for right; the operator then reports it.

`spec.jobId` and `spec.maxParallelism` must stay as they are while the resource exists. To change one, delete the StreamJob, which keeps its state in storage, and make
another that restores from a savepoint.

`kubectl get sjob` shows how jobs are, with `-o wide` the reason too; `kubectl get streaming` shows savepoints beside them. `kubectl explain streamjob.spec` says what is
written here. `kubectl scale sjob/flight-delays --replicas=4` changes the parallelism, and autoscalers can.
`kubectl get sjob --field-selector spec.suspend=true` finds jobs by that or by `status.state`.
"""

_SAVEPOINT: Final = f"""\
# Savepoint

<!-- Made by `make docs-reference` from the models in runtime/checkdam/spec; edit those. -->

A Savepoint is one savepoint of a [StreamJob](streamjob.md). Creating the resource takes the savepoint; a job starts from it by its name in
`spec.restoreFrom`. With a `uri` it stands for a savepoint that is there already. [Savepoints](../how-to/savepoints.md) says what they are good for.

```yaml
{SAVEPOINT_EXAMPLE}```

`kubectl wait --for=condition=Ready savepoint/before-the-sale` waits until it is complete. `kubectl get sjsp` lists them. Those that a job takes by the clock
(`spec.savepoints`) are such resources, too. `spec.job` and `spec.uri` must stay as they are: another savepoint is another resource.
`checkdam validate` checks Savepoints as it does StreamJobs.
"""

_NAMED_TYPES: Final[dict[tuple[Any, ...], str]] = {
    get_args(Duration)[1:]: "duration",
    get_args(PositiveDuration)[1:]: "duration",
    get_args(OptionalDuration)[1:]: "duration",
    get_args(Quantity)[1:]: "size",
}
_PLAIN_TYPES: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "true or false"}


def pages() -> dict[str, str]:
    """Name of a page's file → its text, as Markdown."""
    return {
        "streamjob.md": _page(_STREAM_JOB, StreamJob, StreamJobStatus),
        "savepoint.md": _page(_SAVEPOINT, Savepoint, SavepointStatus),
    }


def _page(introduction: str, model: type[BaseModel], status: type[BaseModel]) -> str:
    describe(model)
    describe(status)
    return "\n".join([introduction, *_sections("", model), *_sections("status", status)])


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
    """Write the pages into the folder that is named, or print them."""
    for name, text in pages().items():
        if arguments:
            (Path(arguments[0]) / name).write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
