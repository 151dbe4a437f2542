"""Starts a program of one of the systems on a data set and waits for its end.

All run on this machine with two workers: Checkdam by `checkdam run` (a coordinator and two worker processes), Flink as a
MiniCluster with two slots in one JVM, Bytewax as two processes of one worker each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from suite.cpu import CpuWatch
from suite.data import OUT_OF_ORDER_MS
from suite.peers import PROGRAMS, Peers
from suite.scenarios import Contestant, Scenario
from suite.stamps import read_stamps, steady_state

WORKERS: Final = 2
ROCKSDB_BYTES: Final = 256 << 20
"""Memory for RocksDB in each worker: Checkdam's default, and as much for each of Flink's slots."""

RUN_TIMEOUT_S: Final = 600.0
STOP_TIMEOUT_S: Final = 30.0
JVM_OPTIONS: Final = (
    "-Xmx4g",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
)


class RunFailed(Exception):
    """A program did not end well; holds the end of its output."""


@dataclass(frozen=True)
class Place:
    """Where a run keeps what it writes; emptied before each run.

    Attributes:
        folder: For everything.
        storage: Uri of the checkpoint storage, where that is not to be in the folder.
    """

    folder: Path
    storage: str = ""

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    @property
    def stamps(self) -> Path:
        """The file that progress is written to."""
        return self.folder / "stamps"

    @property
    def checkpoints(self) -> str:
        """Uri of the checkpoint storage."""
        return self.storage or (self.folder / "checkpoints").as_uri()


@dataclass(frozen=True)
class Figure:
    """What one run showed.

    Attributes:
        per_second: Records a second, all workers together.
        cpu_us: Processor time that a record took, of all processes together, in microseconds.
    """

    per_second: float
    cpu_us: float


def measure(scenario: Scenario, contestant: Contestant, data: Path, lines: int, place: Place, peers: Peers) -> Figure:
    """Run a program once.

    Args:
        scenario: What to run.
        contestant: Which system, and how.
        data: The data set's folder.
        lines: How many lines it has.
        place: For what the run writes.
        peers: Where the systems are.

    Raises:
        RunFailed: It failed, or took longer than `RUN_TIMEOUT_S`.
    """
    process = _start_program(scenario, contestant, data, place, peers)
    with CpuWatch(process.pid) as watch:
        _wait(process, place)
    try:
        steady = steady_state(read_stamps(place.stamps), lines)
    except ValueError as error:
        raise RunFailed(str(error)) from error
    cpu_s = watch.seconds_between(steady.start_ms, steady.end_ms)
    per_line = scenario.records_per_line
    return Figure(steady.lines_per_second * per_line, cpu_s / (steady.lines * per_line) * 1e6)


def _start_program(
    scenario: Scenario, contestant: Contestant, data: Path, place: Place, peers: Peers
) -> subprocess.Popen[bytes]:
    program = contestant.program or scenario.program
    if contestant.system == "flink":
        return _start_flink(scenario, contestant, data, place, peers)
    if contestant.system == "bytewax":
        return _start_bytewax(program, data, place, peers)
    settings = {
        "stateBackend.type": scenario.backend,
        "checkpoint.interval": contestant.interval,
        # A failure must be seen, not repaired.
        "restart.strategy": "Never",
    }
    return _start_checkdam(place, program, {"data": str(data)}, settings, WORKERS)


class CheckdamRun:
    """A job of `programs/checkdam_jobs.py` under `checkdam run`; ended when the context is left.

    Args:
        place: For what the run writes.
        program: The entrypoint.
        args: For the program; the stamps file is added.
        settings: Fields below `spec`.
        workers: Its parallelism.
    """

    def __init__(
        self, place: Place, program: str, args: Mapping[str, Any], settings: Mapping[str, str], workers: int = WORKERS
    ) -> None:
        self._place = place
        self._run_dir = place.folder / "run"
        self._process = _start_checkdam(place, program, args, settings, workers)

    def __enter__(self) -> CheckdamRun:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)

    def get(self, path: str) -> Any:
        """The coordinator's answer to `GET path`; `None` while it cannot be reached.

        Raises:
            RunFailed: The job has ended.
        """
        if self._process.poll() is not None:
            raise RunFailed(_tail(self._place))
        try:
            found = json.loads((self._run_dir / "coordinator.json").read_bytes())
            token = (self._run_dir / "token").read_text()
            request = urllib.request.Request(
                f"http://{found['http_host']}:{found['http_port']}{path}", headers={"Authorization": f"Bearer {token}"}
            )
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def until_running(self, timeout_s: float = 60.0) -> None:
        """Wait until the first attempt reads.

        Raises:
            RunFailed: It does not.
        """
        deadline = time.monotonic() + timeout_s
        while (self.get("/v1/job") or {}).get("state") != "RUNNING":
            if time.monotonic() > deadline:
                raise RunFailed(f"the job does not run after {timeout_s:g} s: {_tail(self._place)}")
            time.sleep(0.1)


def _start_checkdam(
    place: Place, program: str, args: Mapping[str, Any], settings: Mapping[str, str], workers: int
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "checkdam", "run", f"{PROGRAMS / 'checkdam_jobs.py'}:{program}"]
    command += ["--fresh", "--no-progress", "--parallelism", str(workers), "--run-dir", str(place.folder / "run")]
    command += ["--storage", place.checkpoints]
    for name, value in {**args, "stamps": str(place.stamps), "workers": workers}.items():
        command += ["--arg", f"{name}={value}"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    return _start(command, place)


def _start_flink(
    scenario: Scenario, contestant: Contestant, data: Path, place: Place, peers: Peers
) -> subprocess.Popen[bytes]:
    settings = {
        "state.backend.type": scenario.backend,
        "taskmanager.memory.managed.size": f"{WORKERS * ROCKSDB_BYTES}b",
        "execution.checkpointing.interval": contestant.interval,
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.dir": place.checkpoints,
        "execution.checkpointing.storage": "filesystem",
        "io.tmp.dirs": str(place.folder),
    }
    arguments = [scenario.program, str(data), str(place.stamps), str(OUT_OF_ORDER_MS)]
    return _start(
        [
            "java",
            *JVM_OPTIONS,
            "-cp",
            peers.flink_class_path,
            "FlinkJobs",
            *arguments,
            *(f"{name}={value}" for name, value in settings.items()),
        ],
        place,
    )


def _start_bytewax(program: str, data: Path, place: Place, peers: Peers) -> subprocess.Popen[bytes]:
    flow = f"bytewax_flows:{program}({str(data)!r}, {str(place.stamps)!r})"
    return _start([str(peers.bytewax_python), "-m", "bytewax.testing", "-p", str(WORKERS), flow], place)


def _start(command: list[str], place: Place) -> subprocess.Popen[bytes]:
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(PROGRAMS), str(PROGRAMS.parent), *([given] if given else [])])
    with (place.folder / "output").open("wb") as output:
        # A session of its own, so that all its processes can be ended together.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=place.folder,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], place: Place) -> None:
    try:
        code = process.wait(RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the program did not end within {RUN_TIMEOUT_S:g} s") from None
    finally:
        _end(process)
    if code:
        raise RunFailed(f"exit code {code}: {_tail(place)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _tail(place: Place) -> str:
    lines = (place.folder / "output").read_text(errors="replace").splitlines()
    return " | ".join(lines[-5:]) or "no output"
