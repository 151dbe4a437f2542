"""A look at a whole job's folder: what counts is read, what is wrong is named, and what nobody names is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sample_manifests import sample_manifest

from checkdam.checkpoint.entries import ENTRY_VERSION
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import (
    FORMAT_VERSION,
    CheckpointManifest,
    FileHandle,
    SubtaskSnapshot,
    encode_manifest,
)
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.verification import Verification, verify_checkpoint, verify_job
from checkdam.core.errors import IncompatibleCheckpointError

SHARED = "shared/1.1-abc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with checkpoints 2 and 3, which share a file, savepoint 4, and what a dropped checkpoint left."""
    storage = FileStorage(tmp_path)
    journal = Journal(storage)
    journal.fence()
    storage.create(SHARED, b"shared")
    for number in (1, 2, 3):
        take(storage, f"chk-{number}-1.1-0", number, SHARED)
        journal.append("checkpoint", f"chk-{number}-1.1-0", [f"chk-{n}-1.1-0" for n in (2, 3) if n <= number])
    take(storage, "savepoint-4-1.1-0", 4)
    return tmp_path


def take(storage: Storage, name: str, number: int, *shared: str) -> None:
    paths = [f"{name}/own", *shared]
    storage.create(paths[0], b"own")
    handles = [handle(path, storage.read(path)) for path in paths]
    storage.create(f"{name}/_metadata", encode_manifest(manifest_of(number, handles)))


def handle(path: str, data: bytes) -> FileHandle:
    return FileHandle(path.rpartition("/")[2], len(data), hashlib.sha256(data).hexdigest(), path)


def manifest_of(number: int, handles: list[FileHandle]) -> CheckpointManifest:
    return sample_manifest(number, fingerprint="f", subtasks=[SubtaskSnapshot("stage", 0, (0, 128), files=handles)])


def verified(folder: Path) -> Verification:
    return verify_job(CheckpointStore(FileStorage(folder)))


def entry(folder: Path, seq: int) -> Path:
    return folder / "journal" / "000000000000" / f"{seq:012d}"


def overwrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def test_retained_checkpoints_and_savepoints_are_read_and_all_else_is_told(folder: Path) -> None:
    found = verified(folder)
    assert found.good
    assert found.checkpoints == {"chk-2-1.1-0": [], "chk-3-1.1-0": [], "savepoint-4-1.1-0": []}
    assert sorted(file.path for file in found.orphans) == ["chk-1-1.1-0/_metadata", "chk-1-1.1-0/own"]


def test_a_savepoint_that_was_never_completed_is_no_more_than_its_files(folder: Path) -> None:
    (folder / "savepoint-4-1.1-0" / "_metadata").unlink()
    found = verified(folder)
    assert found.good
    assert "savepoint-4-1.1-0" not in found.checkpoints
    assert "savepoint-4-1.1-0/own" in [file.path for file in found.orphans]


def test_damage_is_told_of_each_checkpoint_that_it_harms(folder: Path) -> None:
    overwrite(folder / SHARED, lambda data: data[:-1])
    overwrite(folder / "savepoint-4-1.1-0" / "own", bytes.upper)
    (folder / "chk-3-1.1-0" / "own").unlink()
    found = verified(folder)
    assert not found.good
    assert [len(problems) for problems in found.checkpoints.values()] == [1, 2, 1]
    assert "shared/1.1-abc must have 6 bytes (got 5)" in found.checkpoints["chk-2-1.1-0"][0]
    assert "is missing" in " ".join(found.checkpoints["chk-3-1.1-0"])
    assert "must have SHA-256" in found.checkpoints["savepoint-4-1.1-0"][0]


def test_a_checkpoint_that_the_journal_retains_must_be_there(folder: Path) -> None:
    (folder / "chk-2-1.1-0" / "_metadata").unlink()
    assert "_metadata is missing" in verified(folder).checkpoints["chk-2-1.1-0"][0]


def test_a_checkpoint_alone_is_verified_without_the_journal(folder: Path) -> None:
    found = verify_checkpoint(CheckpointStore(FileStorage(folder)), "chk-1-1.1-0")
    assert found == Verification([], {"chk-1-1.1-0": []}, [])


def test_an_entry_that_cannot_be_read_is_told(folder: Path) -> None:
    overwrite(entry(folder, 3), lambda data: data[:10])
    [problem] = verified(folder).journal
    assert "000000000003 is not a journal entry" in problem


def test_a_gap_in_the_journal_is_told(folder: Path) -> None:
    entry(folder, 3).unlink()
    [problem] = verified(folder).journal
    assert "lacks the entries 3 but has older ones" in problem


def test_what_pruning_took_is_not_missed(folder: Path) -> None:
    entry(folder, 2).unlink()
    entry(folder, 3).unlink()
    assert verified(folder).journal == []


def test_an_entry_of_a_fenced_epoch_is_told(folder: Path) -> None:
    Journal(FileStorage(folder)).fence()
    overwrite(entry(folder, 5), lambda data: data.replace(b'"seq":5', b'"seq":6'))
    entry(folder, 5).rename(entry(folder, 6))
    old = entry(folder, 4).read_bytes()
    entry(folder, 5).write_bytes(old.replace(b'"seq":4,"epoch":1', b'"seq":5,"epoch":9'))
    assert "entry 6 is of epoch 5 but comes after one of epoch 9" in verified(folder).journal[0]


def test_with_a_last_entry_that_cannot_be_read_all_checkpoints_are_verified(folder: Path) -> None:
    overwrite(entry(folder, 4), lambda data: b"")
    found = verified(folder)
    assert not found.good
    assert list(found.checkpoints) == ["chk-1-1.1-0", "chk-2-1.1-0", "chk-3-1.1-0", "savepoint-4-1.1-0"]


def test_a_checkpoint_that_is_dropped_meanwhile_is_not_held_against_the_job(folder: Path) -> None:
    storage = FileStorage(folder)

    class DropsMeanwhile(CheckpointStore):
        def verify_files(self, *arguments: object) -> list[str]:
            if entry(folder, 6).exists():
                return super().verify_files(*arguments)  # type: ignore[arg-type]
            journal = Journal(storage)
            journal.fence()
            journal.append("checkpoint", "chk-3-1.1-0", ["chk-3-1.1-0"])
            return ["the file is missing"]

    found = verify_job(DropsMeanwhile(storage))
    assert found.good
    assert list(found.checkpoints) == ["chk-3-1.1-0", "savepoint-4-1.1-0"]


def test_newer_formats_are_refused_with_one_sentence(folder: Path) -> None:
    def newer(data: bytes) -> bytes:
        content = json.loads(data)
        content["version"] += 1
        return json.dumps(content).encode()

    overwrite(folder / "chk-3-1.1-0" / "_metadata", newer)
    [problem] = verified(folder).checkpoints["chk-3-1.1-0"]
    assert (
        f"has format version {FORMAT_VERSION + 1}, this release reads up to {FORMAT_VERSION}; upgrade Checkdam"
        in problem
    )
    overwrite(entry(folder, 4), newer)
    with pytest.raises(IncompatibleCheckpointError, match=f"reads up to {ENTRY_VERSION}; upgrade Checkdam to read it"):
        verified(folder)


def test_progress_counts_each_stored_byte_once(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    verify_job(CheckpointStore(FileStorage(folder)), lambda read_bytes, all_bytes: told.append((read_bytes, all_bytes)))
    all_bytes = len(b"shared") + 3 * len(b"own")
    assert told[0] == (0, all_bytes)
    assert told[-1] == (all_bytes, all_bytes)
    assert told == sorted(told)


def test_what_was_found_is_json_for_programs(folder: Path) -> None:
    found = json.loads(msgspec.json.encode(verified(folder)))
    assert found["journal"] == []
    assert {orphan["path"] for orphan in found["orphans"]} == {"chk-1-1.1-0/_metadata", "chk-1-1.1-0/own"}
