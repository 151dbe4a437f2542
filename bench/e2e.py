"""`make bench-e2e`: how long a job on a real cluster takes to begin, to go on after failures, and to change, beside a bare Python pod there.

The cluster is that of `make e2e`, brought up and taken down as it is there; nobody else may use it meanwhile. What is measured, and by which clock, is in
`suite/e2e_figures.py`. A full run writes `bench/e2e-results.md`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / folder) for folder in ("e2e", "tests/real_parts", "tests/examples")
)

from suite.e2e_figures import INTERVAL_S, LARGE_INTERVAL_S, QUIET_S, RATE, Figures, measure_round
from suite.report import machine, show, write_markdown

from cluster.choice import chosen_cluster
from cluster.cluster import reclaim_volumes
from installation import install_operator
from turns import brought_up, turn

RESULTS = Path(__file__).resolve().parent / "e2e-results.md"


def main(
    runs: Annotated[int, typer.Option(min=1, help="Rounds of all measurements; the medians count.")] = 5,
    state: Annotated[int, typer.Option(min=1, help="State that is rescaled and stored, in MB.")] = 100,
    quick: Annotated[bool, typer.Option("--quick", help="Little state, once: whether it works, not how fast.")] = False,
) -> None:
    """Measure, and print one table."""
    # Whoever ends a run in the middle must not leave a cluster behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if Console().is_terminal else 160)
    runs, state = (1, 10) if quick else (runs, state)
    figures, loads, began_s = Figures(), [os.getloadavg()[0]], time.monotonic()
    notes = [machine({})]

    def say(text: str) -> None:
        console.print(text, highlight=False)

    cluster = chosen_cluster()
    with brought_up(cluster, say), turn(cluster.volumes.parent, alone=True):
        install_operator(cluster)
        for number in range(1, runs + 1):
            say(f"round {number}")
            reclaim_volumes(cluster)
            measure_round(cluster, figures, state * 10**6, say)
            loads.append(os.getloadavg()[0])
    notes += _notes(runs, state)
    notes += [f"Round by round: {'; '.join(figures.values())}."]
    notes += [f"Load of the machine before and after each round: {', '.join(f'{load:.1f}' for load in loads)}."]
    notes += [f"The whole took {time.monotonic() - began_s:.0f} s."]
    rows = figures.rows()
    show(rows, notes, console)
    if not quick:
        write_markdown(rows, notes, RESULTS, "make bench-e2e")


def _notes(runs: int, state_mb: int) -> list[str]:
    return [
        f"Two nodes, two workers, {RATE:,} records a second; medians of {runs}. Each failure comes {QUIET_S:g} s or more after what was before, "
        "and is the first in a row.",
        "The output is that of a two-phase sink of files, so each figure ends when a record that was not in the output before is there for good, and "
        f"has in it the time until the next checkpoint: one each {INTERVAL_S * 1000:.0f} ms, to a volume; where there are {state_mb} MB of state, one each "
        f"{LARGE_INTERVAL_S * 1000:.0f} ms, to S3, of what has changed.",
        f"{state_mb} MB of state: RocksDB, incompressible. The checkpoint of everything was taken while the job ran; the server is versitygw on a node of the "
        "same machine. After a rescale the first checkpoint, and so the first output, waits until everything was uploaded once.",
        "A bare pod is of the same image, is only asked to sleep, and counts as Ready when its container has started, since it has no probe.",
        "The operator was killed with all of its pods at once, by force.",
    ]


if __name__ == "__main__":
    typer.run(main)
