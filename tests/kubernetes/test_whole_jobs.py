"""Operator, coordinators and workers together, as they are, on a real API server and a real S3 server.

Only the kubelet is played: pods are processes of this machine (`process_kubelet`). What the jobs have written is checked row by row.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from operator_process import Jobs, OperatorProcess, eventually, operator_process
from pod_job import MODULE, problems, rows_in
from process_kubelet import ProcessKubelet, process_kubelet
from s3_server import S3Bucket

from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.slow


@dataclass
class Scene:
    """A namespace with an operator, a kubelet, the program in a ConfigMap, and a folder for output."""

    jobs: Jobs
    operator: OperatorProcess
    kubelet: ProcessKubelet
    bucket: S3Bucket
    out: Path

    def create(self, **spec: Any) -> None:
        """Create the job with two workers and a checkpoint each second."""
        whole: dict[str, Any] = {
            "program": {"entrypoint": "pod_job_program:build", "configMap": "program", "args": {"out": str(self.out)}},
            "checkpoint": {"interval": "1s", "storage": self.bucket.storage("jobs")},
            "restart": {"initialDelay": "100ms"},
        }
        for name, value in spec.items():
            whole[name] = {**whole[name], **value} if isinstance(whole.get(name), dict) else value
        self.jobs.create(**whole)

    def runs(self) -> bool:
        """Whether the condition Ready is true, of the spec as it is now, of a job that runs."""
        job = self.jobs.get()
        status = job.get("status", {})
        ready = next((found for found in status.get("conditions", []) if found["type"] == "Ready"), {})
        return (
            status.get("state") == "Running"
            and ready.get("status") == "True"
            and ready.get("observedGeneration") == job["metadata"]["generation"]
        )

    def rows(self) -> list[tuple[str, int, int]]:
        """What was committed so far."""
        return rows_in(self.out)

    async def until_runs(self) -> None:
        await eventually(self.runs, "the job to run")

    async def until_more_rows(self) -> None:
        """Wait until more was committed than there is now."""
        before = len(self.rows())
        await eventually(lambda: len(self.rows()) > before, "more output")

    async def suspend(self) -> None:
        """Suspend the job, which commits all that it has read, and check what it has written."""
        await asyncio.to_thread(self.jobs.patch, {"suspend": True})
        await eventually(lambda: self.jobs.status().get("state") == "Suspended" and not self.jobs.pods(), "Suspended")
        assert problems(self.rows()) == []


@pytest.fixture
async def scene(
    control_plane: ControlPlane, namespace: str, s3_bucket: S3Bucket, tmp_path: Path
) -> AsyncIterator[Scene]:
    jobs = Jobs(control_plane, namespace)
    jobs.config_map("program", pod_job_program=MODULE)
    out = tmp_path / "out"
    async with (
        process_kubelet(control_plane, namespace, tmp_path / "pods") as kubelet,
        operator_process(control_plane, namespace, tmp_path) as operator,
    ):
        yield Scene(jobs, operator, kubelet, s3_bucket, out)


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
    assert status["restarts"] >= 4
    assert "/savepoint-" in status["lastSavepoint"]["uri"]
    assert {"AttemptFailed", "Recovered", "Suspended"} <= scene.jobs.reasons()


async def test_a_suspended_job_goes_on_where_it_was(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()
    await scene.suspend()
    before = len(scene.rows())

    await asyncio.to_thread(scene.jobs.patch, {"suspend": False})
    await scene.until_runs()
    await scene.until_more_rows()
    await scene.suspend()

    assert len(scene.rows()) > before


@pytest.mark.parametrize("mode", ["Savepoint", "LastState"])
async def test_a_changed_spec_and_another_parallelism_lose_and_double_nothing(scene: Scene, mode: str) -> None:
    await asyncio.to_thread(scene.create, upgrade={"mode": mode})
    await scene.until_runs()
    await scene.until_more_rows()

    await asyncio.to_thread(scene.jobs.patch, {"program": {"args": {"out": str(scene.out), "rate": 700}}})
    await eventually(lambda: scene.jobs.status()["deployment"]["revision"] == 2 and scene.runs(), "the next version")
    await scene.until_more_rows()
    await asyncio.to_thread(scene.jobs.plane.kubectl, "-n", scene.jobs.namespace, "scale", "sjob/words", "--replicas=3")
    await eventually(lambda: scene.jobs.status()["workersText"] == "3/3" and scene.runs(), "three workers")
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


async def test_a_lost_node_is_replaced_and_its_zombies_do_no_harm(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, runtime={"heartbeatTimeout": "2s"})
    await scene.until_runs()
    await scene.until_more_rows()
    worker = scene.jobs.pods("worker")[0]["metadata"]["name"]

    scene.kubelet.lose(worker)
    await eventually(lambda: worker not in {pod["metadata"]["name"] for pod in scene.jobs.pods()}, "a replacement")
    await scene.until_runs()
    await scene.until_more_rows()
    scene.kubelet.find(worker)
    await scene.until_more_rows()

    await scene.suspend()


async def test_savepoints_are_taken_restored_into_another_job_and_disposed_of(scene: Scene, tmp_path: Path) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    await asyncio.to_thread(scene.jobs.savepoint, "before", onDelete="Delete")
    await eventually(lambda: scene.jobs.savepoint_status("before").get("state") == "Completed", "the savepoint")
    status = scene.jobs.savepoint_status("before")
    assert status["uri"].startswith(scene.bucket.uri)

    other = tmp_path / "other"
    spec = {
        "program": {"entrypoint": "pod_job_program:build", "configMap": "program", "args": {"out": str(other)}},
        "checkpoint": {"interval": "1s", "storage": scene.bucket.storage("jobs")},
        "restoreFrom": "before",
        "allowNonRestoredState": True,
    }
    await asyncio.to_thread(scene.jobs.create, "other", **spec)
    await eventually(lambda: rows_in(other), "output of the other job")
    assert min(count for _, count, _ in rows_in(other)) > 1

    await eventually(lambda: scene.jobs.status().get("disposals"), "the files to be noted")
    await asyncio.to_thread(scene.jobs.delete_savepoint, "before")
    folder = status["uri"].removeprefix(f"{scene.bucket.uri}/")
    await eventually(lambda: not any(key.startswith(folder) for key in sorted(scene.bucket.keys())), "the files to go")
    await eventually(lambda: not scene.jobs.status().get("disposals"), "the note to go")


async def test_deleting_a_job_takes_a_last_checkpoint(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, checkpoint={"interval": "1h"})
    await scene.until_runs()
    await asyncio.sleep(1.0)  # so that there is something to lose
    assert scene.rows() == []

    await asyncio.to_thread(scene.jobs.delete)
    await eventually(lambda: not scene.jobs.exists() and scene.jobs.pods(ending=True) == [], "all of it to be gone")

    assert scene.rows() != []
    assert problems(scene.rows()) == []
    before = len(scene.rows())
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()
    await scene.suspend()
    assert len(scene.rows()) > before


async def test_storage_that_is_missing_is_told_and_healed(scene: Scene) -> None:
    name = "late-bucket"
    storage = {**scene.bucket.storage("jobs"), "uri": f"s3://{name}/jobs"}
    await asyncio.to_thread(scene.create, checkpoint={"storage": storage})

    stalled = await eventually(
        lambda: found if (found := scene.jobs.condition("Stalled")).get("status") == "True" else None, "Stalled"
    )
    assert stalled["reason"] == "CannotStart"
    assert name in stalled["message"]

    scene.bucket.server.client().create_bucket(Bucket=name)
    await scene.until_runs()
    assert scene.jobs.condition("Stalled")["status"] == "False"


async def test_a_stopped_coordinator_that_wakes_up_is_deposed(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, runtime={"heartbeatTimeout": "2s"})
    await scene.until_runs()
    await scene.until_more_rows()
    coordinator = scene.jobs.pods("coordinator")[0]["metadata"]["name"]

    scene.kubelet.lose(coordinator)
    await asyncio.to_thread(scene.jobs.delete_pod, coordinator)
    await scene.until_more_rows()
    scene.kubelet.find(coordinator)
    await scene.until_more_rows()
    os.kill(scene.operator.pid, signal.SIGSTOP)
    os.kill(scene.operator.pid, signal.SIGCONT)

    await scene.suspend()
