"""`checkdam run` with checkpoints in a real S3 server, its keys in a mounted Secret, and what bad storage gets."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_proxy import Fault, Refusal, Request, faulty_proxy, works
from job_runs import FAST, SLOW, JobFolder, processes_below, wait_until
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
    folder.write("squares", count=6000, rate=SLOW)
    first = folder.start()
    folder.wait_for_checkpoint(2)
    processes = list(processes_below(first.pid))

    first.kill()
    first.communicate(timeout=30)
    _, alive = psutil.wait_procs(processes, timeout=10)
    code, output = folder.run(*FAST)

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


@pytest.mark.long
def test_a_job_whose_workers_die_in_the_middle_of_an_upload_goes_on_and_nothing_of_it_stays(
    tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    stored: list[str] = []
    stuck = threading.Event()

    def half(request: Request) -> Fault:
        if request.method != "PUT" or "/shared/" not in request.path:
            return Fault.NONE
        if len(stored) == 2:
            stuck.set()
            return Fault.SILENT
        stored.append(request.path)
        return Fault.NONE

    with faulty_proxy(s3_bucket.server.endpoint) as proxy:
        storage = {"uri": f"{s3_bucket.uri}/jobs", "s3": {"endpoint": proxy.endpoint}}
        folder = job_with(tmp_path, storage)
        folder.spec |= {"stateBackend": {"type": "rocksdb", "rocksdb": {"memory": "4Mi"}}}
        folder.write("profiles", keys=1000)
        run = folder.start()
        folder.wait_for_checkpoint(2)

        proxy.plan = half
        assert stuck.wait(30)
        for worker in folder.ask("/v1/workers"):
            os.kill(worker["taskPid"], signal.SIGKILL)
        proxy.plan = works
        wait_until(lambda: folder.ask("/v1/job")["lastCheckpoint"]["attempt"].endswith(".2"))

        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=60)
        assert run.returncode == 0, output
    store = open_job(f"{s3_bucket.uri}/jobs/default/job", options=CheckpointStorage.model_validate(s3_bucket.storage()))
    retained = [info.folder for info in store.list_checkpoints() if info.retained]
    assert {name: store.verify(name) for name in retained} == {name: [] for name in retained}
    left = s3_bucket.keys()
    assert [path for path in stored if path.removeprefix(f"/{s3_bucket.name}/") in left] == []


def refused(folder: JobFolder, *arguments: str) -> str:
    """What `checkdam run` says of a job that does not even begin, in one sentence."""
    folder.write("squares")
    code, output = folder.run(*arguments)
    assert code in (1, 2)
    assert "Traceback" not in output
    assert folder.rows() == []
    return output


def test_keys_that_are_wrong_or_permit_nothing_are_said_before_anything_starts(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_proxy(s3_bucket.server.endpoint) as proxy:
        proxy.plan = lambda request: Refusal(403, "AccessDenied")
        storage = {"uri": f"{s3_bucket.uri}/jobs", "s3": {"endpoint": proxy.endpoint}}
        (tmp_path / "a").mkdir()
        output = refused(job_with(tmp_path / "a", storage))
        assert f"cannot create {s3_bucket.uri}/jobs/default/job/probe/" in output
        assert "the credentials do not permit it; permit s3:ListBucket" in output
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    (tmp_path / "b").mkdir()
    output = refused(job_with(tmp_path / "b", s3_bucket.storage("jobs")))
    assert f"cannot create {s3_bucket.uri}/jobs/default/job/probe/" in output
    assert "the secret key does not belong to the access key; give the right ones" in output
    assert not (tmp_path / "b" / "run").exists()


def test_a_path_that_is_no_checkpoint_and_a_newer_one_are_said_before_any_record(
    tmp_path: Path, s3_bucket: S3Bucket
) -> None:
    client = s3_bucket.server.client()
    client.put_object(Bucket=s3_bucket.name, Key="jobs/default/other/chk-7-1.1-0/_metadata", Body=b'{"version": 99}')
    folder = job_with(tmp_path, s3_bucket.storage("jobs"))

    nowhere = f"{s3_bucket.uri}/jobs/nothing/here"
    output = refused(folder, "--restore-from", nowhere)
    assert nowhere in output
    assert "is neither a job's folder" in output

    newer = f"{s3_bucket.uri}/jobs/default/other/chk-7-1.1-0"
    output = refused(folder, "--restore-from", newer)
    assert newer in output
    assert "has format version 99" in output
    assert "upgrade Checkdam" in output


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
