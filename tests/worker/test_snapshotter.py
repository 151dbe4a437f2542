"""From barriers to an acknowledgement: what fails declines, what is void is cleaned up, what was acknowledged stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from worker_kit import Recorder, poll_until, write_file

from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.uploads import INLINE_LIMIT_BYTES
from checkdam.core.clock import ManualClock
from checkdam.core.errors import CheckpointError, StorageError, UserCodeError
from checkdam.state.base import LocalFile
from checkdam.wire.frames import FrameError
from checkdam.wire.messages import Ack, AttemptId, Decline, Message, Trigger
from checkdam.worker.checkpoint_files import CheckpointFiles
from checkdam.worker.snapshots import Snapshotter

ATTEMPT = AttemptId(1, 1)
LARGE = bytes(INLINE_LIMIT_BYTES + 1)


class Writer:
    """Writes one file; may wait for the test, or fail."""

    def __init__(self, directory: Path, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.directory = directory
        self.error = error
        self.gate = gate
        self.cancelled = threading.Event()

    def finish(self) -> list[LocalFile]:
        if self.gate is not None:
            self.gate.wait(10)
        if self.cancelled.is_set():
            raise CheckpointError("cancelled")
        if self.error is not None:
            raise self.error
        path = write_file(self.directory / "state.bin", LARGE)
        return [LocalFile("state.bin", path, len(LARGE), "0" * 64)]

    def cancel(self) -> None:
        self.cancelled.set()


class Backend:
    """A backend that does nothing but snapshots."""

    key_groups = range(4)

    def __init__(self, error: Exception | None = None, gate: threading.Event | None = None, pause_s: float = 0) -> None:
        self.writers: list[Writer] = []
        self._error, self._gate, self._pause_s = error, gate, pause_s

    def snapshot(self, directory: Path, *, canonical: bool = False) -> Writer:
        assert list(directory.iterdir()) == []
        time.sleep(self._pause_s)
        self.writers.append(Writer(directory, self._error, self._gate))
        return self.writers[-1]


class ByHand(Executor):
    """Runs work when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.work.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        while self.work:
            future, work = self.work.pop(0)
            if future.set_running_or_notify_cancel():
                future.set_result(work())


class Job:
    """A snapshotter of two stages, and what it said."""

    def __init__(self, folder: Path, executor: Executor | None = None, storage: Any = None) -> None:
        self.folder = folder / "local"
        self.storage = storage or FileStorage(folder / "storage")
        self.sent: list[Message] = []
        self.executor = executor or ByHand()
        self.files = CheckpointFiles(self.storage)
        self.snapshots = Snapshotter(
            ATTEMPT, 0, 2, self.files, self.folder, self.sent.append, ManualClock(77), self.executor
        )

    def begin(self, checkpoint: int) -> None:
        self.snapshots.begin(Trigger(ATTEMPT, checkpoint, f"chk-{checkpoint}-1.1-0", 0))

    def add(self, checkpoint: int, stage: str, backend: Any = None, operator: Any = None) -> None:
        subtask: Any = SimpleNamespace(
            source=None,
            operators=[operator or Recorder()],
            backend=backend,
            stage=SimpleNamespace(id=stage, nodes=[SimpleNamespace(id=f"{stage}-op")]),
            alignment_ms=5,
            reached_ms=123,
            group_watermarks=[],
        )
        self.snapshots.add(subtask, checkpoint)

    def run(self) -> None:
        assert isinstance(self.executor, ByHand)
        self.executor.run()

    def stored(self) -> list[str]:
        return sorted(file.path for file in self.storage.list(""))

    def local(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()] if self.folder.exists() else []


def test_one_acknowledgement_names_the_files_of_all_stages(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.begin(1)
    job.add(1, "b", Backend())
    job.run()
    assert job.sent == []

    job.add(1, "a")
    job.run()
    (ack,) = job.sent
    assert isinstance(ack, Ack)
    assert [s.stage for s in ack.snapshots] == ["a", "b"]
    assert ack.snapshots[1].files[0].path == "chk-1-1.1-0/b-0/state.bin"
    assert ack.snapshots[1].key_groups == (0, 4)
    assert ack.snapshots[1].watermark_ms == 123
    assert (ack.alignment_ms, ack.processing_time_ms, ack.uploaded_bytes) == (5, 77, len(LARGE))
    assert job.stored() == ["chk-1-1.1-0/b-0/state.bin"]
    assert job.local() == []


def test_the_pause_of_the_task_thread_is_measured(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.begin(1)
    job.add(1, "a", Backend(pause_s=0.03))
    job.add(1, "b")
    job.run()

    assert isinstance(job.sent[0], Ack)
    assert 30 <= job.sent[0].pause_ms < 3000


class FullDisk(FileStorage):
    def put_file(self, path: str, local: Path) -> None:
        raise StorageError("put_file", path, "no space left on device", "free some")


@pytest.mark.parametrize(
    ("storage", "backend", "words"),
    [
        (FullDisk, Backend(), "no space left on device"),
        (FileStorage, Backend(error=CheckpointError("the child was killed")), "the child was killed"),
        (FileStorage, Backend(error=OSError(28, "disk full")), "disk full"),
    ],
    ids=["storage", "writer", "local disk"],
)
def test_a_failure_declines_once_and_names_the_cause(tmp_path: Path, storage: Any, backend: Any, words: str) -> None:
    job = Job(tmp_path, storage=storage(tmp_path / "storage"))
    job.begin(1)
    job.add(1, "a", backend)
    job.run()
    job.add(1, "b", backend)
    job.run()
    (decline,) = job.sent
    assert isinstance(decline, Decline)
    assert words in decline.error

    job.snapshots.abort(1)
    job.run()
    assert job.stored() == []
    assert job.local() == []


def test_an_acknowledgement_that_is_too_long_declines_and_leaves_no_files(tmp_path: Path) -> None:
    job = Job(tmp_path)
    sent = job.sent.append

    def send(message: Message) -> None:
        if isinstance(message, Ack):
            raise FrameError("a frame must be at most 67108864 bytes (got 70000000)")
        sent(message)

    job.snapshots._send = send
    job.begin(1)
    for stage in ("a", "b"):
        job.add(1, stage, Backend())
    job.run()
    (decline,) = job.sent
    assert isinstance(decline, Decline)
    assert "at most 67108864 bytes" in decline.error

    job.snapshots.abort(1)
    job.run()
    assert job.stored() == []
    assert job.local() == []


def test_a_failure_while_freezing_declines_and_the_next_checkpoint_is_fine(tmp_path: Path) -> None:
    class Failing(Recorder):
        def snapshot(self, checkpoint: int) -> Any:
            if checkpoint == 1:
                raise StorageError("create", "staging", "no space left on device")
            return super().snapshot(checkpoint)

    job = Job(tmp_path)
    operator = Failing()
    job.begin(1)
    job.add(1, "a", operator=operator)
    assert isinstance(job.sent[0], Decline)

    job.begin(2)
    for stage in ("a", "b"):
        job.add(2, stage, operator=operator)
    job.run()
    assert isinstance(job.sent[1], Ack)


def test_an_abort_cancels_writers_and_deletes_what_was_uploaded(tmp_path: Path) -> None:
    job = Job(tmp_path)
    first, second = Backend(), Backend()
    job.begin(1)
    job.add(1, "a", first)
    job.run()
    assert len(job.stored()) == 1
    job.add(1, "b", second)

    job.snapshots.abort(1)
    job.run()

    assert second.writers[0].cancelled.is_set()
    assert job.stored() == []
    assert job.local() == []
    assert job.sent == []
    job.add(1, "b", Backend())
    assert job.executor.work == []  # type: ignore[attr-defined]  # a barrier that comes late changes nothing


def test_what_was_acknowledged_is_never_deleted(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.begin(1)
    for stage in ("a", "b"):
        job.add(1, stage, Backend())
    job.run()
    assert isinstance(job.sent[0], Ack)
    stored = job.stored()

    job.snapshots.abort(1)
    job.run()
    job.begin(2)
    job.run()

    assert len(stored) == 2
    assert job.stored() == stored


def test_a_higher_checkpoint_voids_lower_ones(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.begin(1)
    job.add(1, "a", Backend())
    job.run()
    job.begin(2)
    job.add(1, "b")
    for stage in ("a", "b"):
        job.add(2, stage)
    job.run()

    assert [type(message) for message in job.sent] == [Ack]
    assert job.sent[0].checkpoint == 2  # type: ignore[attr-defined]
    assert job.stored() == []


def test_an_abort_in_the_middle_of_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        job = Job(tmp_path, executor)
        job.begin(1)
        for stage in ("a", "b"):
            job.add(1, stage, Backend(gate=gate))
        job.snapshots.abort(1)
        gate.set()
    assert job.sent == []
    assert job.stored() == []
    assert job.local() == []


def test_storage_that_workers_cannot_reach_gets_files_inline(tmp_path: Path) -> None:
    job = Job(tmp_path, storage=MemoryStorage("job"))
    job.begin(1)
    for stage in ("a", "b"):
        job.add(1, stage, Backend())
    job.run()

    assert isinstance(job.sent[0], Ack)
    assert [s.files[0].inline for s in job.sent[0].snapshots] == [LARGE, LARGE]
    assert job.stored() == []
    kept = job.snapshots._pending[1]
    assert kept.snapshots == [], "a whole state must not be kept until the next checkpoint"


def test_an_error_of_user_code_in_a_snapshot_is_declined_too(tmp_path: Path) -> None:
    class Broken(Recorder):
        def snapshot(self, checkpoint: int) -> Any:
            raise UserCodeError("sink", "1", "Traceback …")

    job = Job(tmp_path)
    job.begin(1)
    job.add(1, "a", operator=Broken())

    assert isinstance(job.sent[0], Decline)


def test_threads_of_its_own_end_with_it(tmp_path: Path) -> None:
    before = threading.active_count()
    snapshots = Snapshotter(
        ATTEMPT, 0, 1, CheckpointFiles(MemoryStorage("job")), tmp_path, lambda message: None, ManualClock()
    )
    snapshots.begin(Trigger(ATTEMPT, 1, "chk-1", 0))
    snapshots.close()
    poll_until(lambda: threading.active_count() <= before)
