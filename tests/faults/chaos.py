"""One fault run: a real job in real processes, and a seed that decides what is killed or stopped, and when.

The runner (`checkdam run`) plays the kubelet, so it is left alone; coordinator, supervisors and task processes are fair
game. Besides random moments, a run may arm a named fault point, at which the process kills itself: before the journal
entry, after it, between snapshot and acknowledgement, while restoring, and so on.

A run has *legs*, each one `checkdam run`. Some seeds have several: the run is ended, by Ctrl-C, by SIGKILL or with a savepoint,
and begun again with another number of workers, or with another state backend.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from checks import check_output, check_savepoint, check_storage, rows_in
from scenarios import HEARTBEAT_S, Scenario, manifest_of, other
from stores import Place, Servers, place_of
from wishes import SavepointWish

from checkdam.checkpoint.folders import SavepointFolder
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.opening import open_job

HERE = Path(__file__).parent
DEADLINE_S = 120.0
STOP_PATIENCE_S = 20.0
"""How long a leg that is to stop with a savepoint is waited for."""


@dataclass
class Outcome:
    """How a run ended."""

    scenario: Scenario
    problems: list[str] = field(default_factory=list)
    strikes: list[str] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0


def run_scenario(plan: Scenario, folder: Path, servers: Servers, records: int = 12_000, rate: float = 4_000) -> Outcome:
    """Run a scenario in `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcome = Outcome(plan)
    began_s = time.monotonic()
    with place_of(plan, folder, servers) as place:
        try:
            _Run(plan, folder, place, records, rate, outcome).run()
        except subprocess.TimeoutExpired:
            outcome.problems.append(f"the job did not end within {DEADLINE_S:g} s")
    outcome.seconds = time.monotonic() - began_s
    return outcome


class _Run:
    """One run; `outcome` is filled."""

    def __init__(self, plan: Scenario, folder: Path, place: Place, records: int, rate: float, outcome: Outcome) -> None:
        self._plan = plan
        self._folder = folder
        self._place = place
        self._records = records
        self._rate = rate
        self._outcome = outcome
        self._rng = random.Random(plan.seed * 7 + 1)
        self._wishing = random.Random(plan.seed * 41 + 3)
        self._left = plan.strikes
        self._legs = 0
        self._deadline_s = time.monotonic() + DEADLINE_S

    def run(self) -> None:
        """The job with all its legs, and the one that starts from its savepoint; then look at what they have left."""
        plan, folder, outcome = self._plan, self._folder, self._outcome
        self._write(folder, self._place)
        savepoint, backend, ended = "", plan.backend, True
        if plan.savepoint == "stopped":
            backend = self._leg_until_stopped(backend)
        legs = (plan.parallelism, *plan.rescales)[1 if plan.savepoint == "stopped" else 0 :]
        for parallelism in legs[:-1]:
            self._leg_until_interrupted(parallelism, backend)
        if plan.savepoint in ("kept", "restored"):
            savepoint, ended = self._leg_with_savepoint(legs[-1], backend)
        else:
            self._last_leg(folder, "--parallelism", str(legs[-1]), "--backend", backend)
        rows = rows_in(folder / "out")
        outcome.rows = sum(rows.values())
        if ended:
            outcome.problems += check_output(plan, rows, self._records)
        outcome.problems += check_storage(plan, self._place, folder / "run", ended=ended)
        if savepoint:
            outcome.problems += check_savepoint(savepoint, self._place)
        if not ended:
            self._go_on_elsewhere(savepoint)

    def _go_on_elsewhere(self, savepoint: str) -> None:
        """Another job, over the other backend, from the savepoint of one that was killed after it."""
        plan, folder, place = self._plan, self._folder / "second", self._place.below("second")
        folder.mkdir()
        self._write(folder, place)
        self._left = 1
        parallelism = str(self._wishing.randint(1, 3))
        options = ("--restore-from", savepoint, "--parallelism", parallelism, "--backend", other(plan.backend))
        self._outcome.strikes.append(f"from the savepoint with x{parallelism}")
        self._last_leg(folder, *options)
        rows = rows_in(folder / "out")
        before = rows_in(self._folder / "out")
        self._outcome.rows = sum((rows | before).values())
        self._outcome.problems += check_output(plan, rows, self._records, before)
        self._outcome.problems += check_storage(plan, place, folder / "run", ended=True)

    # Legs

    def _leg_until_interrupted(self, parallelism: int, backend: str) -> None:
        """A leg that is ended after a few seconds: with a last checkpoint, or at once."""
        with self._leg(self._folder, "--parallelism", str(parallelism), "--backend", backend) as runner:
            end_s = time.monotonic() + self._rng.uniform(2.0, 4.0)
            self._strike(runner, lambda: time.monotonic() >= end_s)
            gently = self._rng.random() < 0.5
            self._outcome.strikes.append("stopped the run" if gently else "killed the run")
            runner.send_signal(signal.SIGINT if gently else signal.SIGKILL)
            runner.wait(DEADLINE_S / 2)

    def _leg_until_stopped(self, backend: str) -> str:
        """A leg that stops with a savepoint; returns the backend to go on with, which is another one if it has."""
        plan = self._plan
        with self._leg(self._folder, "--parallelism", str(plan.parallelism), "--backend", backend) as runner:
            end_s = time.monotonic() + STOP_PATIENCE_S
            with self._wish(self._folder, stop=True):
                self._strike(runner, lambda: time.monotonic() >= end_s)
        tail = Journal(open_job(self._job_uri, options=self._place.options).storage).tail()
        if tail is None or tail.decision != "stopped" or SavepointFolder.parse(tail.checkpoint) is None:
            self._outcome.strikes.append("no savepoint stopped the job")
            return backend
        self._outcome.strikes.append(f"stopped with a savepoint, then {other(backend)}")
        return other(backend)

    def _leg_with_savepoint(self, parallelism: int, backend: str) -> tuple[str, bool]:
        """The last leg, with a savepoint in the middle; returns its uri, if it came to one, and whether the job came to its end."""
        with self._leg(self._folder, "--parallelism", str(parallelism), "--backend", backend) as runner:
            with self._wish(self._folder, stop=False) as wish:
                restored = self._plan.savepoint == "restored"
                self._strike(runner, lambda: restored and bool(wish.uri))
                if restored and wish.uri and runner.poll() is None:
                    time.sleep(self._wishing.uniform(0.0, 1.0))
                    self._outcome.strikes.append("killed the run after its savepoint")
                    return wish.uri, False
                self._await_end(runner)
            self._outcome.strikes.append("took a savepoint" if wish.uri else "no savepoint was taken")
            return wish.uri, True

    def _last_leg(self, folder: Path, *options: str) -> None:
        with self._leg(folder, *options) as runner:
            self._strike(runner)
            self._await_end(runner)

    def _await_end(self, runner: subprocess.Popen[bytes]) -> None:
        code = runner.wait(max(1.0, self._deadline_s - time.monotonic()))
        if code != 0:
            self._outcome.problems.append(f"the runner exited with {code}")

    @contextmanager
    def _leg(self, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """`checkdam run`; whatever is left of it ends with the context."""
        environment = dict(os.environ)
        if self._plan.point:
            environment["CHECKDAM_FAULT"] = f"{self._plan.point}:{self._plan.point_count}"
            environment["CHECKDAM_FAULT_MARKER"] = str(self._folder / "fault-marker")
        self._place.change_weather(self._legs)
        self._legs += 1
        command = [*(sys.executable, "-m", "checkdam", "run", str(folder / "job.yaml")), "--no-progress"]
        with (folder / "runner.log").open("ab") as log:
            runner = subprocess.Popen(
                [*command, "--run-dir", str(folder / "run"), *options], stdout=log, stderr=log, env=environment
            )
        try:
            yield runner
        finally:
            _end(runner)

    @contextmanager
    def _wish(self, folder: Path, *, stop: bool) -> Iterator[SavepointWish]:
        """Somebody asks for a savepoint of the run in `folder` for as long as the context is open."""
        wish = SavepointWish(folder / "run", self._wishing.randint(1, 2), stop=stop)
        wish.begin()
        try:
            yield wish
        finally:
            wish.withdraw()

    def _write(self, folder: Path, place: Place) -> None:
        manifest = manifest_of(self._plan, folder / "out", place.storage, self._records, self._rate)
        (folder / "job.yaml").write_text(manifest)
        shutil.copy(HERE / "fault_jobs.py", folder)

    @property
    def _job_uri(self) -> str:
        return f"{self._place.direct['uri']}/default/fault-{self._plan.seed}"

    # Striking

    def _strike(self, runner: subprocess.Popen[bytes], enough: Callable[[], bool] | None = None) -> None:
        """Kill or stop processes at moments that the seed chose, until it is enough or the job has ended; or, where nobody says
        what is enough, until the strikes are used up."""
        rng, outcome = self._rng, self._outcome
        stopped: list[tuple[float, list[psutil.Process]]] = []
        next_strike_s = time.monotonic() + rng.uniform(0.1, 2.5)
        while runner.poll() is None and time.monotonic() < self._deadline_s:
            if enough() if enough is not None else not self._left and not stopped:
                break
            now_s = time.monotonic()
            for wake_at_s, processes in list(stopped):
                if now_s >= wake_at_s:
                    _signal(processes, signal.SIGCONT)
                    stopped.remove((wake_at_s, processes))
            if self._left and now_s >= next_strike_s:
                struck = victims(runner, rng)
                if struck is not None:
                    self._left -= 1
                    name, processes = struck
                    if self._plan.stops and rng.random() < 0.6:
                        _signal(processes, signal.SIGSTOP)
                        stopped.append((now_s + HEARTBEAT_S * rng.uniform(1.2, 3.0), processes))
                        outcome.strikes.append(f"stopped {name}")
                    else:
                        _signal(processes, signal.SIGKILL)
                        outcome.strikes.append(f"killed {name}")
                next_strike_s = now_s + rng.uniform(0.05, 1.8)
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
