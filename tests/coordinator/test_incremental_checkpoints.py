"""Which checkpoints build on which, and what becomes of the files that they share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import Running, Worker, coordinator, eventually, job_of, started, storage_of, workers

from checkdam.checkpoint.folders import shared_prefix
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SubtaskSnapshot
from checkdam.checkpoint.store import CheckpointStore
from checkdam.coordinator.checkpoints import CheckpointRecord, PendingCheckpoint
from checkdam.coordinator.increments import Increments
from checkdam.core.errors import CheckpointError
from checkdam.wire.messages import Abort, Ack, AttemptId, Complete, Decline, Trigger

SIZE_BYTES = 5


def handle(path: str, sha256: str = "0" * 64) -> FileHandle:
    return FileHandle("1.sst", SIZE_BYTES, sha256, path)


def uploaded(trigger: Trigger, worker: Worker, *, stored: Path | None = None) -> FileHandle:
    """A shared file that `worker` says it has uploaded for the trigger, and has if `stored` is given."""
    path = f"{shared_prefix(trigger.folder)}{worker.index}"
    if stored is not None:
        storage_of(stored).create(path, b"state")
    return handle(path)


async def take(running: Running, found: list[Worker], count: int, files: dict[int, FileHandle], **body: Any) -> Trigger:
    """The `count`-th checkpoint of this attempt: what a worker has in `files` it names again, else it uploads."""
    await running.call("POST", "/v1/checkpoints", body)
    for worker in found:
        trigger = await worker.until(Trigger, count)
        if trigger.base < 0 or worker.index not in files:
            files[worker.index] = uploaded(trigger, worker)
        worker.ack(trigger, files=[files[worker.index]], uploaded_bytes=0 if trigger.base >= 0 else SIZE_BYTES)
    await found[0].until(Complete, count)
    return trigger


def manifest_of(**changes: Any) -> CheckpointManifest:
    fixed: dict[str, Any] = {
        "version": 1,
        "job_id": "ns/job",
        "id": 7,
        "epoch": 1,
        "attempt": 1,
        "parallelism": 2,
        "max_parallelism": 128,
        "mode": "ExactlyOnce",
        "created_ms": 0,
        "fingerprint": "",
        "operators": [],
    }
    return CheckpointManifest(**fixed | changes)


def test_a_checkpoint_builds_on_the_last_one_of_the_same_job_and_parallelism() -> None:
    always = Increments()
    assert always.base(manifest_of(), 2) == manifest_of()
    assert always.base(None, 2) is None
    assert always.base(manifest_of(), 3) is None
    assert always.base(manifest_of(kind="savepoint"), 2) is None
    assert always.base(manifest_of(attempt=0), 2) is None, "the coordinator's own, of files that came from elsewhere"
    assert Increments(incremental=False).base(manifest_of(), 2) is None


@pytest.mark.parametrize(("full_every", "expected"), [(0, "FIIIIII"), (1, "FFFFFFF"), (2, "FIFIFIF"), (3, "FIIFIIF")])
def test_every_nth_checkpoint_is_full(full_every: int, expected: str) -> None:
    policy, last, kinds = Increments(full_every=full_every), None, ""
    for number in range(7):
        base = policy.base(last, 2)
        last = manifest_of(id=number, increments=base.increments + 1 if base else 0)
        kinds += "I" if base else "F"
    assert kinds == expected


async def test_files_of_the_base_are_named_again_until_a_full_checkpoint_is_due(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__fullEvery=3)
    files: dict[int, FileHandle] = {}
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as found:
        await started(found)
        triggers = [await take(running, found, count, files) for count in (1, 2, 3, 4)]
        assert [trigger.base for trigger in triggers] == [-1, 1, 2, -1]
        _, history = await running.call("GET", "/v1/checkpoints")
        assert [record["full"] for record in history[1:]] == [True, False, False, True]
        assert [record["uploadedBytes"] for record in history[1:]] == [10, 0, 0, 10]
        assert [record["sizeBytes"] for record in history[1:]] == [10, 10, 10, 10]
    store = CheckpointStore(storage_of(tmp_path))
    assert store.read_manifest(triggers[2].folder).increments == 2


async def test_a_restart_goes_on_building_on_the_last_checkpoint(tmp_path: Path) -> None:
    files: dict[int, FileHandle] = {}
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await take(running, found, 1, files)
        found[0].fail("error", "boom")
        await started(found, attempt=2)
        assert (await take(running, found, 2, files)).base == 1
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        assert (await take(running, found, 1, files)).base == 2


async def test_the_first_checkpoint_at_another_parallelism_is_full(tmp_path: Path) -> None:
    files: dict[int, FileHandle] = {}
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await take(running, found, 1, files)
    async with coordinator(tmp_path, job_of(tmp_path, parallelism=1)) as running, workers(running, acks=False) as found:
        await started(found)
        assert (await take(running, found, 1, files)).base == -1


async def test_a_full_checkpoint_can_be_asked_for(tmp_path: Path) -> None:
    files: dict[int, FileHandle] = {}
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await take(running, found, 1, files)
        await take(running, found, 2, files)
        assert await running.trigger(after=1) == (2, "COMPLETED")
        assert (await take(running, found, 3, files, after=1, full=True)).base == -1
        assert await running.trigger(after=1, full=True) == (3, "COMPLETED")


async def test_a_full_checkpoint_follows_one_in_flight_that_is_not(tmp_path: Path) -> None:
    files: dict[int, FileHandle] = {}
    async with coordinator(tmp_path) as running, workers(running, acks=False) as found:
        await started(found)
        await take(running, found, 1, files)
        await running.call("POST", "/v1/checkpoints", {})
        second = [await worker.until(Trigger, 2) for worker in found]
        assert await running.trigger(full=True) == (3, "SCHEDULED")
        for worker, trigger in zip(found, second, strict=True):
            worker.ack(trigger, files=[files[worker.index]])
        assert (await found[0].until(Trigger, 3)).base == -1
        assert await running.trigger(full=True) == (3, "IN_PROGRESS")


async def test_of_a_failed_checkpoint_its_own_files_are_deleted_and_not_those_of_its_base(tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    async with coordinator(tmp_path) as running, workers(running, acks=False) as (first, second):
        await started([first, second])
        await running.call("POST", "/v1/checkpoints", {})
        kept = []
        for worker in (first, second):
            trigger = await worker.until(Trigger)
            kept.append(uploaded(trigger, worker, stored=tmp_path))
            worker.ack(trigger, files=[kept[-1]])
        await first.until(Complete)
        await running.call("POST", "/v1/checkpoints", {})
        trigger = await first.until(Trigger, 2)
        new = uploaded(trigger, first, stored=tmp_path)
        first.ack(trigger, files=[kept[0], new])
        await second.until(Trigger, 2)
        while not (await running.call("GET", "/v1/checkpoints/2"))[1]["acknowledged"]:
            await asyncio.sleep(0.005)
        second.send(Decline(trigger.attempt, 2, "no space left"))
        await first.until(Abort)
        late = uploaded(trigger, second, stored=tmp_path)
        second.ack(trigger, files=[kept[1], late])
        left = {handle.path for handle in kept}
        await eventually(lambda: {file.path for file in storage.list("shared")} == left, "its own files are deleted")


@pytest.mark.parametrize(
    ("path", "sha256", "allowed"),
    [
        ("shared/1.3-8.0-new", "1" * 64, True),
        ("chk-8-1.3-0/s-0/new", "1" * 64, True),
        ("shared/1.3-7.0-known", "0" * 64, True),
        ("shared/1.3-7.0-known", "1" * 64, False),
        ("shared/1.3-6.0-forgotten", "0" * 64, False),
        ("shared/1.2-8.0-other", "0" * 64, False),
        ("chk-7-1.3-0/s-0/old", "0" * 64, False),
        ("shared/1.3-8.0-../../journal/1", "0" * 64, False),
        ("journal/000000000000/000000000001", "0" * 64, False),
    ],
)
def test_a_checkpoint_may_name_its_own_files_and_unchanged_ones_of_its_base(
    path: str, sha256: str, allowed: bool
) -> None:
    known = SubtaskSnapshot("s", 0, files=[handle("shared/1.3-7.0-known")])
    record = CheckpointRecord(8, "interval", "IN_PROGRESS", "1.3", 0, "chk-8-1.3-0")
    pending = PendingCheckpoint(8, record.folder, record, 1, 0, {}, manifest_of(subtasks=[known]))
    pending.acknowledge(0, Ack(AttemptId(1, 3), 8, [SubtaskSnapshot("s", 0, files=[handle(path, sha256)])], 0))
    if allowed:
        pending.check(shared=True)
        assert pending.increments() == ("known" in path)
        assert pending.uploads() == ([path] if "new" in path else [])
    else:
        with pytest.raises(CheckpointError, match="neither uploaded for"):
            pending.check(shared=True)
