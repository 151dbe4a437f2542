"""Savepoints of a running job, asked for over the API, with scripted workers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from coordinator_kit import (
    Running,
    coordinator,
    eventually,
    graph_of,
    job_of,
    journal_kinds,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.coordinator.checkpoints import CheckpointTracker, Schedule
from checkdam.core.errors import StorageError
from checkdam.graph.model import Graph
from checkdam.wire.messages import Abort, Committed, Complete, Decline, Deploy, Drop, Trigger


class RefusesSavepoints(FileStorage):
    """Storage that a savepoint's manifest cannot be written to."""

    def create(self, path: str, data: bytes) -> None:
        if path.startswith("savepoint-"):
            raise StorageError("create", path, "no space left on device", "free some")
        super().create(path, data)


def graph_without_sink() -> Graph:
    """Nothing is ever prepared in it."""
    graph = graph_of()
    nodes = {node_id: node for node_id, node in graph.nodes.items() if node_id != "out"}
    return Graph(nodes, [edge for edge in graph.edges if edge.target != "out"])


async def ask(running: Running, request: str = "mine", **wish: bool) -> tuple[int, Any]:
    return await running.call("POST", "/v1/savepoints", {"request": request, **wish})


async def ended(running: Running, request: str = "mine") -> dict[str, Any]:
    status, record = await running.call("GET", f"/v1/savepoints/{request}?waitMs=10000")
    assert status == 200
    assert record["status"] != "IN_PROGRESS"
    return record


def manifest_at(tmp_path: Path, folder: str) -> CheckpointManifest:
    return CheckpointStore(storage_of(tmp_path)).read_manifest(folder)


def folders(tmp_path: Path) -> list[str]:
    return [name for name in storage_of(tmp_path).folders("") if name.startswith("savepoint-")]


async def test_a_savepoint_is_complete_when_a_checkpoint_has_committed_what_its_sinks_had_prepared(
    tmp_path: Path,
) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        first.commits = False
        status, record = await ask(running)
        assert (status, record["status"], record["request"]) == (202, "IN_PROGRESS", "mine")
        savepoint, follower = await first.until(Trigger), await first.until(Trigger, 2)
        assert (savepoint.checkpoint, savepoint.savepoint, savepoint.base) == (1, True, -1)
        assert (savepoint.stop, savepoint.drain) == (False, False)
        assert (follower.checkpoint, follower.savepoint) == (2, False)
        assert (await first.until(Complete)).checkpoint == 2
        assert not storage_of(tmp_path).exists(f"{savepoint.folder}/_metadata")
        first.send(Committed(first.attempt, 2))
        record = await ended(running)
        assert (record["status"], record["id"]) == ("COMPLETED", 1)
        assert record["uri"] == f"{storage_of(tmp_path).uri}/{savepoint.folder}"
        manifest = manifest_at(tmp_path, savepoint.folder)
        assert (manifest.kind, manifest.id, manifest.committed, manifest.drained) == ("savepoint", 1, True, False)
        assert record["sizeBytes"] == manifest.size_bytes > 0
        assert [message.checkpoint for message in first.of(Complete)] == [2]
        _, view = await running.call("GET", "/v1/job")
        assert view["lastCheckpoint"]["id"] == 2
    assert journal_kinds(tmp_path) == ["fence", "checkpoint", "checkpoint"]


async def test_a_job_without_two_phase_sinks_takes_no_notice_of_a_savepoint(tmp_path: Path) -> None:
    graph = graph_without_sink()
    async with coordinator(tmp_path, graph=graph) as running, workers(running) as found:
        await started(found)
        await ask(running)
        assert (await ended(running))["status"] == "COMPLETED"
        assert [message.checkpoint for message in found[0].of(Trigger)] == [1]
        assert not found[0].of(Complete)
        found[1].fail("user", "ValueError: boom")
        await started(found, attempt=2)
        restore = found[0].of(Deploy)[1].restore
        assert restore is not None
        assert restore.id == 0
        await running.call("POST", "/v1/checkpoints", {})
        trigger = await found[0].until(Trigger, 2)
        assert (trigger.checkpoint, trigger.savepoint) == (2, False)
        await found[0].until(Complete)
    assert journal_kinds(tmp_path) == ["fence", "checkpoint", "checkpoint"]
    assert len(folders(tmp_path)) == 1


async def test_asking_again_under_the_same_name_answers_with_the_same_savepoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await ask(running, "first")
        before = await ended(running, "first")
        assert (await ask(running, "first"))[1] == before
        status, problem = await ask(running, "first", stop=True)
        assert status == 409
        assert "`first`" in problem["error"]
        _, other = await running.call("POST", "/v1/savepoints")
        await ended(running, other["request"])
        _, listed = await running.call("GET", "/v1/savepoints")
        assert [record["request"] for record in listed] == ["first", other["request"]]
        assert len(folders(tmp_path)) == 2
        assert (await running.call("GET", "/v1/savepoints/none"))[0] == 404
        assert (await running.call("GET", "/v1/savepoints/first?waitMs=soon"))[0] == 400


async def test_a_savepoint_that_fails_leaves_the_job_and_its_tolerance_alone(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__tolerableFailures=0)
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await ask(running)
        trigger = await second.until(Trigger)
        first.ack(trigger)
        second.send(Decline(trigger.attempt, 1, "disk full"))
        record = await ended(running)
        assert record["status"] == "FAILED"
        assert "worker 1 could not take part: disk full" in record["failure"]
        assert (await first.until(Abort)).resume
        first.acks = second.acks = True
        await running.call("POST", "/v1/checkpoints", {})
        assert (await first.until(Complete)).checkpoint == 2
        assert await running.state() == "RUNNING"
        assert not first.of(Drop)
    assert not folders(tmp_path)


async def test_a_savepoint_that_is_not_acknowledged_in_time_fails(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__timeout="50ms", checkpoint__tolerableFailures=0)
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as found:
        await started(found)
        await ask(running)
        record = await ended(running)
        assert "not acknowledged within 50 ms by the workers [0, 1]" in record["failure"]
        assert await running.state() == "RUNNING"


async def test_a_savepoint_whose_following_checkpoint_fails_has_failed(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        second.acks = False
        await ask(running)
        second.ack(await second.until(Trigger))
        follower = await second.until(Trigger, 2)
        second.send(Decline(follower.attempt, follower.checkpoint, "disk full"))
        record = await ended(running)
        assert record["status"] == "FAILED"
        assert "the checkpoint that commits the output before it failed" in record["failure"]
        assert "disk full" in record["failure"]
        assert await running.state() == "RUNNING"


async def test_a_savepoint_that_storage_refuses_has_failed(tmp_path: Path) -> None:
    storage = RefusesSavepoints(storage_of(tmp_path).root)
    async with coordinator(tmp_path, storage=storage) as running, workers(running) as found:
        await started(found)
        await ask(running)
        assert "no space left on device" in (await ended(running))["failure"]
        assert await running.state() == "RUNNING"


async def test_a_savepoint_whose_attempt_fails_has_failed_and_its_files_go(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        second.acks = False
        await ask(running)
        trigger = await first.until(Trigger)
        path = f"{trigger.folder}/count-0/state.blocks"
        storage_of(tmp_path).create(path, b"state")
        second.fail("user", "ValueError: boom")
        assert (await ended(running))["failure"] == "the attempt ended before it"
        await started([first, second], attempt=2)
        await eventually(lambda: not storage_of(tmp_path).exists(path), "what a dead attempt left goes")


async def test_a_savepoint_is_no_base_of_a_checkpoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path, graph=graph_without_sink()) as running, workers(running) as (first, second):
        await started([first, second])
        await running.call("POST", "/v1/checkpoints", {})
        await first.until(Complete)
        await ask(running)
        await ended(running)
        await running.call("POST", "/v1/checkpoints", {})
        await first.until(Complete, 2)
        assert [(trigger.checkpoint, trigger.base) for trigger in first.of(Trigger)] == [(1, -1), (2, -1), (3, 1)]


def test_a_savepoint_leaves_the_schedule_of_checkpoints_alone() -> None:
    tracker = CheckpointTracker(Schedule(interval_ms=100, min_pause_ms=50), next_id=1)
    tracker.attempt_runs(1000)
    pending = tracker.begin(
        cause="savepoint", attempt="1.1", folder="", parallelism=1, sources={}, now_ms=1060, wall_ms=0
    )
    assert tracker.pending is pending
    tracker.set_aside(pending)
    assert tracker.pending is None
    tracker.saved(pending, 10, 1090)
    assert (tracker.due_ms(), tracker.earliest_ms(), tracker.next_id) == (1100, 0, 2)
    assert (tracker.completed_total, tracker.last_completed) == (0, None)
    other = tracker.begin(
        cause="savepoint", attempt="1.1", folder="", parallelism=1, sources={}, now_ms=1091, wall_ms=0
    )
    assert not tracker.fail(other, "no", 1095)
    assert (tracker.failures_in_a_row, tracker.problem) == (0, "")
    assert (tracker.due_ms(), tracker.earliest_ms(), tracker.failed_total) == (1100, 0, 0)


async def test_savepoints_wait_for_each_other_and_for_checkpoints(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await running.call("POST", "/v1/checkpoints", {})
        trigger = await first.until(Trigger)
        await ask(running, "one")
        await ask(running, "two")
        assert len(first.of(Trigger)) == 1
        first.acks = second.acks = True
        for worker in (first, second):
            worker.ack(trigger)
        for name in ("one", "two"):
            assert (await ended(running, name))["status"] == "COMPLETED"
        assert [message.savepoint for message in first.of(Trigger)] == [False, True, False, True, False]


async def test_savepoints_are_refused_while_the_job_is_not_running(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        status, problem = await ask(running)
        assert status == 409
        assert "while the job is running" in problem["error"]
        assert (await ask(running, drain=True))[0] == 400
        async with workers(running) as found:
            await started(found)
            for worker in found:
                worker.acks = False
                worker.ended()
            await found[0].until(Trigger)
            assert (await ask(running))[0] == 409


async def test_a_job_that_finishes_takes_no_savepoint_any_more(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await running.call("POST", "/v1/checkpoints", {})
        trigger = await first.until(Trigger)
        await ask(running)
        waiting = asyncio.create_task(ended(running))
        first.ended()
        second.ended()
        await running.until_state("FINISHING")
        first.acks = second.acks = True
        for worker in (first, second):
            worker.ack(trigger)
        assert (await waiting)["failure"] == "all input has ended, and the job finishes by itself"
        assert await running.exit_code() == 0


async def test_volatile_storage_takes_no_savepoint(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__storage={"uri": "memory://", "allowVolatile": True})
    async with coordinator(tmp_path, job, storage=MemoryStorage("test")) as running, workers(running) as found:
        await started(found)
        status, problem = await ask(running)
        assert status == 409
        assert "use another storage" in problem["error"]
