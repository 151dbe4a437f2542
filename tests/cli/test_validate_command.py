"""`checkdam validate`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_calls import MANIFEST, Outcome, call, replace_module

from checkdam.core.errors import EntrypointError, KeyTypeError


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(MANIFEST)
    return path


def test_a_valid_manifest_whose_pipeline_builds_is_said_to_be_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    job = tmp_path / "job.yaml"
    code = (
        "def build(pipeline, args):\n    pipeline.from_items('numbers', [1, 2]).map(lambda x: x * args['by']).print()\n"
    )
    program = {"entrypoint": "validated_inline:build", "args": {"by": 3}, "inline": {"validated_inline.py": code}}
    job.write_text(
        MANIFEST.replace('{entrypoint: "flight_delays:build", args: {window: 1h, top: 3}}', json.dumps(program))
    )

    outcome = call(capsys, "validate", job)

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{job} is valid: job default/flight-delays, entrypoint validated_inline:build, 3 operators\n"


@pytest.mark.parametrize("error", [EntrypointError("it raised", "Traceback: x"), KeyTypeError("a set is no key")])
def test_a_pipeline_that_does_not_build_makes_it_invalid(
    error: Exception, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_graph(*_: Any) -> None:
        raise error

    replace_module(monkeypatch, "checkdam.api.entrypoint", load_graph=load_graph)

    assert call(capsys, "validate", job) == Outcome(2, "", f"{error}\n")


def test_no_build_runs_no_code_of_the_job(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(capsys, "validate", "--no-build", job)

    assert outcome.code == 0
    assert outcome.out == f"{job} is valid: job default/flight-delays, entrypoint flight_delays:build\n"


def test_every_problem_is_listed(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_text(MANIFEST.replace("parallelism: 2", "parallelism: two").replace("10s", "10"))

    outcome = call(capsys, "validate", job)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        f"{job} is not valid:",
        "  - `spec.parallelism` must be an integer (got 'two')",
        "  - `spec.checkpoint.interval` must be a duration such as 500ms, 10s, 5m or 1h (got 10)",
    ]


SAVEPOINT = """\
apiVersion: checkdam.dev/v1alpha1
kind: Savepoint
metadata: {name: before-friday}
spec: {job: flight-delays}
"""


def test_savepoints_are_checked_too(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_text(f"{MANIFEST}\n---\n{SAVEPOINT}")

    outcome = call(capsys, "validate", "--no-build", job)

    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        f"{job} is valid: job default/flight-delays, entrypoint flight_delays:build",
        f"{job} is valid: Savepoint before-friday of job flight-delays",
    ]


def test_the_problems_of_several_resources_are_told_apart(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong_job = MANIFEST.replace("parallelism: 2", "parallelism: 0")
    job.write_text(f"{wrong_job}\n---\n{SAVEPOINT.replace('job:', 'onDelete: Burn, job:')}")

    outcome = call(capsys, "validate", "--no-build", job)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        f"{job} is not valid:",
        "  - StreamJob 'flight-delays': `spec.parallelism` must be greater than or equal to 1 (got 0)",
        "  - Savepoint 'before-friday': `spec.onDelete` must be one of 'Keep', 'Delete' (got 'Burn')",
    ]


def test_a_manifest_without_anything_of_ours_is_told_what_is_looked_for(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_text("{kind: ConfigMap, metadata: {name: a}}\n---\n{kind: Secret, metadata: {name: b}}")

    outcome = call(capsys, "validate", job)

    assert outcome.code == 2
    assert "the file must hold a StreamJob or a Savepoint (got ConfigMap 'a', Secret 'b')" in outcome.err


def test_the_module_is_the_program(job: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "checkdam", "validate", "--no-build", str(job)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{job} is valid")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = call(capsys, "--version")
    assert outcome.code == 0
    assert outcome.out.startswith("checkdam 0.")
