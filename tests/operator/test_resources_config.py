"""Who may reach a job's pods, and whom they may reach."""

from __future__ import annotations

import base64
from typing import Any

from resource_jobs import PEERS, job

from checkdam.spec.ports import CONTROL_PORT, DATA_PORT, HTTP_PORT
from checkdam_operator.resources import config


def allowed(policy: dict[str, Any], port: int) -> list[dict[str, Any]]:
    """The peers that the rules for a port name; an empty one for a rule without peers."""
    rules = [rule for rule in policy["spec"]["ingress"] if {"protocol": "TCP", "port": port} in rule.get("ports", [])]
    return [peer for rule in rules for peer in rule.get("from", [{}])]


def test_the_ports_inside_of_a_job_are_open_to_its_own_pods_alone() -> None:
    policy = config.network_policy(job(), PEERS)
    for port in (CONTROL_PORT, DATA_PORT):
        [peer] = allowed(policy, port)
        assert peer == {"podSelector": policy["spec"]["podSelector"]}


def test_the_http_port_is_open_to_the_operator_and_to_what_reads_metrics() -> None:
    operator, metrics = allowed(config.network_policy(job(), PEERS), HTTP_PORT)
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "checkdam-system"}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "checkdam-operator"}
    assert metrics == PEERS.metrics[0]


def test_the_http_port_is_open_to_all_where_the_operator_runs_outside_of_the_cluster() -> None:
    assert allowed(config.network_policy(job(), config.NetworkPeers()), HTTP_PORT) == [{}]


def test_traffic_from_the_pods_is_free_until_the_user_writes_rules() -> None:
    policy = config.network_policy(job(), PEERS)["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert "egress" not in policy


def test_rules_for_traffic_from_the_pods_leave_them_each_other_and_names() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    policy = config.network_policy(job({"networkPolicy": {"egress": [rule]}}), PEERS)["spec"]
    siblings, names, users = policy["egress"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert siblings["to"] == [{"podSelector": policy["podSelector"]}]
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert users == rule


def test_the_secret_holds_what_it_was_given() -> None:
    data = config.auth_secret(job(), "a secret", "a token", "a metrics token")["data"]
    decoded = {key: base64.b64decode(value).decode() for key, value in data.items()}
    assert decoded == {"secret": "a secret", "token": "a token", "metrics-token": "a metrics token"}
