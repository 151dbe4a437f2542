"""Storage that does not answer to cleaning and looking after the house is in no commit's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from coordinator_kit import DEADLINE_S, coordinator, eventually, job_of, started, workers

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.coordinator import app
from checkdam.coordinator.ledger import Ledger
from checkdam.coordinator.records import Records
from checkdam.coordinator.retention import Retention
from checkdam.coordinator.threads import SerialThread
from checkdam.core.errors import StorageError
from checkdam.wire.messages import AttemptId, Complete, Reserve, Reserved


class Silent(FileStorage):
    """Storage that leaves some requests without an answer until a test says so, and refuses to write when a test says that."""

    hangs: tuple[str, ...] = ()
    refuses = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers = threading.Event()
        self.asked: list[str] = []

    def create(self, path: str, data: bytes) -> None:
        self._wait("create reservations" if path.startswith("reservations/") else "create")
        if self.refuses:
            raise StorageError("create", path, "the server cannot be reached")
        super().create(path, data)

    def exists(self, path: str) -> bool:
        self._wait("exists")
        return super().exists(path)

    def list(self, prefix: str) -> Iterator[StoredFile]:
        self._wait("list")
        return super().list(prefix)

    def delete(self, paths: Iterable[str]) -> None:
        self._wait("delete")
        super().delete(paths)

    def _wait(self, operation: str) -> None:
        if operation in self.hangs:
            self.asked.append(operation)
            assert self.answers.wait(DEADLINE_S)


@pytest.fixture
def storage(tmp_path: Path) -> Silent:
    return Silent(tmp_path / "checkpoints" / "default" / "test")


@asynccontextmanager
async def records_on(storage: Silent) -> AsyncIterator[Records]:
    """The records of a job that keeps one checkpoint, and whose coordinator has just begun."""
    broken: list[BaseException] = []
    deciding, cleaning = SerialThread("storage"), SerialThread("cleaning")
    ledger = Ledger(storage, "ns/job", retention=Retention(1), journal=Journal(storage))
    records = Records(ledger, deciding, cleaning, broken.append)
    wish = {"fresh": False, "resume": True, "again": False}
    assert await records.take_over(**wish, origin="", since_epoch=0, expected="") == "go"
    try:
        yield records
    finally:
        storage.answers.set()
        await records.flush(DEADLINE_S)
        deciding.close()
        cleaning.close()
    assert broken == []


async def commit(records: Records, number: int) -> str:
    """A checkpoint without files; returns its folder."""
    folder = records.folder(number, AttemptId(records.epoch, 1))
    manifest = CheckpointManifest(
        version=1,
        job_id="ns/job",
        id=number,
        epoch=records.epoch,
        attempt=1,
        parallelism=1,
        max_parallelism=1,
        mode="ExactlyOnce",
        created_ms=0,
        fingerprint="",
        operators=[],
        subtasks=[],
    )
    async with asyncio.timeout(DEADLINE_S):
        await records.commit(folder, manifest, "checkpoint")
    return folder


Work = Callable[[Records], object]


@pytest.mark.parametrize(
    ("hangs", "work"),
    [
        ("delete", lambda records: None),  # of what the second commit drops
        ("list", lambda records: records.discard("chk-9-1.1-0")),
        ("list", lambda records: records.sweep(AttemptId(1, 2))),
        ("list", lambda records: records.prune()),
    ],
    ids=["retention", "failed checkpoint", "sweep", "prune"],
)
async def test_a_commit_does_not_wait_for_cleaning(storage: Silent, hangs: str, work: Work) -> None:
    async with records_on(storage) as records:
        await commit(records, 1)
        storage.hangs = (hangs,)
        work(records)
        await commit(records, 2)
        await eventually(lambda: storage.asked, f"cleaning should have come to `{hangs}`")
        await commit(records, 3)
        last = await commit(records, 4)
        assert storage.asked == [hangs]
    assert {file.path for file in storage.list("") if not file.path.startswith("journal/")} == {f"{last}/_metadata"}


async def test_a_commit_does_not_wait_for_the_look_whether_the_job_is_still_ours(storage: Silent) -> None:
    async with records_on(storage) as records:
        storage.hangs = ("exists",)
        looking = asyncio.create_task(records.check())
        await eventually(lambda: storage.asked, "it should have looked")
        await commit(records, 1)
        # The slot that it looks at is filled by now, by a coordinator that still owns the job.
        storage.answers.set()
        await looking
        await commit(records, 2)


async def test_a_job_whose_storage_is_silent_fails_as_soon_as_its_checkpoints_have(
    tmp_path: Path, storage: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_CLEANING_PATIENCE_S", 0.01)
    job = job_of(tmp_path, checkpoint__interval="20ms", checkpoint__tolerableFailures=0)
    try:
        async with coordinator(tmp_path, job, storage=storage) as running, workers(running) as found:
            await started(found)
            storage.hangs, storage.refuses = ("list", "delete", "exists"), True
            assert await running.exit_code() == 1
            assert "the server cannot be reached" in running.ending().message
            await eventually(lambda: storage.asked, "cleaning should have begun")
            assert len(storage.asked) == 1, "and it has not come further"
    finally:
        storage.answers.set()


async def test_a_commit_does_not_wait_for_reservations(tmp_path: Path, storage: Silent) -> None:
    job = job_of(tmp_path, checkpoint__mode="AtMostOnce")
    async with coordinator(tmp_path, job, storage=storage) as running, workers(running) as found:
        await started(found)
        storage.hangs = ("create reservations",)
        found[0].send(Reserve(found[0].attempt, "numbers", {"a": 100}))
        await eventually(lambda: storage.asked, "the reservation should have been written")
        await running.trigger()
        await found[0].until(Complete)
        assert not found[0].of(Reserved)
        storage.answers.set()
        await found[0].until(Reserved)
