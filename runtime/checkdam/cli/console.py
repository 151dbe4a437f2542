"""Text and tables for people, on a terminal or in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


def say(text: str, *, error: bool = False) -> None:
    """Print a message as it is, on stderr if it is an error."""
    print(text, file=sys.stderr if error else sys.stdout)


def say_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def say_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; columns whose name ends in ` #` hold numbers and are aligned to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) if title else None, title_justify="left")
    for column in columns:
        is_number = column.endswith(" #")
        table.add_column(column.removesuffix(" #"), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def time_text(time_ms: int) -> str:
    """A time for people, in this machine's zone: `2026-03-01 14:05:09`."""
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
