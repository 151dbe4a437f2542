"""Makes the reference pages of the command line, the Python API, the operator and the metrics out of the code that they describe.

`python docs/make_reference.py` writes them; a test holds them equal to what it makes.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import typer.main

import checkdam
import checkdam.offline
import checkdam.testing
from checkdam.cli.main import app
from checkdam.coordinator.metrics import render_metrics
from checkdam.operators.handles import AggregatingHandle, ListHandle, MapHandle, ReducingHandle, ValueHandle
from checkdam_operator.metrics import METRICS
from checkdam_operator.settings import reference as settings_reference

FOLDER: Final = Path(__file__).parent / "reference"

MADE: Final = "<!-- Made by `python docs/make_reference.py` from the code; edit that. -->"

GROUPS: Final = {
    "Pipelines and streams": ("Pipeline", "Stream", "KeyedStream", "WindowedStream"),
    "Event time and windows": (
        "Watermarks",
        "bounded_out_of_orderness",
        "monotonous",
        "from_source",
        "Tumbling",
        "Sliding",
        "Session",
        "WindowResult",
    ),
    "Aggregators": (
        "count",
        "sum_of",
        "min_of",
        "max_of",
        "mean_of",
        "collect",
        "reducing",
        "combined",
        "Aggregator",
    ),
    "Process functions and state": (
        "ProcessFunction",
        "ProcessContext",
        "FunctionContext",
        "ValueState",
        "ListState",
        "MapState",
        "ReducingState",
        "AggregatingState",
        "BroadcastFunction",
        "BroadcastContext",
        "broadcast_lookup",
        "formerly",
    ),
    "Sources": (
        "text_files",
        "json_lines",
        "csv_files",
        "parquet_files",
        "FileSource",
        "GeneratorSource",
        "CollectionSource",
        "Source",
        "Split",
        "SplitReader",
        "SourceBatch",
    ),
    "Sinks": (
        "json_lines_sink",
        "csv_sink",
        "parquet_sink",
        "FileSink",
        "FunctionSink",
        "PrintSink",
        "CollectSink",
        "Sink",
        "SinkContext",
        "SinkWriter",
        "TwoPhaseWriter",
    ),
    "Errors": ("CheckdamError",),
}
"""Heading → public names of `checkdam`, in the order of the page."""


def pages() -> dict[str, str]:
    """File name → text of all pages."""
    return {
        "cli.md": cli_page(),
        "api.md": api_page(),
        "metrics.md": metrics_page(),
        "operator-metrics.md": operator_metrics_page(),
        "operator-settings.md": operator_settings_page(),
    }


# The command line


def cli_page() -> str:
    """The commands, their arguments and options."""
    parts = [
        "# Command line",
        MADE,
        "Exit codes: 0 the job finished or was stopped, or nothing is wrong; 1 the job failed, or what was to be verified has "
        "problems; 2 a wrong manifest, entrypoint or command line.",
    ]
    parts += _commands(typer.main.get_command(app), "checkdam")
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if not children:
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option"]
        usage = " ".join([name, *(argument.metavar for argument in arguments), *(["[OPTIONS]"] if options else [])])
        yield f"## {name}"
        yield f"```text\n{usage}\n```"
        yield inspect.cleandoc(command.help or "")
        rows = [f"| `{argument.metavar}` | {argument.help} |" for argument in arguments]
        rows += [f"| {_flags(option)} | {option.help} |" for option in options]
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows])
    elif " " in name:
        yield f"## {name}"
        yield inspect.cleandoc(command.help or "")
    for child, below in children.items():
        yield from _commands(below, f"{name} {child}")


def _flags(option: Any) -> str:
    flags = [*option.opts, *option.secondary_opts]
    return ", ".join(f"`{flag} {option.metavar}`" if option.metavar else f"`{flag}`" for flag in flags)


# The Python API


def api_page() -> str:
    """The public names of `checkdam`, `checkdam.offline` and `checkdam.testing`."""
    parts = [
        "# Python API",
        MADE,
        '`import checkdam as cd`. Durations are a `timedelta`, a text such as `"90s"`, `"1m30s"` or `"250ms"`, or whole '
        "milliseconds. Times are milliseconds since the epoch. Names that are not on this page are internal.",
    ]
    for heading, names in GROUPS.items():
        parts.append(f"## {heading}")
        for name in names:
            parts += _described(checkdam, name)
    parts.append("## checkdam.offline")
    parts.append("State without a job; see [how to look into state](../how-to/look-into-state.md).")
    for name in checkdam.offline.__all__:
        parts += _described(checkdam.offline, name)
    parts.append("## checkdam.testing")
    parts.append("For users' own tests; see [how to test a pipeline](../how-to/test-a-pipeline.md).")
    for name in checkdam.testing.__all__:
        parts += _described(checkdam.testing, name)
    return "\n\n".join(parts) + "\n"


def _described(module: ModuleType, name: str) -> Iterator[str]:
    found = getattr(module, name)
    yield f"### {name}"
    if inspect.isclass(found) or inspect.isfunction(found):
        yield f"```text\n{_signature(name, found)}\n```"
        yield _markdown(found.__doc__ or "")
    else:
        yield _MARKERS.get(name, "A marker for scripts of `ScriptedSource`.")
    if inspect.isclass(found):
        members = [_member(member, value) for member, value in _members(_HANDLES.get(name, found))]
        if members:
            yield "\n".join(members)


def _members(cls: type) -> list[tuple[str, Any]]:
    """Public methods and properties with a docstring, its own and those of our base classes, in order of definition."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("checkdam."):
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    return [
        (name, value)
        for name, value in found.items()
        if (inspect.isfunction(value) or isinstance(value, property))
        and value.__doc__
        and name not in _INTERNAL.get(cls.__name__, ())
    ]


_INTERNAL: Final = {
    "Pipeline": {"add", "graph"},
    "ProcessContext": {"take_sides"},
    "BroadcastContext": {"take_sides"},
    "Aggregator": {"fold", "absorb", "results"},
    "Savepoint": {"find", "view", "parts", "opened", "records"},
}
"""Class → methods that the framework calls, not users."""

_MARKERS: Final = {"DELETE": "What a function returns to `Savepoint.rewrite` for a row that is to go."}
"""Names of `checkdam.offline` that are neither classes nor functions → what they are."""

_HANDLES: Final = {
    "ValueState": ValueHandle,
    "ListState": ListHandle,
    "MapState": MapHandle,
    "ReducingState": ReducingHandle,
    "AggregatingState": AggregatingHandle,
}
"""Declaration of state → what the function sees in its place."""


def _member(name: str, value: Any) -> str:
    call = f".{name}" if isinstance(value, property) else f".{_signature(name, value)}"
    doc = _markdown(value.__doc__ or "")
    return f"* `{call}`\n\n{textwrap.indent(doc, '  ')}\n"


def _signature(name: str, found: Any) -> str:
    try:
        signature = inspect.signature(found)
    except ValueError:
        return name
    params = [param for param in signature.parameters.values() if param.name != "self"]
    shown, seen_star = [], False
    for param in params:
        if param.kind is param.KEYWORD_ONLY and not seen_star:
            shown.append("*")
        seen_star = seen_star or param.kind in (param.KEYWORD_ONLY, param.VAR_POSITIONAL)
        stars = "*" if param.kind is param.VAR_POSITIONAL else "**" if param.kind is param.VAR_KEYWORD else ""
        default = "" if param.default is param.empty else f"={param.default!r}"
        shown.append(f"{stars}{param.name}{default}")
    return f"{name}({', '.join(shown)})"


def _markdown(doc: str) -> str:
    """A docstring as Markdown: literal blocks fenced, sections as lists."""
    lines: list[str] = []
    section = literal = False
    for line in inspect.cleandoc(doc).splitlines():
        if literal and line and not line.startswith(" "):
            lines[:] = [*_without_blank_end(lines), "```", ""]
            literal = False
        if re.fullmatch(r"(Args|Returns|Raises|Attributes):", line):
            lines += [f"**{line}**", ""]
            section = True
        elif not literal and line.endswith("::"):
            lines += [line[:-1] if line != "::" else "", "", "```text"]
            literal = True
        elif section and re.match(r" {4}\S", line):
            lines.append(_item(line.strip()))
        elif section and not line.startswith(" "):
            section = False
            lines.append(line)
        else:
            lines.append(line.removeprefix("    ") if section or literal else line)
    if literal:
        lines = [*_without_blank_end(lines), "```"]
    return re.sub(r"```text\n\n", "```text\n", re.sub(r"\n{3,}", "\n\n", "\n".join(lines))).strip()


def _without_blank_end(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def _item(text: str) -> str:
    name, colon, rest = text.partition(": ")
    return f"* `{name}`: {rest}" if colon and re.fullmatch(r"[\w, ]+", name) else f"* {text}"


# Metrics


def metrics_page() -> str:
    """What `GET /metrics` tells."""
    text = render_metrics(_sample_front()).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in _labels(text, name))} | {helps[name]} |"
        for name, kind in types.items()
    ]
    parts = [
        "# Metrics",
        MADE,
        "`GET /metrics` of the coordinator, in Prometheus' text format. It needs the job's token, or its metrics token where "
        "there is one. Counters of operators begin at 0 with each attempt.",
        "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def _labels(text: str, name: str) -> list[str]:
    sample = re.search(rf"^{name}\{{(.*)\}} ", text, re.MULTILINE)
    return re.findall(r'(\w+)="', sample[1]) if sample else []


class _Anything(SimpleNamespace):
    """Answers 1 for whatever is asked, so that every metric has a sample."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 1


def _sample_front() -> Any:
    tracker = _Anything(last_completed=_Anything(), pending=None)
    board = SimpleNamespace(operators=lambda: [_Anything(id="words", kind="map")])
    job = SimpleNamespace(tracker=tracker, board=board, workers=lambda: [_Anything()])
    return SimpleNamespace(view=lambda: _Anything(job_id="default/job"), job=job)


# The operator


def operator_metrics_page() -> str:
    """What `GET /metrics` of the operator tells."""
    rows = [
        f"| `{spec.name}` | {spec.type} | {', '.join(f'`{label}`' for label in spec.labels)} | {spec.text} |"
        for spec in METRICS
    ]
    parts = [
        "# Metrics of the operator",
        MADE,
        "`GET /metrics` of the operator, in Prometheus' text format. It needs the token of `CHECKDAM_OPERATOR_METRICS_TOKEN_FILE` unless it is "
        "served on loopback. What flows through a job is told by [its coordinator](metrics.md).",
        "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def operator_settings_page() -> str:
    """The operator's environment variables."""
    parts = [
        "# Settings of the operator",
        MADE,
        "Environment variables of the operator's container; the Helm chart sets them from its values. A duration is written as in a StreamJob: "
        "`500ms`, `10s`, `5m`, `1h`. Wrong values, and names that begin with `CHECKDAM_OPERATOR_` and are no setting, are refused at the start, all at once.",
        settings_reference().rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
