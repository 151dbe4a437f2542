"""What becomes of whole jobs when operators die, double, fall silent or are told too much at once, and when the API server does not answer.

Whatever happens, all of these jobs must have lost and doubled nothing, and nothing in their status may go back.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from job_scene import CRDS, Scene, job_scene
from operator_process import eventually, operator_process
from pod_job import problems
from s3_server import S3Bucket

from cluster.control_plane import ControlPlane, run_control_plane

pytestmark = pytest.mark.long

LONG_S = 180.0
"""For what an operator does that dies again and again on the way."""


@pytest.mark.parametrize("seed", [1, 2])
async def test_an_operator_that_dies_at_any_write_gets_everything_done(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    await asyncio.to_thread(scene.create, upgrade={"mode": "LastState" if seed == 2 else "Savepoint"})
    await scene.until_runs()
    await scene.until_more_rows()

    async with scene.watched():
        async with scene.mortal_operator(chance, 4):
            await scene.change_args(rate=700)
        await scene.until_revision(2, LONG_S)
        async with scene.mortal_operator(chance, 3):
            await scene.scale(3)
        await scene.until_workers(3, LONG_S)
        async with scene.mortal_operator(chance, 3):
            await scene.patch(suspend=True)
        await scene.until_state("Suspended", LONG_S)
        assert problems(scene.rows()) == []
        async with scene.mortal_operator(chance, 3):
            await scene.patch(suspend=False)
        await scene.until_runs(LONG_S)
        await scene.until_more_rows()
        await scene.suspend()
    # The watch may end before it has shown the last one.
    seen = [*scene.seen, scene.jobs.status()]
    revisions = {status["deployment"]["revision"] for status in seen if "deployment" in status}
    assert revisions == {1, 2, 3, 4, 5}  # another number of workers is none


@pytest.mark.parametrize(("when", "written"), [("before", 1), ("after", 2)])
async def test_an_operator_that_dies_between_the_savepoint_and_what_follows_from_it_is_followed_by_one_that_goes_on(
    scene: Scene, when: str, written: int
) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    async with scene.watched():
        await scene.operator.kill()
        await scene.let_die_at(f"{when}:revision=2")
        await scene.change_args(rate=700)
        await scene.operator.until_dead(60.0)
        assert len(scene.files("/savepoint-", "_metadata")) == 1, "the job is stopped"
        assert scene.jobs.status()["deployment"]["revision"] == written
        await scene.next_life()
        await scene.until_revision(2)
        await scene.until_more_rows()
        assert len(scene.files("/savepoint-", "_metadata")) == 1
        await scene.suspend()
    assert scene.jobs.status()["deployment"]["revision"] == 3


async def test_two_operators_that_both_act_do_no_harm(
    scene: Scene, control_plane: ControlPlane, tmp_path: Path
) -> None:
    """No Lease keeps these two apart: each takes a Lease of its own, as if for minutes nobody noticed that there are two leaders."""
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    (tmp_path / "other").mkdir()
    namespace = scene.jobs.namespace
    async with (
        scene.watched(),
        operator_process(control_plane, namespace, tmp_path / "other", CHECKDAM_OPERATOR_LEASE_NAME="another"),
    ):
        await scene.until_more_rows()
        await scene.change_args(rate=700)
        await scene.until_revision(2)
        await scene.scale(3)
        await scene.until_workers(3)
        await asyncio.to_thread(scene.jobs.delete_pod, scene.pod("worker", 1))
        await scene.until_more_rows()
        await asyncio.to_thread(scene.jobs.delete_pod, scene.pod("coordinator"))
        await scene.until_more_rows()
        await scene.until_workers(3)
        await eventually(lambda: len(scene.jobs.pods(ending=True)) == 4, "one pod for each slot")
        await scene.suspend()
        await scene.patch(suspend=False)
        await scene.until_runs()
        await scene.suspend()


async def test_a_leader_that_wakes_up_during_an_upgrade_of_its_successor_does_no_harm(
    scene: Scene, control_plane: ControlPlane, tmp_path: Path
) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()
    (tmp_path / "second").mkdir()
    async with scene.watched(), operator_process(control_plane, scene.jobs.namespace, tmp_path / "second"):
        os.kill(scene.operator.pid, signal.SIGSTOP)
        await scene.change_args(rate=700)
        await eventually(lambda: scene.jobs.status()["state"] == "Upgrading", "the second operator to act")
        os.kill(scene.operator.pid, signal.SIGCONT)
        await scene.until_revision(2)
        await scene.until_more_rows()
        await scene.suspend()


async def test_an_upgrade_goes_past_a_coordinator_that_does_not_answer(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, runtime={"heartbeatTimeout": "2s"})
    await scene.until_runs()
    await scene.until_more_rows()
    old = scene.pod("coordinator")

    async with scene.watched():
        async with scene.frozen(old):
            await scene.change_args(rate=700)
            await scene.until_revision(2)
            await scene.until_more_rows()
        await scene.until_more_rows()
        await scene.suspend()


async def test_an_upgrade_waits_for_a_coordinator_that_is_slow(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, runtime={"heartbeatTimeout": "30s"})
    await scene.until_runs()
    await scene.until_more_rows()

    async with scene.watched():
        async with scene.frozen(scene.pod("coordinator")):
            await scene.change_args(rate=700)
            await asyncio.sleep(7.0)  # longer than the operator waits for an answer, and so asks again
        await scene.until_revision(2)
        await scene.until_more_rows()
        await scene.suspend()
    assert scene.jobs.status()["restarts"] == 0, "what was slow is not what has failed"
    stopped_with = scene.files("/savepoint-", "_metadata")
    assert len(stopped_with) == 2, "one for the upgrade and one for the suspension"


async def test_what_was_asked_for_again_is_done_once(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, runtime={"heartbeatTimeout": "30s"})
    await scene.until_runs()

    async with scene.frozen(scene.pod("coordinator")):
        await asyncio.to_thread(scene.jobs.savepoint, "once")
        await asyncio.sleep(12.0)  # two requests time out
    await eventually(lambda: scene.jobs.savepoint_status("once").get("state") == "Completed", "the savepoint")

    assert len(scene.files("/savepoint-", "_metadata")) == 1
    await scene.suspend()


async def test_a_job_is_deleted_while_its_coordinator_does_not_answer(scene: Scene) -> None:
    brief = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 10}}}
    await asyncio.to_thread(scene.create, worker=brief, coordinator=brief)
    await scene.until_runs()
    await scene.until_more_rows()

    async with scene.frozen(scene.pod("coordinator")):
        await asyncio.to_thread(scene.jobs.delete)
        await eventually(lambda: not scene.jobs.exists(), "the job to be gone")
        await eventually(lambda: scene.jobs.pods(ending=True) == [], "the pods to be gone")

    assert problems(scene.rows()) == []
    await asyncio.to_thread(scene.create)
    await scene.until_more_rows()
    await scene.suspend()


async def test_what_was_to_be_disposed_of_while_nobody_answered_is_disposed_of_later(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, runtime={"heartbeatTimeout": "30s"})
    await scene.until_runs()
    for name in ("one", "two"):
        await asyncio.to_thread(scene.jobs.savepoint, name, onDelete="Delete")
    await eventually(lambda: len(scene.jobs.status().get("disposals", [])) == 2, "the files to be noted")
    folders = {
        name: scene.jobs.savepoint_status(name)["uri"].removeprefix(f"{scene.bucket.uri}/") for name in ("one", "two")
    }

    async with scene.frozen(scene.pod("coordinator")):
        await asyncio.to_thread(scene.jobs.delete_savepoint, "one")
        await asyncio.sleep(6.0)
        await scene.operator.kill()
        await scene.operator.start()
        assert scene.files(folders["one"])
    await eventually(lambda: not scene.files(folders["one"]), "the files of the first to go")
    await scene.suspend()
    await asyncio.to_thread(scene.jobs.delete_savepoint, "two")
    await scene.operator.kill()
    await scene.operator.start()
    await scene.patch(suspend=False)
    await scene.until_runs()
    await eventually(lambda: not scene.files(folders["two"]), "the files of the second to go")
    await eventually(lambda: not scene.jobs.status().get("disposals"), "the notes to go")
    await scene.suspend()


async def test_a_namespace_that_ends_takes_all_with_it(
    control_plane: ControlPlane, s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    namespace = control_plane.new_namespace()
    elsewhere = {"CHECKDAM_OPERATOR_LEASE_NAMESPACE": "default", "CHECKDAM_OPERATOR_LEASE_NAME": namespace}
    async with job_scene(control_plane, namespace, s3_bucket, tmp_path, **elsewhere) as scene:
        await asyncio.to_thread(scene.create)
        await asyncio.to_thread(scene.jobs.savepoint, "kept", onDelete="Delete")
        await scene.until_runs()
        await scene.until_more_rows()
        before = scene.operator.log.stat().st_size

        await asyncio.to_thread(control_plane.call, "DELETE", f"/api/v1/namespaces/{namespace}")

        def gone() -> bool:
            found = control_plane.call("GET", "/api/v1/namespaces")["items"]
            return namespace not in {body["metadata"]["name"] for body in found}

        await eventually(gone, "the namespace to be gone", LONG_S)
        assert (await scene.operator.get("/healthz"))[0] == 200
        said = scene.operator.log.read_text()[before:]
        assert len(said.splitlines()) < 100, said
        assert "Traceback" not in said
    assert problems(scene.rows()) == []


async def test_jobs_go_on_while_the_api_server_does_not_answer(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    (tmp_path / "kubernetes").mkdir()
    async with AsyncExitStack() as stack:
        plane = stack.enter_context(run_control_plane(tmp_path / "kubernetes", *map(str, CRDS)))
        namespace = await asyncio.to_thread(plane.new_namespace)
        scene = await stack.enter_async_context(job_scene(plane, namespace, s3_bucket, tmp_path))
        keeping = asyncio.create_task(scene.operator.keep())
        await asyncio.to_thread(scene.create)
        await scene.until_runs()
        await scene.until_more_rows()
        seen = scene.jobs.status()
        victim = scene.pod("worker", 1)

        await scene.scale(3)
        await asyncio.to_thread(scene.jobs.delete_pod, victim)
        with silent(plane):
            await asyncio.sleep(20.0)  # requests of the operator time out after 15 s
        await scene.until_workers(3, LONG_S)
        await eventually(lambda: len(scene.jobs.pods(ending=True)) == 4, "one pod for each slot")
        worker = scene.pod("worker")

        rows, entries = len(scene.rows()), len(scene.files("/journal/"))
        with silent(plane):
            await asyncio.sleep(20.0)
            assert len(scene.rows()) > rows, "output goes on"
            assert len(scene.files("/journal/")) >= entries + 4, "the coordinator takes checkpoints by itself"
            scene.kubelet.kill_task(worker)
            await scene.until_more_rows()
        await eventually(scene.runs, "the operator to catch up", LONG_S)
        assert scene.jobs.status()["deployment"]["revision"] == seen["deployment"]["revision"]
        await scene.suspend(LONG_S)
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


@contextmanager
def silent(plane: ControlPlane) -> Iterator[None]:
    """The API server answers nobody within the context."""
    os.kill(plane.pids["kube-apiserver"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(plane.pids["kube-apiserver"], signal.SIGCONT)


async def test_a_storm_of_edits_ends_at_the_last_one(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    async with scene.watched():
        for number in range(10):
            await scene.patch(program={"args": {"rate": 500 + number}}, parallelism=1 + number % 3)
            await asyncio.sleep(0.2)
        await scene.until_workers(1)
        assert scene.jobs.get()["spec"]["program"]["args"]["rate"] == 509
        await scene.until_more_rows()
        await scene.suspend()
    assert scene.jobs.status()["deployment"]["generation"] == 11


async def test_what_is_taken_back_at_once_is_as_if_nothing_had_been(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    async with scene.watched():
        for pause_s in (0.0, 0.3, 1.0, 2.0):
            await scene.patch(suspend=True)
            await asyncio.sleep(pause_s)
            await scene.patch(suspend=False)
            await scene.until_runs()
            await scene.until_more_rows()
        await scene.change_args(rate=700)
        await scene.change_args(rate=None)
        await scene.until_runs()
        await scene.until_more_rows()
        await scene.suspend()


async def test_scaling_up_and_down_again_and_again(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()

    async with scene.watched():
        for workers in (3, 1, 4, 2):
            await scene.scale(workers)
            await asyncio.sleep(0.5)
        await scene.until_workers(2)
        await scene.until_more_rows()
        await scene.scale(3)
        await scene.until_workers(3)
        await scene.until_more_rows()
        await eventually(lambda: len(scene.jobs.pods(ending=True)) == 4, "one pod for each slot")
        await scene.suspend()


async def test_a_job_whose_worker_crashes_again_and_again_can_be_scaled(scene: Scene) -> None:
    await asyncio.to_thread(scene.create)
    await scene.until_runs()
    await scene.until_more_rows()

    async def crash() -> None:
        while True:
            for name, pod in list(scene.kubelet.pods.items()):
                if "-w1-" in name and pod.process is not None:
                    scene.kubelet.kill(name)
            await asyncio.sleep(0.2)

    crashing = asyncio.create_task(crash())
    await eventually(lambda: scene.jobs.status()["state"] == "Restarting", "the job to be restarting")
    await scene.scale(1)
    await scene.until_workers(1)
    await scene.until_more_rows()
    crashing.cancel()
    with suppress(asyncio.CancelledError):
        await crashing
    await scene.scale(2)
    await scene.until_workers(2)
    await scene.suspend()
