"""Rescales of a job that runs: its pods stay, state and pending output are dealt out anew, and no record is missing or comes twice."""

from __future__ import annotations

from job_quota import quota_exhausted
from orders_job import NAME, OrdersJob


def test_a_job_is_scaled_up_and_down_and_its_output_stays_right(job: OrdersJob) -> None:
    lasting = {*job.names("coordinator"), job.names("worker")[0]}
    for workers in (3, 1):
        _scale(job, workers)
        job.wait(f"jsonpath={{.status.workersText}}={workers}/{workers}")
        job.wait("condition=Ready")
        assert len(job.names("worker")) == workers
        assert lasting <= set(job.names())
        job.until_more(job.check() + 2000)
    assert job.object()["status"]["deployment"]["revision"] == 1


def test_workers_that_find_no_room_cost_a_job_nothing_and_it_is_scaled_as_soon_as_there_is(job: OrdersJob) -> None:
    with quota_exhausted(job):
        attempts = job.attempts()
        _scale(job, 3)
        told = job.stalled("QuotaExceeded")
        assert "raise the quota" in told
        assert "runs on with 2 workers" in told
        job.until_more(job.check() + 2000)
        assert job.attempts() == attempts
    job.wait("jsonpath={.status.workersText}=3/3")
    job.wait("condition=Ready")
    job.until_another_attempt(attempts)


def _scale(job: OrdersJob, workers: int) -> None:
    job.kubectl("scale", f"streamjob/{NAME}", f"--replicas={workers}")
