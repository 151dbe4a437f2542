"""S3 that cannot be reached, is slow or answers with errors: it is told with its remedy, is over when it is over, and output stays right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from faulty_proxy import Delay, Fault, FaultyProxy, Refusal, faulty_proxy, works

from cluster.cluster import Cluster
from cluster_s3 import s3_address, s3_of
from s3_orders_job import S3OrdersJob
from strikes import addresses, cut, until_dropped

_TOLERANT: Final = {"tolerableFailures": 100}


@pytest.fixture
def applied(checkdam: Cluster, shared_folder: Path, namespaces: Callable[[], str]) -> Callable[..., S3OrdersJob]:
    """Applies a job in a namespace of its own."""

    def apply(checkpoint: dict[str, Any], restart: dict[str, Any] | None = None, **attributes: Any) -> S3OrdersJob:
        name, bucket = namespaces(), s3_of(checkdam).new_bucket().name
        job = S3OrdersJob(checkdam, name, bucket=bucket, folder=shared_folder / name, **attributes)
        job.apply(checkpoint=checkpoint, restart=restart or {}, args={"rate": 500})
        return job

    return apply


@pytest.fixture
def proxy(checkdam: Cluster) -> Iterator[FaultyProxy]:
    """A server of its own for one job, as far as that can tell: it is the cluster's, and does what `plan` says."""
    with faulty_proxy(checkdam.s3_outside, checkdam.computer) as running:
        yield running


@pytest.fixture
def proxies(checkdam: Cluster) -> Iterator[tuple[FaultyProxy, FaultyProxy]]:
    """See `proxy`: one for each of two jobs."""
    target, address = checkdam.s3_outside, checkdam.computer
    with faulty_proxy(target, address) as first, faulty_proxy(target, address) as second:
        yield first, second


def _until_well(job: S3OrdersJob) -> None:
    job.wait("condition=Ready")
    job.wait("condition=CheckpointHealthy")
    job.until_more(job.check() + 1000)


@pytest.mark.usefixtures("machines")
def test_jobs_that_cannot_reach_s3_say_so_and_go_on_when_they_can(applied: Callable[..., S3OrdersJob]) -> None:
    tolerant, strict = applied(_TOLERANT), applied({})
    _until_well(tolerant)
    _until_well(strict)
    server, attempt = [s3_address(tolerant.cluster)], tolerant.object()["status"]["attempt"]
    for seconds in (5, 60):
        until_s = time.monotonic() + seconds
        with (
            cut(tolerant.cluster, addresses(tolerant.pods()), server) as dropped,
            cut(strict.cluster, addresses(strict.pods()), server) as dropped_too,
        ):
            if seconds > 5:
                for job in (tolerant, strict):
                    told = job.unhealthy()
                    assert "cannot be reached" in told or "did not answer in time" in told
            time.sleep(max(0, until_s - time.monotonic()))
            # Where the machine is slow, the next checkpoint may come later than after 5 s.
            until_dropped(dropped, dropped_too)
        _until_well(tolerant)
        _until_well(strict)
    assert tolerant.object()["status"]["attempt"] == attempt
    assert strict.object()["status"]["restarts"] > 0


def test_a_job_whose_s3_server_answers_with_errors_says_so_and_one_that_is_slow_is_waited_for(
    proxy: FaultyProxy, applied: Callable[..., S3OrdersJob]
) -> None:
    job = applied(_TOLERANT, endpoint=proxy.endpoint)
    _until_well(job)
    status = job.object()["status"]
    proxy.plan = lambda request: Refusal(503, "SlowDown")
    message = job.unhealthy()
    assert "the server answers SlowDown" in message
    assert "look at the server" in message
    proxy.plan = works
    _until_well(job)
    proxy.plan = lambda request: Delay(2.0)
    job.until_more(job.check() + 4000)
    assert job.condition("CheckpointHealthy")["status"] == "True"
    proxy.plan = works
    _until_well(job)
    after = job.object()["status"]
    assert (after["attempt"], after["restarts"]) == (status["attempt"], status["restarts"])


def test_jobs_whose_s3_server_is_down_or_answers_too_late_say_so_and_go_on_when_it_is_well(
    proxies: tuple[FaultyProxy, FaultyProxy], applied: Callable[..., S3OrdersJob]
) -> None:
    down, late = proxies
    # Its attempts fail every few seconds, and pauses before the next would become longer than the rest of the test.
    strict = applied({}, {"maxDelay": "5s"}, endpoint=down.endpoint)
    tolerant = applied(_TOLERANT, endpoint=late.endpoint)
    _until_well(strict)
    _until_well(tolerant)
    attempt, until_s = tolerant.object()["status"]["attempt"], time.monotonic() + 60
    late.plan = lambda request: Fault.LATE
    with down.away():
        assert "cannot be reached" in strict.stalled("AttemptsFail")
        time.sleep(max(0, until_s - time.monotonic()))
    _until_well(strict)
    assert "did not answer in time" in tolerant.unhealthy()
    late.plan = works
    _until_well(tolerant)
    assert tolerant.object()["status"]["attempt"] == attempt
