"""What is read out of the answers of a Docker engine, where there is none."""

from __future__ import annotations

import json

import pytest

from cluster import kind_cluster

IPV4 = {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}
IPV6 = {"Subnet": "fc00:f853:ccd:e793::/64"}


@pytest.mark.parametrize("configs", [[IPV4], [IPV6, IPV4], [{**IPV6, "Gateway": "fc00:f853:ccd:e793::1"}, IPV4]])
def test_pods_reach_this_computer_by_the_gateway_of_their_network(
    monkeypatch: pytest.MonkeyPatch, configs: list[dict[str, str]]
) -> None:
    network = {"Name": "kind", "EnableIPv6": True, "IPAM": {"Driver": "default", "Config": configs}}
    monkeypatch.setattr(kind_cluster, "run", lambda *command: json.dumps([network]))
    assert kind_cluster.KindCluster().computer == "172.18.0.1"
