"""Files that a worker keeps for its next start: whose they are, and when they are believed."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkdam.checkpoint.manifest import FileHandle
from checkdam.worker import local_files
from checkdam.worker.local_files import LocalFiles, open_local_files

DATA = b"state"
DIGEST = hashlib.sha256(DATA).hexdigest()
HANDLE = FileHandle("1.sst", len(DATA), DIGEST, "shared/x")


def opened(tmp_path: Path, job_id: str = "ns/job", uri: str = "file:///x") -> LocalFiles:
    found = open_local_files(tmp_path / "kept", job_id, uri)
    assert found is not None
    return found


def keep(tmp_path: Path) -> Path:
    """One file, kept for checkpoint 1; returns where it is kept."""
    (tmp_path / "1.sst").write_bytes(DATA)
    local = opened(tmp_path)
    local.add(1, DIGEST, tmp_path / "1.sst")
    local.close()
    (found,) = (tmp_path / "kept").glob("*/*")
    return found


def test_a_file_comes_back_as_a_link(tmp_path: Path) -> None:
    kept = keep(tmp_path)
    local = opened(tmp_path)
    assert local.link(HANDLE, tmp_path / "back")
    assert (tmp_path / "back").samefile(kept)
    assert not local.link(FileHandle("2.sst", 5, "0" * 64, "shared/y"), tmp_path / "other")


def test_a_file_that_is_not_what_was_hashed_is_deleted_and_not_used(tmp_path: Path) -> None:
    def replace_it(path: Path) -> None:
        path.unlink()
        path.write_bytes(DATA)

    def write_to_it(path: Path) -> None:
        status = path.stat()
        path.write_bytes(b"STATE")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    for change in (replace_it, write_to_it, Path.unlink, lambda path: path.write_bytes(b"longer than before")):
        kept = keep(tmp_path)
        change(kept)
        local = opened(tmp_path)
        assert not local.link(HANDLE, tmp_path / "back")
        assert not kept.exists()
        assert not (tmp_path / "back").exists()
        local.close()
        (tmp_path / "1.sst").unlink()


def test_another_size_is_another_file(tmp_path: Path) -> None:
    keep(tmp_path)
    assert not opened(tmp_path).link(FileHandle("1.sst", 6, DIGEST, "shared/x"), tmp_path / "back")


@pytest.mark.parametrize("other", ["job", "storage", "boot"])
def test_files_of_another_job_storage_or_boot_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    kept = keep(tmp_path)
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    if other == "boot":
        monkeypatch.setattr(local_files, "_BOOT_ID", boot)
    job_id, uri = "ns/other" if other == "job" else "ns/job", "s3://x" if other == "storage" else "file:///x"
    assert not opened(tmp_path, job_id, uri).link(HANDLE, tmp_path / "back")
    assert not kept.parent.exists()


def test_where_the_boot_cannot_be_told_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "_BOOT_ID", tmp_path / "nothing")
    assert open_local_files(tmp_path / "kept", "ns/job", "file:///x") is None


def test_two_processes_never_share_the_folder(tmp_path: Path) -> None:
    kept = keep(tmp_path)
    script = (
        "import sys; from pathlib import Path; from checkdam.worker.local_files import open_local_files\n"
        f"local = open_local_files(Path({str(tmp_path / 'kept')!r}), 'ns/job', 'file:///x')\n"
        "print(local is not None, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert open_local_files(tmp_path / "kept", "ns/job", "file:///x") is None
        assert open_local_files(tmp_path / "kept", "ns/another", "file:///x") is None
        assert kept.exists(), "what another process uses is not touched"
        other.kill()
    assert opened(tmp_path).link(HANDLE, tmp_path / "back")


def test_a_file_on_another_file_system_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def far(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "1.sst").write_bytes(DATA)
    local = opened(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", far)
        local.add(1, DIGEST, tmp_path / "1.sst")
    assert not local.link(HANDLE, tmp_path / "back")


def test_what_no_checkpoint_needs_is_deleted(tmp_path: Path) -> None:
    kept = keep(tmp_path)
    local = opened(tmp_path)
    local.tidy()
    assert not kept.exists(), "the checkpoint that is restored does not name it"
    local.add(2, DIGEST, tmp_path / "1.sst")
    local.add(3, DIGEST, tmp_path / "1.sst")
    local.not_needed(2)
    local.tidy()
    assert kept.exists()
    local.needed_from(4)
    local.tidy()
    assert not kept.exists()
