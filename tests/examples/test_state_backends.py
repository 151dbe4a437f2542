"""The three state backends, each on the storage that its example is for, with a worker killed on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from example_modules import EXAMPLES, check_statements, module_of
from s3_server import S3Bucket

from checkdam.checkpoint.opening import open_job
from checkdam.spec import parse_manifest, read_manifest

PAYMENTS = 20_000
JOB_TIMEOUT_S = 120


def run_with_a_kill(folder: Path, manifest: str, *options: str) -> list[dict[str, Any]]:
    """Run the example, kill a worker's task process after some checkpoints, and return what was committed by the end."""
    run_dir, out = folder / "run", folder / "out"
    line = [
        *(sys.executable, "-m", "checkdam", "run", str(EXAMPLES / "state-backends" / manifest), "--no-progress"),
        *("--run-dir", str(run_dir), "--interval", "200ms", "--arg", f"out={out}"),
        # Five seconds of work, so that some is left after a few checkpoints wherever they go.
        *("--arg", f"count={PAYMENTS}", "--arg", f"rate={PAYMENTS // 5}", *options),
    ]
    with subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, text=True) as job:
        killed = module_of(EXAMPLES / "flight-delays" / "demo.py").kill_a_worker(run_dir, job)
        _, told = job.communicate(timeout=JOB_TIMEOUT_S)
    assert job.returncode == 0, told
    assert killed is not None
    return [json.loads(row) for file in sorted(out.glob("*.jsonl")) for row in file.read_text().splitlines()]


def check_storage(uri: str) -> None:
    """What is left is listed and whole."""

    def checkpoints(command: str) -> Any:
        line = [sys.executable, "-m", "checkdam", "checkpoints", command, uri, "--json"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    assert len(checkpoints("list")) >= 3
    checkpoints("verify")


def files_of_state(uri: str) -> list[set[str]]:
    """By their SHA-256, the files of changes and of data that each checkpoint consists of, the earliest first."""
    store = open_job(uri)
    return [
        {
            handle.sha256
            for subtask in store.read_manifest(info.folder).subtasks
            for handle in subtask.files
            if handle.name.endswith((".blocks", ".sst"))
        }
        for info in store.list_checkpoints()
    ]


def test_the_manifests_are_valid_as_they_stand() -> None:
    paths = sorted((EXAMPLES / "state-backends").glob("*-state-backend*.yaml"))
    jobs = [parse_manifest(read_manifest(path), path.name) for path in paths]
    assert [job.spec.checkpoint.storage.scheme for job in jobs] == ["hdfs", "file", "memory", "s3"]


@pytest.mark.slow
def test_memory_keeps_what_a_worker_loses(tmp_path: Path) -> None:
    check_statements(run_with_a_kill(tmp_path, "memory-state-backend.yaml"), PAYMENTS)


@pytest.mark.slow
def test_files_keep_what_a_worker_loses(tmp_path: Path) -> None:
    check_statements(run_with_a_kill(tmp_path, "fs-state-backend.yaml", "--storage", "checkpoints"), PAYMENTS)
    check_storage(f"file://{tmp_path}/checkpoints/default/fs-state-backend")


@pytest.mark.slow
def test_hdfs_keeps_what_a_worker_loses(tmp_path: Path, hdfs_uri: str) -> None:
    check_statements(run_with_a_kill(tmp_path, "fs-state-backend-hdfs.yaml", "--storage", hdfs_uri), PAYMENTS)
    check_storage(f"{hdfs_uri}/default/fs-state-backend-hdfs")


@pytest.mark.slow
def test_rocksdb_and_s3_keep_what_a_worker_loses(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.server.endpoint)
    check_statements(
        run_with_a_kill(tmp_path, "rocksdb-state-backend.yaml", "--storage", f"{s3_bucket.uri}/production"), PAYMENTS
    )
    uri = f"{s3_bucket.uri}/production/default/rocksdb-state-backend"
    check_storage(uri)
    assert any(later & earlier for earlier, later in pairwise(files_of_state(uri))), "no checkpoint is incremental"
