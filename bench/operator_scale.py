"""`make bench-operator`: a thousand jobs on a real API server, beside loops that create as many objects and decide nothing.

The API server is real; nodes and coordinators are played by another process. For each limit of writes there is a new control plane, on which the loops
and the operator take turns. CPU times are those of the operator's process alone. A full run writes `bench/operator-results.md`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / folder) for folder in ("e2e", "tests/real_parts", "tests/kubernetes")
)

from suite.operator_bare import AT_ONCE, all_objects, pods_alone
from suite.operator_run import new_operator, run_operator
from suite.operator_table import LIFTED_PER_S, Measured
from suite.operator_world import world
from suite.report import machine, show, write_markdown

from checkdam_operator.settings import Settings
from cluster.control_plane import ControlPlane, run_control_plane

BENCH = Path(__file__).resolve().parent
BUILD = BENCH.parent / "build"
CRDS = sorted((BENCH.parent / "crds").glob("*.yaml"))
WORKERS = 2


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        settle_s: From when all jobs are Ready until they are called at rest: by then each has completed a checkpoint.
        rest_s: How long the operator is watched then.
        bare: Whether the loops beside it are measured too.
    """

    jobs: int
    runs: int
    settle_s: float
    rest_s: float
    bare: bool


def main(
    jobs: Annotated[int, typer.Option(min=1, help="How many StreamJobs.")] = 1000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each measurement; the median counts.")] = 1,
    rest: Annotated[float, typer.Option(min=1, help="How long the operator is watched at rest, in seconds.")] = 60.0,
    writes: Annotated[
        list[float] | None, typer.Option(help="Writes a second that the operator may send. Repeatable.")
    ] = None,
    bare: Annotated[bool, typer.Option(help="Measure the loops beside it too.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="A few jobs, once: whether it works, not how fast.")] = False,
    build: Annotated[Path, typer.Option(help="Where runs are kept.")] = BUILD,
) -> None:
    """Measure, and print one table."""
    # Whoever ends a run in the middle must not leave its processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if Console().is_terminal else 160)
    notes = [machine({})]
    plan = Plan(5, 1, 1.0, 1.0, bare) if quick else Plan(jobs, runs, 15.0, rest, bare)
    limits = [LIFTED_PER_S] if quick else writes or [Settings().writes_per_second, LIFTED_PER_S]
    measured = [Measured(limit, plan.jobs) for limit in limits]
    began = time.monotonic()
    loads = _measure(measured, plan, build / "bench-operator", console)
    rows = [row for limit in measured for row in limit.rows()]
    notes += _notes(plan)
    notes += [note for limit in measured for note in limit.notes()]
    notes.append(
        f"Load of the machine over the last 15 minutes, at the end of each run: {', '.join(f'{load:.1f}' for load in loads)}. "
        f"The whole took {time.monotonic() - began:.0f} s."
    )
    if quick:
        notes.append("A quick run: the figures show that it works and say nothing about speed.")
    show(rows, notes, console)
    if bare and not quick and not writes:
        write_markdown(rows, notes, BENCH / "operator-results.md", "make bench-operator")


def _measure(measured: list[Measured], plan: Plan, folder: Path, console: Console) -> list[float]:
    """All runs; returns the load of the machine at the end of each."""
    loads = []
    for number in range(plan.runs):
        for limit in measured:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with run_control_plane(folder, *map(str, CRDS)) as plane, world(plane, WORKERS):
                asyncio.run(_round(limit, plan, plane, folder, console))
            loads.append(os.getloadavg()[2])
            console.print(f"run {number + 1}, {limit.limit}: done", highlight=False)
    return loads


async def _round(limit: Measured, plan: Plan, plane: ControlPlane, folder: Path, console: Console) -> None:
    """One run of everything with one limit."""
    loops = (("pods", pods_alone, limit.pods), ("objects", all_objects, limit.objects)) if plan.bare else ()
    for name, loop, found in loops:
        namespace = await asyncio.to_thread(plane.new_namespace, f"bare-{name}")
        found.append(await loop(plane, namespace, plan.jobs, WORKERS, limit.writes_per_s))
        console.print(f"bare loop, {limit.limit}: {found[-1]}", highlight=False)
    namespace = await asyncio.to_thread(plane.new_namespace, "jobs")
    operator = new_operator(plane, namespace, folder, limit.writes_per_s)
    run = await run_operator(operator, plane, namespace, plan.jobs, WORKERS, plan.settle_s, plan.rest_s)
    limit.operator.append(run)
    console.print(
        f"operator, {limit.limit}: Ready after {run.ramp.wall_s:.1f} s, {run.ramp.cpu_s:.1f} s of CPU; "
        f"at rest {run.rest.cpu_s / run.rest.wall_s:.1%} of a core",
        highlight=False,
    )


def _notes(plan: Plan) -> list[str]:
    return [
        f"{plan.jobs:,} StreamJobs of {WORKERS} workers, created at once; a real kube-apiserver and etcd on this machine, nodes and "
        f"coordinators played by one process; {AT_ONCE} jobs looked at at once, the operator's default, and as many requests at once in the "
        f"loops; medians of {plan.runs}.",
        "The loops send what the operator sends for a job, by its client and within the same limit: its pods, or all its objects. "
        "They read nothing, decide nothing and write no status. All times end when the last pod is Running, or the last job Ready.",
        f"At rest: {plan.rest_s:g} s, begun {plan.settle_s:g} s after the last job was Ready; each job has a checkpoint each 10 s, which the "
        "operator asks for; one scrape of its metrics is included.",
    ]


if __name__ == "__main__":
    typer.run(main)
