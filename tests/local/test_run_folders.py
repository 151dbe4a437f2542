"""The run folder: whose it may be, and what of an earlier run goes."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from checkdam.core.errors import CheckdamError, EntrypointError
from checkdam.local.folder import RunFolder, make_run_folder
from checkdam.local.runner import run_local
from checkdam.spec import parse_manifest
from checkdam.spec.checkpoint import CheckpointStorage

JOB = parse_manifest(
    {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "job"},
        "spec": {
            "program": {"entrypoint": "no_such_program:build"},
            "parallelism": 1,
            "checkpoint": {"storage": {"uri": "file:///checkpoints"}},
        },
    }
)


def prepared(path: Path) -> None:
    make_run_folder(path)
    RunFolder(path, JOB, path, fresh=False, restore_from="").prepare()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_an_empty_folder_is_for_this_user_alone(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "runs" / "run"
    if exists:
        path.mkdir(parents=True)
    prepared(path)
    assert (mode_of(path), mode_of(path / "secret"), mode_of(path / "token")) == (0o700, 0o600, 0o600)


def test_of_an_earlier_run_what_is_of_no_use_goes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run"
    prepared(path)
    gone, kept = ["coordinator.2", "worker-0.1", "worker-3.local"], ["worker-0.local", "worker-notes.old", "logs"]
    for name in (*gone, *kept):
        (path / name).mkdir(exist_ok=True)
    before = (path / "token").read_text()
    prepared(path)
    assert [name for name in (*gone, *kept) if (path / name).exists()] == kept
    assert (path / "token").read_text() != before


def test_a_folder_with_other_things_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    (path / "letters.txt").write_text("dear")
    with pytest.raises(
        CheckdamError, match=r"must be a new or an empty folder, or that of an earlier run .* 'letters\.txt'"
    ):
        make_run_folder(path)
    assert mode_of(path) == 0o755


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CheckdamError, match=r"`--run-dir` must be a folder that can be made or used \(got .*/file: File exists\)"
    ):
        make_run_folder(tmp_path / "file")


def test_a_job_that_cannot_begin_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    storage = CheckpointStorage(uri=(tmp_path / "checkpoints").as_uri())
    checkpoint = JOB.spec.checkpoint.model_copy(update={"storage": storage})
    job = JOB.model_copy(update={"spec": JOB.spec.model_copy(update={"checkpoint": checkpoint})})
    with pytest.raises(EntrypointError, match="there is no module `no_such_program`"):
        run_local(job, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
