"""What is written down of a cluster finds its processes again, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.state import ClusterState, Process, load


def test_what_was_saved_is_loaded_and_nothing_is_none(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    assert load(file) is None
    state = ClusterState(
        "group", "link", {"node1": Process(7, 1.5)}, {"node1/kubelet": Process(8, 2.5)}, ["images"], True
    )
    state.save(file)
    assert load(file) == state
    assert list(tmp_path.iterdir()) == [file]


def test_a_process_lives_until_it_has_ended_even_if_nobody_asks_how() -> None:
    with subprocess.Popen(["sleep", "60"]) as started:
        process = Process.of(started.pid)
        assert process.lives()
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)  # asks, and leaves the question open
        assert not process.lives()


def test_a_process_that_was_stopped_by_a_signal_lives_and_stands_still_until_it_may_go_on() -> None:
    with subprocess.Popen(["sleep", "60"]) as started:
        process = Process.of(started.pid)
        for number, stopped in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
            process.send(number)
            os.waitid(os.P_PID, started.pid, os.WSTOPPED | os.WCONTINUED)
            assert process.is_stopped() is stopped
            assert process.lives()
        started.kill()


def test_another_process_under_the_same_number_is_not_the_one() -> None:
    with subprocess.Popen(["sleep", "60"]) as started:
        process = Process.of(started.pid)
        assert not replace(process, started_s=process.started_s - 1).lives()
        started.kill()


def test_half_a_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.json"
    ClusterState("first").save(file)

    def fail(path: Path, text: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        ClusterState("second").save(file)
    monkeypatch.undo()
    assert load(file) == ClusterState("first")
