"""A job in pods, from its start to its end, with what Kubernetes does to them on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error

import pytest
from pod_kit import Cluster, eventually


def test_a_job_runs_to_its_end_and_its_pods_stay_to_tell(cluster: Cluster) -> None:
    cluster.job(count=400)
    coordinator, workers = cluster.coordinator(), cluster.workers()
    view = cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(400))
    assert (view["message"], view["refusal"], view["retryable"]) == (
        "all input has been read and all output is committed", "", False,
    )  # fmt: skip
    assert [worker["instance"].partition("/")[0] for worker in view["workers"]] == [pod.root.name for pod in workers]
    metrics = cluster.ask("/metrics", token="metrics-token")
    assert b'checkdam_job_state{job_id="default/job",state="FINISHED"} 1.0' in metrics
    with pytest.raises(urllib.error.HTTPError, match="401"):
        cluster.ask("/v1/job", token="metrics-token")
    assert [pod.process.poll() for pod in (coordinator, *workers)] == [None, None, None]
    # A coordinator that is killed now has nothing to do but to say the same again.
    child = coordinator.child()
    os.kill(child, signal.SIGKILL)
    assert cluster.until_state("FINISHED")["message"] == view["message"]
    assert coordinator.child() != child
    for pod in (coordinator, *workers):
        pod.terminate()
    assert [pod.exit_code() for pod in (coordinator, *workers)] == [0, 0, 0]
    assert coordinator.termination_log.startswith("FINISHED: ")


def test_a_killed_coordinator_is_back_in_no_time_and_the_job_goes_on_exactly_once(cluster: Cluster) -> None:
    cluster.job(count=4000, rate=800)
    coordinator, workers = cluster.coordinator(), cluster.workers()
    before = cluster.until_checkpoint(2)
    os.kill(coordinator.child(), signal.SIGKILL)
    killed_s = time.monotonic()
    after = cluster.until(lambda view: view["epoch"] > before["epoch"], "another epoch")
    # A fork, an import of the user's modules, a fence.
    assert time.monotonic() - killed_s < 3
    assert after["version"] > before["version"]
    cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(4000))
    assert all(pod.process.poll() is None for pod in (coordinator, *workers))


def test_pods_that_are_deleted_together_leave_a_checkpoint_with_everything(cluster: Cluster) -> None:
    # There is no checkpoint but the last one.
    cluster.job(count=100_000, rate=500, interval="1h")
    coordinator, workers = cluster.coordinator(), cluster.workers()
    cluster.until_state("RUNNING")
    cluster.until_read(300)
    for pod in (workers[0], coordinator, workers[1]):
        pod.terminate()
    assert [pod.exit_code() for pod in (coordinator, *workers)] == [0, 0, 0]
    last, rows = cluster.journal()[-1], cluster.rows()
    assert (last["kind"], last["checkpoint_id"]) == ("checkpoint", 1)
    assert coordinator.termination_log.startswith("LEFT: ")
    assert len(rows) >= 300
    assert_without_gaps(rows)
    # It goes on by itself, from there.
    cluster.coordinator(startNumber=2)
    cluster.workers()
    cluster.until_state("RUNNING")
    cluster.ask("/v1/checkpoints", {"after": 1})
    cluster.until_checkpoint(2)
    assert_without_gaps(again := cluster.rows())
    assert set(rows) <= set(again)


def assert_without_gaps(rows: list[int]) -> None:
    """Each of both splits was read from its beginning, and each record once."""
    for split in (0, 1):
        read = [number for number in rows if number % 2 == split]
        assert read == list(range(split, split + 2 * len(read), 2))


def test_a_worker_that_leaves_gets_a_checkpoint_first_and_another_one_goes_on(cluster: Cluster) -> None:
    cluster.job(count=5000, rate=800)
    coordinator, workers = cluster.coordinator(), cluster.workers()
    before = cluster.until_checkpoint(1)
    workers[1].terminate()
    assert workers[1].exit_code() == 0
    view = cluster.view()
    assert [worker["connected"] for worker in view["workers"]] == [True, False]
    [last] = [record for record in cluster.ask("/v1/checkpoints") if record["cause"] == "leave"]
    assert (last["status"], view["lastCheckpoint"]["id"]) == ("COMPLETED", last["id"])
    assert view["lastFailure"] is None
    replacement = cluster.worker(1)
    after = cluster.until_state("RUNNING")
    assert after["epoch"] == before["epoch"]
    assert after["workers"][1]["instance"].startswith(f"{replacement.root.name}/")
    cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(5000))
    assert all(pod.process.poll() is None for pod in (coordinator, workers[0], replacement))


def test_a_job_that_was_stopped_goes_on_only_when_it_is_told_to(cluster: Cluster) -> None:
    cluster.job(count=8000, rate=800)
    first, workers = cluster.coordinator(), cluster.workers()
    cluster.until_checkpoint(1)
    token_file = first.root / "etc/checkdam/auth/token"
    command = ["savepoint", "--stop", "--url", f"http://{first.address}:6471", "--token-file", str(token_file)]
    said = subprocess.run(
        [sys.executable, "-m", "checkdam", *command], capture_output=True, text=True, timeout=30, check=False
    )
    assert said.returncode == 0, said.stderr
    view = cluster.until_state("STOPPED")
    assert "/savepoint-" in view["stoppedWith"]
    assert view["stoppedWith"] in said.stdout
    assert (view["drained"], view["refusal"]) == (False, "")
    first.terminate()
    assert first.exit_code() == 0

    second = cluster.coordinator(startNumber=2)
    refused = cluster.until_state("FAILED")
    assert (refused["refusal"], refused["stoppedWith"]) == ("NotResumed", view["stoppedWith"])
    second.delete()

    third = cluster.coordinator(startNumber=3, resume=True, expectedCheckpoint="chk-0-1.0-0")
    refused = cluster.until_state("FAILED")
    assert refused["refusal"] == "NewerCheckpoint"
    third.delete()

    folder = view["stoppedWith"].rpartition("/")[2]
    fourth = cluster.coordinator(startNumber=4, resume=True, expectedCheckpoint=folder)
    # The workers are still there: idle, until a coordinator of a higher epoch comes.
    cluster.until_state("RUNNING")
    # A stop that is newer than the wish to resume stands, whatever becomes of the coordinator.
    cluster.ask("/v1/stop", {"checkpoint": True})
    stopped = cluster.until_state("STOPPED")
    (fourth.root / "var/lib/checkdam/outcome.json").unlink()
    os.kill(fourth.child(), signal.SIGKILL)
    eventually(lambda: not cluster.view(), "the killed coordinator is gone", 5)
    assert cluster.until_state("STOPPED")["stoppedWith"] == stopped["stoppedWith"]
    fourth.delete()

    cluster.coordinator(startNumber=5, resume=True)
    cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(8000))
    assert all(pod.process.poll() is None for pod in workers)
