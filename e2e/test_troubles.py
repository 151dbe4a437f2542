"""What keeps a job from running is told as a condition with a remedy, and is over when its cause is gone."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.cluster import Cluster
from job_quota import quota_exhausted
from orders_job import OrdersJob

_HUGE = {"resources": {"requests": {"cpu": "1000"}}}
_TROUBLES: dict[str, tuple[dict[str, Any], str]] = {
    "ImagePullFailed": ({"image": "registry.invalid/nothing:1"}, "spec.image"),
    "Unschedulable": ({"worker": _HUGE}, "spec.worker"),
}
"""Reason → what is wrong with the spec, and what the message names."""


@pytest.mark.parametrize("reason", _TROUBLES)
def test_pods_that_cannot_start_are_told_with_a_remedy_until_the_spec_is_corrected(
    checkdam: Cluster, namespace: str, reason: str
) -> None:
    job = OrdersJob(checkdam, namespace)
    wrong, named = _TROUBLES[reason]
    job.apply(**wrong)
    assert named in job.stalled(reason)
    job.apply()
    job.wait("condition=Ready")
    job.until_more(0)


def test_a_quota_that_is_exhausted_is_told_until_it_is_raised(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    with quota_exhausted(job):
        job.apply()
        assert "raise the quota" in job.stalled("QuotaExceeded")
    job.wait("condition=Ready")
    job.until_more(0)


def test_a_program_that_ends_again_and_again_is_told_until_it_is_corrected(checkdam: Cluster, namespace: str) -> None:
    job = OrdersJob(checkdam, namespace)
    job.apply(worker={"env": [{"name": "PYTHONHOME", "value": "/nowhere"}]})
    assert "kubectl logs" in job.stalled("CrashLoop")
    job.apply()
    job.wait("condition=Ready")
    job.until_more(0)
