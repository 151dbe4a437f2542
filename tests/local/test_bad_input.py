"""What bad input gets: one clear error that names the thing, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from job_runs import JobFolder


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path)


def test_an_entrypoint_that_does_not_import_shows_the_users_own_traceback(folder: JobFolder) -> None:
    manifest = folder.write("squares")
    manifest.write_text(manifest.read_text().replace("local_jobs:squares", "broken_job:build"))
    (folder.path / "broken_job.py").write_text("import json\n\nvalue = json.loads('{')\n")

    code, output = folder.run()

    assert code == 2
    assert "broken_job.py" in output
    assert "value = json.loads('{')" in output
    assert "importlib" not in output
    assert "checkdam/api" not in output


def test_a_user_exception_names_operator_record_and_traceback(folder: JobFolder) -> None:
    folder.write("fails_on_seven")

    code, output = folder.run()

    assert code == 1
    assert "operator `ratio` failed on record 7" in output
    assert "return 1 / (number - 7)" in output
    assert "ZeroDivisionError" in output


def test_a_key_type_that_is_not_allowed_is_refused_by_name(folder: JobFolder) -> None:
    folder.write("list_keys")

    code, output = folder.run()

    assert code == 1
    assert "NoneType" in output


def test_a_record_that_cannot_be_parsed_names_file_and_line(folder: JobFolder) -> None:
    (folder.path / "in.jsonl").write_text('{"a": 1}\n{"a": 2}\n{oops\n{"a": 3}\n')
    folder.write("parse_json", path=str(folder.path / "in.jsonl"), on_error="fail")

    code, output = folder.run()

    assert code == 1
    assert "in.jsonl" in output
    assert "line 3" in output


def test_records_that_cannot_be_parsed_are_skipped_when_told(folder: JobFolder) -> None:
    (folder.path / "in.jsonl").write_text('{"a": 1}\n{oops\n{"a": 3}\n')
    folder.write("parse_json", path=str(folder.path / "in.jsonl"), on_error="skip")

    code, output = folder.run()

    assert code == 0, output
    assert folder.rows() == [{"a": 1}, {"a": 3}]


def test_records_that_cannot_be_parsed_go_to_the_side_output_when_told(folder: JobFolder) -> None:
    (folder.path / "in.jsonl").write_text('{"a": 1}\n{oops\n{"a": 3}\n')
    folder.write("parse_json", path=str(folder.path / "in.jsonl"), on_error="side")

    code, output = folder.run()

    assert code == 0, output
    assert folder.rows() == [{"a": 1}, {"a": 3}]
    assert "oops" in json.dumps(folder.rows("out-bad"))


def _interrupted(folder: JobFolder, function: str) -> None:
    folder.write(function, count=100_000, rate=2000)
    first = folder.start()
    folder.wait_for_checkpoint(1)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 0


def test_a_changed_state_type_is_refused_by_name(folder: JobFolder) -> None:
    _interrupted(folder, "squares")
    folder.write("with_new_state")

    code, output = folder.run()

    assert code != 0
    assert "sums" in output


def test_a_removed_operator_with_state_is_refused_with_the_flag_that_allows_it(folder: JobFolder) -> None:
    _interrupted(folder, "squares")
    folder.write("records")

    code, output = folder.run()

    assert code != 0
    assert "sums" in output
    assert "allowNonRestoredState" in output


def test_a_checkpoint_of_another_job_is_refused_by_name(folder: JobFolder, tmp_path: Path) -> None:
    _interrupted(folder, "squares")
    checkpoint = next((folder.path / "state" / "default" / "job").glob("chk-*"))
    other = JobFolder(tmp_path / "other")
    other.path.mkdir()
    manifest = other.write("records")
    manifest.write_text(manifest.read_text().replace("name: job", "name: another"))

    code, output = other.run("--restore-from", f"file://{checkpoint}")

    assert code != 0
    assert "default/job" in output


def test_storage_that_cannot_be_used_is_named_before_anything_is_read(folder: JobFolder) -> None:
    (folder.path / "state").write_text("a file, not a folder")
    folder.write("squares")

    code, output = folder.run()

    assert code == 1
    assert str(folder.path / "state") in output
    assert folder.rows() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is played by a small tmpfs, which only root can mount")
def test_a_full_disk_fails_checkpoints_and_the_job_goes_on_when_there_is_room_again(folder: JobFolder) -> None:
    import subprocess

    state = folder.path / "state"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", state], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        folder.spec = {
            "checkpoint": {"interval": "200ms", "tolerableFailures": 1000, "storage": {"uri": "file://./state"}}
        }
        folder.write("records", count=12_000, rate=3000)
        job = folder.start()
        folder.wait_for_checkpoint(1)
        filler = state / "filler"
        filler.write_bytes(b"\0" * (os.statvfs(state).f_bavail * os.statvfs(state).f_frsize))

        failed = _wait_for_failed_checkpoint(folder)
        filler.unlink()
        output, _ = job.communicate(timeout=60)
    finally:
        subprocess.run(["umount", "-l", state], check=False)

    assert "space" in failed
    assert job.returncode == 0, output
    assert sorted(folder.rows()) == list(range(12_000))


def _wait_for_failed_checkpoint(folder: JobFolder) -> str:
    from job_runs import wait_until

    found: list[str] = []

    def failed() -> bool:
        found[:] = [c["failure"] for c in folder.ask("/v1/checkpoints") or [] if c["status"] == "FAILED"]
        return bool(found)

    wait_until(failed)
    return found[0]
