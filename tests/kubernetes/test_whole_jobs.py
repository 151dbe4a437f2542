"""Operator, coordinators and workers together, as they are, on a real API server and a real S3 server: the few that every change is tried with.

`job_scene` tells what is real; `test_whole_jobs_long` and `test_operator_faults` have the rest.
"""

from __future__ import annotations

import asyncio

import pytest
from job_scene import Scene
from operator_process import eventually
from pod_job import problems

pytestmark = pytest.mark.slow


async def test_a_bounded_job_completes_and_its_pods_go(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, program={"args": {"out": str(scene.out), "records": 2_000, "rate": 2_000}})

    await eventually(lambda: scene.jobs.status().get("state") == "Completed", "Completed")

    assert problems(scene.rows(), 2_000) == []
    await eventually(lambda: scene.jobs.pods(ending=True) == [], "the pods to go")
    assert scene.jobs.condition("Ready")["reason"] == "Completed"
    assert "Completed" in scene.jobs.reasons()


async def test_a_job_survives_the_death_of_anything(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    worker = scene.jobs.pods("worker")[0]["metadata"]["name"]
    coordinator = scene.jobs.pods("coordinator")[0]["metadata"]["name"]
    scene.kubelet.kill(worker)
    await scene.until_more_rows()
    scene.kubelet.kill(coordinator)
    await scene.until_more_rows()
    await asyncio.to_thread(scene.jobs.delete_pod, worker)
    await scene.until_more_rows()
    await asyncio.to_thread(scene.jobs.delete_pod, coordinator)
    await eventually(lambda: coordinator not in scene.jobs.ready_pods(), "the coordinator to be replaced")
    await scene.until_runs()
    await scene.until_more_rows()
    await scene.operator.kill()
    await scene.until_more_rows()
    await scene.operator.start()
    await scene.until_runs()

    await scene.suspend()
    status = scene.jobs.status()
    assert status["restarts"] >= 3
    assert "/savepoint-" in status["lastSavepoint"]["uri"]
    assert {"AttemptFailed", "Recovered", "Suspended"} <= scene.jobs.reasons()


def _pods(scene: Scene) -> set[str]:
    return {pod["metadata"]["uid"] for pod in scene.jobs.pods(ending=True)}


async def test_a_changed_spec_and_another_parallelism_lose_and_double_nothing(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    await scene.change_args(rate=700)
    await scene.until_revision(2)
    await scene.until_more_rows()
    before = _pods(scene)
    await scene.scale(3)
    await scene.until_workers(3)
    assert before < _pods(scene), "pods stay when others come"
    await scene.until_more_rows()
    await scene.scale(1)
    await scene.until_workers(1)
    await eventually(lambda: len(_pods(scene)) == 2, "pods that are not needed to go")
    assert _pods(scene) < before, "pods stay when others go"
    assert scene.jobs.status()["deployment"]["revision"] == 2
    await scene.until_more_rows()

    await scene.suspend()


async def test_a_version_that_cannot_start_is_rolled_back(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await eventually(lambda: scene.jobs.status().get("lastWorking"), "a checkpoint of the first version")

    await asyncio.to_thread(scene.jobs.patch, {"program": {"entrypoint": "pod_job_program:no_such_function"}})

    await eventually(lambda: scene.jobs.condition("Stalled").get("reason") == "RolledBack", "the rollback")
    message = scene.jobs.condition("Stalled")["message"]
    assert "no_such_function" in message
    await scene.until_more_rows()
    assert scene.jobs.status()["state"] == "Running"
    await scene.suspend()
