"""What a worker names again of a checkpoint, what it deletes, and what it fetches."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from sample_manifests import sample_manifest

from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.uploads import INLINE_LIMIT_BYTES
from checkdam.core.errors import CorruptCheckpointError
from checkdam.state.base import LocalFile
from checkdam.wire.messages import AttemptId, Trigger
from checkdam.worker.checkpoint_files import CheckpointFiles
from checkdam.worker.local_files import LocalFiles, open_local_files

BIG = bytes(INLINE_LIMIT_BYTES + 1)
ATTEMPT = AttemptId(1, 1)
NEVER = threading.Event()


class Counting(FileStorage):
    """Notes what is fetched."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []

    def fetch(self, path: str, local: Path) -> None:
        self.fetched.append(path)
        super().fetch(path, local)


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "job")


def local_file(folder: Path, name: str, data: bytes = BIG) -> LocalFile:
    path = folder / name
    if not path.exists():
        path.write_bytes(data)
    return LocalFile(name, path, len(data), hashlib.sha256(data).hexdigest(), reusable=True)


def trigger(checkpoint: int, base: int = -1, *, savepoint: bool = False) -> Trigger:
    kind = "savepoint" if savepoint else "chk"
    return Trigger(ATTEMPT, checkpoint, f"{kind}-{checkpoint}-1.1-0", base, savepoint=savepoint)


def snapshots_of(handles: list[FileHandle]) -> list[SubtaskSnapshot]:
    return [SubtaskSnapshot("s", 0, (0, 4), files=handles)]


def take(files: CheckpointFiles, triggered: Trigger, *local: LocalFile) -> list[FileHandle]:
    """Up to the acknowledgement."""
    files.begin(triggered)
    handles = files.store(triggered, "s-0/", local, NEVER)
    files.acknowledge(triggered, snapshots_of(handles))
    return handles


def manifest_of(number: int, handles: list[FileHandle]) -> CheckpointManifest:
    return sample_manifest(number, job_id="ns/job", max_parallelism=4, subtasks=snapshots_of(handles))


def restore(files: CheckpointFiles, handles: list[FileHandle], folder: Path) -> list[bytes]:
    folder.mkdir()
    wanted = [(handle, folder / handle.name) for handle in handles]
    files.fetch(wanted)
    return [path.read_bytes() for _, path in wanted]


def test_only_the_base_that_the_trigger_names_counts(storage: Counting, tmp_path: Path) -> None:
    files = CheckpointFiles(storage)
    one = local_file(tmp_path, "1.sst")
    (first,) = take(files, trigger(1), one)
    (second,) = take(files, trigger(2, base=1), one)
    assert second.path == first.path
    (full,) = take(files, trigger(3), one)
    assert full.path != first.path
    (third,) = take(files, trigger(4, base=2), one)
    assert third.path == first.path, "3 may have failed; 2 is what the coordinator keeps"
    (unknown,) = take(files, trigger(5, base=3), one)
    assert unknown.path == full.path
    (forgotten,) = take(files, trigger(6, base=2), one)
    assert forgotten.path not in (first.path, full.path), "5 had named 3: 2 may be deleted by now"


def test_what_was_restored_is_a_base_too(storage: Counting, tmp_path: Path) -> None:
    one = local_file(tmp_path, "1.sst")
    (before,) = take(CheckpointFiles(storage), trigger(7), one)
    files = CheckpointFiles(storage, restored=manifest_of(7, [before]))
    (again,) = take(files, trigger(8, base=7), one)
    assert again.path == before.path


def test_an_aborted_checkpoint_is_no_base_though_it_was_acknowledged(storage: Counting, tmp_path: Path) -> None:
    files = CheckpointFiles(storage)
    one = local_file(tmp_path, "1.sst")
    (first,) = take(files, trigger(1), one)
    files.abort(1)
    (second,) = take(files, trigger(2, base=1), one)
    assert second.path != first.path
    files.complete(2)
    files.abort(2)
    (third,) = take(files, trigger(3, base=2), one)
    assert third.path == second.path, "an abort comes too late for what has completed"


def test_a_savepoint_is_no_base_and_disturbs_none(storage: Counting, tmp_path: Path) -> None:
    files = CheckpointFiles(storage)
    one = local_file(tmp_path, "1.sst")
    (first,) = take(files, trigger(1), one)
    (saved,) = take(files, trigger(2, savepoint=True), one)
    assert saved.path == "savepoint-2-1.1-0/s-0/1.sst"
    (third,) = take(files, trigger(3, base=1), one)
    assert third.path == first.path


def test_little_is_remembered_however_many_checkpoints_there_were(storage: Counting, tmp_path: Path) -> None:
    files = CheckpointFiles(storage)
    for number in range(1, 20):
        take(files, trigger(number), local_file(tmp_path, "1.sst"))
        (files.abort if number % 3 else files.complete)(number)
    assert len(files._named) <= 2


def test_what_is_given_up_is_deleted_but_for_the_files_of_the_base(storage: Counting, tmp_path: Path) -> None:
    files = CheckpointFiles(storage)
    one, two = local_file(tmp_path, "1.sst"), local_file(tmp_path, "2.sst", BIG + b"2")
    (first,) = take(files, trigger(1), one)
    given_up = trigger(2, base=1)
    files.begin(given_up)
    files.discard(given_up, files.store(given_up, "s-0/", [one, two], NEVER))
    assert {file.path for file in storage.list("")} == {first.path}


def opened(tmp_path: Path) -> LocalFiles:
    local = open_local_files(tmp_path / "kept", "ns/job", "file:///x")
    assert local is not None
    return local


def test_a_worker_that_still_has_the_files_fetches_nothing(storage: Counting, tmp_path: Path) -> None:
    local = opened(tmp_path)
    files = CheckpointFiles(storage, local=local)
    snapshot = [local_file(tmp_path, f"{number}.sst", BIG + bytes([number])) for number in range(3)]
    handles = take(files, trigger(1), *snapshot)
    files.complete(1)
    files.tidy()
    for file in snapshot:
        file.path.unlink()
    local.close()

    local = opened(tmp_path)
    files = CheckpointFiles(storage, restored=manifest_of(1, handles), local=local)
    assert restore(files, handles, tmp_path / "first") == [BIG + bytes([number]) for number in range(3)]
    files.tidy()
    local.close()
    files = CheckpointFiles(storage, restored=manifest_of(1, handles), local=opened(tmp_path))
    assert len(restore(files, handles, tmp_path / "second")) == 3
    assert (storage.fetched, files.fetched_bytes) == ([], 0)


def test_what_had_to_be_fetched_is_kept_for_the_next_time(storage: Counting, tmp_path: Path) -> None:
    handles = take(CheckpointFiles(storage), trigger(1), local_file(tmp_path, "1.sst"))
    local = opened(tmp_path)
    files = CheckpointFiles(storage, restored=manifest_of(1, handles), local=local)
    restore(files, handles, tmp_path / "first")
    assert files.fetched_bytes == len(BIG)
    files.tidy()
    local.close()
    files = CheckpointFiles(storage, restored=manifest_of(1, handles), local=opened(tmp_path))
    restore(files, handles, tmp_path / "second")
    assert storage.fetched == [handles[0].path]


def test_a_local_file_that_was_changed_is_fetched_instead(storage: Counting, tmp_path: Path) -> None:
    source = local_file(tmp_path, "1.sst")
    handles = take(CheckpointFiles(storage, local=(local := opened(tmp_path))), trigger(1), source)
    in_storage = storage.root / handles[0].path
    in_storage.unlink()  # it was another link to the same bytes
    in_storage.write_bytes(BIG)
    source.path.write_bytes(BIG[:-1] + b"!")
    local.close()
    files = CheckpointFiles(storage, restored=manifest_of(1, handles), local=opened(tmp_path))
    assert restore(files, handles, tmp_path / "first") == [BIG]
    assert storage.fetched == [handles[0].path]


def test_a_damaged_file_in_storage_is_named_where_nothing_is_kept(storage: Counting, tmp_path: Path) -> None:
    handles = take(CheckpointFiles(storage), trigger(1), local_file(tmp_path, "1.sst"))
    (storage.root / handles[0].path).write_bytes(BIG + b"!")
    files = CheckpointFiles(storage, restored=manifest_of(1, handles), local=opened(tmp_path))
    with pytest.raises(CorruptCheckpointError, match="must have"):
        restore(files, handles, tmp_path / "first")


def test_locally_there_is_what_the_last_checkpoint_names_and_the_one_in_flight(
    storage: Counting, tmp_path: Path
) -> None:
    local = opened(tmp_path)
    files = CheckpointFiles(storage, local=local)

    def kept() -> set[str]:
        files.tidy()
        return {name[:64] for name in local._names.values()}

    one, two, three = (local_file(tmp_path, f"{n}.sst", BIG + bytes([n])) for n in (1, 2, 3))
    take(files, trigger(1), one, two)
    files.complete(1)
    take(files, trigger(2, base=1), two, three)
    assert kept() == {one.sha256, two.sha256, three.sha256}
    files.abort(2)
    assert kept() == {one.sha256, two.sha256}
    take(files, trigger(3, base=1), two, three)
    files.complete(3)
    assert kept() == {two.sha256, three.sha256}
    take(files, trigger(4, savepoint=True), one)
    assert kept() == {two.sha256, three.sha256}
