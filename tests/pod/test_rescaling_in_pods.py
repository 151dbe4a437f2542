"""A job in pods whose number of workers changes while it runs: its pods stay, and every record is read once."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from pod_kit import Cluster, Pod, eventually


def grow(cluster: Cluster, workers: list[Pod], parallelism: int) -> None:
    """Have so many workers, as an operator does: pods, and a word to the coordinator."""
    workers += [cluster.worker(index) for index in range(len(workers), parallelism)]
    cluster.ask("/v1/rescale", {"parallelism": parallelism})


def until_scaled(cluster: Cluster, parallelism: int) -> None:
    """Wait until the job runs with so many workers and has taken a checkpoint with them."""
    view = cluster.until(
        lambda view: (view["parallelism"], view["state"]) == (parallelism, "RUNNING"), f"{parallelism} workers run"
    )
    cluster.until_checkpoint(view["lastCheckpoint"]["id"] + 1)


def test_workers_come_and_go_and_nothing_is_lost_or_comes_twice(cluster: Cluster) -> None:
    cluster.job("squares", count=12_000, rate=1500)
    coordinator, workers = cluster.coordinator(), cluster.workers()
    before = cluster.until_checkpoint(1)
    task = workers[0].child()
    grow(cluster, workers, 3)
    until_scaled(cluster, 3)
    assert workers[0].child() != task
    grow(cluster, workers, 1)
    until_scaled(cluster, 1)
    # Those that are not needed any more go, and nobody takes notice.
    for pod in workers[1:]:
        pod.terminate()
    assert [pod.exit_code() for pod in workers[1:]] == [0, 0]
    after = cluster.until_state("FINISHED")
    assert (after["epoch"], after["restarts"], after["lastFailure"]) == (before["epoch"], 0, None)
    sums: dict[int, int] = {}
    for key, total in cluster.rows():
        sums[key] = max(total, sums.get(key, 0))
    assert sums == {key: sum(range(key, 12_000, 5)) for key in range(5)}
    assert all(pod.process.poll() is None for pod in (coordinator, workers[0]))


def test_output_that_is_prepared_is_committed_by_whoever_takes_it_over(cluster: Cluster) -> None:
    cluster.job(count=8000, rate=1500)
    cluster.coordinator()
    workers = cluster.workers()
    cluster.until_checkpoint(1)
    for parallelism in (4, 2, 3):
        grow(cluster, workers, parallelism)
        until_scaled(cluster, parallelism)
    cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(8000))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 8))])
def test_whoever_is_killed_on_the_way_the_job_is_rescaled_and_every_record_comes_once(
    cluster: Cluster, seed: int
) -> None:
    chance = random.Random(seed)
    cluster.job(count=12_000, rate=1500)
    coordinator, workers = cluster.coordinator(), cluster.workers()
    cluster.until_checkpoint(1)
    for parallelism in (3, 2):
        grow(cluster, workers, parallelism)
        if parallelism == 3:
            cluster.until(lambda view: view["workersConnected"] == 3 or view["parallelism"] == 3, "the third is there")
        time.sleep(chance.uniform(0, 0.6))  # the moment of the blow
        victim = chance.choice([coordinator, *workers[:2]])
        os.kill(victim.child(), signal.SIGKILL)
        until_scaled(cluster, parallelism)
    cluster.until_state("FINISHED")
    assert cluster.rows() == list(range(12_000))


def test_a_coordinator_that_is_started_again_knows_how_many_workers_there_are(cluster: Cluster) -> None:
    cluster.job(count=20_000, rate=1500)
    coordinator, workers = cluster.coordinator(parallelism=2), cluster.workers()
    cluster.until_checkpoint(1)
    grow(cluster, workers, 3)
    until_scaled(cluster, 3)
    epoch, child = cluster.view()["epoch"], coordinator.child()
    os.kill(child, signal.SIGKILL)
    after = cluster.until(lambda view: view["epoch"] > epoch and view["state"] == "RUNNING", "another epoch")
    assert (after["parallelism"], after["wantedParallelism"], after["attempt"]) == (3, 3, 1)


def test_a_pod_that_takes_over_goes_on_without_workers_that_never_came(cluster: Cluster) -> None:
    cluster.job(count=20_000, rate=1000)
    coordinator, _ = cluster.coordinator(parallelism=2), cluster.workers()
    first = cluster.until_checkpoint(1)
    cluster.ask("/v1/rescale", {"parallelism": 3})
    coordinator.delete()
    eventually(lambda: not cluster.view(), "the coordinator is gone")
    cluster.coordinator(parallelism=3, sinceEpoch=first["epoch"], startNumber=2, resume=True)
    after = cluster.until(lambda view: view["epoch"] > first["epoch"] and view["state"] == "RUNNING", "it goes on")
    assert (after["parallelism"], after["wantedParallelism"]) == (2, 3)
