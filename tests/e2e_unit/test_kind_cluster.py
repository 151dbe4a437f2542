"""What is asked of a Docker engine and of kind, and read out of their answers, where there are none."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest

from cluster import kind_cluster
from cluster.commands import CommandError
from cluster.requirements import UnavailableError

IPV4 = {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}
IPV6 = {"Subnet": "fc00:f853:ccd:e793::/64"}


@pytest.mark.parametrize("configs", [[IPV4], [IPV6, IPV4], [{**IPV6, "Gateway": "fc00:f853:ccd:e793::1"}, IPV4]])
def test_pods_reach_this_computer_by_the_gateway_of_their_network(
    monkeypatch: pytest.MonkeyPatch, configs: list[dict[str, str]]
) -> None:
    network = {"Name": "kind", "EnableIPv6": True, "IPAM": {"Driver": "default", "Config": configs}}
    monkeypatch.setattr(kind_cluster, "run", lambda *command: json.dumps([network]))
    assert kind_cluster.KindCluster().computer == "172.18.0.1"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The commands that Docker and kind were given, for which there is a cluster."""
    commands: list[str] = []

    def answer(program: str, *arguments: str, stdin: str | None = None) -> str:
        commands.append(" ".join((Path(program).name, *arguments)))
        return "checkdam\n" if arguments[:2] == ("get", "clusters") else ""

    monkeypatch.setenv("CHECKDAM_CLUSTER", str(tmp_path))
    monkeypatch.setattr(kind_cluster, "install", Path)
    monkeypatch.setattr(kind_cluster, "run", answer)
    (tmp_path / "volumes" / "volume-0").mkdir(parents=True)
    return commands


def test_what_pods_have_written_is_removed_on_a_node_before_there_is_none(asked: list[str], tmp_path: Path) -> None:
    assert kind_cluster.KindCluster().down(print)
    assert asked == [
        "kind get clusters",
        f"docker exec checkdam-worker find {tmp_path}/volumes -mindepth 1 -delete",
        f"kind delete cluster --name=checkdam --kubeconfig={tmp_path}/kind.kubeconfig",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("asked")
def test_a_folder_that_cannot_be_removed_is_told_with_a_remedy_and_not_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = kind_cluster.KindCluster()
    monkeypatch.setattr(shutil, "rmtree", lambda folder, ignore_errors: None)  # its files are another user's
    monkeypatch.setattr(kind_cluster, "prepare_beside_docker", lambda: None)
    cluster.down(print)
    remedy = f"`sudo rm -r {tmp_path}/volumes`"
    assert cluster.left() == [f"the folder {tmp_path}/volumes: {remedy}"]
    with pytest.raises(CommandError, match=remedy):
        cluster.up(print)


def test_everything_that_is_missing_beside_docker_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(UnavailableError) as raised:
        kind_cluster.KindCluster().up(print)
    for problem in ("must be Linux (got Darwin)", "https://go.dev/dl", "apt-get install default-jre-headless", "maven"):
        assert problem in str(raised.value)
