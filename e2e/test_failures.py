"""Jobs whose parts are killed: afterwards no record is missing, and none comes twice."""

from __future__ import annotations

from typing import Any

import pytest

from installation import OPERATOR_NAMESPACE, until_operator_runs
from orders_job import OrdersJob
from strikes import kill_container


def test_a_task_process_that_is_killed_is_started_again_in_its_pod(job: OrdersJob) -> None:
    before = job.names()
    for worker in job.names("worker"):
        attempts, written = job.attempts(), job.check()
        job.kill_process(worker)
        _goes_on(job, attempts, written)
    assert job.names() == before
    assert _restarts(job) == 0


def test_a_coordinator_that_is_killed_is_started_again_in_its_pod(job: OrdersJob) -> None:
    before, attempts, written = job.names(), job.attempts(), job.check()
    job.kill_process(job.names("coordinator")[0])
    _goes_on(job, attempts, written)
    assert job.names() == before


@pytest.mark.parametrize("component", ["worker", "coordinator"])
@pytest.mark.parametrize("flags", [("--wait=false",), ("--force", "--grace-period=0", "--wait=false")])
def test_a_pod_that_is_deleted_is_replaced(job: OrdersJob, component: str, flags: tuple[str, ...]) -> None:
    before, attempts, written = job.pods(component), job.attempts(), job.check()
    job.kubectl("delete", "pod", before[0]["metadata"]["name"], *flags)
    _goes_on(job, attempts, written)
    after = job.pods(component)
    assert len(after) == len(before)
    assert before[0]["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in after}


@pytest.mark.alone  # other jobs would be without an operator, too
def test_operator_pods_that_are_deleted_do_not_disturb_a_job(job: OrdersJob) -> None:
    job.wait("condition=CheckpointHealthy")
    pods, written, before = job.names(), job.check(), job.object()["status"]
    job.cluster.plane.kubectl("delete", "pods", "--all", f"--namespace={OPERATOR_NAMESPACE}", "--wait=false")
    job.until_more(written + 3000)
    until_operator_runs(job.cluster)
    after = job.until(lambda: _newer(before, job.object()["status"]), "word of the job from another operator")
    assert job.names() == pods
    assert after["attempt"] == before["attempt"]
    assert after["conditions"] == before["conditions"]


def _newer(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any] | None:
    return now if now["lastCheckpoint"]["id"] > before["lastCheckpoint"]["id"] else None


@pytest.mark.usefixtures("machines")
def test_a_container_whose_process_1_is_killed_is_started_again_in_its_pod(job: OrdersJob) -> None:
    before = job.names()
    for component in ("worker", "coordinator"):
        attempts, written = job.attempts(), job.check()
        kill_container(job.cluster, job.pods(component)[0])
        _goes_on(job, attempts, written)
    assert job.names() == before
    # The kubelet tells of a container a moment after it has started it.
    job.until(lambda: True if _restarts(job) == 2 else None, "two containers that were started again")


def _goes_on(job: OrdersJob, attempts: set[str], written: int) -> None:
    """Wait until another attempt than these has written, and there are more receipts than one checkpoint, or a last one, may have added."""
    job.until_another_attempt(attempts)
    job.until_more(written + 3000)


def _restarts(job: OrdersJob) -> int:
    return sum(status["restartCount"] for pod in job.pods() for status in pod["status"]["containerStatuses"])
