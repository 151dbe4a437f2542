"""`checkdam run` with checkpoints in a real S3 server, its keys in a mounted Secret, and what bad storage gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_proxy import Fault, faulty_proxy
from job_runs import JobFolder, processes_below
from s3_server import S3Bucket

from checkdam.checkpoint.opening import open_job
from checkdam.spec.checkpoint import CheckpointStorage


def job_with(folder: Path, storage: dict[str, Any]) -> JobFolder:
    return JobFolder(folder, {"checkpoint": {"interval": "200ms", "storage": storage}})


def test_a_killed_job_goes_on_from_its_checkpoint_in_s3_and_leaves_no_key_behind(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secrets" / "s3-keys"
    secret.mkdir(parents=True)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (secret / name).write_text(s3_bucket.server.environment()[name])
        monkeypatch.delenv(name)
    monkeypatch.setenv("CHECKDAM_SECRETS_DIR", str(secret.parent))
    storage = s3_bucket.storage("jobs")
    storage["s3"]["credentialsSecret"] = "s3-keys"
    (tmp_path / "job").mkdir()
    folder = job_with(tmp_path / "job", storage)
    folder.write("squares", count=6000, rate=3000)
    first = folder.start()
    folder.wait_for_checkpoint(2)
    processes = list(processes_below(first.pid))

    first.kill()
    first.communicate(timeout=30)
    _, alive = psutil.wait_procs(processes, timeout=10)
    code, output = folder.run()

    assert alive == []
    assert code == 0, output
    assert "going on from" in output
    sums = {key: sum(number for number in range(6000) if number % 5 == key) for key in range(5)}
    assert {key: max(total for at, total in folder.rows() if at == key) for key in sums} == sums
    store = open_job(f"{s3_bucket.uri}/jobs/default/job", options=CheckpointStorage.model_validate(storage))
    retained = [info.folder for info in store.list_checkpoints() if info.retained]
    assert {name: store.verify(name) for name in retained} == {name: [] for name in retained}
    left = [file for file in folder.path.rglob("*") if file.is_file()]
    assert [file for file in left if s3_bucket.server.secret_key.encode() in file.read_bytes()] == []


def test_storage_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    with faulty_proxy(s3_bucket.server.endpoint) as proxy:
        proxy.plan = lambda request: Fault.UNCONDITIONAL
        cases = {
            "conditional create is not honoured here": {"uri": s3_bucket.uri, "s3": {"endpoint": proxy.endpoint}},
            "there is no such bucket; create the bucket": {**s3_bucket.storage(), "uri": "s3://no-such-bucket"},
            "`spec.checkpoint.storage.uri`: cannot open nosuch://place": {"uri": "nosuch://place"},
        }
        for number, (sentence, storage) in enumerate(cases.items()):
            (tmp_path / str(number)).mkdir()
            folder = job_with(tmp_path / str(number), storage)
            folder.write("squares")

            code, output = folder.run()

            assert code in (1, 2)
            assert sentence in output
            assert storage["uri"] in output
            assert "Traceback" not in output
            assert not (folder.path / "run").exists()
