"""A coordinator over real sockets and file storage, with scripted workers: checkpoints that fail, or of which nobody knows whether they did."""

from __future__ import annotations

import threading
from pathlib import Path

from coordinator_kit import (
    coordinator,
    eventually,
    job_of,
    started,
    workers,
)

from checkdam.checkpoint.manifest import FileHandle
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.core.errors import StorageError, UnknownOutcomeError
from checkdam.wire.messages import (
    Abort,
    Complete,
    Decline,
    Deploy,
    Drop,
    Trigger,
)


class FullDisk(FileStorage):
    """Storage that runs full when a test says so."""

    full = False

    def create(self, path: str, data: bytes) -> None:
        if self.full:
            raise StorageError("create", path, "no space left on device", "free some")
        super().create(path, data)


class LostAnswers(FileStorage):
    """Storage that writes journal entries but does not say so, as often as a test says."""

    lose = 0

    def create(self, path: str, data: bytes) -> None:
        super().create(path, data)
        if path.startswith("journal/") and self.lose:
            self.lose -= 1
            raise UnknownOutcomeError("create", path, "the connection broke")


class SlowJournal(FileStorage):
    """Storage whose journal entries wait for a gate."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = False

    def create(self, path: str, data: bytes) -> None:
        if path.startswith("journal/") and not self.gate.is_set():
            self.waiting = True
            assert self.gate.wait(10)
        super().create(path, data)


async def test_a_checkpoint_that_is_not_acknowledged_in_time_is_aborted(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__interval="50ms", checkpoint__timeout="80ms", checkpoint__tolerableFailures=100)
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        second.acks = False
        abort = await first.until(Abort)
        assert (abort.checkpoint, abort.resume) == (1, True)
        _, record = await running.call("GET", "/v1/checkpoints/1")
        assert (record["status"], record["acknowledged"]) == ("FAILED", 1)
        assert "by the workers [1]" in record["failure"]
        second.acks = True
        await first.until(Complete)
        assert await running.state() == "RUNNING"


async def test_more_failed_checkpoints_in_a_row_than_tolerable_fail_the_attempt(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__interval="30ms", checkpoint__tolerableFailures=1)
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as (first, second):
        for count in (1, 2):
            trigger = await second.until(Trigger, count)
            second.send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        await first.until(Drop)
        _, view = await running.call("GET", "/v1/job")
        assert view["lastFailure"]["kind"] == "checkpoint"
        assert "disk full" in view["lastFailure"]["error"]
        first.acks = second.acks = True
        await second.until(Complete)


async def test_the_final_checkpoint_is_repeated_until_it_succeeds(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__tolerableFailures=0)
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        first.acks = False
        first.ended()
        second.ended()
        for count in (1, 2):
            trigger = await first.until(Trigger, count)
            first.send(Decline(trigger.attempt, trigger.checkpoint, "not now"))
            await first.until(Abort, count)
            _, view = await running.call("GET", "/v1/job")
            assert (view["state"], view["checkpointFailures"]) == ("FINISHING", count)
            assert "not now" in view["checkpointProblem"]
        first.acks = True
        assert await running.exit_code() == 0
        assert len(first.of(Deploy)) == 1


async def test_files_that_a_worker_did_not_upload_in_this_try_are_refused(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__tolerableFailures=5)
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        for count, path in enumerate(("chk-0-1.0-0/state", "{folder}/../../other/state", "{folder}-evil/state"), 1):
            first.acks = False
            await running.call("POST", "/v1/checkpoints", {})
            trigger = await first.until(Trigger, count)
            first.ack(trigger, files=[FileHandle("state", 1, "0" * 64, path.format(folder=trigger.folder))])
            await first.until(Abort, count)
        first.acks = True
        await running.call("POST", "/v1/checkpoints", {})
        trigger = await first.until(Trigger, 4)
        assert (await first.until(Complete)).checkpoint == trigger.checkpoint


async def test_storage_that_fails_fails_the_checkpoint_and_not_the_job(tmp_path: Path) -> None:
    storage = FullDisk(tmp_path / "checkpoints" / "default" / "test")
    async with coordinator(tmp_path, storage=storage) as running, workers(running) as found:
        await started(found)
        storage.full = True
        await running.call("POST", "/v1/checkpoints", {})
        await found[0].until(Abort)
        storage.full = False
        await running.call("POST", "/v1/checkpoints", {})
        assert (await found[0].until(Complete)).checkpoint == 2
        _, history = await running.call("GET", "/v1/checkpoints")
        assert [record["status"] for record in history] == ["COMPLETED", "FAILED", "COMPLETED"]
        assert "no space left" in history[1]["failure"]


async def test_a_commit_that_is_under_way_when_the_attempt_fails_counts_for_the_next(tmp_path: Path) -> None:
    storage = SlowJournal(tmp_path / "checkpoints" / "default" / "test")
    async with coordinator(tmp_path, storage=storage) as running, workers(running) as found:
        await started(found)
        storage.gate.clear()
        await running.call("POST", "/v1/checkpoints", {})
        await eventually(lambda: storage.waiting, "the journal entry is being written")
        found[1].fail("user", "boom")
        await found[0].until(Drop)
        assert len(found[0].of(Deploy)) == 1
        storage.gate.set()
        await started(found, attempt=2)
        restore = found[0].of(Deploy)[1].restore
        assert restore is not None
        assert restore.id == 1
        assert not found[0].of(Complete)


async def test_an_entry_whose_answer_was_lost_is_settled_before_anything_else_happens(tmp_path: Path) -> None:
    storage = LostAnswers(tmp_path / "checkpoints" / "default" / "test")
    async with coordinator(tmp_path, storage=storage) as running, workers(running) as found:
        await started(found)
        storage.lose = 1
        await running.call("POST", "/v1/checkpoints", {})
        assert (await found[0].until(Complete)).checkpoint == 1
        assert not found[0].of(Abort)
        assert storage.lose == 0
