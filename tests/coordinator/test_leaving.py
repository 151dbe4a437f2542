"""Workers and coordinators that leave: a last checkpoint is taken, and the job goes on from it by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from coordinator_kit import (
    Running,
    Worker,
    connected,
    coordinator,
    ending_of,
    eventually,
    journal_kinds,
    process,
    published,
    started,
    workers,
)

from checkdam.coordinator.ending import OUTCOME_FILE
from checkdam.wire.messages import Abort, Committed, Complete, Decline, Deploy, Drop, Leaving, Peers, Shutdown, Trigger


async def leave(running: Running) -> None:
    """SIGTERM of the coordinator, which is this process."""
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0)
    assert not running.task.done()


async def test_a_worker_is_let_go_when_its_sinks_have_committed_a_last_checkpoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, commits=False) as (first, second):
        await started([first, second])
        second.send(Leaving())
        trigger = await first.until(Trigger)
        assert (trigger.stop, trigger.savepoint) == (True, False)
        await second.until(Complete)
        assert not first.of(Drop)
        for worker in (first, second):
            worker.send(Committed(worker.attempt, trigger.checkpoint))
        await second.until(Shutdown)
        assert [len(worker.of(Drop)) for worker in (first, second)] == [1, 1]
        assert not first.of(Shutdown)
        assert journal_kinds(tmp_path)[-1] == "checkpoint"
        # Its place is free, although its connection is still there.
        third = await Worker(1, running.graph).connect(running.addresses)
        deploy = await third.until(Deploy)
        assert deploy.restore is not None
        assert deploy.restore.id == trigger.checkpoint
        await started([first], 2)
        _, view = await running.call("GET", "/v1/job")
        assert (view["restarts"], view["lastFailure"]) == (1, None)
        await third.close()


async def test_workers_that_leave_together_share_one_checkpoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        for worker in found:
            worker.send(Leaving())
        for worker in found:
            await worker.until(Shutdown)
        assert [len(worker.of(Trigger)) for worker in found] == [1, 1]
        assert await running.state() == "DEPLOYING"


async def test_a_worker_that_leaves_is_not_kept_by_a_checkpoint_that_fails(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        second.send(Leaving())
        trigger = await first.until(Trigger)
        first.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        await second.until(Shutdown)
        assert first.of(Abort)
        _, view = await running.call("GET", "/v1/job")
        assert (view["lastCheckpoint"]["id"], view["checkpointFailures"]) == (0, 0)


@pytest.mark.parametrize("phase", ["waiting", "deploying"])
async def test_where_nothing_runs_a_worker_may_go_at_once(tmp_path: Path, phase: str) -> None:
    async with coordinator(tmp_path) as running, workers(running, 1) as [first]:
        if phase == "deploying":
            second = await Worker(1, running.graph, readies=False).connect(running.addresses)
            await second.until(Peers)
            second.send(Leaving())
            await second.until(Shutdown)
            await first.until(Drop)
            await second.close()
        else:
            first.send(Leaving())
            await first.until(Shutdown)
        assert not first.of(Trigger)
        assert await running.state() in ("STARTING", "DEPLOYING")


async def test_a_coordinator_that_leaves_takes_a_last_checkpoint_and_lets_workers_wait_for_the_next(
    tmp_path: Path,
) -> None:
    async with coordinator(tmp_path, on_signal="leave", linger=True) as running, workers(running) as (first, second):
        await started([first, second])
        second.send(Leaving())
        await eventually(lambda: first.of(Trigger), "the last checkpoint")
        await leave(running)
        assert await running.exit_code() == 0
        assert ending_of(running.config).state == "LEFT"
        await eventually(lambda: first.closed and second.closed, "the connections are closed")
        assert (len(first.of(Shutdown)), len(second.of(Shutdown))) == (0, 1)
    assert journal_kinds(tmp_path)[-1] == "checkpoint"
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)


async def test_a_coordinator_that_leaves_tells_nobody_that_the_job_was_stopped(tmp_path: Path) -> None:
    async with coordinator(tmp_path, on_signal="leave") as running, workers(running, acks=False) as found:
        await started(found)
        await leave(running)
        trigger = await found[0].until(Trigger)
        _, view = await running.call("GET", "/v1/job")
        assert (view["state"], view["stoppedWith"]) == ("STOPPING", "")
        for worker in found:
            worker.ack(trigger)
        assert await running.exit_code() == 0


async def test_a_coordinator_without_an_attempt_leaves_at_once(tmp_path: Path) -> None:
    async with coordinator(tmp_path, on_signal="leave") as running, workers(running, 1) as [first]:
        await leave(running)
        assert await running.exit_code() == 0
        await eventually(lambda: first.closed, "the connection is closed")
        assert not first.of(Shutdown)


async def test_a_coordinator_whose_attempt_fails_while_it_leaves_does_not_begin_another(tmp_path: Path) -> None:
    async with coordinator(tmp_path, on_signal="leave") as running, workers(running, acks=False) as found:
        await started(found)
        await leave(running)
        await found[0].until(Trigger)
        found[0].fail("user", "ValueError: boom")
        assert await running.exit_code() == 0
        assert len(found[1].of(Deploy)) == 1


async def test_a_stop_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    async with coordinator(tmp_path, on_signal="leave", linger=True) as running, workers(running, acks=False) as found:
        await started(found)
        assert (await running.call("POST", "/v1/stop", {}))[0] == 202
        trigger = await found[0].until(Trigger)
        await leave(running)
        for worker in found:
            worker.ack(trigger)
        assert await running.exit_code() == 0
        assert ending_of(running.config).state == "STOPPED"
    assert journal_kinds(tmp_path)[-1] == "stopped"


async def test_a_coordinator_that_has_ended_lingers_until_a_signal_comes(tmp_path: Path) -> None:
    async with coordinator(tmp_path, on_signal="leave", linger=True) as running, workers(running) as found:
        await started(found)
        for worker in found:
            worker.ended()
        await running.until_state("FINISHED")
        await leave(running)
        assert await running.exit_code() == 0


@pytest.mark.parametrize("reason", ["deadline", "second signal"])
async def test_a_coordinator_whose_last_checkpoint_hangs_leaves_all_the_same(tmp_path: Path, reason: str) -> None:
    patience_s = 0.3 if reason == "deadline" else 60.0
    async with process(tmp_path, interval="1h", on_signal="leave", leave_patience_s=patience_s) as (child, config):
        found = await connected(await published(config))
        for worker in found:
            worker.acks = False
        await started(found)
        child.send_signal(signal.SIGTERM)
        await found[0].until(Trigger)
        if reason == "second signal":
            child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await child.wait() == (0 if reason == "deadline" else 128 + signal.SIGTERM)
        assert not (Path(config.run_dir) / OUTCOME_FILE).exists()
        for worker in found:
            await worker.close()
    assert journal_kinds(tmp_path) == ["fence", "checkpoint"]
