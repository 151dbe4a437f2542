"""The table: on the terminal by rich, and as Markdown for `bench/results.md`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

HEADINGS = ("what", "Checkdam", "beside", "its figure", "ratio", "to reach", "reached", "ratio by CPU time")


@dataclass(frozen=True)
class Row:
    """One comparison with another system, or one measurement of Checkdam alone; all as text.

    Attributes:
        reached: `None` where nothing was to be reached or it is not known.
        cpu_ratio: The ratio of the processor time that a record takes: theirs divided by Checkdam's.
    """

    what: str
    ours: str
    beside: str = ""
    theirs: str = ""
    ratio: str = ""
    target: str = ""
    reached: bool | None = None
    cpu_ratio: str = ""

    def cells(self) -> tuple[str, ...]:
        """In the order of `HEADINGS`."""
        answer = {None: "", True: "yes", False: "no"}[self.reached]
        return self.what, self.ours, self.beside, self.theirs, self.ratio, self.target, answer, self.cpu_ratio


def rate(records_per_second: float) -> str:
    """A throughput for people."""
    millions = records_per_second / 1e6
    return f"{millions:.2f} M/s" if millions >= 0.1 else f"{records_per_second / 1e3:.1f} k/s"


def machine(extra: dict[str, str]) -> str:
    """One line on the machine and the versions; `extra` are names and versions of the peers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores", platform.system(), f"Python {platform.python_version()}"]
    parts.append(f"Checkdam {version('checkdam')}")
    if hasattr(os, "getloadavg"):
        # What else the machine had to do; the systems share what is left.
        parts.append(f"load before the first run {os.getloadavg()[0]:.1f}")
    return " · ".join([*parts, *(f"{name} {number}" for name, number in extra.items())])


def show(rows: Sequence[Row], notes: Sequence[str], console: Console) -> None:
    """Print the table and the notes below it."""
    table = Table(title="Checkdam's benchmarks")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number in (0, 2) else "right")
    for row in rows:
        style = "red" if row.reached is False else "green" if row.reached else None
        table.add_row(*row.cells(), style=style)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def write_markdown(rows: Sequence[Row], notes: Sequence[str], path: Path, command: str = "make bench") -> None:
    """Write the table with its notes as a page, which names the command that made it."""
    today = datetime.now(UTC).date().isoformat()
    lines = ["# Benchmarks", "", f"Written by `{command}` on {today}; do not edit.", ""]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    lines += ["", *(f"* {note}" for note in notes), ""]
    path.write_text("\n".join(lines))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
