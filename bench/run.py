"""`make bench`: measures Checkdam, beside Flink and Bytewax where they can be had, and prints one table.

Systems take turns run by run, so that a machine that slows down slows all of them; figures are medians, ratios are those
of the medians. A full run writes `bench/results.md`.
"""

from __future__ import annotations

import signal
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from suite.data import PARTS, data_set
from suite.peers import BYTEWAX_VERSION, FLINK_VERSION, Peers, find_peers
from suite.probes import PROBES, Probe, quantile
from suite.report import Row, machine, rate, show, write_markdown
from suite.scenarios import SCENARIOS, Contestant, Scenario
from suite.stamps import WARM_UP_SHARE
from suite.systems import Figure, Place, RunFailed, measure

BENCH = Path(__file__).resolve().parent
BUILD = BENCH.parent / "build"

QUICK_DIVISOR = 40
QUICK_LINES = 40_000
NAMES = [*(scenario.name for scenario in SCENARIOS), *(probe.name for probe in PROBES)]
SYSTEMS = ("checkdam", "flink", "bytewax")


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    runs: int
    quick: bool
    systems: frozenset[str]


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each system in each scenario; the median counts.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="One run on little data: whether it works, not how fast.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of: {', '.join(NAMES)}. Repeatable.")] = None,
    system: Annotated[list[str] | None, typer.Option(help=f"One of: {', '.join(SYSTEMS)}. Repeatable.")] = None,
    build: Annotated[Path, typer.Option(help="Where data, peers and runs are kept.")] = BUILD,
) -> None:
    """Measure, and print one table."""
    # Whoever ends a run in the middle must not leave its processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _check("--only", only, NAMES)
    _check("--system", system, SYSTEMS)
    options = Options(1 if quick else runs, quick, frozenset(system or SYSTEMS))
    console = Console(width=None if Console().is_terminal else 160)
    peers = find_peers(build / "peers", set(options.systems - {"checkdam"}))
    rows: list[Row] = []
    notes = _notes(options, peers)
    for scenario in SCENARIOS:
        if not only or scenario.name in only:
            rows += _compare(scenario, options, peers, build, notes, console)
    for probe in PROBES:
        if "checkdam" in options.systems and (not only or probe.name in only):
            rows.append(_probe(probe, options, build, notes, console))
    show(rows, notes, console)
    if not (quick or only or system):
        write_markdown(rows, notes, BENCH / "results.md")
    if any(row.ours == "failed" for row in rows):
        raise typer.Exit(1)


def _check(option: str, given: list[str] | None, allowed: list[str] | tuple[str, ...]) -> None:
    for name in given or ():
        if name not in allowed:
            raise typer.BadParameter(f"`{option}` must be one of {', '.join(allowed)} (got {name!r})")


def _notes(options: Options, peers: Peers) -> list[str]:
    versions = {}
    if peers.flink_class_path:
        versions["Flink"] = FLINK_VERSION
    if peers.bytewax_python is not None:
        versions["Bytewax"] = BYTEWAX_VERSION
    notes = [
        machine(versions),
        f"Throughput: records a second of all workers, from when {WARM_UP_SHARE:.0%} of the input were read until the last "
        "result reached the sink; reading and parsing included, starting up and the last checkpoint not. Two workers each; "
        f"medians of {options.runs}. Slow systems read a prefix of the same data.",
        "Running counts: Flink and Bytewax yield one result for each record, Checkdam one for each key of those that it folded together, "
        "at least every 100 ms.",
        "Ratio: Checkdam's throughput divided by the other's. By CPU time: the processor time that a record takes there, divided "
        "by that here, over all processes; where other work keeps the machine busy, it says more than the throughput.",
    ]
    if options.quick:
        notes.append("A quick run: the figures show that it works and say nothing about speed.")
    return [*notes, *(f"{name} was left out: {reason}" for name, reason in peers.missing.items())]


def _compare(
    scenario: Scenario, options: Options, peers: Peers, build: Path, notes: list[str], console: Console
) -> list[Row]:
    taking_part = [c for c in scenario.contestants if c.system in options.systems and c.system not in peers.missing]
    figures: dict[str, list[Figure]] = {contestant.label: [] for contestant in taking_part}
    for number in range(options.runs):
        for contestant in taking_part:
            lines = max(QUICK_LINES, contestant.lines // QUICK_DIVISOR) if options.quick else contestant.lines
            try:
                # As many lines as the files have together.
                lines -= lines % PARTS
                data = data_set(build / "bench-data", scenario.data, lines)
                figure = measure(scenario, contestant, data, lines, Place(build / "bench-run"), peers)
            except RunFailed as error:
                notes.append(f"{scenario.title}: {contestant.label}, run {number + 1} failed: {error}")
                continue
            figures[contestant.label].append(figure)
            console.print(f"{scenario.name}, run {number + 1}: {contestant.label} {_shown(figure)}", highlight=False)
    medians = {label: _median(values) for label, values in figures.items() if values}
    return _rows(scenario, taking_part, medians)


def _median(figures: list[Figure]) -> Figure:
    return Figure(
        statistics.median(figure.per_second for figure in figures),
        statistics.median(figure.cpu_us for figure in figures),
    )


def _shown(figure: Figure) -> str:
    return f"{rate(figure.per_second)}, {figure.cpu_us:.2f} µs of CPU"


def _rows(scenario: Scenario, contestants: list[Contestant], medians: dict[str, Figure]) -> list[Row]:
    first = scenario.contestants[0]
    own = medians.get(first.label)
    ours = _shown(own) if own is not None else "failed" if first in contestants else "left out"
    rows = []
    for other in contestants:
        if other is first:
            continue
        theirs = medians.get(other.label)
        row = Row(scenario.title, ours, other.label, "failed" if theirs is None else _shown(theirs))
        if other.target is not None:
            row = replace(row, target=f"≥ {other.target:g}")
        if own is not None and theirs is not None:
            ratio = own.per_second / theirs.per_second
            row = replace(
                row,
                ratio=f"{ratio:.2f}",
                reached=None if other.target is None else ratio >= other.target,
                cpu_ratio=f"{theirs.cpu_us / own.cpu_us:.2f}" if own.cpu_us else "",
            )
        rows.append(row)
    return rows or [Row(scenario.title, ours)]


def _probe(probe: Probe, options: Options, build: Path, notes: list[str], console: Console) -> Row:
    try:
        values = probe.take(Place(build / "bench-run"), options.quick)
    except RunFailed as error:
        notes.append(f"{probe.title}: failed: {error}")
        return Row(probe.title, "failed")
    found = quantile(values, probe.quantile)
    console.print(f"{probe.name}: {found:.1f} ms of {len(values)}", highlight=False)
    middle = quantile(values, 0.5)
    notes.append(f"{probe.title}: of {len(values)} values; median {middle:.1f} ms, highest {max(values):.1f} ms.")
    reached = None if probe.limit_ms is None else found < probe.limit_ms
    return Row(
        probe.title,
        f"{found:.1f} ms",
        target="" if probe.limit_ms is None else f"< {probe.limit_ms:g} ms",
        reached=reached,
    )


if __name__ == "__main__":
    typer.run(main)
