"""A coordinator over real sockets and file storage, with scripted workers: how a job is stopped, and goes on."""

from __future__ import annotations

from pathlib import Path

from coordinator_kit import (
    coordinator,
    ending_at_once,
    journal_kinds,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.journal import Journal
from checkdam.wire.messages import (
    Abort,
    Complete,
    Decline,
    Deploy,
    Shutdown,
    Trigger,
)


async def test_a_stop_takes_a_last_checkpoint_and_needs_resume_to_go_on(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        assert await running.call("POST", "/v1/stop", {"checkpoint": True}) == (202, {"state": "STOPPING"})
        trigger = await first.until(Trigger)
        assert trigger.stop
        await second.until(Shutdown)
        assert await running.exit_code() == 0
        assert running.ending().state == "STOPPED"
        assert running.ending().checkpoint == trigger.folder
    assert journal_kinds(tmp_path)[-2:] == ["stopped", "stopped"]
    ending = await ending_at_once(tmp_path)
    assert (ending.state, ending.exit_code) == ("NOT_RESUMED", 1)
    async with coordinator(tmp_path, resume=True) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == 1
    # Once resumed, it is not stopped any more: the next coordinator goes on without being told.
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)


async def test_a_wish_to_resume_holds_for_a_stop_from_before_it_and_not_for_a_later_one(tmp_path: Path) -> None:
    async with coordinator(tmp_path, resume=True) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/stop", {})
        assert await running.exit_code() == 0
    # One that replaces it, because it died after the stop, changes nothing.
    entries = len(journal_kinds(tmp_path))
    ending = await ending_at_once(tmp_path, resume=True, since_epoch=1)
    assert (ending.state, ending.exit_code) == ("STOPPED", 0)
    assert len(journal_kinds(tmp_path)) == entries
    # One that replaces another which had only fenced the journal by the time it died goes on.
    fence = Journal(storage_of(tmp_path)).fence()
    async with coordinator(tmp_path, resume=True, since_epoch=fence.epoch) as running, workers(running) as found:
        await started(found)


async def test_a_stop_that_fails_lets_the_job_go_on(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        first.acks = False
        await running.call("POST", "/v1/stop", {})
        trigger = await first.until(Trigger)
        first.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        assert (await second.until(Abort)).resume
        view = await running.until_state("RUNNING")
        assert "disk full" in view["stopProblem"]


async def test_why_a_stop_failed_is_told_while_it_is_tried_again_until_a_checkpoint_completes(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await running.call("POST", "/v1/stop", {})
        for count in (1, 2):
            trigger = await first.until(Trigger, count)
            first.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
            await running.until_state("RUNNING")
            await running.call("POST", "/v1/stop", {})
            view = await running.until_state("STOPPING")
            assert "disk full" in view["stopProblem"]
        trigger = await first.until(Trigger, 3)
        first.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        await running.until_state("RUNNING")
        await running.call("POST", "/v1/checkpoints", {})
        for worker in (first, second):
            worker.ack(await worker.until(Trigger, 4))
        await first.until(Complete)
        await running.call("POST", "/v1/stop", {})
        assert (await running.until_state("STOPPING"))["stopProblem"] == ""


async def test_a_stop_without_checkpoint_ends_at_once_and_needs_no_resume(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/stop", {"checkpoint": False})
        await found[0].until(Shutdown)
        assert await running.exit_code() == 0
        assert not found[0].of(Trigger)
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)


async def test_a_wish_for_a_checkpoint_is_fulfilled_once_and_does_not_undo_a_later_stop(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        for count in (1, 2):
            await running.call("POST", "/v1/checkpoints", {})
            complete = await found[0].until(Complete, count)
    wish = {"restore_from": f"file://{tmp_path}/checkpoints/default/test/chk-1-1.1-0", "request": "w1"}
    async with coordinator(tmp_path, **wish) as running, workers(running) as found:
        await started(found)
        assert (await running.call("GET", "/v1/job"))[1]["restoredFrom"] == wish["restore_from"]
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == complete.checkpoint + 1
        await running.call("POST", "/v1/stop", {})
        assert await running.exit_code() == 0
    assert (await ending_at_once(tmp_path, **wish)).state == "NOT_RESUMED"
    async with coordinator(tmp_path, resume=True, **wish) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == complete.checkpoint + 2
