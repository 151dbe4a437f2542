"""`make soak-processes`: a job of processes of this machine at a steady rate for ten minutes, with a kill every 20 seconds.

Prints the memory of every kind of process after the first minute and at the end, and what is left when the job has
ended: processes, sockets and files that belong to nobody any more. Committed output is checked as it comes.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import psutil
import typer

sys.path.insert(0, str(Path(__file__).parent.parent / "real_parts"))
sys.path.insert(0, str(Path(__file__).parent))

from chaos import victims
from fault_jobs import expected
from rich.console import Console
from rich.table import Table
from scenarios import Scenario, manifest_of


def memory_by_kind(pid: int) -> dict[str, float]:
    """Resident memory in MiB of the runner and of its processes, the largest of each kind."""
    found: dict[str, float] = defaultdict(float)
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            command = " ".join(process.cmdline())
            parent = process.parent()
            if process.pid == pid:
                kind = "runner"
            elif "checkdam.coordinator" in command:
                kind = "coordinator"
            elif parent is not None and parent.pid == pid:
                kind = "supervisor"
            else:
                kind = "task"
            found[kind] = max(found[kind], process.memory_info().rss / 2**20)
        except psutil.Error:
            continue
    return dict(found)


def main(
    seconds: Annotated[int, typer.Option(help="How long.")] = 600,
    rate: Annotated[int, typer.Option(help="Records per second.")] = 5000,
    kill_every: Annotated[float, typer.Option(help="Seconds between kills.")] = 20.0,
    backend: Annotated[str, typer.Option(help="hashmap or rocksdb.")] = "hashmap",
) -> None:
    """Run the soak."""
    folder = Path(tempfile.mkdtemp(prefix="checkdam-soak-"))
    plan = Scenario(0, "ExactlyOnce", backend, 2, "tumbling")
    records = seconds * rate
    (folder / "job.yaml").write_text(
        manifest_of(plan, folder / "out", {"uri": f"file://{folder / 'storage'}"}, records, rate)
    )
    shutil.copy(Path(__file__).parent / "fault_jobs.py", folder)
    rng = random.Random(seconds)
    with (folder / "runner.log").open("wb") as log:
        runner = subprocess.Popen(
            [
                *(sys.executable, "-m", "checkdam", "run", str(folder / "job.yaml")),
                *("--run-dir", str(folder / "run"), "--no-progress"),
            ],
            stdout=log,
            stderr=log,
        )
    began = time.monotonic()
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    next_kill, kills = began + kill_every, Counter[str]()
    everybody: set[psutil.Process] = set()
    while runner.poll() is None:
        time.sleep(1)
        try:
            everybody.update(psutil.Process(runner.pid).children(recursive=True))
            now = memory_by_kind(runner.pid)
        except psutil.Error:
            break
        if not first and time.monotonic() - began > min(60, seconds / 5):
            first = now
        last = {kind: now.get(kind, last.get(kind, 0.0)) for kind in {*now, *last}}
        if time.monotonic() >= next_kill:
            next_kill += kill_every
            struck = victims(runner, rng)
            if struck is not None:
                for process in struck[1]:
                    process.send_signal(signal.SIGKILL)
                kills[struck[0]] += 1
    report(folder, runner.wait(), records, first, last, kills, everybody)


def report(
    folder: Path,
    code: int,
    records: int,
    first: dict[str, float],
    last: dict[str, float],
    kills: Counter[str],
    everybody: set[psutil.Process],
) -> None:
    """Print what was seen; exits with 1 if anything is wrong."""
    console = Console()
    table = Table(title=f"memory, MiB (kills: {dict(kills)})", title_justify="left")
    for column in ("process", "first", "last", "growth"):
        table.add_column(column, justify="right")
    for kind in sorted(last):
        table.add_row(kind, f"{first.get(kind, 0):.0f}", f"{last[kind]:.0f}", f"{last[kind] - first.get(kind, 0):+.0f}")
    console.print(table)
    rows = Counter(
        tuple(json.loads(line)) for file in (folder / "out").glob("*.json*") for line in file.read_text().splitlines()
    )
    truth = expected("tumbling", records)
    alive = [process.pid for process in everybody if process.is_running() and process.status() != "zombie"]
    # What may stay: the retained checkpoints and the journal in storage, logs and configuration in the run's folder.
    pending = [path for path in (folder / "out").rglob(".pending/**/*") if path.is_file()]
    attempts = list((folder / "run").glob("worker-*/attempt-*"))
    checkpoints = list((folder / "storage" / "default" / "fault-0").glob("chk-*"))
    problems = {
        "exit code": code,
        "rows missing": sum((truth - rows).values()),
        "rows too many": sum((rows - truth).values()),
        "processes left": len(alive),
        "pending output files left": len(pending),
        "attempt folders left": len(attempts),
        "checkpoints beyond the retained three": max(0, len(checkpoints) - 3),
    }
    for name, count in problems.items():
        console.print(f"{name}: {count}")
    console.print(f"rows: {sum(rows.values()):,}")
    if any(problems.values()):
        console.print(f"kept: {folder}")
        raise typer.Exit(1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
