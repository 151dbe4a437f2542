"""What is particular to `file://` and `memory://`: links, leftovers, processes, errors of the system, bounds, uris."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkdam.checkpoint.storage import file as file_module
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.locate import open_folder, open_storage, resolve_file_uri
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.core.clock import ManualClock
from checkdam.core.errors import AlreadyExistsError, StorageError, UnknownOutcomeError
from checkdam.spec.checkpoint import CheckpointStorage

CONTENDER = """
import sys
from pathlib import Path
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.core.errors import AlreadyExistsError
storage = FileStorage(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    try:
        storage.create(f"journal/{number}", sys.argv[2].encode() * 100)
        print(number, flush=True)
    except AlreadyExistsError:
        pass
"""


def contender(root: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONTENDER, str(root), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_of_several_processes_exactly_one_creates_each_name(tmp_path: Path) -> None:
    processes = [contender(tmp_path / "job", name) for name in "abc"]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    won = [process.communicate("go\n")[0].split() for process in processes]
    assert sorted(int(number) for numbers in won for number in numbers) == list(range(60))
    storage = FileStorage(tmp_path / "job")
    for name, numbers in zip("abc", won, strict=True):
        assert all(storage.read(f"journal/{number}") == name.encode() * 100 for number in numbers)


def test_a_killed_writer_leaves_only_whole_files(tmp_path: Path) -> None:
    process = contender(tmp_path / "job", "k")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    for _ in range(7):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    storage = FileStorage(tmp_path / "job")
    files = sorted(int(file.path.split("/")[1]) for file in storage.list("journal"))
    assert files[:6] == list(range(6))
    assert files == list(range(len(files)))
    assert all(storage.read(f"journal/{number}") == b"k" * 100 for number in files)


def test_leftovers_of_crashes_are_not_listed_and_are_swept_when_old(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.create("a/x", b"1")
    old, young = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert [file.path for file in storage.list("")] == ["a/x"]
    assert storage.folders("") == ["a"]
    storage.probe()
    assert not old.exists()
    assert young.exists()


def test_a_file_is_stored_by_a_link_where_that_is_possible(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"x" * 100)
    storage = FileStorage(tmp_path / "job")
    storage.put_file("chk-1/f", local)
    assert (tmp_path / "job/chk-1/f").samefile(local)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_file_that_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"x" * 100)
    real = os.link

    def link(source: Path, target: str, **folder: int) -> None:
        if Path(source) == local:
            raise OSError(code, os.strerror(code))
        real(source, target, **folder)

    monkeypatch.setattr(file_module.os, "link", link)
    storage = FileStorage(tmp_path / "job")
    storage.put_file("chk-1/f", local)
    assert storage.read("chk-1/f") == b"x" * 100
    assert not (tmp_path / "job/chk-1/f").samefile(local)
    assert list((tmp_path / "job/.tmp").iterdir()) == []
    with pytest.raises(AlreadyExistsError):
        storage.put_file("chk-1/f", local)


def fail_link(monkeypatch: pytest.MonkeyPatch, code: int, after: bool = False) -> None:
    real = os.link

    def link(source: Path, target: str, **folder: int) -> None:
        if after:
            real(source, target, **folder)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(file_module.os, "link", link)


def test_a_link_whose_reply_was_lost_counts_as_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_link(monkeypatch, errno.EEXIST, after=True)
    storage = FileStorage(tmp_path)
    storage.create("x", b"mine")
    assert storage.read("x") == b"mine"


def test_a_link_that_failed_unclearly_has_an_unknown_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_link(monkeypatch, errno.EIO)
    with pytest.raises(UnknownOutcomeError):
        FileStorage(tmp_path).create("x", b"")


def test_a_file_system_without_links_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_link(monkeypatch, errno.EOPNOTSUPP)
    with pytest.raises(StorageError, match="hard links"):
        FileStorage(tmp_path).create("x", b"")


def test_a_folder_that_cannot_be_synced_leaves_the_outcome_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FileStorage(tmp_path)
    storage.create("a/first", b"")
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, "broken")
        real(descriptor)

    monkeypatch.setattr(file_module.os, "fsync", fsync)
    with pytest.raises(UnknownOutcomeError):
        storage.create("a/second", b"")
    with pytest.raises(UnknownOutcomeError):
        storage.create("a/first", b"")


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "free space"), (errno.EROFS, "writable"), (errno.EDQUOT, "quota")]
)
def test_a_full_or_read_only_disk_fails_for_certain_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    storage = FileStorage(tmp_path)
    storage.create("before", b"")

    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(file_module.os, "fsync", fsync)
    with pytest.raises(StorageError, match=hint) as caught:
        storage.create("x", b"data")
    assert not isinstance(caught.value, UnknownOutcomeError)
    assert not storage.exists("x")
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_root_below_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = FileStorage(tmp_path / "file" / "job")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        storage.probe()


def test_a_folder_that_cannot_be_read_is_an_error_and_not_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied")

    storage = FileStorage(tmp_path)
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(StorageError, match="read and write access"):
        storage.exists("x")


def test_memory_is_bounded_and_freed_by_deletes() -> None:
    storage = MemoryStorage("ns/job", limit_bytes=100, clock=ManualClock(7))
    storage.create("a", b"x" * 80)
    with pytest.raises(StorageError, match="80 of 100 bytes are used"):
        storage.create("b", b"x" * 30)
    storage.delete(["a"])
    storage.create("b", b"x" * 100)
    assert [file.modified_ms for file in storage.list("")] == [7]


def test_a_uri_and_a_job_id_lead_to_the_jobs_folder(tmp_path: Path) -> None:
    storage = open_storage(CheckpointStorage(uri=f"file://{tmp_path}/with%20space"), "ns/flight-delays")
    storage.create("x", b"")
    assert (tmp_path / "with space/ns/flight-delays/x").exists()
    assert storage.uri == f"file://{tmp_path}/with%20space/ns/flight-delays"
    assert storage.shared
    assert not open_storage(CheckpointStorage(uri="memory://"), "ns/job").shared


def test_relative_paths_need_a_base(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="three slashes"):
        open_storage(CheckpointStorage(uri="file://./checkpoints"), "job")
    assert resolve_file_uri("file://checkpoints/x", tmp_path) == tmp_path / "checkpoints/x"
    assert resolve_file_uri("file://./checkpoints", tmp_path) == tmp_path / "checkpoints"
    assert resolve_file_uri("file://localhost/data") == Path("/data")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("/data/checkpoints", "perhaps file:///data/checkpoints"),
        ("file://", "needs a folder"),
        ("file:///", "needs a folder"),
        ("s3:///prefix", "a bucket's name"),
        ("memory://", "gone with the process"),
    ],
)
def test_a_uri_that_cannot_be_used_says_which_can(uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        open_folder(uri)


@pytest.mark.parametrize("job_id", ["", "a/b/c", "../x", "a//b", ".", "a/..", "a b", "/a", "-a", "a/" + "x" * 300])
def test_a_job_id_that_is_no_folder_name_is_refused(job_id: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="job id"):
        open_storage(CheckpointStorage(uri=tmp_path.as_uri()), job_id)
