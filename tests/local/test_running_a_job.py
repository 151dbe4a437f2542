"""`checkdam run`, in real processes: how jobs begin, go on, stop and end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from job_runs import FAST, SLOW, JobFolder, processes_below, wait_until

SUMS = {key: sum(number for number in range(1000) if number % 5 == key) for key in range(5)}


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path)


@pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])
def test_a_bounded_job_finishes_with_all_its_output_committed(folder: JobFolder, backend: str) -> None:
    folder.write("squares")

    code, output = folder.run("--backend", backend)

    assert code == 0, output
    finals: dict[int, int] = {}
    for key, total in folder.rows():
        finals[key] = max(finals.get(key, 0), total)
    assert finals == SUMS


def test_a_finished_job_says_so_and_starts_over_only_when_asked(folder: JobFolder) -> None:
    folder.write("records")
    assert folder.run()[0] == 0

    again, said = folder.run()
    fresh, _ = folder.run("--fresh")

    assert (again, fresh) == (0, 0)
    assert "--fresh" in said
    assert len(folder.rows()) == 2000


def test_ctrl_c_stops_after_a_last_checkpoint_and_the_next_run_goes_on(folder: JobFolder) -> None:
    folder.write("records", count=6000, rate=SLOW)
    first = folder.start()
    folder.wait_for_checkpoint(2)

    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=30)
    read_before = len(folder.rows())
    code, _ = folder.run(*FAST)

    assert first.returncode == 0, output
    assert "again to go on" in output
    assert 0 < read_before < 6000
    assert code == 0
    assert sorted(folder.rows()) == list(range(6000))


def test_a_killed_runner_leaves_no_process_and_the_next_run_goes_on(folder: JobFolder) -> None:
    folder.write("records", count=6000, rate=SLOW)
    first = folder.start()
    folder.wait_for_checkpoint(2)
    processes = list(processes_below(first.pid))

    first.kill()
    first.communicate(timeout=30)
    _, alive = psutil.wait_procs(processes, timeout=10)
    code, output = folder.run(*FAST)

    assert len(processes) == 5
    assert alive == []
    assert code == 0, output
    assert "going on from" in output
    assert sorted(folder.rows()) == list(range(6000))


def test_ctrl_c_twice_kills_the_job_and_nothing_is_lost(folder: JobFolder) -> None:
    folder.write("records", count=6000, rate=SLOW)
    first = folder.start()
    folder.wait_for_checkpoint(1)
    coordinator = next(
        process for process in processes_below(first.pid) if "checkdam.coordinator" in " ".join(process.cmdline())
    )
    # A coordinator that stands still cannot stop the job: only the second Ctrl-C ends it.
    os.kill(coordinator.pid, signal.SIGSTOP)

    first.send_signal(signal.SIGINT)
    assert first.stdout is not None
    said = next(line for line in first.stdout if "press Ctrl-C again" in line)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=30)
    code, _ = folder.run(*FAST)

    assert first.returncode == 1, said + output
    assert code == 0
    assert sorted(folder.rows()) == list(range(6000))


def test_a_job_restores_the_checkpoint_that_it_is_given(folder: JobFolder) -> None:
    folder.write("records", count=6000, rate=SLOW)
    first = folder.start()
    folder.wait_for_checkpoint(2)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    checkpoint = max((folder.path / "state" / "default" / "job").glob("chk-*"), key=lambda path: path.stat().st_mtime)
    before = len(folder.rows())

    code, output = folder.run("--restore-from", f"file://{checkpoint}", *FAST)

    assert code == 0, output
    assert 0 < before < 6000
    assert sorted(folder.rows()) == list(range(6000))


def test_a_coordinator_that_is_slow_to_start_is_waited_for(folder: JobFolder) -> None:
    folder.spec = {
        "program": {"entrypoint": "slow_to_import:squares", "args": {"out": str(folder.path / "out"), "rate": 100}},
        "runtime": {"heartbeatTimeout": "1s"},
    }
    folder.write("squares")
    (folder.path / "slow_to_import.py").write_text(
        "import sys, time\n"
        "if 'checkdam.coordinator' in sys.orig_argv:\n"
        "    time.sleep(2.5)\n"
        "from local_jobs import squares\n"
    )

    run = folder.start()
    wait_until(lambda: folder.ask("/v1/job") is not None)
    coordinators = list((folder.path / "run").glob("coordinator.[0-9]*"))
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)

    assert len(coordinators) == 1


def test_what_the_pipeline_prints_comes_out_of_the_runner(folder: JobFolder) -> None:
    folder.write("printed")

    code, output = folder.run()

    assert code == 0
    assert "item one" in output
    assert "item two" in output


def test_a_job_with_volatile_storage_runs_to_its_end(folder: JobFolder) -> None:
    folder.spec = {
        "checkpoint": {"interval": "200ms", "storage": {"uri": "memory://", "allowVolatile": True}},
    }
    folder.write("squares")

    code, output = folder.run()

    assert code == 0, output
    assert {key for key, _ in folder.rows()} == set(range(5))


def test_files_that_come_into_a_watched_folder_are_read_once_over_a_restart(folder: JobFolder) -> None:
    inbox = folder.path / "inbox"
    inbox.mkdir()
    (inbox / "1.txt").write_text("one\ntwo\n")
    folder.write("watched", folder=str(inbox))
    first = folder.start()
    wait_until(lambda: len(folder.rows()) == 2)

    (inbox / "2.txt").write_text("three\n")
    wait_until(lambda: len(folder.rows()) == 3)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    (inbox / "3.txt").write_text("four\n")
    second = folder.start()
    wait_until(lambda: len(folder.rows()) == 4)
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)

    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(folder.rows()) == ["four", "one", "three", "two"]
