"""Copies of checkpoints and savepoints that need nothing else, and deleting savepoints."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from sample_manifests import sample_manifest

from checkdam.checkpoint.copies import copy_checkpoint, dispose_savepoint
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, StorageError

CHECKPOINT = "chk-3-1.1-0"
SAVEPOINT = "savepoint-4-1.1-0"
SHARED = "shared/1.1-2.0-abc"


class FullFolder(FileStorage):
    """Storage that runs full over the state."""

    def put_file(self, path: str, local: Path) -> None:
        if path.endswith("state"):
            raise StorageError("put_file", path, "no space left on device", "free some")
        super().put_file(path, local)


def write(store: CheckpointStore, folder: str, paths: list[str], **settings: Any) -> CheckpointManifest:
    """A checkpoint of these files, each of which holds its path."""
    for path in paths:
        if not store.storage.exists(path):
            store.storage.create(path, path.encode())
    files = [FileHandle(f"f{n}", len(path), _sha256(path.encode()), path) for n, path in enumerate(paths)]
    files.append(FileHandle("small", 3, _sha256(b"abc"), inline=b"abc"))
    manifest = sample_manifest(
        3,
        job_id="default/test",
        subtasks=[SubtaskSnapshot("count", 0, (0, 128), files=files), SubtaskSnapshot("again", 0, files=files)],
        **settings,
    )
    store.write_manifest(folder, manifest)
    return manifest


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(FileStorage(tmp_path / "job"))


def test_a_copy_needs_nothing_else(store: CheckpointStore, tmp_path: Path) -> None:
    manifest = write(store, CHECKPOINT, [f"{CHECKPOINT}/count-0/state", SHARED])
    target = FileStorage(tmp_path / "copies")

    uri = copy_checkpoint(store, CHECKPOINT, target)

    assert uri == f"{target.uri}/{CHECKPOINT}"
    copied = CheckpointStore(target)
    assert copied.verify(CHECKPOINT) == []
    assert copied.read_manifest(CHECKPOINT).paths() == {f"{CHECKPOINT}/count-0/state", f"{CHECKPOINT}/{SHARED}"}
    assert {file.path for file in target.list("")} == copied.read_manifest(CHECKPOINT).paths() | {
        f"{CHECKPOINT}/_metadata"
    }
    assert store.read_manifest(CHECKPOINT) == manifest


def test_nothing_is_overwritten_by_a_copy(store: CheckpointStore, tmp_path: Path) -> None:
    write(store, CHECKPOINT, [SHARED])
    target = FileStorage(tmp_path / "copies")
    copy_checkpoint(store, CHECKPOINT, target)
    with pytest.raises(CheckpointError, match="exists already"):
        copy_checkpoint(store, CHECKPOINT, target)
    with pytest.raises(CheckpointError, match="exists already"):
        copy_checkpoint(store, CHECKPOINT, store.storage)
    assert CheckpointStore(target).verify(CHECKPOINT) == []


def test_a_damaged_file_is_not_copied_and_nothing_is_left(store: CheckpointStore, tmp_path: Path) -> None:
    write(store, CHECKPOINT, [SHARED, f"{CHECKPOINT}/count-0/state"])
    (tmp_path / "job" / SHARED).write_bytes(b"something else")
    target = FileStorage(tmp_path / "copies")
    with pytest.raises(CorruptCheckpointError, match="must have"):
        copy_checkpoint(store, CHECKPOINT, target)
    assert list(target.list("")) == []


def test_a_copy_that_fails_leaves_nothing_and_may_be_tried_again(store: CheckpointStore, tmp_path: Path) -> None:
    write(store, CHECKPOINT, [SHARED, f"{CHECKPOINT}/count-0/state"])
    with pytest.raises(StorageError, match="no space left"):
        copy_checkpoint(store, CHECKPOINT, FullFolder(tmp_path / "copies"))
    target = FileStorage(tmp_path / "copies")
    assert list(target.list("")) == []
    # One that was killed leaves files, too.
    target.create(f"{CHECKPOINT}/count-0/state", b"half")
    copy_checkpoint(store, CHECKPOINT, target)
    assert CheckpointStore(target).verify(CHECKPOINT) == []


def test_a_savepoint_is_deleted_with_all_that_is_in_its_folder(store: CheckpointStore) -> None:
    write(store, CHECKPOINT, [SHARED])
    write(store, SAVEPOINT, [f"{SAVEPOINT}/count-0/state"], kind="savepoint")
    dispose_savepoint(store, SAVEPOINT)
    assert {file.path for file in store.storage.list("")} == {SHARED, f"{CHECKPOINT}/_metadata"}


def test_only_savepoints_are_deleted(store: CheckpointStore) -> None:
    write(store, CHECKPOINT, [SHARED])
    with pytest.raises(CheckpointError, match="is a checkpoint, not a savepoint"):
        dispose_savepoint(store, CHECKPOINT)
    with pytest.raises(CheckpointError, match="is missing"):
        dispose_savepoint(store, SAVEPOINT)


def test_a_savepoint_that_its_job_may_need_is_not_deleted(store: CheckpointStore) -> None:
    path = f"{SAVEPOINT}/count-0/state"
    write(store, SAVEPOINT, [path], kind="savepoint")
    journal = Journal(store.storage)
    journal.fence()
    journal.append("stopped", SAVEPOINT, [SAVEPOINT])
    with pytest.raises(CheckpointError, match="was stopped with it"):
        dispose_savepoint(store, SAVEPOINT)
    journal.append("checkpoint")
    with pytest.raises(CheckpointError, match="its job restores from it"):
        dispose_savepoint(store, SAVEPOINT)
    write(store, CHECKPOINT, [SHARED])
    journal.append("checkpoint", CHECKPOINT, [SAVEPOINT, CHECKPOINT])
    with pytest.raises(CheckpointError, match=r"in case newer checkpoints are damaged.*2 newer"):
        dispose_savepoint(store, SAVEPOINT)
    # What the coordinator made of it for a changed graph still names its files.
    write(store, "chk-5-2.0-0", [path])
    journal.append("checkpoint", "chk-5-2.0-0", ["chk-5-2.0-0"])
    with pytest.raises(CheckpointError, match="1 newer"):
        dispose_savepoint(store, SAVEPOINT)
    journal.append("checkpoint", CHECKPOINT, [CHECKPOINT])
    dispose_savepoint(store, SAVEPOINT)
    assert not store.storage.exists(path)
