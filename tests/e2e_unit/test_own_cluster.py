"""When the cluster of our own making passes for one that is up, and what becomes of one that does not answer."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import own_cluster
from cluster.own_cluster import OwnCluster
from cluster.state import ClusterState, Process


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The control groups whose processes are frozen."""
    groups: set[str] = set()
    monkeypatch.setattr(own_cluster, "cgroups", lambda: SimpleNamespace(is_frozen=groups.__contains__))
    return groups


@pytest.fixture
def etcd() -> Iterator[Process]:
    with subprocess.Popen(["sleep", "60"]) as started:
        yield Process.of(started.pid)
        started.kill()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frozen: set[str], etcd: Process) -> OwnCluster:
    """One that was brought up, as far as its state says: it has one process."""
    monkeypatch.setenv("CHECKDAM_CLUSTER", str(tmp_path))
    made = OwnCluster()
    ClusterState(daemons={"control/etcd": etcd}, complete=True).save(made.layout.state)
    return made


def test_a_cluster_is_up_while_all_its_processes_run(cluster: OwnCluster, frozen: set[str], etcd: Process) -> None:
    assert cluster.is_up()
    assert cluster.status() == [f"control/etcd: runs (process {etcd.pid})"]
    frozen.add("checkdam/control")
    assert not cluster.is_up()
    frozen.clear()
    etcd.send(signal.SIGSTOP)
    os.waitid(os.P_PID, etcd.pid, os.WSTOPPED)
    assert not cluster.is_up()
    assert cluster.status() == [f"control/etcd: stands still (process {etcd.pid})"]
    etcd.send(signal.SIGKILL)
    os.waitid(os.P_PID, etcd.pid, os.WEXITED | os.WNOWAIT)
    assert not cluster.is_up()
    assert cluster.status() == [f"control/etcd: ended (process {etcd.pid})"]


def test_a_cluster_that_does_not_answer_is_made_anew(monkeypatch: pytest.MonkeyPatch, cluster: OwnCluster) -> None:
    done: list[str] = []

    def remove(self: OwnCluster, say: own_cluster.Say) -> bool:
        done.append("removed")
        self.layout.state.unlink()
        return True

    def start(self: OwnCluster, images: Sequence[Path], say: own_cluster.Say) -> None:
        done.append("started")

    def mend(*arguments: object) -> None:
        raise RuntimeError("the control plane did not start")

    monkeypatch.setattr(OwnCluster, "plane", None)
    monkeypatch.setattr(OwnCluster, "_remove", remove)
    monkeypatch.setattr(OwnCluster, "_start", start)
    monkeypatch.setattr(own_cluster, "mend", mend)
    monkeypatch.setattr(own_cluster, "install", Path)
    monkeypatch.setattr(own_cluster, "image_archives", list)
    cluster.up(done.append)
    assert done == ["the cluster is of no use any more: the control plane did not start", "removed", "started"]
