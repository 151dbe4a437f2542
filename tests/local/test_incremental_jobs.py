"""A job with RocksDB state, in real processes: what its checkpoints upload, and what its restarts fetch."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_runs import JobFolder, processes_below, wait_until

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.store import CheckpointStore

KEYS = 20_000
STATE_BYTES = KEYS * 1_000


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(
        tmp_path,
        {
            "stateBackend": {"type": "rocksdb", "rocksdb": {"memory": "4Mi"}},
            "runtime": {"batchSize": 64},
            "restart": {"strategy": "FixedDelay", "delay": "10ms", "attempts": 10},
        },
    )


def completed(folder: JobFolder) -> list[dict[str, Any]]:
    records = folder.ask("/v1/checkpoints") or []
    return [record for record in records if record["status"] == "COMPLETED" and record["cause"] == "interval"]


def has_built_on_the_last(folder: JobFolder) -> bool:
    """Whether a checkpoint has uploaded less than a tenth of what it names."""
    return any(
        record["sizeBytes"] > STATE_BYTES and record["uploadedBytes"] * 10 < record["sizeBytes"]
        for record in completed(folder)
    )


def fetched_bytes(folder: JobFolder, attempt: int) -> int:
    """What attempt number `attempt` of this coordinator fetched, as soon as it runs."""
    found: list[dict[str, Any]] = []

    def runs() -> bool:
        found[:] = [
            view
            for view in folder.ask("/v1/attempts") or []
            if view["id"].endswith(f".{attempt}") and view["state"] == "RUNNING"
        ]
        return bool(found)

    wait_until(runs)
    assert found[0]["restoredBytes"] > STATE_BYTES
    fetched: int = found[0]["fetchedBytes"]
    return fetched


def test_checkpoints_upload_what_has_changed_and_restarts_fetch_what_is_gone(folder: JobFolder) -> None:
    folder.write("profiles", keys=KEYS)
    run = folder.start()
    wait_until(lambda: has_built_on_the_last(folder))

    workers = folder.ask("/v1/workers")
    os.kill(workers[0]["taskPid"], signal.SIGKILL)
    assert fetched_bytes(folder, 2) == 0, "a new task process has the files of the old one"
    os.kill(workers[1]["pid"], signal.SIGKILL)
    assert fetched_bytes(folder, 3) == 0, "so has a new supervisor's"
    wait_until(lambda: any(record["attempt"].endswith(".3") for record in completed(folder)))

    processes = list(processes_below(run.pid))
    run.kill()
    run.communicate(timeout=30)
    psutil.wait_procs(processes, timeout=10)
    run = folder.start()
    assert fetched_bytes(folder, 1) == 0, "so has a new run"

    for kept in (folder.path / "run" / "worker-0.local").glob("*/*"):
        os.utime(kept)
    os.kill(folder.ask("/v1/workers")[1]["taskPid"], signal.SIGKILL)
    assert 0 < fetched_bytes(folder, 2) < STATE_BYTES, "worker 0 cannot trust what it has"

    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=30)
    assert run.returncode == 0, output
    store = CheckpointStore(FileStorage(folder.path / "state" / "default" / "job"))
    tail = Journal(store.storage).tail()
    assert tail is not None
    assert len(tail.retained) == 3
    assert [store.verify(retained) for retained in tail.retained] == [[], [], []]
