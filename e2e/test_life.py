"""The life of a job on a cluster, from `helm install` on."""

from __future__ import annotations

from cluster.cluster import Cluster
from orders_job import OrdersJob


def test_an_example_becomes_ready_writes_and_is_gone_without_a_trace_when_it_is_deleted(
    checkdam: Cluster, namespace: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply()
    job.wait("condition=Ready")
    assert len(job.names("coordinator")) == 1
    assert len(job.names("worker")) == 2
    job.until_more(0)
    job.kubectl("delete", "streamjob", "orders", "--timeout=60s")
    job.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=90s")
    job.check()


def test_a_bounded_job_completes_with_each_order_once(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply(args={"count": 5000})
    job.wait("jsonpath={.status.state}=Completed")
    assert job.check() == 5000
