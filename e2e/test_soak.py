"""Chaos: a job is struck at random moments by whatever may happen on a cluster. `make soak` does so for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cluster.cluster import Cluster
from cluster_s3 import s3_of
from s3_orders_job import S3OrdersJob
from soak import INTERVAL_S, soak
from soak_report import Report

pytestmark = pytest.mark.alone


def test_a_job_outlives_whatever_strikes_it_and_leaves_nothing_behind(
    checkdam: Cluster,
    shared_folder: Path,
    namespace: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds, seed = (request.config.getoption(name) for name in ("--seconds", "--seed"))
    report = Report(random.randrange(10**6) if seed is None else seed, INTERVAL_S)

    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    say(f"\nsoak with seed {report.seed} for {seconds} s")
    try:
        job = S3OrdersJob(checkdam, namespace, bucket=s3_of(checkdam).new_bucket().name, folder=shared_folder)
        soak(job, seconds, report, say)
    finally:
        request.node.user_properties.append(("report", report.text()))
    assert not report.problems
