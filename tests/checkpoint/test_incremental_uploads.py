"""What an incremental checkpoint uploads, and under which names."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from faulty import Fault, FaultyStorage

from checkdam.checkpoint.folders import is_own, shared_prefix, writer_of
from checkdam.checkpoint.manifest import FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.transfers import Transfers
from checkdam.checkpoint.uploads import (
    INLINE_LIMIT_BYTES,
    KnownFiles,
    fetch_files,
    known_files,
    upload_files,
    uploaded_bytes,
)
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, StorageError
from checkdam.state.base import LocalFile

BIG = bytes(INLINE_LIMIT_BYTES + 1)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "job")


def local_file(folder: Path, name: str, data: bytes, *, reusable: bool = True) -> LocalFile:
    path = folder / name
    path.write_bytes(data)
    return LocalFile(name, path, len(data), hashlib.sha256(data).hexdigest(), reusable=reusable)


def upload(storage: Storage, folder: str, files: list[LocalFile], base: KnownFiles | None) -> list[FileHandle]:
    return upload_files(storage, folder, files, transfers=Transfers(2), prefix="s-0/", base=base)


def base_of(handles: list[FileHandle]) -> KnownFiles:
    return known_files([SubtaskSnapshot("s", 0, files=handles)])


def stored(storage: Storage) -> set[str]:
    return {file.path for file in storage.list("")}


def test_names_of_shared_files_say_for_which_try_they_were_uploaded() -> None:
    assert shared_prefix("chk-12-1.3-0") == "shared/1.3-12.0-"
    assert shared_prefix("savepoint-12-1.3-0") == shared_prefix("other") == ""
    assert writer_of("shared/1.3-12.0-abc") == (1, 3)
    own = ("chk-12-1.3-0/s-0/a", "shared/1.3-12.0-abc")
    others = (
        "chk-12-1.3-01/a",
        "chk-12-1.3-0/../x",
        "shared/1.3-12.0-a/../../x",
        "shared/1.3-120-a",
        "shared/1.3-1.0-a",
    )
    assert all(is_own(path, "chk-12-1.3-0") for path in own)
    assert not any(is_own(path, "chk-12-1.3-0") for path in others)
    assert not is_own("shared/1.3-12.0-abc", "savepoint-12-1.3-0")


def test_a_file_of_the_base_is_named_again_and_not_uploaded(storage: FileStorage, tmp_path: Path) -> None:
    first = upload(storage, "chk-1-1.1-0", [local_file(tmp_path, "1.sst", BIG)], {})
    assert first[0].path.startswith("shared/1.1-1.0-")
    files = [local_file(tmp_path, "renamed.sst", BIG), local_file(tmp_path, "2.sst", BIG + b"2")]
    second = upload(storage, "chk-2-1.2-0", files, base_of(first))
    assert (second[0].name, second[0].path) == ("renamed.sst", first[0].path)
    assert second[1].path.startswith("shared/1.2-2.0-")
    assert stored(storage) == {second[0].path, second[1].path}
    assert uploaded_bytes("chk-2-1.2-0", second) == len(BIG) + 1


def test_what_is_not_in_the_base_is_uploaded_anew_though_storage_may_hold_it(
    storage: FileStorage, tmp_path: Path
) -> None:
    file = local_file(tmp_path, "1.sst", BIG)
    (old,) = upload(storage, "chk-1-1.1-0", [file], {})
    (new,) = upload(storage, "chk-2-1.1-0", [file], {})
    assert old.path != new.path


def test_a_file_that_changes_stays_in_its_checkpoints_folder(storage: FileStorage, tmp_path: Path) -> None:
    file = local_file(tmp_path, "state.blocks", BIG, reusable=False)
    (first,) = upload(storage, "chk-1-1.1-0", [file], {})
    (second,) = upload(storage, "chk-2-1.1-0", [file], base_of([first]))
    assert [first.path, second.path] == ["chk-1-1.1-0/s-0/state.blocks", "chk-2-1.1-0/s-0/state.blocks"]


@pytest.mark.parametrize(("folder", "base"), [("savepoint-1-1.1-0", {}), ("chk-1-1.1-0", None)])
def test_savepoints_and_jobs_without_increments_keep_all_files_to_themselves(
    storage: FileStorage, tmp_path: Path, folder: str, base: KnownFiles | None
) -> None:
    file = local_file(tmp_path, "1.sst", BIG)
    (known,) = upload(storage, "chk-0-1.1-0", [file], {})
    (handle,) = upload(storage, folder, [file], base and base_of([known]))
    assert handle.path == f"{folder}/s-0/1.sst"
    assert uploaded_bytes(folder, [handle]) == len(BIG)


def test_small_files_are_inlined_unless_the_base_has_them(storage: FileStorage, tmp_path: Path) -> None:
    small = local_file(tmp_path, "1.sst", b"small")
    (inline,) = upload(storage, "chk-1-1.1-0", [small], {})
    assert inline.inline == b"small"
    assert uploaded_bytes("chk-1-1.1-0", [inline]) == 5
    in_storage = FileHandle("1.sst", 5, small.sha256, "shared/1.1-1.0-x")
    (named,) = upload(storage, "chk-2-1.1-0", [small], base_of([in_storage]))
    assert (named.path, named.inline) == ("shared/1.1-1.0-x", None)


def test_an_upload_that_fails_deletes_what_was_new_and_nothing_of_the_base(tmp_path: Path) -> None:
    inner = FileStorage(tmp_path / "job")
    (known,) = upload(inner, "chk-1-1.1-0", [local_file(tmp_path, "1.sst", BIG)], {})
    puts: list[str] = []

    def plan(operation: str, path: str) -> Fault:
        puts.extend([path] if operation == "put_file" else [])
        return Fault.ERROR if operation == "put_file" and len(puts) == 3 else Fault.NONE

    files = [local_file(tmp_path, f"{number}.sst", BIG + bytes(number)) for number in range(6)]
    with pytest.raises(StorageError, match="planned"):
        upload(FaultyStorage(inner, plan), "chk-2-1.1-0", files, base_of([known]))
    assert stored(inner) == {known.path}


def test_a_cancelled_upload_leaves_nothing(storage: FileStorage, tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    files = [local_file(tmp_path, f"{number}.sst", BIG) for number in range(3)]
    with pytest.raises(CheckpointError, match="cancelled"):
        upload_files(storage, "chk-1-1.1-0", files, transfers=Transfers(), base={}, cancelled=cancelled)
    assert stored(storage) == set()


def test_a_file_that_changed_since_it_was_described_is_not_uploaded(storage: FileStorage, tmp_path: Path) -> None:
    file = local_file(tmp_path, "1.sst", BIG)
    file.path.write_bytes(BIG + b"more")
    with pytest.raises(CheckpointError, match="must have"):
        upload(storage, "chk-1-1.1-0", [file], {})
    file.path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        upload(storage, "chk-1-1.1-0", [file], {})


def test_many_files_come_back_verified_and_a_damaged_one_ends_the_batch(storage: FileStorage, tmp_path: Path) -> None:
    files = [local_file(tmp_path, f"{number}.sst", BIG + bytes([number])) for number in range(20)]
    handles = upload(storage, "chk-1-1.1-0", [*files, local_file(tmp_path, "CURRENT", b"x")], {})
    wanted = [(handle, tmp_path / f"back-{handle.name}") for handle in handles]
    fetch_files(storage, wanted, Transfers(4))
    for handle, path in wanted:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == handle.sha256
        path.unlink()
    damaged = storage.root / handles[7].path
    damaged.unlink()
    damaged.write_bytes(BIG + b"!")
    with pytest.raises(CorruptCheckpointError, match="must have SHA-256"):
        fetch_files(storage, wanted, Transfers(4))
    assert not wanted[7][1].exists()
