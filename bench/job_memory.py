"""`make bench-memory`, its second half: a whole job whose RocksDB state is many times the memory that it is given.

One worker takes in 5 GiB at `memory: 256Mi`, in values that do not compress, with a checkpoint each ten seconds, and then changes
values all over for a while. What is printed is the highest resident memory of its task process, by the kernel's own account,
beside that of the same job with hardly any state (the base) plus the bound.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from suite.systems import CheckdamRun, Place, RunFailed

BUILD = Path(__file__).resolve().parent.parent / "build"
MEMORY_MIB = 256
FEW_KEYS = 1000
AFTERWARDS_S = 30.0
POLL_S = 0.5
TIMEOUT_S = 900.0


def peak_mib(place: Place, keys: int, afterwards_s: float) -> float:
    """The highest resident memory of the task process of a job with so many keys, in MiB."""
    settings = {"stateBackend.type": "rocksdb", "stateBackend.rocksdb.memory": f"{MEMORY_MIB}Mi"}
    with CheckdamRun(place, "kept_bytes", {"keys": keys}, settings, workers=1) as run:
        run.until_running()
        deadline = time.monotonic() + TIMEOUT_S
        while _taken_in(run) < keys:
            if time.monotonic() > deadline:
                raise RunFailed(f"{keys} keys were not taken in within {TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        time.sleep(afterwards_s)
        job, (worker,) = run.get("/v1/job"), run.get("/v1/workers")
        if job["restarts"]:
            raise RunFailed(f"the job was restarted: {job['lastFailure']}")
        return _high_water_kib(worker["taskPid"]) / 1024


def _taken_in(run: CheckdamRun) -> int:
    return sum(operator["recordsIn"] for operator in run.get("/v1/operators") or () if operator["id"] == "keep")


def _high_water_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main(gib: Annotated[float, typer.Option(help="How much state, in GiB.")] = 5.0) -> None:
    """Measure, and print one line; the exit code is 1 if the bound was not kept."""
    place = BUILD / "bench-memory"
    base = peak_mib(Place(place), FEW_KEYS, 5.0)
    peak = peak_mib(Place(place), int(gib * 2**20), AFTERWARDS_S)
    shutil.rmtree(place)
    kept = peak <= base + MEMORY_MIB
    print(
        f"{gib:g} GiB of state in a job with memory: {MEMORY_MIB}Mi: at most {peak:.0f} MiB resident, the base is {base:.0f} MiB: "
        f"{(peak - base) / MEMORY_MIB:.0%} of the bound, which is {'kept' if kept else 'NOT kept'}"
    )
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    typer.run(main)
