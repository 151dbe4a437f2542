"""Where other commands find the jobs that run on this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from checkdam.core.errors import CheckdamError
from checkdam.local.registry import RunningJob, registered, registry_folder, running_jobs


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_a_job_is_found_as_long_as_it_runs(runtime: Path, tmp_path: Path) -> None:
    with registered("team/job", "file:///state/team/job", tmp_path / "run"):
        [found] = running_jobs()
        assert (found.job_id, found.storage_uri, found.run_folder, found.pid) == (
            "team/job",
            "file:///state/team/job",
            str(tmp_path / "run"),
            os.getpid(),
        )
    assert running_jobs() == []


def test_what_a_killed_run_left_is_cleared_away_even_if_its_pid_is_in_use_again(runtime: Path) -> None:
    with registered("job", "", runtime):
        [own] = running_jobs()
        left = registry_folder() / "job.old.json"
        left.write_bytes(msgspec.json.encode(msgspec.structs.replace(own, started_s=own.started_s - 100)))
        assert running_jobs() == [own]
        assert not left.exists()


def test_a_file_that_is_no_entry_is_left_alone(runtime: Path) -> None:
    (registry_folder() / "notes.json").write_text("{")
    assert running_jobs() == []


def test_the_registry_belongs_to_its_user_alone(runtime: Path) -> None:
    folder = registry_folder()
    assert folder == runtime / "checkdam"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o770)
    with pytest.raises(CheckdamError, match="must belong to this user alone"):
        registry_folder()


def test_a_link_in_the_place_of_the_registry_is_refused(runtime: Path) -> None:
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "checkdam").symlink_to(runtime / "elsewhere")
    with pytest.raises(CheckdamError, match="must belong to this user alone"):
        registry_folder()


def test_without_a_runtime_folder_the_one_for_temporary_files_holds_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert registry_folder({}) == tmp_path / f"checkdam-runs-{os.getuid()}"
    assert registry_folder({"XDG_RUNTIME_DIR": str(tmp_path / "missing")}).parent == tmp_path


def test_an_entry_of_a_process_that_is_gone_is_not_alive() -> None:
    assert not RunningJob("job", "", "", 2**22 + 1, 0.0).alive
