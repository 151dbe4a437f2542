"""Savepoints of jobs that run in real processes, taken, restored elsewhere, stopped with and drained for."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_runs import FAST, JobFolder, processes_below, wait_until


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFolder:
    # A registry of this test's own: jobs of other tests have the same id.
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    path = tmp_path / "first"
    path.mkdir()
    return JobFolder(path)


def savepoint(folder: JobFolder, *options: str, target: str = "job.yaml") -> dict[str, Any]:
    """What `checkdam savepoint TARGET --json` says."""
    command = [sys.executable, "-m", "checkdam", "savepoint", target, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.path, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def finals(rows: list[list[int]]) -> dict[int, int]:
    """The greatest sum of each key."""
    found: dict[int, int] = {}
    for key, total in rows:
        found[key] = max(found.get(key, 0), total)
    return found


def sums(count: int) -> dict[int, int]:
    return {key: sum(number for number in range(count) if number % 5 == key) for key in range(5)}


def test_a_savepoint_leaves_its_job_alone_and_starts_another_one_over_another_backend(
    folder: JobFolder, tmp_path: Path
) -> None:
    folder.write("squares", count=20000, rate=1500)
    other = JobFolder(tmp_path / "second", {"allowNonRestoredState": True, "stateBackend": {"type": "rocksdb"}})
    other.path.mkdir()
    other.write("squares", count=20000)
    first = folder.start()
    folder.wait_for_checkpoint(2)

    taken = savepoint(folder, "--to", str(tmp_path / "kept"), target="job")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    finished, output = folder.run(*FAST)
    # Nothing of the first job is needed any more.
    (folder.path / "state").rename(tmp_path / "gone")
    (folder.path / "out").rename(tmp_path / "moved")
    code, said = other.run("--restore-from", taken["copy"], "--parallelism", "3")

    assert finished == 0, output
    assert code == 0, said
    before, after = other.rows("../moved"), other.rows()
    assert finals(before) == finals(after) == sums(20000)
    # Number 0 adds nothing to a sum that began without it; all others are counted once.
    assert len(before) - len({tuple(row) for row in before}) <= ([0, 0] not in before)
    # It goes on from where the savepoint was: not from the beginning.
    assert 0 < len(after) < len(before)
    assert min(total for _, total in after) > min(total for _, total in before)


def test_a_job_stopped_with_a_savepoint_goes_on_exactly_there_though_its_output_was_moved(folder: JobFolder) -> None:
    folder.write("records", count=20000, rate=1500)
    first = folder.start()
    folder.wait_for_checkpoint(2)

    taken = savepoint(folder, "--stop")
    output, _ = first.communicate(timeout=30)
    (folder.path / "out").rename(folder.path / "moved")
    second = folder.start(*FAST)
    wait_until(
        lambda: (folder.ask("/v1/job") or {}).get("state", "STARTING") != "STARTING" or second.poll() is not None
    )
    for process in processes_below(second.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may be ending by itself just now
            process.kill()
    second.communicate(timeout=60)

    assert (first.returncode, second.returncode) == (0, 0)
    assert taken["uri"].rsplit("/", 1)[-1] in output
    assert 0 < len(folder.rows("moved")) < 20000
    assert sorted(folder.rows() + folder.rows("moved")) == list(range(20000))
    assert Path(taken["uri"].removeprefix("file://"), "_metadata").exists()


def test_a_stop_with_a_savepoint_stands_though_the_coordinator_dies_right_after_it(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.spec["checkpoint"] = {"interval": "1h", "storage": {"uri": "file://./state"}}
    folder.write("records", count=20000, rate=1500)
    monkeypatch.setenv("CHECKDAM_FAULT", "complete-sent")
    monkeypatch.setenv("CHECKDAM_FAULT_MARKER", str(folder.path / "struck"))
    first = folder.start()
    wait_until(lambda: (folder.ask("/v1/job") or {}).get("state") == "RUNNING")

    command = [sys.executable, "-m", "checkdam", "savepoint", "job.yaml", "--stop", "--no-wait"]
    subprocess.run(command, capture_output=True, cwd=folder.path, timeout=60, check=False)
    output, _ = first.communicate(timeout=60)

    assert (folder.path / "struck").exists()
    assert first.returncode == 0, output
    assert "job stopped" in output
    assert len(folder.rows()) < 20000
    code, output = folder.run(*FAST)
    assert code == 0, output
    assert sorted(folder.rows()) == list(range(20000))


def test_a_drained_job_has_counted_every_record_and_goes_on_when_its_savepoint_is_named(folder: JobFolder) -> None:
    folder.write("windows", count=20000, rate=1500)
    first = folder.start("--backend", "rocksdb")
    folder.wait_for_checkpoint(2)

    taken = savepoint(folder, "--stop", "--drain")
    said, _ = first.communicate(timeout=30)
    drained = folder.rows()
    code, output = folder.run("--restore-from", taken["uri"], *FAST)

    assert first.returncode == 0
    assert "--restore-from" in said
    assert 0 < sum(count for _, _, count in drained) < 20000
    assert code == 0, output
    assert "late" not in output
    assert sum(count for _, _, count in folder.rows()) == 20000
    # A window of 100 that was open when the job was drained has fired twice, each time with what had come since.
    was_open = sum(count for _, _, count in drained) % 100 > 0
    assert (len({(key, start) for key, start, _ in folder.rows()}) < len(folder.rows())) == was_open
