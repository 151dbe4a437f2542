"""All objects of a job but its pods.

The ConfigMap and the Secret are created once and never changed, so they are for POST. Service, PodDisruptionBudget and NetworkPolicy are for
server-side apply, whole. The manifest in a ConfigMap is the deployed part of the spec (see `hashes`) but for `parallelism`, beside the image that an empty
`spec.image` meant at that time: pods that are replaced after an upgrade of the operator then run the same code as the others.
The budget and the policy follow the spec as it is now, deployed or not.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from checkdam.spec import API_VERSION, KIND, StreamJob, parse_manifest
from checkdam.spec.ports import CONTROL_PORT, DATA_PORT, HTTP_PORT
from checkdam_operator.resources import names
from checkdam_operator.resources.hashes import canonical_json, unscaled_spec

MANIFEST_KEY: Final = "streamjob.json"
IMAGE_KEY: Final = "image"
SECRET_KEY: Final = "secret"
TOKEN_KEY: Final = "token"
METRICS_TOKEN_KEY: Final = "metrics-token"

_NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
_DNS_PORT: Final = 53


@dataclass(frozen=True)
class NetworkPeers:
    """Who reaches the HTTP port of coordinators, from outside of their jobs.

    Attributes:
        operator_namespace: Where the operator runs; empty if that is not in the cluster, and then the port is open to all who have a token.
        operator_labels: Labels of the operator's pods.
        metrics: Peers, as in a NetworkPolicy, that read metrics.
    """

    operator_namespace: str = ""
    operator_labels: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()


def revision_manifest(job: StreamJob) -> dict[str, Any]:
    """The manifest that the pods of a job read.

    It has no `spec.parallelism`: that may change while the pods of a revision stay, and so may what is stored of them. The coordinator is told
    when its pod is created, and from then on by requests.
    """
    metadata = job.metadata
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
        "spec": unscaled_spec(job),
    }


def manifest_name(job: StreamJob, uid: str, revision: int) -> str:
    """Name of the ConfigMap of a revision; it depends on the manifest in it.

    Args:
        job: What is to be deployed.
        uid: Of the StreamJob.
        revision: Of the deployment.
    """
    return names.config_map_name(job.metadata.name, uid, revision, canonical_json(revision_manifest(job)))


def config_map(job: StreamJob, revision: int, image: str) -> dict[str, Any]:
    """The ConfigMap of a revision. If one of that name exists, it holds the same manifest, and its image is the one that counts.

    Args:
        job: What is to be deployed.
        revision: Of the deployment.
        image: What its pods run, given or default.
    """
    metadata = _metadata(job, manifest_name(job, job.metadata.uid, revision))
    metadata["labels"][names.REVISION_LABEL] = str(revision)
    data = {MANIFEST_KEY: canonical_json(revision_manifest(job)), IMAGE_KEY: image}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": data}


def deployed_job(config_map: Mapping[str, Any]) -> StreamJob:
    """What the pods of a revision were made of.

    Raises:
        ManifestError: It is not what `config_map` made, or another version of the operator made it.
    """
    return parse_manifest(json.loads(config_map["data"][MANIFEST_KEY]))


def deployed_image(config_map: Mapping[str, Any]) -> str:
    """The image of the pods of a revision."""
    return str(config_map["data"][IMAGE_KEY])


def auth_secret(job: StreamJob, secret: str, token: str, metrics_token: str) -> dict[str, Any]:
    """The Secret by which the processes of a job know each other and the operator.

    Args:
        job: Whose it is.
        secret: Random text by which coordinator and workers prove to each other that they belong together.
        token: Random text that opens the coordinator's HTTP API.
        metrics_token: Random text that opens its metrics, and nothing else.
    """
    values = {SECRET_KEY: secret, TOKEN_KEY: token, METRICS_TOKEN_KEY: metrics_token}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(job, names.auth_secret_name(job.metadata.name, job.metadata.uid)),
        "type": "Opaque",
        "immutable": True,
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def service(job: StreamJob, pod_hash: str) -> dict[str, Any]:
    """The Service that leads to the coordinator whose name ends in `pod_hash`, ready or not: its workers must find it before it is."""
    selector = names.selector_labels(job.metadata.uid, names.COORDINATOR) | {names.POD_HASH_LABEL: pod_hash}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, names.service_name(job.metadata.name), names.COORDINATOR),
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "publishNotReadyAddresses": True,
            "ports": [
                {"name": "control", "protocol": "TCP", "port": CONTROL_PORT, "targetPort": CONTROL_PORT},
                {"name": "http", "protocol": "TCP", "port": HTTP_PORT, "targetPort": HTTP_PORT},
            ],
        },
    }


def disruption_budget(job: StreamJob) -> dict[str, Any]:
    """The PodDisruptionBudget over the workers. Not over the coordinator: a budget of one pod would block every drain."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(job, names.disruption_budget_name(job.metadata.name), names.WORKER),
        "spec": {
            "maxUnavailable": job.spec.worker.disruption_budget.max_unavailable,
            "selector": {"matchLabels": names.selector_labels(job.metadata.uid, names.WORKER)},
            # A worker that does not come up must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(job: StreamJob, peers: NetworkPeers) -> dict[str, Any]:
    """The NetworkPolicy of the job's pods, for a job where `spec.networkPolicy.enabled` is true."""
    wanted = job.spec.network_policy
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": names.selector_labels(job.metadata.uid)},
        "policyTypes": ["Ingress"],
        "ingress": [_sibling_rule(job, "from"), _http_rule(peers), *deepcopy(wanted.ingress)],
    }
    if wanted.egress:
        spec["policyTypes"].append("Egress")
        spec["egress"] = [
            _sibling_rule(job, "to"),
            {"ports": [*_ports("UDP", _DNS_PORT), *_ports("TCP", _DNS_PORT)]},
            *deepcopy(wanted.egress),
        ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, names.network_policy_name(job.metadata.name)),
        "spec": spec,
    }


def _sibling_rule(job: StreamJob, direction: Literal["from", "to"]) -> dict[str, Any]:
    siblings = {"podSelector": {"matchLabels": names.selector_labels(job.metadata.uid)}}
    return {direction: [siblings], "ports": _ports("TCP", CONTROL_PORT, DATA_PORT)}


def _http_rule(peers: NetworkPeers) -> dict[str, Any]:
    ports = _ports("TCP", HTTP_PORT)
    if not peers.operator_namespace:
        return {"ports": ports}
    operator = {
        "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: peers.operator_namespace}},
        "podSelector": {"matchLabels": dict(peers.operator_labels)},
    }
    return {"from": [operator, *(deepcopy(dict(peer)) for peer in peers.metrics)], "ports": ports}


def _ports(protocol: str, *numbers: int) -> list[dict[str, Any]]:
    return [{"protocol": protocol, "port": number} for number in numbers]


def _metadata(job: StreamJob, name: str, role: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": names.labels(job, role),
        "ownerReferences": [names.owner_reference(job)],
    }
