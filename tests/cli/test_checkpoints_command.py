"""`checkdam checkpoints`, over real files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from cli_calls import call
from sample_manifests import sample_manifest

from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import FileHandle, OperatorInfo, SubtaskSnapshot
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.spec.checkpoint import CheckpointStorage

STATE = b"state of the window" * 100


def take_checkpoint(store: CheckpointStore, number: int) -> str:
    """Write checkpoint `number` with one file, as coordinator and worker do together."""
    folder = f"chk-{number}-1.1-0"
    path = f"{folder}/state-0"
    store.storage.create(path, STATE)
    handle = FileHandle("state-0", len(STATE), hashlib.sha256(STATE).hexdigest(), path, key_group_offsets={0: (0, 10)})
    store.write_manifest(
        folder,
        sample_manifest(
            number,
            created_ms=1_790_000_000_000 + number,
            fingerprint="f",
            operators=[OperatorInfo("read", "source"), OperatorInfo("per-hour", "window", {"panes": "msgpack:int"})],
            subtasks=[SubtaskSnapshot("per-hour", 0, (0, 128), files=[handle])],
        ),
    )
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a job that retains checkpoints 2 and 3 and has dropped 1."""
    storage = open_storage(CheckpointStorage(uri=tmp_path.as_uri()), "default/job")
    store = CheckpointStore(storage, "default/job")
    journal = Journal(storage)
    journal.fence()
    folders = [take_checkpoint(store, number) for number in (1, 2, 3)]
    journal.append("checkpoint", folders[2], folders[1:], 1)
    return tmp_path / "default" / "job"


def damage(job: Path) -> None:
    path = job / "chk-3-1.1-0" / "state-0"
    path.chmod(0o644)
    path.write_bytes(STATE.replace(b"w", b"v"))


def test_a_list_shows_the_newest_first_and_what_the_journal_keeps(
    job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")

    outcome = call(capsys, "checkpoints", "list", job)

    assert outcome.code == 0
    lines = [line for line in outcome.out.splitlines() if "chk-" in line]
    assert [line.replace("│", " ").split()[0::6] for line in lines] == [
        ["3", "latest"],
        ["2", "retained"],
        ["1", "dropped"],
    ]
    assert all("1.9 KiB" in line for line in lines)


def test_a_list_as_json_is_for_programs(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(call(capsys, "checkpoints", "list", job.as_uri(), "--json").out)

    assert [(info["id"], info["folder"], info["retained"]) for info in found] == [
        (3, "chk-3-1.1-0", True),
        (2, "chk-2-1.1-0", True),
        (1, "chk-1-1.1-0", False),
    ]


def test_show_tells_what_the_latest_checkpoint_of_a_job_holds(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(capsys, "checkpoints", "show", job)

    assert outcome.code == 0
    assert f"checkpoint:  {job.as_uri()}/chk-3-1.1-0\n" in outcome.out
    assert "job:         default/job\n" in outcome.out
    assert "panes: msgpack:int" in outcome.out
    assert "0 to 127" in outcome.out


def test_show_as_json_is_the_manifest(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads(call(capsys, "checkpoints", "show", job / "chk-2-1.1-0", "--json").out)

    assert (manifest["id"], manifest["subtasks"][0]["files"][0]["path"]) == (2, "chk-2-1.1-0/state-0")


def test_verify_finds_whole_checkpoints_good(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(capsys, "checkpoints", "verify", job)

    good, orphans = outcome.out.split("2 files", 1)
    assert (outcome.code, good) == (0, "chk-2-1.1-0 is good\nchk-3-1.1-0 is good\n")
    assert "belong to none of these" in orphans
    assert "  - chk-1-1.1-0/_metadata\n" in orphans


def test_verify_exits_with_1_and_names_the_damaged_file(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(job)

    outcome = call(capsys, "checkpoints", "verify", job)
    as_json = call(capsys, "checkpoints", "verify", job / "chk-3-1.1-0", "--json")

    assert outcome.code == as_json.code == 1
    assert "chk-2-1.1-0 is good\nchk-3-1.1-0 is damaged:\n  - " in outcome.out
    assert "state-0" in outcome.out
    found = json.loads(as_json.out)
    assert (list(found), list(found["checkpoints"])) == (["journal", "checkpoints", "orphans"], ["chk-3-1.1-0"])


def test_verify_tells_of_a_damaged_journal_and_still_reads_the_checkpoints(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = sorted((job / "journal").rglob("0*"))[-1]
    last.chmod(0o644)
    last.write_text("not an entry")

    outcome = call(capsys, "checkpoints", "verify", job)

    assert outcome.code == 1
    assert outcome.out.startswith("the journal is damaged:\n  - ")
    assert "chk-3-1.1-0 is good\n" in outcome.out


def test_a_place_without_checkpoints_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "show", "verify"):
        outcome = call(capsys, "checkpoints", command, tmp_path)

        assert (outcome.code, outcome.out) == (1, "")
        assert tmp_path.as_uri() in outcome.err
