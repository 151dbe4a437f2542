"""`checkdam run`: how the target and the flags become a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_calls import MANIFEST, Outcome, call, replace_module

from checkdam.core.errors import EntrypointError, StorageError
from checkdam.spec import StreamJob


class Runs:
    """Stands in for the local runner: records what it was asked to run.

    Attributes:
        code: What the next run returns.
        error: What it raises instead, if set.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.jobs: list[StreamJob] = []
        self.folders: list[Path] = []
        self.options: list[dict[str, Any]] = []
        self.code = 0
        self.error: Exception | None = None
        self._capsys = capsys

    def run_local(self, job: StreamJob, base_folder: Path, **options: Any) -> int:
        self.jobs.append(job)
        self.folders.append(base_folder)
        self.options.append(options)
        if self.error is not None:
            raise self.error
        return self.code

    def call(self, *arguments: str | Path) -> Outcome:
        return call(self._capsys, "run", *arguments)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    monkeypatch.chdir(tmp_path)
    runs = Runs(capsys)
    replace_module(monkeypatch, "checkdam.local.runner", run_local=runs.run_local)
    return runs


def test_a_manifest_is_run_as_it_is_written(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(MANIFEST)

    assert runs.call("jobs/job.yaml").code == 0
    [job] = runs.jobs
    assert (job.job_id, job.spec.parallelism, job.spec.checkpoint.storage.uri) == (
        "default/flight-delays",
        2,
        "s3://bucket/jobs",
    )
    assert runs.folders == [tmp_path / "jobs"]
    assert runs.options == [{"fresh": False, "restore_from": None, "run_dir": None, "progress": True}]


def test_flags_override_the_manifest(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(MANIFEST)

    outcome = runs.call(
        *("job.yaml", "--storage", "out/chk", "--parallelism", "3", "--interval", "1s", "--mode", "AtLeastOnce"),
        *("--backend", "rocksdb", "--arg", "top=5", "--arg", "carriers=[1, 2]", "--arg", "country=NO"),
        *("--set", "restart.strategy=Never", "--set", "checkpoint.retain=7", "--no-progress", "--run-dir", "here"),
    )

    assert outcome == Outcome(0, "", "")
    spec = runs.jobs[0].spec
    assert spec.program.args == {"window": "1h", "top": 5, "carriers": [1, 2], "country": "NO"}
    assert (spec.parallelism, spec.state_backend.type, spec.restart.strategy) == (3, "rocksdb", "Never")
    assert (spec.checkpoint.interval, spec.checkpoint.mode, spec.checkpoint.retain) == ("1s", "AtLeastOnce", 7)
    assert spec.checkpoint.storage.uri == (tmp_path / "out" / "chk").as_uri()
    assert spec.checkpoint.storage.s3 is None
    assert runs.options == [{"fresh": False, "restore_from": None, "run_dir": Path("here"), "progress": False}]


def test_an_entrypoint_alone_gets_a_name_and_a_storage_of_its_own(runs: Runs, tmp_path: Path) -> None:
    assert runs.call("my.jobs.Word_Count:build", "--arg", "files=a.txt").code == 0

    [job] = runs.jobs
    assert (job.job_id, job.spec.program.entrypoint) == ("default/word-count", "my.jobs.Word_Count:build")
    assert job.spec.checkpoint.storage.uri == (tmp_path / ".checkdam").as_uri()
    assert runs.folders == [tmp_path]


def test_a_python_file_with_a_callable_is_a_target_too(runs: Runs, tmp_path: Path) -> None:
    assert runs.call("examples/wordcount.py:build").code == 0

    assert runs.jobs[0].spec.program.entrypoint == "wordcount:build"
    assert runs.folders == [tmp_path / "examples"]


def test_fresh_and_restore_come_from_flags_before_the_manifest(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"{MANIFEST}  restoreFrom: Fresh\n")
    (tmp_path / "other.yaml").write_text(f"{MANIFEST}  restoreFrom: file:///jobs/default/x/chk-3-1.1-0\n")

    runs.call("job.yaml")
    runs.call("job.yaml", "--restore-from", "old/chk-1-1.1-0")
    runs.call("other.yaml")
    runs.call("other.yaml", "--fresh")

    assert [(options["fresh"], options["restore_from"]) for options in runs.options] == [
        (True, None),
        (False, (tmp_path / "old" / "chk-1-1.1-0").as_uri()),
        (False, "file:///jobs/default/x/chk-3-1.1-0"),
        (True, None),
    ]


def test_the_name_of_a_savepoint_means_nothing_on_one_machine(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"{MANIFEST}  restoreFrom: before-upgrade\n")

    outcome = runs.call("job.yaml")

    assert outcome.code == 2
    assert (
        "`spec.restoreFrom` must be the uri of a checkpoint or 'Fresh' in a local run (got 'before-upgrade')"
        in outcome.err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "must be a manifest such as job.yaml, or module:callable (got 'nothing')"),
        (["missing.yaml"], "the file must be readable (got No such file or directory)"),
        (["m:f", "--arg", "novalue"], "`--arg` must be key=value (got 'novalue')"),
        (["m:f", "--arg", "a=1", "--arg", "a=2"], "must be given once"),
        (["m:f", "--fresh", "--restore-from", "x"], "must not be given together"),
        (["m:f", "--interval", "1"], "`spec.checkpoint.interval` must be a duration"),
        (["m:f", "--mode", "exactly"], "`spec.checkpoint.mode` must be one of 'ExactlyOnce'"),
        (["m:f", "--set", "retry=3"], "`spec.retry` must be left out: there is no such field"),
        (["m:f", "--storage", "memory://"], "must be storage that outlives the coordinator"),
        (["m:f", "--parallelism", "many"], "--parallelism"),
        (["m-1:f"], "`spec.program.entrypoint` must be written as module:callable"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_why(runs: Runs, arguments: list[str], message: str) -> None:
    outcome = runs.call(*arguments)

    assert outcome.code == 2
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert runs.jobs == []


def test_problems_of_flags_say_that_flags_were_given(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(MANIFEST)

    assert runs.call("job.yaml", "--interval", "soon").err.startswith("job.yaml with the flags given is not valid:\n")


def test_the_exit_code_is_the_runners(runs: Runs) -> None:
    runs.code = 1
    assert runs.call("m:f").code == 1


def test_an_error_of_ours_is_a_message_and_one_of_the_users_code_its_traceback(runs: Runs) -> None:
    runs.error = StorageError("write", "/full", "no space left", "free some")
    assert runs.call("m:f") == Outcome(1, "", "cannot write /full: no space left; free some\n")

    runs.error = EntrypointError("`m` does not import", 'Traceback:\n  File "m.py", line 3\nNameError: x')
    assert runs.call("m:f") == Outcome(2, "", '`m` does not import\nTraceback:\n  File "m.py", line 3\nNameError: x\n')


def test_an_error_that_nobody_foresaw_keeps_its_traceback(runs: Runs) -> None:
    runs.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        runs.call("m:f")
