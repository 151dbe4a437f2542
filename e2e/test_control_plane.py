"""Operators, API server and etcd that are away: jobs go on without them, and what befell them meanwhile is put right afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest

from installation import operator_pods, until_operator_runs
from orders_job import OrdersJob
from strikes import api_server_away, etcd_paused, kill_container, operator_away

pytestmark = pytest.mark.alone
_RATE: Final = 1000
"""Receipts a second, by the example."""
_AT_ONCE: Final = ("--force", "--grace-period=0", "--wait=false")


@pytest.fixture(autouse=True)
def operators_that_run_afterwards(job: OrdersJob) -> Iterator[None]:
    """Whatever happened, the next test finds them Ready."""
    yield
    until_operator_runs(job.cluster)


@pytest.mark.parametrize("seconds", [30, pytest.param(300, marks=pytest.mark.long)])
def test_without_operators_a_job_checkpoints_and_restarts_and_with_them_gets_its_lost_pods_back(
    job: OrdersJob, seconds: int
) -> None:
    workers, coordinators = job.names("worker"), job.names("coordinator")
    with operator_away(job.cluster):
        victims, began_s = [*workers, *coordinators], time.monotonic()
        for number, victim in enumerate(victims, start=1):
            attempts = job.attempts()
            job.kill_process(victim)
            job.until_another_attempt(attempts)
            time.sleep(max(0.0, began_s + seconds * number / len(victims) - time.monotonic()))
        job.until_more(job.check())
        assert job.names() == sorted(victims)
        lost, kept = workers
        for pod in (lost, *coordinators):
            job.kubectl("delete", "pod", pod, "--timeout=120s")
        assert job.names() == [kept]
        attempts = job.attempts()
    job.until_another_attempt(attempts)
    job.wait("condition=Ready")
    assert len(job.names("worker")) == 2
    assert kept in job.names("worker")
    assert len(job.names("coordinator")) == 1


@pytest.mark.usefixtures("machines")
def test_operators_and_a_coordinator_that_are_lost_at_the_same_moment_come_back(job: OrdersJob) -> None:
    before, attempts = job.names(), job.attempts()
    for pod in (*operator_pods(job.cluster), *job.pods("coordinator")):
        kill_container(job.cluster, pod)
    job.until_another_attempt(attempts)
    assert job.names() == before

    lost, attempts = job.pods("coordinator"), job.attempts()
    pods = {"apiVersion": "v1", "kind": "List", "items": [*operator_pods(job.cluster), *lost]}
    job.cluster.plane.kubectl("delete", "--filename=-", *_AT_ONCE, stdin=json.dumps(pods))
    job.until_another_attempt(attempts)
    assert len(job.pods("coordinator")) == 1
    assert not _uids(lost) & _uids(job.pods("coordinator"))


@pytest.mark.usefixtures("machines")
def test_a_job_does_not_notice_that_etcd_or_the_api_server_is_away_and_is_looked_after_when_they_are_back(
    job: OrdersJob,
) -> None:
    for strike, seconds in ((etcd_paused, 30), (api_server_away, 15)):
        attempts, pods, written = job.attempts(), job.names(), job.check()
        with strike(job.cluster):
            time.sleep(seconds)
            assert job.check() - written > seconds * _RATE / 2
        job.until_more(job.check())
        assert job.attempts() == attempts
        assert job.names() == pods

        lost = job.pods("worker")[:1]
        job.kubectl("delete", "pod", lost[0]["metadata"]["name"], "--wait=false")
        job.until_another_attempt(attempts)
        assert len(job.pods("worker")) == 2
        assert not _uids(lost) & _uids(job.pods("worker"))


def _uids(pods: Iterable[dict[str, Any]]) -> set[str]:
    """What tells pods apart: a successor may have the name of one that is gone."""
    return {pod["metadata"]["uid"] for pod in pods}
