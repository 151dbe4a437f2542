"""Checkpoints as files: uploaded, verified, listed, opened by uri, and deleted with care."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from faulty import Fault, FaultyStorage
from sample_manifests import sample_manifest

from checkdam.checkpoint.folders import CheckpointFolder, writer_of
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SubtaskSnapshot
from checkdam.checkpoint.opening import open_checkpoint, open_job
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.transfers import Transfers
from checkdam.checkpoint.uploads import Inlining, upload_files
from checkdam.core.errors import (
    AlreadyExistsError,
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    StorageError,
    UnknownOutcomeError,
)

JOB = "ns/job"
BIG = bytes(range(256)) * 100


@dataclass(frozen=True)
class Snapshot:
    """Looks like `state.base.LocalFile`."""

    name: str
    path: Path
    size_bytes: int
    sha256: str
    key_group_offsets: dict[int, tuple[int, int]] = field(default_factory=dict)
    reusable: bool = False


@dataclass(frozen=True)
class Running:
    epoch: int
    attempt: int


def local_file(folder: Path, name: str, data: bytes, offsets: dict[int, tuple[int, int]] | None = None) -> Snapshot:
    path = folder / name.replace("/", "_")
    path.write_bytes(data)
    return Snapshot(name, path, len(data), hashlib.sha256(data).hexdigest(), offsets or {})


def manifest_of(number: int, files: list[FileHandle], job_id: str = JOB) -> CheckpointManifest:
    subtasks = [SubtaskSnapshot(stage="s", subtask=0, files=files)]
    return sample_manifest(number, job_id=job_id, created_ms=1000 + number, fingerprint="f", subtasks=subtasks)


def stored(storage: Storage, prefix: str = "") -> set[str]:
    return {file.path for file in storage.list(prefix) if not file.path.startswith("journal/")}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "ns" / "job")


@pytest.fixture
def store(storage: FileStorage) -> CheckpointStore:
    return CheckpointStore(storage, JOB)


def take(
    store: CheckpointStore, tmp_path: Path, folder: str, extra: list[FileHandle] | None = None
) -> list[FileHandle]:
    """A whole checkpoint with one big and one small file."""
    files = [
        local_file(tmp_path, f"{folder}-big", BIG + folder.encode(), {3: (0, 100)}),
        local_file(tmp_path, "small", b"s"),
    ]
    handles = upload_files(store.storage, folder, files, transfers=store.transfers, prefix="window-0/") + (extra or [])
    parsed = CheckpointFolder.parse(folder)
    assert parsed is not None
    store.write_manifest(folder, manifest_of(parsed.id, handles))
    return handles


def kept(store: CheckpointStore, *folders: str) -> set[str]:
    """All files of retained checkpoints."""
    return {path for folder in folders for path in (*store.read_manifest(folder).paths(), f"{folder}/_metadata")}


def delete(store: CheckpointStore, folder: str, keep: set[str]) -> None:
    store.delete_files(store.files_of(folder) - keep)


def test_a_folders_name_says_number_and_writer() -> None:
    folder = CheckpointFolder(12, 3, 4, 5)
    assert str(folder) == "chk-12-3.4-5"
    assert CheckpointFolder.parse("chk-12-3.4-5") == folder
    for name in ("chk-1", "chk-1-1.1", "chk-x-1.1-0", "savepoint-1", "chk-1-1.1-0/x", ""):
        assert CheckpointFolder.parse(name) is None
    assert writer_of("chk-12-3.4-5/window-0/a") == (3, 4)
    assert writer_of("shared/3.4-abc") == writer_of("shared/3.4-abc/x") == (3, 4)
    assert writer_of("journal/000/001") is writer_of("shared/x") is writer_of("savepoint-1/_metadata") is None


def test_small_files_are_inlined_and_big_ones_stored(store: CheckpointStore, tmp_path: Path) -> None:
    big, small = take(store, tmp_path, "chk-1-1.1-0")
    assert (big.path, big.inline) == ("chk-1-1.1-0/window-0/chk-1-1.1-0-big", None)
    assert big.key_group_offsets == {3: (0, 100)}
    assert (small.path, small.inline) == ("", b"s")
    assert stored(store.storage) == {"chk-1-1.1-0/_metadata", big.path}


def test_what_is_inlined_is_bounded_in_sum(storage: FileStorage, tmp_path: Path) -> None:
    files = [local_file(tmp_path, f"f{number}", b"x" * 10) for number in range(5)]
    handles = upload_files(storage, "chk-1-1.1-0", files, transfers=Transfers(), inlining=Inlining(10, 30))
    assert [handle.inline is not None for handle in handles] == [True] * 3 + [False] * 2


def test_everything_is_inlined_where_storage_is_not_shared(tmp_path: Path) -> None:
    storage = MemoryStorage()
    (handle,) = upload_files(storage, "chk-1-1.1-0", [local_file(tmp_path, "big", BIG)], transfers=Transfers())
    assert handle.inline == BIG
    assert stored(storage) == set()


def test_an_upload_that_fails_leaves_nothing(tmp_path: Path) -> None:
    inner = FileStorage(tmp_path / "job")
    puts: list[str] = []

    def plan(operation: str, path: str) -> Fault:
        puts.extend([path] if operation == "put_file" else [])
        return Fault.ERROR if len(puts) == 2 and operation == "put_file" else Fault.NONE

    files = [local_file(tmp_path, name, BIG) for name in "abc"]
    with pytest.raises(StorageError, match="planned"):
        upload_files(FaultyStorage(inner, plan), "chk-1-1.1-0", files, transfers=Transfers())
    assert stored(inner) == set()


def test_a_snapshot_file_that_is_not_as_described_is_refused(storage: FileStorage, tmp_path: Path) -> None:
    file = local_file(tmp_path, "f", b"abc")
    file.path.write_bytes(b"abcd")
    with pytest.raises(CheckpointError, match="must have 3 bytes"):
        upload_files(storage, "chk-1-1.1-0", [file], transfers=Transfers())
    file.path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        upload_files(storage, "chk-1-1.1-0", [file], transfers=Transfers())


def test_files_come_back_as_they_were(store: CheckpointStore, tmp_path: Path) -> None:
    for number, handle in enumerate(take(store, tmp_path, "chk-1-1.1-0")):
        local = tmp_path / f"back{number}"
        store.fetch_file(handle, local)
        assert hashlib.sha256(local.read_bytes()).hexdigest() == handle.sha256


def test_a_manifest_is_read_as_it_was_written(store: CheckpointStore, tmp_path: Path) -> None:
    handles = take(store, tmp_path, "chk-7-1.1-0")
    assert store.read_manifest("chk-7-1.1-0") == manifest_of(7, handles)


def test_writing_a_manifest_survives_lost_replies_and_overwrites_nothing() -> None:
    for fault in (Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.RETRIED):
        waiting = [fault]
        storage = FaultyStorage(
            MemoryStorage(), lambda operation, path, waiting=waiting: waiting.pop() if waiting else Fault.NONE
        )
        store = CheckpointStore(storage, JOB)
        store.write_manifest("chk-1-1.1-0", manifest_of(1, []))
        assert store.read_manifest("chk-1-1.1-0").id == 1
        with pytest.raises(AlreadyExistsError):
            store.write_manifest("chk-1-1.1-0", manifest_of(2, []))
    with pytest.raises(UnknownOutcomeError):
        CheckpointStore(FaultyStorage(MemoryStorage(), lambda *_: Fault.LATE)).write_manifest("c", manifest_of(1, []))


def test_a_manifest_that_cannot_be_used_is_named(store: CheckpointStore) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"chk-1-1\.1-0/_metadata is missing"):
        store.read_manifest("chk-1-1.1-0")
    store.storage.create("chk-2-1.1-0/_metadata", b"{}")
    with pytest.raises(CorruptCheckpointError, match=r"chk-2-1\.1-0"):
        store.read_manifest("chk-2-1.1-0")
    store.storage.create("chk-3-1.1-0/_metadata", b'{"version": 99}')
    with pytest.raises(IncompatibleCheckpointError, match="upgrade"):
        store.read_manifest("chk-3-1.1-0")
    store.write_manifest("chk-4-1.1-0", manifest_of(4, [], job_id="ns/other"))
    with pytest.raises(IncompatibleCheckpointError, match="of job `ns/other`, not of `ns/job`"):
        store.read_manifest("chk-4-1.1-0")
    assert CheckpointStore(store.storage).read_manifest("chk-4-1.1-0").job_id == "ns/other"


def test_a_sound_checkpoint_verifies(store: CheckpointStore, tmp_path: Path) -> None:
    take(store, tmp_path, "chk-1-1.1-0")
    assert store.verify("chk-1-1.1-0") == []


def test_verify_finds_every_kind_of_damage(store: CheckpointStore, storage: FileStorage, tmp_path: Path) -> None:
    big, small = take(store, tmp_path, "chk-1-1.1-0")
    replace = msgspec.structs.replace
    storage.create("chk-2-1.1-0/short", BIG[:-1])
    storage.create("chk-2-1.1-0/changed", BIG[:-1] + b"!")
    digest = hashlib.sha256(BIG).hexdigest()
    handles = [
        replace(big, path="chk-2-1.1-0/gone"),
        FileHandle("short", len(BIG), digest, "chk-2-1.1-0/short"),
        FileHandle("changed", len(BIG), digest, "chk-2-1.1-0/changed"),
        replace(small, inline=b"t"),
        replace(big, key_group_offsets={5: (big.size_bytes, 1)}),
        replace(big, sha256="0" * 64),
        big,
        FileHandle("escaping", 1, digest, "shared/../../../../etc/passwd"),
    ]
    store.write_manifest("chk-2-1.1-0", manifest_of(2, handles[:-1]))
    problems = store.verify("chk-2-1.1-0")
    expected = [
        "gone is missing",
        "short must have 25600 bytes (got 25599)",
        "changed must have SHA-256",
        "inline file `small`",
        "key groups [5] lie beyond",
        "named twice",
    ]
    assert len(problems) == len(expected)
    for text in expected:
        assert any(text in problem for problem in problems)
    assert "missing" in store.verify("chk-9-1.1-0")[0]
    store.write_manifest("chk-3-1.1-0", manifest_of(3, handles[-1:]))
    with pytest.raises(StorageError, match="relative path"):
        store.verify("chk-3-1.1-0")


def test_a_damaged_file_is_not_left_behind(store: CheckpointStore, tmp_path: Path) -> None:
    handle = msgspec.structs.replace(take(store, tmp_path, "chk-1-1.1-0")[0], sha256="0" * 64)
    with pytest.raises(CorruptCheckpointError, match=r"chk-1-1\.1-0-big must have SHA-256"):
        store.fetch_file(handle, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_deleting_a_checkpoint_spares_what_others_name(store: CheckpointStore, tmp_path: Path) -> None:
    store.storage.create("shared/1.1-old", b"old")
    store.storage.create("shared/1.1-used", b"used")
    shared = [
        FileHandle(name, len(name), hashlib.sha256(name.encode()).hexdigest(), f"shared/1.1-{name}")
        for name in ("old", "used")
    ]
    first = take(store, tmp_path, "chk-1-1.1-0", shared)
    take(store, tmp_path, "chk-2-1.1-0", [first[0], shared[1]])
    assert store.verify("chk-2-1.1-0") == []
    keep = kept(store, "chk-2-1.1-0")
    delete(store, "chk-1-1.1-0", keep)
    assert stored(store.storage, "chk-1-1.1-0") == {first[0].path}
    assert stored(store.storage, "shared") == {"shared/1.1-used"}
    assert store.verify("chk-2-1.1-0") == []
    delete(store, "chk-1-1.1-0", keep)
    delete(store, "chk-2-1.1-0", set())
    assert stored(store.storage) == set()


def test_deleting_never_leaves_the_checkpoints_own_places(store: CheckpointStore) -> None:
    Journal(store.storage).fence()
    entry = next(file.path for file in store.storage.list("journal"))
    store.write_manifest("chk-1-1.1-0", manifest_of(1, [FileHandle("x", 1, "", entry)]))
    delete(store, "chk-1-1.1-0", set())
    assert store.storage.exists(entry)


def test_the_sweep_deletes_only_what_dead_attempts_left(store: CheckpointStore, tmp_path: Path) -> None:
    own = take(store, tmp_path, "chk-3-1.1-0")
    others = [
        "chk-3-1.1-0/half",
        "chk-4-1.2-0/half",
        "chk-4-1.2-1/_metadata",
        "shared/1.2-x",
        "savepoint-4-1.2-0/half",
        "chk-5-2.1-0/now",
        "shared/2.1-now",
        "chk-5-3.1-0/later",
        "savepoint-4-1.2-1/_metadata",
        "savepoint-4-1.2-1/whole",
        "savepoint-5-2.1-0/now",
        "unknown/file",
    ]
    for path in others:
        store.storage.create(path, b"")
    Journal(store.storage).fence()
    keep = kept(store, "chk-3-1.1-0")
    assert store.sweep(Running(2, 1), keep) == 5
    assert stored(store.storage) == {"chk-3-1.1-0/_metadata", own[0].path, *others[5:]}
    assert store.verify("chk-3-1.1-0") == []
    assert store.sweep(Running(2, 1), keep) == 0
    assert Journal(store.storage).tail() is not None


def test_what_a_timed_out_checkpoint_has_left_goes_with_the_first_sweep_of_the_next_attempt(
    store: CheckpointStore, tmp_path: Path
) -> None:
    take(store, tmp_path, "chk-3-1.1-0")
    late = {"chk-4-1.1-0/half", "shared/1.1-late"}
    before = stored(store.storage)
    for path in late:
        store.storage.create(path, b"")
    keep = kept(store, "chk-3-1.1-0")
    assert store.sweep(Running(1, 1), keep) == 0, (
        "a worker of the attempt may still be uploading for another checkpoint"
    )
    assert stored(store.storage) == before | late
    assert store.sweep(Running(1, 2), keep) == 2
    assert stored(store.storage) == before
    assert store.verify("chk-3-1.1-0") == []


def test_the_sweep_keeps_files_in_folders_that_are_gone_from_the_journal(
    store: CheckpointStore, tmp_path: Path
) -> None:
    first = take(store, tmp_path, "chk-1-1.1-0")
    take(store, tmp_path, "chk-2-1.2-0", [first[0]])
    store.sweep(Running(9, 1), kept(store, "chk-2-1.2-0"))
    assert stored(store.storage, "chk-1-1.1-0") == {first[0].path}
    assert store.verify("chk-2-1.2-0") == []


def test_a_complete_savepoint_is_never_deleted(store: CheckpointStore) -> None:
    store.storage.create("savepoint-3-1.1-0/a", b"")
    assert store.files_of("savepoint-3-1.1-0", ["savepoint-3-1.1-0/b"]) == {
        "savepoint-3-1.1-0/a",
        "savepoint-3-1.1-0/b",
    }
    handle = FileHandle("a", 0, hashlib.sha256(b"").hexdigest(), "savepoint-3-1.1-0/a")
    store.write_manifest("savepoint-3-1.1-0", manifest_of(3, [handle]))
    store.write_manifest("chk-4-1.1-0", manifest_of(4, [handle]))
    assert store.files_of("savepoint-3-1.1-0", ["savepoint-3-1.1-0/a"]) == set()
    assert store.files_of("chk-4-1.1-0") == {"chk-4-1.1-0/_metadata"}
    assert store.sweep(Running(9, 1), set()) == 1
    assert store.verify("savepoint-3-1.1-0") == []


def test_a_manifest_goes_before_the_files_that_it_names(store: CheckpointStore, tmp_path: Path) -> None:
    take(store, tmp_path, "chk-1-1.1-0")
    broken = CheckpointStore(FaultyStorage(store.storage, lambda what, path: _refuse_state(what, path)), JOB)
    with pytest.raises(StorageError, match="planned"):
        delete(broken, "chk-1-1.1-0", set())
    assert not store.storage.exists("chk-1-1.1-0/_metadata")


def _refuse_state(operation: str, path: str) -> Fault:
    return Fault.ERROR if operation == "delete" and not path.endswith("_metadata") else Fault.NONE


def test_files_that_several_checkpoints_name_are_verified_once(store: CheckpointStore, tmp_path: Path) -> None:
    fetched: list[str] = []

    def plan(operation: str, path: str) -> Fault:
        fetched.extend([path] if operation == "fetch" else [])
        return Fault.NONE

    first, _ = take(store, tmp_path, "chk-1-1.1-0")
    take(store, tmp_path, "chk-2-1.1-0", [first])
    watched, read = CheckpointStore(FaultyStorage(store.storage, plan), JOB), {}
    manifests = [watched.read_manifest(folder) for folder in ("chk-1-1.1-0", "chk-2-1.1-0")]
    assert [watched.verify_files(manifest, read) for manifest in manifests] == [[], []]
    assert len(fetched) == len(set(fetched)) == 2
    store.storage.delete([first.path])
    read = {}
    for folder in ("chk-1-1.1-0", "chk-2-1.1-0"):
        (problem,) = store.verify_files(store.read_manifest(folder), read)
        assert "is missing" in problem


def test_the_list_says_what_the_journal_keeps(store: CheckpointStore, tmp_path: Path) -> None:
    for folder in ("chk-0-1.1-0", "chk-1-1.1-0", "chk-2-1.1-0"):
        take(store, tmp_path, folder)
    store.storage.create("chk-4-1.1-0/half", b"")
    store.storage.create("chk-5-1.1-0/_metadata", b"broken")
    assert [info.retained for info in store.list_checkpoints()] == [False] * 4
    journal = Journal(store.storage)
    journal.fence()
    journal.append("checkpoint", "chk-2-1.1-0", ["chk-1-1.1-0", "chk-2-1.1-0", "chk-3-1.1-0"])
    infos = {info.folder: info for info in store.list_checkpoints()}
    assert list(infos) == [f"chk-{number}-1.1-0" for number in (0, 1, 2, 3, 5)]
    assert [info.retained for info in infos.values()] == [False, True, True, True, False]
    assert [info.latest for info in infos.values()] == [False, False, True, False, False]
    assert infos["chk-2-1.1-0"].created_ms == 1002
    assert infos["chk-2-1.1-0"].size_bytes == len(BIG) + len("chk-2-1.1-0") + 1
    assert "is missing" in infos["chk-3-1.1-0"].problem
    assert "is not a checkpoint's _metadata" in infos["chk-5-1.1-0"].problem
    assert infos["chk-0-1.1-0"].problem == ""


def test_the_list_says_which_savepoints_hold_no_output_that_waits(store: CheckpointStore) -> None:
    for number, committed in ((1, True), (2, False)):
        manifest = sample_manifest(number, job_id=JOB, kind="savepoint", committed=committed)
        store.write_manifest(f"savepoint-{number}-1.1-0", manifest)
    found = store.list_checkpoints()
    assert [(info.kind, info.committed) for info in found] == [("savepoint", True), ("savepoint", False)]


def test_a_checkpoint_is_opened_by_its_own_uri_or_by_its_jobs(store: CheckpointStore, tmp_path: Path) -> None:
    for folder in ("chk-1-1.1-0", "chk-2-1.1-0"):
        take(store, tmp_path, folder)
    journal = Journal(store.storage)
    journal.fence()
    uri = f"file://{tmp_path}/ns/job"
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        open_checkpoint(uri)
    journal.append("checkpoint", "chk-2-1.1-0", ["chk-2-1.1-0"])
    for name, expected in (("", "chk-2-1.1-0"), ("/", "chk-2-1.1-0"), ("/chk-1-1.1-0", "chk-1-1.1-0")):
        opened, folder = open_checkpoint(uri + name)
        assert folder == expected
        assert opened.job_id == JOB
        assert opened.verify(folder) == []
    assert open_checkpoint(f"{uri}/chk-1-1.1-0/_metadata")[1] == "chk-1-1.1-0"
    assert open_checkpoint("file://ns/job/chk-1-1.1-0", tmp_path)[1] == "chk-1-1.1-0"
    assert len(open_job(uri).list_checkpoints()) == 2


def test_a_moved_job_folder_keeps_its_checkpoints(store: CheckpointStore, tmp_path: Path) -> None:
    take(store, tmp_path, "chk-1-1.1-0")
    (tmp_path / "ns" / "job").rename(tmp_path / "elsewhere")
    opened, folder = open_checkpoint(f"file://{tmp_path}/elsewhere/chk-1-1.1-0")
    assert opened.verify(folder) == []


def test_a_uri_without_a_checkpoint_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent", "ns/job/chk-1-1.1-0"):
        with pytest.raises(CheckpointError, match="neither a job's folder"):
            open_checkpoint(f"file://{tmp_path}/{name}")
    with pytest.raises(CheckpointError, match="neither a job's folder"):
        open_job(f"file://{tmp_path}/empty")
    with pytest.raises(StorageError, match="gone with the process"):
        open_checkpoint("memory://")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]
