"""What is particular to storage through fsspec: what it says at the start, how it fails, and filesystems that can do less."""

from __future__ import annotations

import logging
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from checkdam.checkpoint.storage.generic import FsspecStorage
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError, UnknownOutcomeError
from checkdam.spec.checkpoint import CheckpointStorage


class Bare(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem without exclusive create whose listings are as sparse as fsspec permits."""

    protocol = "bare"
    listed: dict[str, Any] = {}  # noqa: RUF012 - fsspec's instances are made by class

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "xb":
            raise NotImplementedError("File mode not supported")
        return super()._open(path, mode, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        entries = super().ls(path, detail=True, **options)
        for entry in entries:
            entry.pop("created", None)
            entry.update(self.listed)
        return entries if detail else [entry["name"] for entry in entries]


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """Everything but looking fails with `error`, after it has been done."""

    protocol = "failing"
    error: Exception = OSError()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        super()._open(path, mode, **options)
        raise self.error


@pytest.fixture(autouse=True)
def registered() -> None:
    for filesystem in (Bare, Failing):
        fsspec.register_implementation(filesystem.protocol, filesystem, clobber=True)


def somewhere(scheme: str) -> FsspecStorage:
    return FsspecStorage(f"{scheme}://{uuid.uuid4().hex}/job")


def test_any_scheme_leads_to_the_jobs_folder(tmp_path: Path) -> None:
    storage = open_storage(CheckpointStorage(uri=f"local://{tmp_path}/checkpoints/"), "ns/flight-delays")
    assert storage.uri == f"local://{tmp_path}/checkpoints/ns/flight-delays"
    storage.create("x", b"content")
    assert (tmp_path / "checkpoints/ns/flight-delays/x").read_bytes() == b"content"


def test_the_probe_says_what_cannot_be_promised(caplog: pytest.LogCaptureFixture) -> None:
    storage = somewhere("memory")
    storage.probe()
    [said] = caplog.records
    assert said.levelno == logging.WARNING
    assert storage.uri in said.getMessage()
    assert "two coordinators of one job could both commit" in said.getMessage()


def test_a_scheme_that_nobody_knows_says_which_are_known() -> None:
    with pytest.raises(StorageError, match=r"fsspec does not know the scheme nosuch://; use s3://, file://, hdfs://"):
        FsspecStorage("nosuch://x/y")


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"no library for gs:// is installed .*; pip install gcsfs"):
        FsspecStorage("gs://bucket/prefix")


def test_a_password_in_a_uri_is_refused_and_not_shown() -> None:
    with pytest.raises(StorageError, match="configure fsspec for this scheme") as caught:
        FsspecStorage("memory://me:my-password@host/x")
    assert "my-password" not in str(caught.value)


def test_a_filesystem_without_exclusive_create_refuses_taken_names_too() -> None:
    storage = somewhere("bare")
    storage.probe()
    storage.create("a/name", b"first")
    with pytest.raises(AlreadyExistsError):
        storage.create("a/name", b"second")
    assert storage.read("a/name") == b"first"


@pytest.mark.parametrize(
    ("listed", "modified_ms"),
    [
        ({"mtime": 12.5}, 12_500),
        ({"LastModified": datetime(1970, 1, 2, tzinfo=UTC)}, 86_400_000),
        ({"updated": "1970-01-02T00:00:00Z"}, 86_400_000),
    ],
)
def test_times_are_found_under_the_names_that_filesystems_use(
    listed: dict[str, Any], modified_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bare, "listed", listed)
    storage = somewhere("bare")
    storage.create("x", b"")
    assert [file.modified_ms for file in storage.list("")] == [modified_ms]


def test_a_file_of_unknown_age_counts_as_new() -> None:
    storage = somewhere("bare")
    storage.create("x", b"")
    [file] = storage.list("")
    assert abs(file.modified_ms - datetime.now(UTC).timestamp() * 1000) < 60_000


def test_a_create_that_failed_unclearly_has_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", OSError("timed out\nsecond line"))
    with pytest.raises(UnknownOutcomeError, match=r"OSError: timed out$"):
        somewhere("failing").create("x", b"")


def test_a_create_without_permission_has_failed_for_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", PermissionError("no"))
    with pytest.raises(StorageError, match="PermissionError: no; give the job access") as caught:
        somewhere("failing").create("x", b"")
    assert not isinstance(caught.value, UnknownOutcomeError)


def test_what_libraries_say_is_shown_without_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "error", RuntimeError("403 from https://host/container/x?sig=secret&se=1 again"))
    storage = somewhere("failing")
    with pytest.raises(UnknownOutcomeError, match=r"403 from https://host/container/x\?… again") as caught:
        storage.create("x", b"")
    assert "secret" not in str(caught.value)


def test_a_download_that_ends_early_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = somewhere("memory")
    storage.create("f", b"0123456789")
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda self, path, local: Path(local).write_bytes(b"01234"))
    with pytest.raises(StorageError, match="5 of 10 bytes have arrived"):
        storage.fetch("f", tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_what_is_listed_is_as_new_as_what_others_have_written(tmp_path: Path) -> None:
    ours, theirs = (FsspecStorage(f"local://{tmp_path}/job") for _ in range(2))
    assert list(ours.list("")) == []
    theirs.create("a/x", b"1")
    assert ours.folders("") == ["a"]
    theirs.delete(["a/x"])
    with pytest.raises(NotFoundError):
        ours.read("a/x")
    assert not (tmp_path / "job" / "a").exists()
