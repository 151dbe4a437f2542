"""One fault run: a real job in real processes, and a seed that decides what is killed or stopped, and when.

The runner (`checkdam run`) plays the kubelet, so it is left alone; coordinator, supervisors and task processes are fair
game. Besides random moments, a run may arm a named fault point, at which the process kills itself: before the journal
entry, after it, between snapshot and acknowledgement, while restoring, and so on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from fault_jobs import expected, key_of

HERE = Path(__file__).parent
MODES = ("ExactlyOnce", "AtLeastOnce", "AtMostOnce")
BACKENDS = ("hashmap", "rocksdb")
WINDOWS = ("tumbling", "sliding", "session", "process", "counts")
POINTS = (
    "",
    "before-manifest",
    "after-manifest",
    "before-journal",
    "journal-written",
    "complete-sent",
    "final-checkpoint",
    "deploying",
    "supervisor-fork",
    "worker-restored",
    "worker-ready",
    "worker-snapshot",
    "worker-ack",
)
"""Named places in coordinator, supervisor and task process; empty for none."""

HEARTBEAT_S = 1.5
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Scenario:
    """What a seed stands for."""

    seed: int
    mode: str
    backend: str
    parallelism: int
    windows: str
    point: str
    point_count: int
    strikes: int
    stops: bool

    def __str__(self) -> str:
        point = f" point={self.point}:{self.point_count}" if self.point else ""
        return (
            f"seed {self.seed}: {self.mode} {self.backend} x{self.parallelism} {self.windows}"
            f"{point} strikes={self.strikes}{' with stops' if self.stops else ''}"
        )


def scenario(seed: int) -> Scenario:
    """Modes, backends, parallelism, windows and fault points in turn by the seed; the rest at random by it."""
    rng = random.Random(seed)
    mode = MODES[seed % 3] if seed % 2 else "ExactlyOnce"
    windows = "records" if mode == "AtMostOnce" else WINDOWS[(seed // 2) % len(WINDOWS)]
    if mode == "AtLeastOnce" and windows in ("process", "counts"):
        windows = "tumbling"
    return Scenario(
        seed=seed,
        mode=mode,
        backend=BACKENDS[(seed // 3) % 2],
        parallelism=1 + seed % 3,
        windows=windows,
        point=POINTS[seed % len(POINTS)],
        point_count=rng.choice((1, 1, 2, 3, 5)),
        strikes=rng.randint(1, 4),
        stops=rng.random() < 0.35,
    )


@dataclass
class Outcome:
    """How a run ended."""

    scenario: Scenario
    problems: list[str] = field(default_factory=list)
    strikes: list[str] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0


def run_scenario(plan: Scenario, folder: Path, records: int = 12_000, rate: float = 4_000) -> Outcome:
    """Run a scenario in `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcome = Outcome(plan)
    began = time.monotonic()
    manifest = folder / "job.yaml"
    manifest.write_text(manifest_of(plan, folder, records, rate))
    shutil.copy(HERE / "fault_jobs.py", folder)
    environment = dict(os.environ)
    if plan.point:
        environment["CHECKDAM_FAULT"] = f"{plan.point}:{plan.point_count}"
        environment["CHECKDAM_FAULT_MARKER"] = str(folder / "fault-marker")
    run_dir = folder / "run"
    with (folder / "runner.log").open("wb") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "checkdam", "run", str(manifest), "--run-dir", str(run_dir), "--no-progress"],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        _strike(plan, runner, outcome)
        code = runner.wait(max(1.0, DEADLINE_S - (time.monotonic() - began)))
        if code != 0:
            outcome.problems.append(f"the runner exited with {code}")
    except subprocess.TimeoutExpired:
        outcome.problems.append(f"the job did not end within {DEADLINE_S:g} s")
    finally:
        _end(runner)
    outcome.problems += _check(plan, folder / "out", records, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def manifest_of(plan: Scenario, folder: Path, records: int, rate: float) -> str:
    """The StreamJob of a run, as YAML."""
    args = {
        "windows": plan.windows,
        "records": records,
        "splits": plan.parallelism + 1,
        "rate": rate,
        "out": str(folder / "out"),
    }
    manifest = {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": f"fault-{plan.seed}"},
        "spec": {
            "program": {"entrypoint": "fault_jobs:build", "args": args},
            "parallelism": plan.parallelism,
            "stateBackend": {"type": plan.backend},
            "checkpoint": {
                "interval": "250ms",
                "mode": plan.mode,
                "tolerableFailures": 3,
                "timeout": "5s",
                "storage": {"uri": f"file://{folder / 'storage'}"},
            },
            "restart": {"strategy": "ExponentialDelay", "initialDelay": "50ms", "maxDelay": "500ms"},
            "runtime": {"heartbeatTimeout": f"{int(HEARTBEAT_S * 1000)}ms", "batchSize": 256},
        },
    }
    return yaml.safe_dump(manifest)


# Striking


def _strike(plan: Scenario, runner: subprocess.Popen[bytes], outcome: Outcome) -> None:
    """Kill or stop processes at moments that the seed chose, until the strikes are used up or the job has ended."""
    rng = random.Random(plan.seed * 7 + 1)
    stopped: list[tuple[float, list[psutil.Process]]] = []
    next_strike = time.monotonic() + rng.uniform(0.1, 2.5)
    left = plan.strikes
    while runner.poll() is None and (left or stopped):
        now = time.monotonic()
        for wake_at, processes in list(stopped):
            if now >= wake_at:
                _signal(processes, signal.SIGCONT)
                stopped.remove((wake_at, processes))
        if left and now >= next_strike:
            struck = victims(runner, rng)
            if struck is not None:
                left -= 1
                name, processes = struck
                if plan.stops and rng.random() < 0.6:
                    _signal(processes, signal.SIGSTOP)
                    stopped.append((now + HEARTBEAT_S * rng.uniform(1.2, 3.0), processes))
                    outcome.strikes.append(f"stopped {name}")
                else:
                    _signal(processes, signal.SIGKILL)
                    outcome.strikes.append(f"killed {name}")
            next_strike = now + rng.uniform(0.05, 1.8)
        time.sleep(0.01)
    for _, processes in stopped:
        _signal(processes, signal.SIGCONT)


def victims(runner: subprocess.Popen[bytes], rng: random.Random) -> tuple[str, list[psutil.Process]] | None:
    """Somebody to strike: a kind of process, and one of it (a worker is a supervisor with its task process)."""
    kinds: dict[str, list[list[psutil.Process]]] = {"coordinator": [], "supervisor": [], "task": [], "worker": []}
    for process in _children(runner.pid):
        try:
            command = " ".join(process.cmdline())
            if "checkdam.coordinator" in command:
                kinds["coordinator"].append([process])
            elif "checkdam.worker" in command:
                tasks = process.children()
                kinds["supervisor"].append([process])
                kinds["worker"].append([process, *tasks])
                kinds["task"] += [[task] for task in tasks]
        except psutil.Error:
            continue
    there = [name for name, found in kinds.items() if found]
    if not there:
        return None
    name = rng.choice(there)
    return name, rng.choice(kinds[name])


def _children(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children()
    except psutil.Error:
        return


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def _end(runner: subprocess.Popen[bytes]) -> None:
    """Whatever is left of the job ends; only processes below the runner are touched."""
    try:
        tree = psutil.Process(runner.pid).children(recursive=True)
    except psutil.Error:
        tree = []
    runner.kill()
    runner.wait()
    _signal(tree, signal.SIGKILL)
    psutil.wait_procs(tree, timeout=10)


# Checking


def _check(plan: Scenario, out: Path, records: int, outcome: Outcome) -> list[str]:
    rows = Counter(
        tuple(json.loads(line)) for file in out.glob("*.json*") for line in file.read_text().splitlines() if line
    )
    outcome.rows = sum(rows.values())
    if plan.windows == "process":
        return _check_batches(rows, records)
    if plan.windows == "counts":
        return _check_counts(rows, records)
    truth = expected(plan.windows, records)
    if plan.mode == "AtMostOnce":
        twice = [row for row, count in rows.items() if count > 1]
        unknown = [row for row in rows if row not in truth]
        return [f"records twice: {twice[:5]}"] * bool(twice) + [f"unknown: {unknown[:5]}"] * bool(unknown)
    if plan.mode == "AtLeastOnce":
        return _check_at_least(rows, truth)
    missing, surplus = truth - rows, rows - truth
    problems = []
    if missing:
        problems.append(f"{sum(missing.values())} rows are missing, such as {sorted(missing)[:3]}")
    if surplus:
        problems.append(f"{sum(surplus.values())} rows are too many, such as {sorted(surplus)[:3]}")
    return problems


def _check_at_least(rows: Counter[tuple[Any, ...]], truth: Counter[tuple[Any, ...]]) -> list[str]:
    """Per key and window the largest count and total must be at least the true ones."""
    best: dict[tuple[Any, ...], tuple[int, int]] = {}
    for key, start, end, n, total in rows:
        before = best.get((key, start), (0, 0))
        best[key, start] = (max(before[0], n), max(before[1], total))
        del end
    low = [row for row in truth if best.get((row[0], row[1]), (0, 0)) < (row[3], row[4])]
    return [f"{len(low)} windows have less than the true value, such as {sorted(low)[:3]}"] if low else []


def _check_counts(rows: Counter[tuple[Any, ...]], records: int) -> list[str]:
    """Every key's count ends at the true one, and no update came twice."""
    truth = Counter(key_of(index) for index in range(records))
    last = {key: max(n for other, n in rows if other == key) for key, _ in rows}
    twice = [row for row, count in rows.items() if count > 1]
    problems = [] if last == truth else [f"the counts end at {sorted(last.items())}, not {sorted(truth.items())}"]
    return problems + [f"updates twice: {twice[:3]}"] * bool(twice)


def _check_batches(rows: Counter[tuple[Any, ...]], records: int) -> list[str]:
    """Every record is in exactly one batch of the process function: the sizes add up, and no batch came twice."""
    total = sum(row[3] * count for row, count in rows.items())
    twice = [row for row, count in rows.items() if count > 1]
    problems = [] if total == records else [f"the batches hold {total} records, not {records}"]
    return problems + [f"batches twice: {twice[:3]}"] * bool(twice)
