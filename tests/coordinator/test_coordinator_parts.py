"""Small parts: configuration, secrets, fault points, the storage thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from coordinator_kit import config_of, job_of

from checkdam.coordinator.__main__ import main
from checkdam.coordinator.config import load_config, read_secret, write_atomically
from checkdam.coordinator.threads import SerialThread
from checkdam.core import faultpoints
from checkdam.core.errors import CheckdamError


def test_a_configuration_comes_back_from_its_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, job_of(tmp_path), fresh=True, request="r1")
    path = tmp_path / "config.json"
    write_atomically(path, msgspec.json.encode(config))
    assert load_config(path) == config
    assert config.origin == "r1#fresh"
    assert [entry.name for entry in tmp_path.glob(".config*")] == []


def test_a_wrong_configuration_is_refused_by_file_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"manifest": {}, "base_folder": 3}')
    with pytest.raises(CheckdamError, match=r"config\.json is wrong: .*base_folder"):
        load_config(path)
    with pytest.raises(CheckdamError, match="cannot be read: No such file"):
        load_config(tmp_path / "nothing.json")
    assert main([str(path)]) == 1
    assert main([]) == 2
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(config_of(tmp_path, job_of(tmp_path)), manifest={})))
    assert main([str(path)]) == 2
    assert "usage" in capsys.readouterr().err


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(" s3cret\n")
    path.chmod(0o640)
    with pytest.raises(CheckdamError, match=r"must have mode 0600 \(got 0640\)"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == b"s3cret"
    path.write_text("\n")
    with pytest.raises(CheckdamError, match="must not be empty"):
        read_secret(path)


async def test_the_storage_thread_does_one_thing_after_another_and_hands_back_errors() -> None:
    thread = SerialThread("test")
    order: list[int] = []
    gate = threading.Event()
    first = thread.run(lambda: (gate.wait(5), order.append(1)))
    second = thread.run(order.append, 2)
    failing = thread.run(int, "x")
    cancelled = thread.run(order.append, 3)
    cancelled.cancel()
    gate.set()
    await asyncio.gather(first, second)
    with pytest.raises(ValueError, match="invalid literal"):
        await failing
    assert await thread.run(lambda: list(order)) == [1, 2, 3], "cancelling the waiting does not undo the work"
    thread.close()


def test_a_fault_point_kills_at_the_asked_time_and_once_over_all_processes(tmp_path: Path) -> None:
    script = "from checkdam.core.faultpoints import hit\nfor n in range(3): hit('a'); hit('b'); print(n, flush=True)"
    environment = {"CHECKDAM_FAULT": "b:2", "CHECKDAM_FAULT_MARKER": str(tmp_path / "marker")}
    killed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (killed.returncode, killed.stdout.split()) == (-9, ["0"])
    spared = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (spared.returncode, spared.stdout.split()) == (0, ["0", "1", "2"])


def test_a_fault_that_cannot_be_read_is_refused() -> None:
    for value in ("a:0", "a:x", "a:-1"):
        with pytest.raises(ValueError, match="CHECKDAM_FAULT"):
            faultpoints.arm({"CHECKDAM_FAULT": value})
    with pytest.raises(ValueError, match=r"must be SIGKILL or SIGSTOP \(got 'SIGTERM'\)"):
        faultpoints.arm({"CHECKDAM_FAULT": "a", "CHECKDAM_FAULT_SIGNAL": "SIGTERM"})
    faultpoints.arm({})
    faultpoints.hit("anything")
