"""Rescales of a job that runs: state and pending output are dealt out anew, and no record is missing or comes twice."""

from __future__ import annotations

from orders_job import NAME, OrdersJob


def test_a_job_is_scaled_up_and_down_and_its_output_stays_right(job: OrdersJob) -> None:
    for workers in (3, 1):
        job.kubectl("scale", f"streamjob/{NAME}", f"--replicas={workers}")
        job.wait(f"jsonpath={{.status.workersText}}={workers}/{workers}")
        job.wait("condition=Ready")
        assert len(job.names("worker")) == workers
        job.until_more(job.check() + 2000)
