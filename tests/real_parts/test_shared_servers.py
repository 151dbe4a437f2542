"""Servers of tests are shared by all who ask for them, and end with the last of them or with their keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from server_process import server_process
from shared_servers import shared
from waiting import is_over, wait_until

OTHER_USER = """
import sys
from pathlib import Path
from shared_servers import shared
from test_shared_servers import Sleeper, run_sleeper

with shared(run_sleeper, Sleeper, Path(sys.argv[1])) as sleeper:
    print(sleeper.pid, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Sleeper:
    pid: int
    keeper: int
    folder: Path


@contextmanager
def run_sleeper(folder: Path) -> Iterator[Sleeper]:
    with server_process(["sleep", "600"], folder / "log", folder) as server:
        yield Sleeper(server.pid, os.getpid(), folder)


@contextmanager
def run_broken(folder: Path) -> Iterator[Sleeper]:
    raise RuntimeError("the disk is full of cats")
    yield


@contextmanager
def other_user(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    command = [sys.executable, "-c", OTHER_USER, str(folder)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_a_server_lives_as_long_as_any_of_its_users(tmp_path: Path) -> None:
    with other_user(tmp_path) as (first, pid):
        with shared(run_sleeper, Sleeper, tmp_path) as sleeper:
            assert sleeper == Sleeper(pid, sleeper.keeper, tmp_path)
            first.kill()
            first.wait()
            with other_user(tmp_path) as (_, known):
                assert known == pid
            assert not is_over(pid)
        wait_until(lambda: is_over(pid))
    with shared(run_sleeper, Sleeper, tmp_path) as another:
        assert another.pid != pid
        assert not is_over(another.pid)


def test_a_server_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    with shared(run_sleeper, Sleeper, tmp_path) as sleeper:
        os.kill(sleeper.keeper, signal.SIGKILL)
        wait_until(lambda: is_over(sleeper.pid))
        os.waitpid(sleeper.keeper, 0)
        with shared(run_sleeper, Sleeper, tmp_path) as another:
            assert another.pid != sleeper.pid
            assert not is_over(another.pid)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"did not start: it ended(.|\n)*the disk is full of cats"),
        shared(run_broken, Sleeper, tmp_path),
    ):
        pass
