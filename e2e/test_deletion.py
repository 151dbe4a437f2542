"""StreamJobs that are deleted: nothing waits for anybody, and nothing is left but their state, from which the same job goes on."""

from __future__ import annotations

from typing import Any, Final

import pytest

from cluster.cluster import Cluster
from job_savepoints import ask, completed
from orders_job import NAME, OrdersJob
from strikes import operator_away

_AT_ONCE: Final = "--timeout=10s"
"""What has no finalizer is gone as soon as it is deleted."""
_GRACE_S: Final = 8
_SHORT: Final[dict[str, Any]] = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": _GRACE_S}}}
_EVENTS: Final = {"events", "events.events.k8s.io"}


def objects(job: OrdersJob) -> set[str]:
    """Whatever there is in the namespace, but for events."""
    kinds = set(job.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split())
    return set(job.kubectl("get", ",".join(sorted(kinds - _EVENTS)), "--output=name").split())


def start(job: OrdersJob) -> set[str]:
    """Have the job write its first receipts; returns what is in the namespace beside all that belongs to it."""
    job.apply(suspend=True)
    job.wait("jsonpath={.status.state}=Suspended")
    beside = objects(job) - {f"streamjob.checkdam.dev/{NAME}"}
    job.apply(suspend=False)
    job.wait("condition=Ready")
    job.until_more(0)
    return beside


def until_gone(job: OrdersJob, beside: set[str]) -> None:
    """Wait until there is nothing beside that: what belonged to a job goes a moment after it."""
    job.until(lambda: True if objects(job) == beside else None, "end of all that belonged to the job")


def goes_on(job: OrdersJob) -> None:
    """Apply the job again, and wait until it has gone on from where it was."""
    written = job.check()
    job.apply()
    job.wait("condition=Ready")
    job.until_more(written)


def test_a_deletion_in_the_foreground_leaves_nothing_but_the_state(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    beside = start(job)
    job.kubectl("delete", "streamjob", NAME, "--cascade=foreground", "--timeout=90s")
    until_gone(job, beside)
    goes_on(job)


def test_a_job_whose_coordinator_hangs_is_gone_at_once_and_its_pods_within_their_time(
    checkdam: Cluster, namespace: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply(coordinator=_SHORT, worker=_SHORT)
    job.wait("condition=Ready")
    job.until_more(0)
    job.kill_process(job.names("coordinator")[0], "STOP")
    job.kubectl("delete", "streamjob", NAME, _AT_ONCE)
    job.kubectl("wait", "pods", "--all", "--for=delete", f"--timeout={5 * _GRACE_S}s")
    job.check()


@pytest.mark.alone
def test_jobs_and_savepoints_are_deleted_where_neither_operator_nor_coordinator_is_left(
    checkdam: Cluster, namespace: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    beside = start(job)
    ask(job, "last", onDelete="Delete")
    completed(job, "last")
    with operator_away(checkdam):
        job.kubectl("delete", "pod", *job.names("coordinator"), "--force", "--grace-period=0", "--wait=false")
        job.kubectl("delete", "savepoints,streamjobs", "--all", _AT_ONCE)
        until_gone(job, beside)
    goes_on(job)
