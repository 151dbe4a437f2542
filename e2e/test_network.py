"""Connections that are cut, without a word to either end, for moments and for longer than anybody waits."""

from __future__ import annotations

import time

import pytest

from orders_job import OrdersJob
from strikes import addresses, cut

pytestmark = pytest.mark.usefixtures("machines")


@pytest.mark.parametrize("seconds", [5, 60])
def test_workers_that_do_not_reach_each_other_or_the_coordinator_go_on_afterwards(job: OrdersJob, seconds: int) -> None:
    for other in ("worker", "coordinator"):
        written = job.check()
        with cut(job.cluster, addresses(job.pods("worker")), addresses(job.pods(other))):
            time.sleep(seconds)
        job.until_more(max(written, job.check()) + 3000)
    job.wait("condition=Ready")
