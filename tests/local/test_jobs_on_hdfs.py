"""`checkdam run` with checkpoints in a real HDFS, and what the other commands see there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from job_runs import FAST, SLOW, JobFolder, processes_below


def test_a_killed_job_goes_on_from_its_checkpoint_in_hdfs(tmp_path: Path, hdfs_uri: str) -> None:
    folder = JobFolder(tmp_path, {"stateBackend": {"type": "rocksdb"}})
    folder.write("squares", count=6000, rate=SLOW)
    first = folder.start("--storage", hdfs_uri)
    folder.wait_for_checkpoint(2)
    processes = list(processes_below(first.pid))

    first.kill()
    first.communicate(timeout=30)
    _, alive = psutil.wait_procs(processes, timeout=10)
    code, output = folder.run("--storage", hdfs_uri, *FAST)

    assert alive == []
    assert code == 0, output
    assert "going on from" in output
    sums = {key: sum(number for number in range(6000) if number % 5 == key) for key in range(5)}
    assert {key: max(total for at, total in folder.rows() if at == key) for key in sums} == sums
    verified = checkpoints("verify", f"{hdfs_uri}/default/job")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "chk-" in checkpoints("list", f"{hdfs_uri}/default/job").stdout


def test_an_hdfs_that_is_not_there_is_said_before_anything_starts(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.write("squares")

    code, output = folder.run("--storage", "hdfs://127.0.0.1:1/checkpoints")

    assert code != 0
    assert "127.0.0.1:1 cannot be reached: Connection refused" in output
    assert "9870 by default" in output
    assert not (tmp_path / "run" / "logs").exists()


def checkpoints(command: str, uri: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "checkdam", "checkpoints", command, uri]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)
