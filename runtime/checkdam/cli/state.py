"""`checkdam state`: what is in the state of a checkpoint or savepoint, read without a job and without changing it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from checkdam.cli.console import say, say_json, say_table
from checkdam.cli.values import parse_pairs, storage_uri
from checkdam.core.errors import CheckpointError

if TYPE_CHECKING:
    from checkdam.graph.model import Graph
    from checkdam.offline import OperatorContents, Savepoint

Rows = Generator[msgspec.Struct, None, None]

state = typer.Typer(
    help="Look into the state of a checkpoint or savepoint.", no_args_is_help=True, rich_markup_mode=None
)

TABLE_ROWS: Final = 100
"""How many rows a table for people has at most, unless it is said."""

_SPLITS, _OWN, _TIMERS = "splits", "own", "timers/"
"""Names of what operators have beside keyed states."""


class Format(StrEnum):
    """How rows are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    TABLE = "table"


SavepointUri = Annotated[
    str,
    typer.Argument(
        metavar="URI",
        help="A checkpoint's or savepoint's folder, or a job's and then its latest checkpoint; a uri or a path.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Operator = Annotated[str, typer.Option(metavar="NAME", help="The operator's name.")]
StateName = Annotated[
    str | None,
    typer.Option(
        "--state", metavar="NAME", help="The state's name, as `state list` shows it. Not needed where there is one."
    ),
]
Key = Annotated[
    str | None, typer.Option(metavar="KEY", help="Only entries of this key, as text or JSON; a tuple is a JSON list.")
]
Limit = Annotated[int | None, typer.Option(metavar="N", min=0, help="At most so many rows.")]
OutputFormat = Annotated[
    Format,
    typer.Option("--format", help="JSON lines, a Parquet file, or a table of at most 100 rows.", metavar="FORMAT"),
]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write instead of standard output.")]
Entrypoint = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET",
        help="The pipeline, as in `checkdam run`: needed for pickled objects and for keys of own classes.",
    ),
]
Args = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the entrypoint; JSON or text. Repeatable."),
]


@state.command("list")
def list_states(uri: SavepointUri, as_json: AsJson = False) -> None:
    """List the operators of a checkpoint and what each has stored."""
    from checkdam.offline import open_savepoint

    savepoint = open_savepoint(storage_uri(uri, Path.cwd()))
    found = savepoint.operators()
    if as_json:
        say_json(found)
    else:
        rows = [row for operator in found for row in _listed(operator)]
        say_table(savepoint.uri, ("operator", "kind", "state", "type"), rows)


@state.command("read")
def read(
    uri: SavepointUri,
    operator: Operator,
    name: StateName = None,
    key: Key = None,
    limit: Limit = None,
    output_format: OutputFormat = Format.JSONL,
    output: Output = None,
    entrypoint: Entrypoint = None,
    args: Args = None,
) -> None:
    """Print the entries of a state, or write them into a file.

    Besides states of its own an operator may have `timers/event` and `timers/processing`, a source `splits`, and any operator `own`, what
    its subtasks keep beside.
    """
    from checkdam.offline import open_savepoint

    with _pipeline(entrypoint, args or []) as graph:
        savepoint = open_savepoint(storage_uri(uri, Path.cwd()), pipeline=graph)
        # Closed here: what was fetched for it goes now, also when not all of it was wanted.
        with closing(_rows(savepoint, operator, name, None if key is None else _meanings(key))) as rows:
            _write(rows, output_format, output, limit)


def _listed(operator: OperatorContents) -> Iterator[tuple[str, str, str, str]]:
    """The lines of the list that an operator has; one without a state if it has stored nothing."""
    lines = [
        (info.name, f"{info.kind} of {info.type}" + (f", kept for {info.ttl_ms} ms" if info.ttl_ms else ""))
        for info in operator.states
    ]
    lines += [(f"{_TIMERS}{domain}", "") for domain in operator.timers]
    lines += [(_SPLITS, "")] if operator.splits else []
    lines += [(_OWN, "")] if operator.own else []
    for number, (name, kind) in enumerate(lines or [("", "")]):
        yield ("" if number else operator.name, "" if number else operator.kind, name, kind)


def _rows(savepoint: Savepoint, operator: str, name: str | None, keys: list[Any] | None) -> Rows:
    """The rows that a name of `state list` stands for; a state of the user's comes first."""
    found = savepoint.find(operator)
    special = name not in [info.name for info in found.states]
    if special and name is not None and name.startswith(_TIMERS):
        yield from savepoint.timers(operator, name.removeprefix(_TIMERS), keys=keys)
    elif (special and name == _SPLITS) or (name is None and found.splits):
        yield from savepoint.splits(operator)
    elif special and name == _OWN:
        yield from savepoint.own_state(operator)
    else:
        yield from savepoint.read(operator, name, keys=keys)


def _meanings(text: str) -> list[Any]:
    """The keys that a text on the command line may mean: what it is as JSON, and the text itself."""
    try:
        parsed = _as_key(json.loads(text))
    except ValueError:
        return [text]
    return [text] if parsed is None else [parsed, text]


def _as_key(value: Any) -> Any:
    """A JSON value as a key: a list is a tuple; `None` for what no key is."""
    if isinstance(value, list):
        parts = tuple(_as_key(item) for item in value)
        return None if None in parts else parts
    return value if isinstance(value, (str, int, float)) and value == value else None


@contextmanager
def _pipeline(entrypoint: str | None, args: list[str]) -> Iterator[Graph | None]:
    """The graph of the pipeline that is named, if one is."""
    if entrypoint is None:
        if args:
            raise typer.BadParameter("`--arg` needs an `--entrypoint`, whose argument it is")
        yield None
        return
    from checkdam.api.entrypoint import load_graph
    from checkdam.cli.target import Overrides, find_target

    found = find_target(entrypoint, Overrides(args=parse_pairs(args, "--arg")), Path.cwd())
    with tempfile.TemporaryDirectory(prefix="checkdam-state-") as folder:
        yield load_graph(found.job, found.base_folder, Path(folder))


def _write(rows: Iterable[msgspec.Struct], output_format: Format, output: Path | None, limit: int | None) -> None:
    from checkdam.offline.export import json_lines, write_parquet

    limited = islice(rows, limit)
    if output_format is Format.PARQUET:
        if output is None:
            raise typer.BadParameter("`--format parquet` needs `--output FILE`")
        _into_file(output, lambda: say(f"{output}: {write_parquet(limited, output)} rows", error=True))
    elif output_format is Format.TABLE:
        if output is not None:
            raise typer.BadParameter("`--format table` is for people and takes no `--output`; use jsonl or parquet")
        _say_rows(rows, TABLE_ROWS if limit is None else limit)
    elif output is not None:
        _into_file(output, lambda: _write_lines(json_lines(limited), output))
    else:
        _print_lines(json_lines(limited))


def _say_rows(rows: Iterable[msgspec.Struct], limit: int) -> None:
    from checkdam.offline.export import json_lines

    shown = [json.loads(line) for line in json_lines(islice(rows, limit + 1))]
    columns = list(dict.fromkeys(name for row in shown for name in row))
    cells = [[_cell(row[name]) if name in row else "" for name in columns] for row in shown[:limit]]
    say_table("", columns, cells)
    if len(shown) > limit:
        say(f"and more; see them with --limit or --format {Format.JSONL}", error=True)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_lines(lines: Iterable[bytes], path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(lines)


def _into_file(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def _print_lines(lines: Iterable[bytes]) -> None:
    try:
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, such as `head`. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
