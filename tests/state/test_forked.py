"""A snapshot's child process: what it leaves behind, and what happens when it dies, hangs or is no longer wanted."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from checkdam.core.errors import CheckpointError
from checkdam.state.base import LocalFile
from checkdam.state.forked import ChildSnapshot, WrittenSnapshot, delete_contents, fork_snapshot

Write = Callable[[], list[LocalFile]]


def writes(folder: Path) -> Write:
    def write() -> list[LocalFile]:
        path = folder / "a"
        path.write_text(str(os.getpid()))
        return [LocalFile("a", path, path.stat().st_size, "0" * 64, {3: (0, 1)})]

    return write


def writes_and_then(folder: Path, then: Callable[[], object]) -> Write:
    def write() -> list[LocalFile]:
        (folder / "sub").mkdir()
        (folder / "sub" / "started").touch()
        then()
        return []

    return write


def hang() -> None:
    time.sleep(60)


def started(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while not (folder / "sub" / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    descriptors, children = set(os.listdir("/proc/self/fd")), psutil.Process().children()
    yield
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children() == children


def test_the_child_writes_and_describes_its_files(tmp_path: Path) -> None:
    snapshot = fork_snapshot(tmp_path, writes(tmp_path), 10)
    (file,) = snapshot.finish()
    assert file.path.read_text() == str(snapshot._pid)
    assert (file.name, file.size_bytes, dict(file.key_group_offsets)) == ("a", len(str(snapshot._pid)), {3: (0, 1)})
    assert snapshot.ended


def test_an_error_in_the_child_is_told_and_its_files_are_deleted(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    snapshot = fork_snapshot(tmp_path, writes_and_then(tmp_path, fail), 10)
    with pytest.raises(CheckpointError, match=r"cannot write the snapshot in .*No space left on device"):
        snapshot.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wait_first", [True, False])
def test_a_child_that_is_killed_fails_the_snapshot(tmp_path: Path, wait_first: bool) -> None:
    snapshot = fork_snapshot(tmp_path, writes_and_then(tmp_path, hang), 10)
    started(tmp_path)
    os.kill(snapshot._pid, signal.SIGKILL)
    if wait_first:
        os.waitid(os.P_PID, snapshot._pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(CheckpointError, match="ended with exit code -9 before it was done"):
        snapshot.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_somebody_else_reaped_fails_the_snapshot_too(tmp_path: Path) -> None:
    snapshot = fork_snapshot(tmp_path, writes_and_then(tmp_path, lambda: os._exit(3)), 10)
    os.waitpid(snapshot._pid, 0)
    with pytest.raises(CheckpointError, match="went away before it was done"):
        snapshot.finish()


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    snapshot = fork_snapshot(tmp_path, writes_and_then(tmp_path, hang), 0.05)
    with pytest.raises(CheckpointError, match=r"not written within 0.05 s"):
        snapshot.finish()
    assert list(tmp_path.iterdir()) == []


def test_cancel_kills_a_child_whether_or_not_somebody_waits_for_it(tmp_path: Path) -> None:
    for waiting in (False, True):
        folder = tmp_path / str(waiting)
        folder.mkdir()
        snapshot = fork_snapshot(folder, writes_and_then(folder, hang), 30)
        started(folder)
        failures: list[str] = []
        waiter = threading.Thread(target=finish_into, args=(snapshot, failures))
        if waiting:
            waiter.start()
            deadline = time.monotonic() + 10
            while not snapshot._reading:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        snapshot.cancel()
        if not waiting:
            waiter.start()
        waiter.join(10)
        assert failures == [f"the snapshot in {folder} was cancelled"]
        assert list(folder.iterdir()) == []
        snapshot.cancel()


def finish_into(snapshot: ChildSnapshot, failures: list[str]) -> None:
    try:
        snapshot.finish()
    except CheckpointError as error:
        failures.append(str(error))


def test_cancel_after_finish_deletes_the_files(tmp_path: Path) -> None:
    snapshot = fork_snapshot(tmp_path, writes(tmp_path), 10)
    snapshot.finish()
    snapshot.cancel()
    assert list(tmp_path.iterdir()) == []


def test_a_description_longer_than_a_pipe_arrives_whole(tmp_path: Path) -> None:
    def write() -> list[LocalFile]:
        return [LocalFile("a", tmp_path / "a", 1, "0" * 64, {group: (group, 1) for group in range(30_000)})]

    (file,) = fork_snapshot(tmp_path, write, 10).finish()
    assert len(file.key_group_offsets) == 30_000


def test_the_child_holds_no_socket_or_file_of_its_parent(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    snapshot = fork_snapshot(tmp_path, writes_and_then(tmp_path, hang), 10)
    started(tmp_path)
    os.close(writing)
    assert os.read(reading, 1) == b""  # would wait for the child if it held the other end
    os.close(reading)
    snapshot.cancel()


def test_ctrl_c_does_not_reach_the_child(tmp_path: Path) -> None:
    snapshot = fork_snapshot(tmp_path, writes_and_then(tmp_path, lambda: os.kill(os.getpid(), signal.SIGINT)), 10)
    assert snapshot.finish() == []


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    def name_itself_and_hang() -> None:
        (tmp_path / str(os.getpid())).touch()
        hang()

    parent = os.fork()
    if parent == 0:
        fork_snapshot(tmp_path, writes_and_then(tmp_path, name_itself_and_hang), 60)
        with contextlib.suppress(BaseException):
            hang()
        os._exit(0)
    started(tmp_path)
    deadline = time.monotonic() + 10
    while not (pids := [path.name for path in tmp_path.iterdir() if path.name.isdigit()]):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while alive(int(pids[0])):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_fork_that_is_refused_leaves_no_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        fork_snapshot(tmp_path, writes(tmp_path), 10)


def test_the_warning_about_forking_with_threads_is_silenced_here_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    real_fork = os.fork

    def warning_fork() -> int:
        warnings.warn("This process is multi-threaded, use of fork() may lead to deadlocks", DeprecationWarning, 2)
        return real_fork()

    monkeypatch.setattr(os, "fork", warning_fork)
    fork_snapshot(tmp_path, writes(tmp_path), 10).finish()
    with pytest.raises(DeprecationWarning):
        warning_fork()


def test_a_snapshot_written_on_the_spot_tells_its_failure_at_finish(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    snapshot = WrittenSnapshot(tmp_path, writes_and_then(tmp_path, fail))
    with pytest.raises(CheckpointError, match="No space left on device"):
        snapshot.finish()
    assert list(tmp_path.iterdir()) == []
    snapshot = WrittenSnapshot(tmp_path, writes(tmp_path))
    assert [file.name for file in snapshot.finish()] == ["a"]
    snapshot.cancel()
    with pytest.raises(CheckpointError, match="cancelled"):
        snapshot.finish()


def test_deleting_contents_keeps_the_folder_and_minds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    delete_contents(tmp_path)
    assert list(tmp_path.iterdir()) == []
    delete_contents(tmp_path / "absent")
