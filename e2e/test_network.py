"""Connections that are cut, without a word to either end, for moments and for longer than anybody waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from cluster.cluster import Cluster
from orders_job import OrdersJob
from strikes import addresses, cut, until_dropped

pytestmark = pytest.mark.usefixtures("machines")


@pytest.fixture
def jobs(checkdam: Cluster, namespaces: Callable[[], str]) -> dict[str, OrdersJob]:
    """Two jobs that have written: component → the job whose workers are to be cut off from that component."""
    made = {component: OrdersJob(checkdam, namespaces()) for component in ("worker", "coordinator")}
    for job in made.values():
        job.apply(args={"rate": 500})
    for job in made.values():
        job.until_more(0)
    return made


def test_workers_that_do_not_reach_each_other_or_the_coordinator_go_on_afterwards(jobs: dict[str, OrdersJob]) -> None:
    for seconds in (5, 60):
        with ExitStack() as stack:
            dropped = [
                stack.enter_context(cut(job.cluster, addresses(job.pods("worker")), addresses(job.pods(other))))
                for other, job in jobs.items()
            ]
            time.sleep(seconds)
            until_dropped(*dropped)
        for job in jobs.values():
            job.until_more(job.check() + 1500)
    for job in jobs.values():
        job.wait("condition=Ready")
