"""Schedules that must neither lose a job nor hang it: zombies, workers that come back, hung deployments, late stops."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from coordinator_kit import (
    DEADLINE_S,
    Running,
    Worker,
    config_of,
    coordinator,
    ending_of,
    eventually,
    graph_of,
    job_of,
    journal_kinds,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.coordinator import app
from checkdam.coordinator.app import coordinate
from checkdam.core.errors import StorageError
from checkdam.wire.messages import Complete, Deploy, Drop, Peers, Shutdown, Start, Trigger


class Unreadable(FileStorage):
    """Storage from which nothing can be read when a test says so."""

    away = False

    def read(self, path: str) -> bytes:
        if self.away:
            raise StorageError("read", path, "503 slow down")
        return super().read(path)


class Away(FileStorage):
    """Storage that cannot be reached for a number of calls."""

    failures = 0

    def create(self, path: str, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("create", path, "503 slow down")
        super().create(path, data)


class Overtaken(FileStorage):
    """Storage on which another coordinator fences right before ours looks at its next slot for the first time."""

    overtaken = False

    def exists(self, path: str) -> bool:
        if path.startswith("journal/") and not self.overtaken:
            self.overtaken = True
            Journal(FileStorage(self.root)).fence()
        return super().exists(path)


async def test_a_supervisor_that_connects_anew_replaces_its_own_dead_connection(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        again = await Worker(1, running.graph, instance=second.instance).connect(running.addresses)
        assert not again.welcome.refused
        await eventually(lambda: second.closed, "the old connection is cut")
        await first.until(Drop)
        await first.until(Start, 2)
        await again.until(Start)
        await again.close()


async def test_a_worker_that_has_served_a_later_epoch_is_refused_and_the_journal_asked(tmp_path: Path) -> None:
    job = job_of(tmp_path, runtime__heartbeatTimeout="1h")
    async with coordinator(tmp_path, job) as running, workers(running, 1) as (first,):
        wise = await Worker(1, running.graph, epoch=running.addresses.epoch + 1).connect(running.addresses)
        assert "has served epoch" in wise.welcome.refused
        await wise.close()
        assert await running.state() == "STARTING", "only the journal deposes a coordinator"
        Journal(storage_of(tmp_path)).fence()
        wise = await Worker(1, running.graph, epoch=running.addresses.epoch + 1).connect(running.addresses)
        assert await running.exit_code() == 3
        await wise.close()
        assert not first.of(Deploy)


async def test_with_memory_storage_a_later_epoch_is_all_that_tells_a_zombie(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__storage={"uri": "memory://", "allowVolatile": True})
    async with coordinator(tmp_path, job, storage=MemoryStorage()) as running:
        wise = await Worker(0, running.graph, epoch=running.addresses.epoch + 1).connect(running.addresses)
        assert await running.exit_code() == 3
        await wise.close()


async def test_a_coordinator_that_was_overtaken_at_its_start_publishes_no_address(tmp_path: Path) -> None:
    config = config_of(tmp_path, job_of(tmp_path))
    storage = Overtaken(storage_of(tmp_path).root)
    async with asyncio.timeout(DEADLINE_S):
        assert await coordinate(config, job_of(tmp_path), graph_of(), storage) == 3
    assert ending_of(config).state == "DEPOSED"
    assert not Path(config.address_file).exists()


async def test_a_worker_that_never_gets_ready_fails_the_attempt_in_time(tmp_path: Path) -> None:
    job = job_of(tmp_path, runtime__deployTimeout="1s")
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        second.readies = False
        await first.until(Peers)
        second.readies = True
        await started([first, second])
        _, view = await running.call("GET", "/v1/job")
        assert view["lastFailure"]["kind"] == "timeout"
        assert "[1]" in view["lastFailure"]["error"]
        assert "deployTimeout" in view["lastFailure"]["error"]
        await asyncio.sleep(1.2)
        assert await running.state() == "RUNNING", "once it runs, the timeout counts no more"


async def test_storage_that_fails_while_a_damage_is_looked_for_does_not_end_the_job(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Complete)
    storage = Unreadable(storage_of(tmp_path).root)
    async with coordinator(tmp_path, storage=storage) as running, workers(running, readies=False) as (first, second):
        await first.until(Peers)
        storage.away = True
        first.fail("error", "cannot read chk-1: 503 slow down")
        await first.until(Deploy, 2)
        storage.away = False
        await second.until(Peers, 2)
        assert await running.state() == "RESTARTING"
        assert not first.of(Shutdown)


async def test_a_coordinator_that_replaces_another_waits_for_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "TAKE_OVER_PAUSES_S", (0.0, 0.0))
    storage = Away(storage_of(tmp_path).root)
    for failures, start_count, state in ((1, 1, "FAILED"), (3, 2, "FAILED")):
        storage.failures = failures
        config = config_of(tmp_path, job_of(tmp_path), start_count=start_count)
        assert await coordinate(config, job_of(tmp_path), graph_of(), storage) == 1
        assert ending_of(config).state == state
    storage.failures = 2
    async with coordinator(tmp_path, storage=storage, start_count=2) as running, workers(running) as found:
        await started(found)


async def test_memory_storage_says_that_the_job_starts_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = job_of(tmp_path, checkpoint__storage={"uri": "memory://", "allowVolatile": True})
    for start_count in (1, 2):
        assert "starts afresh" not in caplog.text
        async with coordinator(tmp_path, job, storage=MemoryStorage(), start_count=start_count) as running:
            assert running.addresses.epoch == start_count
    assert "job default/test starts afresh" in caplog.text


async def test_a_stop_at_once_after_the_stop_was_journalled_tells_of_its_checkpoint(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, commits=False) as found:
        await started(found)
        await running.call("POST", "/v1/stop", {"checkpoint": True})
        await found[0].until(Complete)
        await running.call("POST", "/v1/stop", {"checkpoint": False})
        assert await running.exit_code() == 0
        assert "stopped with checkpoint 1" in running.ending().message
        assert "not all sinks have committed" in running.ending().message
    assert journal_kinds(tmp_path)[-1] == "stopped"


async def test_input_that_ends_while_a_stop_is_under_way_leaves_a_job_that_can_finish(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await running.call("POST", "/v1/stop", {"checkpoint": True})
        triggers = [await worker.until(Trigger) for worker in found]
        for worker in found:
            worker.ended()
        for worker, trigger in zip(found, triggers, strict=True):
            worker.ack(trigger)
        assert await running.exit_code() == 0
        assert running.ending().state == "STOPPED"
    async with coordinator(tmp_path, resume=True) as running, workers(running) as found:
        await _finish(running, found)
    assert journal_kinds(tmp_path)[-1] == "finished"


async def test_a_failure_after_some_workers_have_ended_forgets_that_they_had(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        first.ended()
        second.fail("error", "something else")
        await started([first, second], 2)
        second.ended()
        _, view = await running.call("GET", "/v1/job")
        assert view["state"] == "RUNNING"
        assert not first.of(Trigger)
        first.ended()
        assert await running.exit_code() == 0


async def test_commits_of_an_earlier_attempt_do_not_finish_the_job(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        second.commits = False
        first.ended()
        second.ended()
        await second.until(Complete)
        first.fail("error", "after the final checkpoint")
        await started([first, second], 2)
        restore = second.of(Deploy)[1].restore
        assert restore is not None
        assert restore.final
        first.ended()
        second.ended()
        await second.until(Complete, 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(running.task)
        assert not running.task.done(), "the sinks of the second worker have committed nothing in this attempt"
        assert "finished" not in journal_kinds(tmp_path)


async def _finish(running: Running, found: list[Worker]) -> None:
    await started(found)
    for worker in found:
        worker.ended()
    assert await running.exit_code() == 0
