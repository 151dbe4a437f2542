"""Whole jobs through what their users do and what the world does to them, each on a real API server and a real S3 server.

`job_scene` tells what is real. Faults of the operator's own are in `test_operator_faults`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from job_scene import Scene, job_scene
from operator_process import eventually
from pod_job import HELD_SINK, LISTS_MODULE, MODULE, problems, rows_in
from s3_server import S3Bucket
from tcp_gate import tcp_gate

from cluster.control_plane import ControlPlane

pytestmark = pytest.mark.long


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


async def test_a_changed_spec_and_another_parallelism_go_on_from_the_last_checkpoint(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, upgrade={"mode": "LastState"})
    await scene.until_runs()
    await scene.until_more_rows()

    await scene.change_args(rate=700)
    await scene.until_revision(2)
    await scene.until_more_rows()
    await scene.scale(3)
    await scene.until_workers(3)
    await scene.until_more_rows()

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

    await scene.suspend()


@pytest.fixture
async def scene_of_lists(
    control_plane: ControlPlane, namespace: str, s3_bucket: S3Bucket, tmp_path: Path
) -> AsyncIterator[Scene]:
    async with job_scene(control_plane, namespace, s3_bucket, tmp_path, LISTS_MODULE) as made:
        yield made


async def test_rocksdb_state_of_thousands_of_list_entries_is_rescaled(scene_of_lists: Scene) -> None:
    scene = scene_of_lists
    await asyncio.to_thread(
        scene.create,
        stateBackend={"type": "rocksdb"},
        checkpoint={"incremental": True},
        program={"args": {"rate": 300}},
    )
    await scene.until_runs()
    await eventually(lambda: len(scene.rows()) > 1_500, "some state")
    assert scene.files("/shared/"), "checkpoints add to what others have stored"

    async with scene.watched():
        for workers in (3, 1):
            await scene.scale(workers)
            await scene.until_workers(workers)
            await scene.until_more_rows()
        await eventually(lambda: len(scene.rows()) > 3_000, "more state")
        await asyncio.to_thread(scene.jobs.delete_pod, scene.pod("worker"))
        await scene.until_more_rows()
        await scene.suspend()
    assert max(count for _, count, _ in scene.rows()) > 300


@pytest.mark.parametrize("mode", ["ExactlyOnce", "AtLeastOnce"])
async def test_no_record_is_lost_when_pods_die(scene: Scene, mode: str) -> None:
    records = 5_000
    await asyncio.to_thread(scene.create, checkpoint={"mode": mode}, program={"args": {"records": records}})
    await scene.until_more_rows()

    scene.kubelet.kill(scene.pod("worker"))
    await scene.until_more_rows()
    await asyncio.to_thread(scene.jobs.delete_pod, scene.pod("coordinator"))
    await scene.until_state("Completed", 120.0)

    if mode == "ExactlyOnce":
        assert problems(scene.rows(), records) == []
    rows = scene.rows()
    assert {number for _, _, number in rows} == set(range(records))
    keys = {key for key, _, _ in rows}
    highest = [max(count for other, count, _ in rows if other == key) for key in keys]
    assert min(highest) >= records // len(keys)


async def test_no_record_is_read_twice_at_most_once_when_pods_die(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, checkpoint={"mode": "AtMostOnce"})
    await scene.until_more_rows()

    scene.kubelet.kill(scene.pod("worker"))
    await scene.until_more_rows()
    await asyncio.to_thread(scene.jobs.delete_pod, scene.pod("coordinator"))
    await scene.until_more_rows()
    await scene.patch(suspend=True)
    await scene.until_state("Suspended")

    numbers = [number for _, _, number in scene.rows()]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) > len(numbers), "what was reserved and not read before a pod died is passed over"


async def test_a_job_without_storage_starts_afresh_and_says_so(scene: Scene) -> None:
    storage = {"uri": "memory://", "s3": None, "allowVolatile": True}
    await asyncio.to_thread(scene.create, checkpoint={"storage": storage})
    await scene.until_runs()
    await scene.until_more_rows()

    await asyncio.to_thread(scene.jobs.delete_pod, scene.pod("coordinator"))
    await eventually(lambda: sum(number == 0 for _, _, number in scene.rows()) > 1, "the first number once more")
    await eventually(lambda: "StartedAfresh" in scene.jobs.reasons(), "the event")

    await scene.change_args(rate=700)
    await scene.until_revision(2)
    await eventually(
        lambda: sum(number == 0 for _, _, number in scene.rows()) > 2, "the first number for the third time"
    )


async def test_the_keys_of_the_storage_come_from_a_secret(scene: Scene) -> None:
    server = scene.bucket.server
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    scene.kubelet.hidden = frozenset(keys)
    storage = scene.bucket.storage("jobs")
    storage["s3"]["credentialsSecret"] = "s3-keys"
    wrong = {"metadata": {"name": "s3-keys"}, "stringData": {**keys, "AWS_SECRET_ACCESS_KEY": "wrong"}}
    await asyncio.to_thread(scene.jobs.create_object, "secrets", wrong)
    await asyncio.to_thread(scene.create, checkpoint={"storage": storage})

    message = await scene.until_stalled("CannotStart")
    assert scene.bucket.uri in message

    path = f"/api/v1/namespaces/{scene.jobs.namespace}/secrets/s3-keys"
    await asyncio.to_thread(scene.jobs.plane.call, "PATCH", path, {"stringData": keys}, "application/merge-patch+json")
    await scene.until_runs(120.0)
    await scene.until_more_rows()
    await scene.suspend()


async def test_of_two_jobs_with_one_identity_one_goes_on_and_the_other_is_told(
    scene: Scene, control_plane: ControlPlane, s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    same = {"jobId": "shared/words", "checkpoint": {"storage": s3_bucket.storage("jobs")}}
    await asyncio.to_thread(scene.create, **same)
    await scene.until_runs()
    await scene.until_more_rows()
    (tmp_path / "elsewhere").mkdir()
    async with AsyncExitStack() as stack:
        elsewhere = await asyncio.to_thread(control_plane.new_namespace)
        other = await stack.enter_async_context(job_scene(control_plane, elsewhere, s3_bucket, tmp_path / "elsewhere"))
        stack.push_async_callback(asyncio.to_thread, control_plane.call, "DELETE", f"/api/v1/namespaces/{elsewhere}")
        # Where the output lies is a matter of both clusters.
        await asyncio.to_thread(other.create, **same, program={"args": {"out": str(scene.out)}})
        await other.until_runs()

        message = await scene.until_stalled("JobTakenOver")
        assert "restartNonce" in message
        assert scene.jobs.status()["state"] == "Failed"
        await eventually(lambda: scene.jobs.pods(ending=True) == [], "its pods to go")
        await scene.until_more_rows()

        await scene.patch(restartNonce="1")
        await scene.until_runs()
        assert "restartNonce" in await other.until_stalled("JobTakenOver")
        await scene.until_more_rows()
    await scene.suspend()


async def test_a_sink_whose_output_waits_cannot_be_removed(
    control_plane: ControlPlane, namespace: str, s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    async with job_scene(control_plane, namespace, s3_bucket, tmp_path, MODULE + HELD_SINK) as scene:
        await asyncio.to_thread(
            scene.create,
            program={"entrypoint": "pod_job_program:build_with_held", "args": {"hold": str(hold)}},
            allowNonRestoredState=True,
        )
        await scene.until_runs()
        await eventually(lambda: scene.jobs.status().get("lastWorking"), "a checkpoint of the first version")
        hold.touch()
        await eventually(lambda: scene.jobs.status()["state"] == "Restarting", "the job to fail")

        await scene.patch(program={"entrypoint": "pod_job_program:build"})
        message = await scene.until_stalled("RolledBack")
        assert "sink `held`" in message
        assert "may not be committed yet" in message

        hold.unlink()
        await scene.until_state("Running")
        await scene.until_more_rows()
        await scene.suspend()


async def test_a_job_that_is_completed_still_takes_edits(scene: Scene, tmp_path: Path) -> None:
    records = 2_000
    await asyncio.to_thread(scene.create, program={"args": {"records": records, "rate": 2_000}})
    await scene.until_state("Completed")

    await scene.patch(parallelism=3)
    await eventually(lambda: scene.jobs.status()["deployment"]["revision"] == 2, "the next revision")
    await scene.until_state("Completed")
    assert problems(scene.rows(), records) == []

    again = tmp_path / "again"
    await scene.patch(restoreFrom="Fresh", program={"args": {"out": str(again)}})
    await eventually(lambda: problems(rows_in(again), records) == [], "all of it again")
    await scene.until_state("Completed")
    assert scene.jobs.status()["observedGeneration"] == 3
    await scene.patch(suspend=True)
    await eventually(lambda: scene.jobs.status()["observedGeneration"] == 4, "the operator to have seen it")
    assert scene.jobs.status()["state"] == "Completed"
    await asyncio.to_thread(scene.jobs.delete)
    await eventually(lambda: not scene.jobs.exists(), "the job to be gone")


async def test_savepoints_by_the_clock_are_taken_kept_and_deleted_with_their_files(scene: Scene) -> None:
    await asyncio.to_thread(scene.create, savepoints={"interval": "3s", "retain": 2})
    await scene.until_runs()

    first = await eventually(lambda: next(iter(scene.savepoints("Completed")), None), "the first savepoint")
    folder = scene.jobs.savepoint_status(first)["uri"].rpartition("/")[2]
    assert scene.files(folder, "_metadata")

    await eventually(lambda: first not in scene.savepoints(), "the first to be deleted")
    await eventually(lambda: not scene.files(folder), "its files to go")
    await eventually(lambda: len(scene.savepoints("Completed")) == 2, "two to be kept")
    await scene.patch(savepoints={"interval": None})
    await scene.until_runs()
    await eventually(lambda: len(scene.files("/savepoint-", "_metadata")) == 2, "the files of two to be left")
    await scene.suspend()


async def test_storage_that_is_away_for_a_while_stops_checkpoints_and_not_the_job(
    scene: Scene, s3_bucket: S3Bucket
) -> None:
    async with tcp_gate(s3_bucket.server.endpoint) as gate:
        storage = {**s3_bucket.storage("jobs"), "s3": {"endpoint": gate.url}}
        await asyncio.to_thread(
            scene.create, checkpoint={"storage": storage, "tolerableFailures": 100, "timeout": "5s"}
        )
        await scene.until_runs()
        await scene.until_more_rows()
        attempt = scene.jobs.status()["attempt"]

        gate.shut()
        await eventually(
            lambda: scene.jobs.condition("CheckpointHealthy")["status"] == "False", "failed checkpoints", 120.0
        )
        assert scene.jobs.status()["state"] == "Running"
        gate.open()
        await eventually(lambda: scene.jobs.condition("CheckpointHealthy")["status"] == "True", "good ones", 120.0)
        assert scene.jobs.status()["attempt"] == attempt
        await scene.until_more_rows()
        await eventually(lambda: "CheckpointFailed" in scene.jobs.reasons(), "the event")
        await scene.suspend()
        await scene.patch(suspend=False)
        await scene.until_runs()
        await scene.until_more_rows()
        await scene.suspend()
        left = await asyncio.to_thread(scene.storage_problems)
        assert left == [], "nothing is left of checkpoints that timed out"
