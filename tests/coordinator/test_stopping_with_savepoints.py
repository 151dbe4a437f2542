"""A job that stops with a savepoint, drained or not, and what goes on from it, with scripted workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from coordinator_kit import (
    Running,
    Worker,
    coordinator,
    ending_at_once,
    eventually,
    graph_of,
    job_of,
    journal_kinds,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import FileHandle, SubtaskSnapshot
from checkdam.checkpoint.store import CheckpointStore
from checkdam.core.batch import MAX_TIME, MIN_TIME
from checkdam.wire.messages import Abort, Committed, Complete, Decline, Deploy, Drop, Shutdown, Start, Trigger


async def stop(running: Running, *, drain: bool = False) -> None:
    status, _ = await running.call("POST", "/v1/savepoints", {"request": "stop", "stop": True, "drain": drain})
    assert status == 202


async def stopped(running: Running, found: list[Worker], *, drain: bool = False) -> str:
    """Stop the job with a savepoint; returns the savepoint's folder."""
    await started(found)
    await stop(running, drain=drain)
    trigger = await found[0].until(Trigger)
    assert await running.exit_code() == 0
    return trigger.folder


def snapshots(worker: Worker, *, watermark_ms: int = MIN_TIME, pending: Any = None) -> list[SubtaskSnapshot]:
    own = {} if pending is None else {"out": msgspec.msgpack.encode({"pending": pending})}
    handle = FileHandle("state", 5, "0" * 64, inline=b"state")
    groups = (0, 64) if worker.index == 0 else (64, 128)
    return [
        SubtaskSnapshot("numbers", worker.index, watermark_ms=watermark_ms),
        SubtaskSnapshot("count", worker.index, groups, watermark_ms, own, [handle], [(*groups, watermark_ms)]),
    ]


async def test_a_job_stops_with_a_savepoint_that_takes_the_place_of_its_last_checkpoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        await stop(running)
        trigger = await first.until(Trigger)
        assert (trigger.stop, trigger.savepoint, trigger.drain, trigger.base) == (True, True, False, -1)
        _, record = await running.call("GET", "/v1/savepoints/stop?waitMs=10000")
        assert (record["status"], record["uri"]) == ("COMPLETED", f"{storage_of(tmp_path).uri}/{trigger.folder}")
        assert (await first.until(Complete)).checkpoint == trigger.checkpoint
        await first.until(Shutdown)
        assert await running.exit_code() == 0
        assert (running.ending().state, running.ending().checkpoint) == ("STOPPED", trigger.folder)
        assert len(first.of(Trigger)) == 1
    tail = Journal(storage_of(tmp_path)).tail()
    assert tail is not None
    assert (tail.kind, tail.checkpoint, tail.checkpoint_id) == ("stopped", trigger.folder, 1)
    assert trigger.folder in tail.retained
    assert (await ending_at_once(tmp_path)).state == "NOT_RESUMED"


async def test_a_resumed_job_goes_on_from_the_savepoint_and_never_deletes_it(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__retain=1)
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        folder = await stopped(running, found)
    async with coordinator(tmp_path, job, resume=True) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert (restore.id, restore.kind) == (1, "savepoint")
        for number in (1, 2):
            await running.call("POST", "/v1/checkpoints", {})
            await found[0].until(Complete, number)
        # The first one names nothing of the savepoint, which is the user's to delete.
        assert [trigger.base for trigger in found[0].of(Trigger)] == [-1, 2]
        tail = Journal(storage_of(tmp_path)).tail()
        assert tail is not None
        assert folder not in tail.retained
        await eventually(lambda: not storage_of(tmp_path).exists(f"{found[0].of(Trigger)[0].folder}/_metadata"))
    manifest = CheckpointStore(storage_of(tmp_path)).read_manifest(folder)
    assert (manifest.kind, manifest.id) == ("savepoint", 1)


async def test_where_all_sinks_have_committed_a_resumed_job_commits_nothing_again(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await stop(running)
        for worker in found:
            worker.ack(await worker.until(Trigger), snapshots=snapshots(worker, pending=[[1, ["a"]]]))
        assert await running.exit_code() == 0
    async with coordinator(tmp_path, resume=True) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert [snapshot.operators for snapshot in restore.subtasks] == [{}, {}]


async def test_another_job_that_starts_from_there_commits_nothing_again_either(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await stop(running)
        for worker in found:
            trigger = await worker.until(Trigger)
            worker.ack(trigger, snapshots=snapshots(worker, pending=[[1, ["a"]]]))
        assert await running.exit_code() == 0
    uri = f"{storage_of(tmp_path).uri}/{trigger.folder}"
    async with coordinator(tmp_path, restore_from=uri, request="again") as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert (restore.id, [snapshot.operators for snapshot in restore.subtasks]) == (2, [{}, {}])


async def test_what_sinks_have_not_committed_by_the_end_is_committed_by_whoever_goes_on(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False, commits=False) as found:
        await started(found)
        await stop(running)
        for worker in found:
            trigger = await worker.until(Trigger)
            worker.ack(trigger, snapshots=snapshots(worker, pending=[[1, ["a"]]]))
        await found[0].until(Complete)
        found[0].fail("process", "it was killed")
        assert await running.exit_code() == 0
    uri = f"{storage_of(tmp_path).uri}/{trigger.folder}"
    for settings in ({"resume": True}, {"restore_from": uri, "request": "again"}):
        async with coordinator(tmp_path, **settings) as running, workers(running) as found:
            await started(found)
            restore = found[0].of(Deploy)[0].restore
            assert restore is not None
            assert all("out" in snapshot.operators for snapshot in restore.subtasks if snapshot.stage == "count")


async def test_a_stop_whose_savepoint_fails_lets_the_job_go_on(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await stop(running)
        trigger = await second.until(Trigger)
        second.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        _, record = await running.call("GET", "/v1/savepoints/stop?waitMs=10000")
        assert (record["status"], record["failure"]) == ("FAILED", "worker 1 could not take part: disk full")
        assert (await first.until(Abort)).resume
        view = await running.until_state("RUNNING")
        assert "disk full" in view["stopProblem"]
        assert not first.of(Drop)


async def test_an_attempt_that_fails_while_it_stops_with_a_savepoint_is_followed_by_another(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        second.acks = False
        await stop(running)
        await second.until(Trigger)
        second.fail("user", "ValueError: boom")
        await started([first, second], attempt=2)
        _, record = await running.call("GET", "/v1/savepoints/stop")
        assert (record["status"], record["failure"]) == ("FAILED", "the attempt ended before it")
        view = await running.until_state("RUNNING")
        assert "boom" in view["stopProblem"]


async def test_an_attempt_that_fails_after_the_journal_holds_the_savepoint_is_the_last(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, commits=False) as (first, second):
        await started([first, second])
        await stop(running)
        await first.until(Complete)
        first.send(Committed(first.attempt, 1))
        second.fail("process", "it was killed")
        assert await running.exit_code() == 0
        assert running.ending().state == "STOPPED"
        assert len(first.of(Start)) == 1
    assert journal_kinds(tmp_path)[-1] == "stopped"
    assert (await ending_at_once(tmp_path)).state == "NOT_RESUMED"


async def test_one_stop_at_a_time(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await stop(running)
        await found[0].until(Trigger)
        assert (await running.call("POST", "/v1/savepoints", {"request": "other", "stop": True}))[0] == 409
        # Ctrl-C meanwhile: the same stop will do.
        assert (await running.call("POST", "/v1/stop", {"checkpoint": True}))[0] == 202
        for worker in found:
            worker.ack(worker.of(Trigger)[0])
        assert await running.exit_code() == 0
        assert [message.savepoint for message in found[0].of(Trigger)] == [True]


async def test_a_drained_job_goes_on_only_when_its_savepoint_is_named(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await stop(running, drain=True)
        for worker in found:
            trigger = await worker.until(Trigger)
            assert (trigger.stop, trigger.savepoint, trigger.drain) == (True, True, True)
            worker.ack(trigger, snapshots=snapshots(worker, watermark_ms=MAX_TIME))
        assert await running.exit_code() == 0
        assert running.ending().drained
    uri = f"{storage_of(tmp_path).uri}/{trigger.folder}"
    assert CheckpointStore(storage_of(tmp_path)).read_manifest(trigger.folder).drained
    ending = await ending_at_once(tmp_path, resume=True)
    assert (ending.state, ending.exit_code) == ("FAILED", 1)
    assert uri in ending.message
    assert "`restoreFrom`" in ending.message
    async with coordinator(tmp_path, restore_from=uri, request="go on") as running, workers(running) as found:
        await started(found)
        restore = found[1].of(Deploy)[0].restore
        assert restore is not None
        assert (restore.id, restore.kind, restore.drained) == (2, "checkpoint", False)
        assert {(s.watermark_ms, tuple(s.group_watermarks)) for s in restore.subtasks} == {(MIN_TIME, ())}
    assert CheckpointStore(storage_of(tmp_path)).read_manifest(trigger.folder).drained


async def test_a_drain_that_fails_fails_the_attempt_since_event_time_has_passed(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await stop(running, drain=True)
        trigger = await second.until(Trigger)
        second.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        assert not (await first.until(Abort)).resume
        await started([first, second], attempt=2)
        view = await running.until_state("RUNNING")
        assert view["lastFailure"]["kind"] == "checkpoint"
        assert "drain" in view["lastFailure"]["error"]


async def test_nothing_falls_back_to_a_savepoint_that_was_drained(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__onCorrupt="FallBack")
    async with coordinator(tmp_path, job) as running, workers(running) as found:
        folder = await stopped(running, found, drain=True)
    uri = f"{storage_of(tmp_path).uri}/{folder}"
    async with coordinator(tmp_path, job, restore_from=uri, request="go on") as running, workers(running) as found:
        await started(found)
        adopted = Journal(storage_of(tmp_path)).tail()
        assert adopted is not None
        assert folder in adopted.retained
    storage_of(tmp_path).delete([f"{adopted.checkpoint}/_metadata"])
    async with coordinator(tmp_path, job, restore_from=uri, request="go on") as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == 0


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_savepoint_owes_nothing_so_its_sink_may_be_removed(tmp_path: Path, allowed: bool) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await running.call("POST", "/v1/savepoints", {"request": "mine"})
        for worker in found:
            worker.ack(await worker.until(Trigger), snapshots=snapshots(worker, pending=[[1, ["a"]]]))
            worker.acks = True
        for worker in found:
            if len(worker.of(Trigger)) > 1:
                worker.ack(worker.of(Trigger)[1])
        _, record = await running.call("GET", "/v1/savepoints/mine?waitMs=10000")
        assert record["status"] == "COMPLETED"
    graph = graph_of(sink="elsewhere") if allowed else graph_of()
    settings = {"restore_from": record["uri"], "request": "other"}
    async with coordinator(tmp_path, graph=graph, **settings) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert [snapshot.operators for snapshot in restore.subtasks] == [{}, {}]
