"""Jobs whose parts are killed: afterwards no record is missing, and none comes twice."""

from __future__ import annotations

from typing import Any

import pytest

from installation import OPERATOR_NAMESPACE
from orders_job import OrdersJob
from strikes import kill_container


def test_a_task_process_that_is_killed_is_started_again_in_its_pod(job: OrdersJob) -> None:
    before = job.names()
    for worker in job.names("worker"):
        written = job.check()
        job.kill_process(worker)
        job.until_more(written + 3000)
    assert job.names() == before
    assert all(status["restartCount"] == 0 for pod in job.pods() for status in pod["status"]["containerStatuses"])


def test_a_coordinator_that_is_killed_is_started_again_in_its_pod(job: OrdersJob) -> None:
    before, written = job.names(), job.check()
    job.kill_process(job.names("coordinator")[0])
    job.until_more(written + 3000)
    assert job.names() == before


@pytest.mark.parametrize("component", ["worker", "coordinator"])
@pytest.mark.parametrize("flags", [("--wait=false",), ("--force", "--grace-period=0", "--wait=false")])
def test_a_pod_that_is_deleted_is_replaced(job: OrdersJob, component: str, flags: tuple[str, ...]) -> None:
    before, written = job.pods(component), job.check()
    job.kubectl("delete", "pod", before[0]["metadata"]["name"], *flags)
    job.until_more(written + 3000)
    after = job.pods(component)
    assert len(after) == len(before)
    assert before[0]["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in after}


def test_operator_pods_that_are_deleted_do_not_disturb_a_job(job: OrdersJob) -> None:
    job.wait("condition=CheckpointHealthy")
    pods, written, before = job.names(), job.check(), job.object()["status"]
    job.cluster.plane.kubectl("delete", "pods", "--all", f"--namespace={OPERATOR_NAMESPACE}", "--wait=false")
    job.until_more(written + 3000)
    job.cluster.plane.kubectl("rollout", "status", "deployment", f"--namespace={OPERATOR_NAMESPACE}", "--timeout=60s")
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
        written = job.check()
        kill_container(job.cluster, job.pods(component)[0])
        job.until_more(written + 3000)
    assert job.names() == before
    assert sum(status["restartCount"] for pod in job.pods() for status in pod["status"]["containerStatuses"]) == 2
