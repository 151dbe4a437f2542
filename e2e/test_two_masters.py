"""The same manifest in two namespaces, with one place for its state and one for its output: it is one job, and one of the two runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from cluster_s3 import s3_of
from s3_orders_job import S3OrdersJob


@pytest.fixture
def masters(checkdam: Cluster, shared_folder: Path, namespaces: Callable[[], str]) -> list[S3OrdersJob]:
    """The job in two namespaces, applied at the same time."""
    bucket, folder = s3_of(checkdam).new_bucket().name, shared_folder / "receipts"
    made = [S3OrdersJob(checkdam, namespaces(), bucket=bucket, folder=folder) for _ in range(2)]
    for job in made:
        job.apply(jobId="production/orders")
    return made


def test_of_two_jobs_that_are_one_the_last_to_start_commits_and_the_other_may_take_it_back(
    masters: list[S3OrdersJob],
) -> None:
    first = masters[0].until(lambda: next(filter(_is_taken_over, masters), None), "job that is taken over")
    [last] = [job for job in masters if job is not first]
    _check_owner(last, not_any_more=first)
    first.kubectl("patch", "streamjob", first.name, "--type=merge", '--patch={"spec":{"restartNonce":"mine"}}')
    _check_owner(first, not_any_more=last)


def _is_taken_over(job: S3OrdersJob) -> bool:
    conditions = job.object().get("status", {}).get("conditions", [])
    return any((found["type"], found["reason"]) == ("Stalled", "JobTakenOver") for found in conditions)


def _check_owner(owner: S3OrdersJob, not_any_more: S3OrdersJob) -> None:
    """One job goes on without a gap; the other says what has become of it and what to do, and has no pods."""
    told = not_any_more.stalled("JobTakenOver")
    assert "the same job id and storage elsewhere" in told
    assert "change `spec.restartNonce` to take it back" in told
    not_any_more.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=120s")
    owner.wait("condition=Ready")
    owner.until_more(owner.check() + 3000)
    assert owner.condition("Stalled")["status"] == "False"
    assert owner.object()["status"]["epoch"] > not_any_more.object()["status"]["epoch"]
