"""A job that is stopped and goes on with another number of workers, in real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from job_runs import FAST, SLOW, JobFolder, processes_below

NUMBERS = 12_000


@pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])
def test_a_job_goes_on_with_three_workers_and_then_with_one(tmp_path: Path, backend: str) -> None:
    folder = JobFolder(tmp_path, {"stateBackend": {"type": backend}})
    folder.write("windows", count=NUMBERS, rate=SLOW)

    two = folder.start()
    folder.wait_for_checkpoint(2)
    kill_a_worker(two.pid)
    folder.wait_for_checkpoint(4)
    two.send_signal(signal.SIGINT)
    said, _ = two.communicate(timeout=30)
    assert two.returncode == 0, said
    stopped_with = max(int(path.name.split("-")[1]) for path in (tmp_path / "state/default/job").glob("chk-*"))

    three = folder.start("--parallelism", "3")
    folder.wait_for_checkpoint(stopped_with + 2)
    three.kill()
    three.communicate(timeout=30)

    code, said = folder.run("--parallelism", "1", *FAST)
    assert code == 0, said
    assert sorted(folder.rows()) == sorted(
        [key, start, sum(number % 5 == key for number in range(start, start + 100))]
        for start in range(0, NUMBERS, 100)
        for key in range(5)
    )


def kill_a_worker(runner: int) -> None:
    """SIGKILL for a worker's process; the job goes on by itself."""
    worker = next(p for p in processes_below(runner) if "checkdam.worker" in " ".join(p.cmdline()))
    os.kill(worker.pid, signal.SIGKILL)
