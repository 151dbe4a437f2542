"""Another number of workers for a job that runs: nothing stops before it can be done, and nothing is read twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import Running, Worker, coordinator, eventually, job_of, journal_kinds, started, workers

from checkdam.coordinator import scale
from checkdam.coordinator.scale import remembered_wanted
from checkdam.wire.messages import Abort, Committed, Complete, Decline, Deploy, Drop, Leaving, Shutdown, Trigger


async def rescale(running: Running, parallelism: int) -> dict[str, Any]:
    status, answer = await running.call("POST", "/v1/rescale", {"parallelism": parallelism})
    assert status == 202, answer
    return dict(answer)


async def test_a_job_goes_on_with_more_workers_as_soon_as_they_are_there(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        assert await rescale(running, 3) == {"parallelism": 2, "wantedParallelism": 3}
        third = await Worker(2, running.graph).connect(running.addresses)
        trigger = await first.until(Trigger)
        assert (trigger.stop, trigger.savepoint) == (True, False)
        assert not third.of(Trigger)
        await started([first, second], 2)
        await started([third])
        deploys = [worker.of(Deploy)[-1] for worker in (first, second, third)]
        assert [(deploy.index, deploy.parallelism) for deploy in deploys] == [(0, 3), (1, 3), (2, 3)]
        assert all(deploy.restore is not None and deploy.restore.id == trigger.checkpoint for deploy in deploys)
        _, view = await running.call("GET", "/v1/job")
        assert (view["parallelism"], view["wantedParallelism"], view["workersConnected"]) == (3, 3, 3)
        assert (view["restarts"], view["lastFailure"], view["attempt"]) == (0, None, 2)
        assert journal_kinds(tmp_path)[-1] == "checkpoint"
        number, _ = await running.trigger()
        await third.until(Complete)
        _, record = await running.call("GET", f"/v1/checkpoints/{number}")
        assert (record["acknowledged"], record["status"]) == (3, "COMPLETED")
        await third.close()


async def test_until_they_are_there_it_goes_on_with_those_that_it_has(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await rescale(running, 4)
        third = await Worker(2, running.graph).connect(running.addresses)
        await running.trigger()
        trigger = await found[0].until(Trigger)
        assert not trigger.stop
        await found[0].until(Complete)
        _, view = await running.call("GET", "/v1/job")
        assert (view["state"], view["parallelism"], view["workersConnected"]) == ("RUNNING", 2, 3)
        assert [worker["connected"] for worker in view["workers"]] == [True, True, True, False]
        # Nor does it matter that one of those goes again.
        await third.close()
        while (await running.call("GET", "/v1/job"))[1]["workersConnected"] > 2:
            await asyncio.sleep(0.01)
        found[0].fail("user", "ValueError: boom")
        await started(found, 2)
        assert found[0].of(Deploy)[-1].parallelism == 2


async def test_a_job_goes_on_with_fewer_workers_and_lets_go_of_the_others(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        await rescale(running, 1)
        await started([first], 2)
        assert first.of(Deploy)[-1].parallelism == 1
        assert (len(second.of(Deploy)), len(second.of(Drop))) == (1, 1)
        # What becomes of it is nothing to the job.
        second.send(Leaving())
        await second.until(Shutdown)
        await second.close()
        number, _ = await running.trigger()
        await first.until(Complete, 2)
        _, view = await running.call("GET", "/v1/job")
        assert (view["lastCheckpoint"]["id"], view["restarts"], view["attempt"]) == (number, 0, 2)
        assert len(view["workers"]) == 1


async def test_sinks_commit_before_the_number_changes(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, commits=False) as (first, second):
        await started([first, second])
        await rescale(running, 1)
        complete = await second.until(Complete)
        first.send(Committed(first.attempt, complete.checkpoint))
        await running.call("GET", "/v1/job")
        assert not first.of(Drop)
        second.send(Committed(second.attempt, complete.checkpoint))
        await started([first], 2)


async def test_where_the_checkpoint_fails_reading_goes_on_and_it_is_tried_again_with_the_next(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__interval="50ms")
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await rescale(running, 1)
        trigger = await eventually(lambda: next((found for found in first.of(Trigger) if found.stop), None))
        for earlier in first.of(Trigger):
            if earlier.checkpoint < trigger.checkpoint:
                assert not earlier.stop
        first.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        abort = await eventually(lambda: next(iter(second.of(Abort)), None))
        assert (abort.checkpoint, abort.resume) == (trigger.checkpoint, True)
        again = await eventually(
            lambda: next((f for f in first.of(Trigger) if f.checkpoint > trigger.checkpoint), None)
        )
        assert again.stop
        for worker in (first, second):
            worker.ack(again)
        await started([first], 2)
        deploy = first.of(Deploy)[-1]
        assert deploy.restore is not None
        assert (deploy.parallelism, deploy.restore.id) == (1, again.checkpoint)


async def test_a_checkpoint_that_fails_counts_like_any_other_and_the_next_attempt_has_the_number(
    tmp_path: Path,
) -> None:
    job = job_of(tmp_path, checkpoint__tolerableFailures=0)
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await rescale(running, 1)
        trigger = await first.until(Trigger)
        first.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        await started([first], 2)
        assert first.of(Deploy)[-1].parallelism == 1
        _, view = await running.call("GET", "/v1/job")
        assert (view["lastFailure"]["kind"], view["restarts"]) == ("checkpoint", 1)


async def test_an_attempt_that_does_not_read_yet_gives_way_at_once(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, readies=False) as (first, second):
        await second.until(Deploy)
        first.readies = True
        await rescale(running, 1)
        await started([first])
        assert first.of(Deploy)[-1].parallelism == 1
        assert not first.of(Trigger)


async def test_a_wish_that_is_taken_back_changes_nothing(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await rescale(running, 3)
        await rescale(running, 2)
        third = await Worker(2, running.graph).connect(running.addresses)
        await running.trigger()
        assert not (await found[0].until(Trigger)).stop
        assert not third.of(Deploy)
        await third.close()


@pytest.mark.parametrize("parallelism", [0, -1, 129])
async def test_a_number_that_no_job_can_have_is_refused(tmp_path: Path, parallelism: int) -> None:
    async with coordinator(tmp_path) as running:
        status, answer = await running.call("POST", "/v1/rescale", {"parallelism": parallelism})
        assert status == 400
        assert f"from 1 to `spec.maxParallelism`, which is 128 (got {parallelism})" in answer["error"]


async def test_a_job_that_has_ended_is_not_rescaled(tmp_path: Path) -> None:
    async with coordinator(tmp_path, linger=True) as running, workers(running) as found:
        await started(found)
        for worker in found:
            worker.ended()
        await running.until_state("FINISHED")
        status, answer = await running.call("POST", "/v1/rescale", {"parallelism": 3})
        assert (status, "it is FINISHED" in answer["error"]) == (409, True)


async def test_a_coordinator_that_takes_over_goes_on_with_those_that_ran_if_the_others_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.trigger()
        await found[0].until(Complete)
        epoch = running.addresses.epoch
    monkeypatch.setattr(scale, "PATIENCE_MS", 100)
    wider = job_of(tmp_path, parallelism=3)
    async with coordinator(tmp_path, wider, since_epoch=epoch, resume=True) as running, workers(running, 2) as found:
        await started(found)
        assert found[0].of(Deploy)[-1].parallelism == 2
        third = await Worker(2, running.graph).connect(running.addresses)
        await started([third])
        assert [worker.of(Deploy)[-1].parallelism for worker in (*found, third)] == [3, 3, 3]
        await third.close()


async def test_a_new_version_waits_for_all_of_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.trigger()
        await found[0].until(Complete)
    monkeypatch.setattr(scale, "PATIENCE_MS", 0)
    async with coordinator(tmp_path, job_of(tmp_path, parallelism=3)) as running, workers(running, 2) as found:
        assert (await running.call("GET", "/v1/job"))[1]["workersConnected"] == 2
        assert not found[0].of(Deploy)
        third = await Worker(2, running.graph).connect(running.addresses)
        await started([*found, third])
        await third.close()


async def test_what_was_asked_for_is_remembered_for_the_next_process(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        run_dir = Path(running.config.run_dir)
        assert remembered_wanted(run_dir) is None
        await rescale(running, 5)
        assert remembered_wanted(run_dir) == 5


async def test_a_job_stops_also_while_it_waits_to_be_rescaled(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await rescale(running, 3)
        assert (await running.call("POST", "/v1/stop", {}))[0] == 202
        assert await running.exit_code() == 0
    assert journal_kinds(tmp_path)[-1] == "stopped"
