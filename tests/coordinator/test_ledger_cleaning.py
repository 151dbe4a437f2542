"""What the ledger deletes, when, and what it never does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.coordinator import housekeeping
from checkdam.coordinator.housekeeping import keep_house
from checkdam.coordinator.ledger import Ledger
from checkdam.coordinator.retention import Retention
from checkdam.core.clock import ManualClock
from checkdam.core.errors import CorruptCheckpointError, StorageError
from checkdam.wire.messages import AttemptId

NEWEST = Retention(1)


class Moody(FileStorage):
    """Storage that refuses to delete, or to read manifests, while a test says so."""

    refuses: tuple[str, ...] = ()

    def delete(self, paths: Any) -> None:
        names = list(paths)
        if any(refused in name for name in names for refused in self.refuses):
            raise StorageError("delete", names[0], "503 slow down")
        super().delete(names)

    def read(self, path: str) -> bytes:
        if path.endswith("_metadata") and "read" in self.refuses:
            raise StorageError("read", path, "503 slow down")
        return super().read(path)


@pytest.fixture
def storage(tmp_path: Path) -> Moody:
    return Moody(tmp_path / "job")


def ledger_on(storage: Moody, retention: Retention = NEWEST) -> Ledger:
    ledger = Ledger(storage, "ns/job", retention=retention, journal=Journal(storage), sleep=lambda seconds: None)
    assert ledger.take_over(fresh=False, resume=True, origin="", again=False) == "go"
    ledger.read_base()
    return ledger


def manifest_of(
    number: int, epoch: int, *paths: str, created_ms: int = 0, kind: str = "checkpoint"
) -> CheckpointManifest:
    return CheckpointManifest(
        version=1,
        job_id="ns/job",
        id=number,
        epoch=epoch,
        attempt=1,
        parallelism=1,
        max_parallelism=1,
        mode="ExactlyOnce",
        created_ms=created_ms,
        fingerprint="",
        operators=[],
        subtasks=[SubtaskSnapshot("s", 0, files=[FileHandle(path, 0, "", path) for path in paths])],
        kind=kind,
    )


def commit(ledger: Ledger, number: int, *paths: str, created_ms: int = 0) -> str:
    """A checkpoint that names these files, which are made where they are missing."""
    folder = f"chk-{number}-{ledger.epoch}.1-0"
    for path in paths:
        if not ledger.storage.exists(path):
            ledger.storage.create(path, b"")
    ledger.commit(folder, manifest_of(number, ledger.epoch, *paths, created_ms=created_ms), "checkpoint")
    return folder


def commit_savepoint(ledger: Ledger, number: int, *paths: str) -> str:
    """A savepoint that the job stops with."""
    folder = f"savepoint-{number}-1.1-0"
    ledger.commit(folder, manifest_of(number, 1, *paths, kind="savepoint"), "stopped")
    return folder


def stored(storage: FileStorage) -> set[str]:
    return {file.path for file in storage.list("") if not file.path.startswith("journal/")}


def test_deletes_that_fail_are_done_later_though_the_manifest_is_gone_by_then(storage: Moody) -> None:
    ledger = ledger_on(storage)
    commit(ledger, 1, "shared/1.1-1.0-a", "shared/1.1-1.0-b")
    last = commit(ledger, 2, "shared/1.1-1.0-b")
    storage.refuses = ("shared/",)
    with pytest.raises(StorageError):
        ledger.cleaner.delete_doomed()
    assert not storage.exists("chk-1-1.1-0/_metadata")
    storage.refuses = ()
    ledger.cleaner.delete_doomed()
    assert stored(storage) == {f"{last}/_metadata", "shared/1.1-1.0-b"}


def test_what_a_failed_checkpoint_leaves_is_tried_again_with_the_next(storage: Moody) -> None:
    ledger = ledger_on(storage)
    first = commit(ledger, 1, "shared/1.1-1.0-a")
    for path in ("chk-2-1.1-0/s-0/x", "shared/1.1-2.0-x"):
        storage.create(path, b"")
    storage.refuses = ("chk-2",)
    with pytest.raises(StorageError):
        ledger.cleaner.discard("chk-2-1.1-0", ["shared/1.1-2.0-x", "shared/1.1-1.0-a"])
    storage.refuses = ()
    last = commit(ledger, 3, "shared/1.1-1.0-a")
    ledger.cleaner.delete_doomed()
    assert stored(storage) == {f"{last}/_metadata", "shared/1.1-1.0-a"}
    assert first != last


def test_while_deletes_fail_a_checkpoint_that_fails_does_not_try_them_again(storage: Moody) -> None:
    ledger = ledger_on(storage)
    storage.refuses = ("chk-",)
    for number in (1, 2):
        storage.create(f"chk-{number}-1.1-0/s-0/x", b"")
    with pytest.raises(StorageError):
        ledger.cleaner.discard("chk-1-1.1-0")
    ledger.cleaner.discard("chk-2-1.1-0")
    storage.refuses = ()
    last = commit(ledger, 3)
    ledger.cleaner.delete_doomed()
    assert stored(storage) == {f"{last}/_metadata"}


def test_a_delete_that_waited_goes_by_what_is_retained_when_it_runs(storage: Moody) -> None:
    ledger = ledger_on(storage)
    commit(ledger, 1, "shared/1.1-1.0-a")
    commit(ledger, 2, "shared/1.1-1.0-a")
    last = commit(ledger, 3, "shared/1.1-1.0-a", "shared/1.1-3.0-b")
    ledger.cleaner.delete_doomed()
    assert stored(storage) == {f"{last}/_metadata", "shared/1.1-1.0-a", "shared/1.1-3.0-b"}


def test_nothing_is_swept_while_a_retained_checkpoint_cannot_be_read(storage: Moody) -> None:
    folder = commit(ledger_on(storage), 1, "shared/1.1-1.0-a")
    storage.create("chk-0-1.1-0/leftover", b"")
    (storage.root / folder / "_metadata").write_text("broken")
    ledger = Ledger(storage, "ns/job", retention=Retention(1), journal=Journal(storage))
    ledger.take_over(fresh=False, resume=True, origin="", again=False)
    with pytest.raises(CorruptCheckpointError):
        ledger.cleaner.sweep(AttemptId(9, 1))
    assert storage.exists("chk-0-1.1-0/leftover")


def test_a_savepoint_among_what_is_retained_may_have_been_deleted_by_its_user(storage: Moody) -> None:
    ledger = ledger_on(storage, Retention(2))
    commit(ledger, 1, "shared/1.1-1.0-a")
    savepoint = commit_savepoint(ledger, 2)
    storage.delete([f"{savepoint}/_metadata"])
    successor = ledger_on_without_base(storage)
    storage.create("chk-9-1.1-0/leftover", b"")
    assert successor.cleaner.sweep(AttemptId(9, 1)) == 1


def test_a_savepoint_that_leaves_what_is_retained_stays(storage: Moody) -> None:
    ledger = ledger_on(storage)
    storage.create("savepoint-1-1.1-0/a", b"")
    commit_savepoint(ledger, 1, "savepoint-1-1.1-0/a")
    last = commit(ledger, 2)
    ledger.cleaner.delete_doomed()
    ledger.cleaner.sweep(AttemptId(9, 1))
    assert stored(storage) == {"savepoint-1-1.1-0/a", "savepoint-1-1.1-0/_metadata", f"{last}/_metadata"}


def test_the_young_are_kept_beside_the_newest_over_a_restart(storage: Moody) -> None:
    retention = Retention(1, 100)
    ledger = ledger_on(storage, retention)
    folders = [commit(ledger, number, created_ms=number * 40) for number in range(4)]
    assert _retained(storage) == folders[1:]
    last = commit(ledger_on(storage, retention), 5, created_ms=201)
    assert _retained(storage) == [folders[3], last]


def test_storage_that_cannot_be_read_just_now_makes_nothing_old(storage: Moody) -> None:
    folder = commit(ledger_on(storage), 1, created_ms=0)
    ledger = ledger_on(storage, Retention(1, 100))
    storage.refuses = ("read",)
    last = commit(ledger, 2, created_ms=1_000)
    assert _retained(storage) == [folder, last]
    storage.refuses = ()
    newest = commit(ledger, 3, created_ms=1_050)
    assert _retained(storage) == [last, newest]


async def test_the_house_is_kept_while_nothing_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    done: list[Any] = []

    class Records:
        def prune(self) -> None:
            done.append("prune")

        def sweep(self, running: AttemptId) -> None:
            done.append(running)

        async def check(self) -> None:
            done.append("check")
            clock.advance(housekeeping.PRUNE_EVERY_MS)
            if clock.monotonic_ms() > housekeeping.SWEEP_EVERY_MS:
                raise StorageError("check", "journal", "enough for a test")

    records: Any = Records()
    async with asyncio.timeout(10):
        with pytest.raises(StorageError):
            await keep_house(records, None, clock, 0, lambda: AttemptId(1, 2))
    assert done.count("prune") == done.count("check") == housekeeping.SWEEP_EVERY_MS // housekeeping.PRUNE_EVERY_MS + 1
    assert done.count(AttemptId(1, 2)) == 1


def ledger_on_without_base(storage: Moody) -> Ledger:
    """A ledger that has not read what it starts from: that is somebody else's, and gone."""
    ledger = Ledger(storage, "ns/job", retention=Retention(2), journal=Journal(storage))
    assert ledger.take_over(fresh=False, resume=True, origin="", again=False) == "go"
    return ledger


def _retained(storage: FileStorage) -> list[str]:
    tail = Journal(storage).tail()
    assert tail is not None
    return tail.retained
