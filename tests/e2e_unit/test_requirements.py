"""What is said on a computer that can have no cluster: everything that is missing, and the command that gets it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster import __main__ as command_line
from cluster import requirements


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A computer without any program, where we are not root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHECKDAM_CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)


@pytest.mark.usefixtures("lacking")
def test_everything_that_is_missing_is_named_with_the_command_that_gets_it() -> None:
    with pytest.raises(requirements.UnavailableError) as raised:
        requirements.prepare(print)
    message = str(raised.value)
    assert "no Docker engine answers" in message
    assert "the user must be root (got user 1000): run it with `sudo`" in message
    assert "Go must be installed: take it from https://go.dev/dl, or `apt-get install golang-go`" in message
    assert "`apt-get install --no-install-recommends conntrack containerd" in message


@pytest.mark.usefixtures("lacking")
def test_the_command_line_ends_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cluster", "up"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 69
    assert "no Kubernetes can be run here" in capsys.readouterr().err


def test_a_docker_without_an_engine_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for code, answers in ((1, False), (0, True)):
        docker.write_text(f"#!/bin/sh\nexit {code}\n")
        docker.chmod(0o755)
        assert requirements.docker_answers() is answers
    docker.unlink()
    assert requirements.docker_answers() is False


def test_a_docker_that_hangs_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", hang)
    assert requirements.docker_answers() is False


def test_packages_that_are_missing_are_installed_where_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[str] = []
    there = {"apt-get", "go", "ip", "nsenter", "mount", "hostname", "iptables", "conntrack", "debootstrap", "modprobe"}
    there |= {"java", "mvn"}
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in there else None)
    monkeypatch.setattr(requirements, "address_conflict", lambda: "")
    monkeypatch.setattr(requirements, "run", lambda *command, **options: done.append(" ".join(command)))
    requirements.prepare(lambda what: done.append(what))
    assert done[:3] == [
        "installing containerd, containernetworking-plugins, runc",
        "apt-get update",
        "apt-get install --no-install-recommends containerd containernetworking-plugins runc --yes",
    ]
    assert all(command.startswith("modprobe ") for command in done[3:])
