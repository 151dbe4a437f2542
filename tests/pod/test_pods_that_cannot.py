"""Pods of jobs that cannot begin or go on, or whose mounts are wrong: each says why, where somebody looks, and does no harm."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from pod_kit import Cluster, eventually
from s3_server import S3Bucket

from checkdam.pod.main import main


def test_a_deposed_coordinator_stays_idle_whatever_starts_it_again(cluster: Cluster) -> None:
    cluster.job(count=100_000, rate=500)
    first, _ = cluster.coordinator(), cluster.workers()
    cluster.until_checkpoint(1)
    # The same job in another cluster: workers have not been made for it yet.
    second = cluster.coordinator(place=2)
    owner = cluster.until(lambda view: view["epoch"] > 0, "the second coordinator owns the job")

    cluster.service = first.address
    deposed = cluster.until_state("FAILED")
    assert (deposed["refusal"], deposed["retryable"]) == ("Deposed", False)
    os.kill(first.child(), signal.SIGKILL)
    eventually(lambda: not cluster.view(), "the killed coordinator is gone", 5)
    assert cluster.until_state("FAILED")["refusal"] == "Deposed"
    first = cluster.again(first)
    assert cluster.until_state("FAILED")["refusal"] == "Deposed"
    first.terminate()
    assert first.exit_code() == 0
    assert first.termination_log.startswith("DEPOSED: ")

    cluster.service = second.address
    assert cluster.view()["epoch"] == owner["epoch"] == cluster.journal()[-1]["epoch"]


def test_a_missing_bucket_is_said_and_may_be_tried_again(cluster: Cluster, s3_bucket: S3Bucket) -> None:
    cluster.storage = {**s3_bucket.storage(), "uri": "s3://no-such-bucket"}
    cluster.job()
    pod = cluster.coordinator()
    view = cluster.until_state("FAILED")
    assert (view["retryable"], view["refusal"], view["epoch"]) == (True, "", 0)
    assert "there is no such bucket; create the bucket" in view["message"]
    assert cluster.ask("/healthz") == {"status": "ok"}
    # The bucket is there now, and somebody starts the container again.
    s3_bucket.server.client().create_bucket(Bucket="no-such-bucket")
    cluster.again(pod)
    cluster.workers()
    cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(1000))


def test_a_program_that_does_not_load_is_said_by_both(cluster: Cluster) -> None:
    cluster.job("nothing_of_that_name")
    cluster.coordinator()
    view = cluster.until_state("FAILED")
    assert (view["refusal"], view["retryable"]) == ("Program", False)
    assert "nothing_of_that_name" in view["message"]
    worker = cluster.worker(0)
    assert worker.exit_code() == 1
    assert "nothing_of_that_name" in worker.termination_log


def test_a_manifest_that_another_version_wrote_is_said(cluster: Cluster) -> None:
    cluster.job()
    cluster.spec["parallelism"] = "two"
    cluster.coordinator()
    view = cluster.until_state("FAILED")
    assert (view["name"], view["refusal"]) == ("job", "Program")
    assert "`spec.parallelism`" in view["message"]


def test_a_coordinator_that_crashes_at_each_start_is_left_to_the_kubelet(cluster: Cluster) -> None:
    cluster.job()
    with_taken_port = cluster.coordinator()
    cluster.until_state("STARTING")
    other = cluster.coordinator()
    assert other.exit_code() == 1
    assert "cannot listen on `host`" in other.termination_log
    assert other.said().count("the coordinator exited with 1") == 5
    assert with_taken_port.process.poll() is None


def test_what_loses_its_parent_in_the_pod_is_reaped_and_a_pod_can_be_ended_at_any_time(cluster: Cluster) -> None:
    cluster.job()
    pod = cluster.coordinator()
    child = pod.child()
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(child), "the killed coordinator is reaped")
    assert "the coordinator was killed by SIGKILL" in eventually(
        lambda: (pod.root / "dev/termination-log").exists() and pod.termination_log, "the cause is written down"
    )
    pod.terminate()
    assert pod.exit_code() == 0
    worker = cluster.worker(0)
    worker.terminate()
    assert worker.exit_code() in (0, -signal.SIGTERM), "it may come before the interpreter has begun"


@pytest.mark.parametrize(
    ("role", "environment", "sentence"),
    [
        ("worker", {"CHECKDAM_INDEX": ""}, "the environment variable CHECKDAM_INDEX must be set"),
        ("worker", {"CHECKDAM_INDEX": "one"}, "CHECKDAM_INDEX must be a whole number (got 'one')"),
        ("worker", {"CHECKDAM_POD_IP": "here"}, "CHECKDAM_POD_IP must be an IP address (got 'here')"),
        ("worker", {"CHECKDAM_COORDINATOR": ""}, "the environment variable CHECKDAM_COORDINATOR must be set"),
    ],
)
def test_an_environment_that_is_wrong_is_named(
    role: str, environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    job = tmp_path / "etc/checkdam/job"
    job.mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    (job / "streamjob.json").write_text("{}")
    right = {
        "CHECKDAM_INDEX": "0",
        "CHECKDAM_POD_NAME": "pod",
        "CHECKDAM_POD_IP": "10.0.0.1",
        "CHECKDAM_COORDINATOR": "10.0.0.2:6470",
    }
    assert main([role, "--root", str(tmp_path)], right | environment) == 1
    assert (tmp_path / "dev/termination-log").read_text() == sentence
