"""Jobs whose objects are kept as golden files, and what is made of each of them.

`python tests/operator/resource_jobs.py` writes the golden files anew; the difference is then for a person to judge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from checkdam.spec import StreamJob, parse_manifest
from checkdam.spec.status import Deployment, StartWish
from checkdam_operator.resources import config, hashes
from checkdam_operator.resources.names import COORDINATOR, pod_hash
from checkdam_operator.resources.pods import FIRST, PodDefaults, Succession, coordinator_pod, worker_pod

GOLDEN = Path(__file__).with_name("golden")
UID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
OLD_POD_UID = "6fa459ea-ee8a-3ca4-894e-db77e160355e"

PEERS = config.NetworkPeers(
    operator_namespace="checkdam-system",
    operator_labels={"app.kubernetes.io/name": "checkdam-operator"},
    metrics=({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},),
)
"""Where the operator runs, and who reads metrics."""

DEFAULTS = PodDefaults("registry.example/checkdam-runtime:1.0")
"""What pods get where a job says nothing."""

SECRETS = ("the-secret", "the-token", "the-metrics-token")
"""In place of random texts."""


@dataclass(frozen=True)
class Case:
    """A job and the circumstances under which its objects are made."""

    spec: Mapping[str, Any]
    defaults: PodDefaults = DEFAULTS
    peers: config.NetworkPeers = PEERS
    revision: int = 1
    worker: int = 0
    coordinator_ip: str = "10.96.0.17"
    start: StartWish = field(default_factory=StartWish)
    since_epoch: int = 0
    start_number: int = 1
    succession: Succession = FIRST


def manifest(spec: Mapping[str, Any], name: str = "flight-delays", uid: str = UID) -> dict[str, Any]:
    """A manifest of a job with these fields of the spec beside those that it must have."""
    needed = {
        "program": {"entrypoint": "flight_delays:build"},
        "checkpoint": {"storage": {"uri": "s3://checkpoints/jobs"}},
    }
    return {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": name, "namespace": "streams", "uid": uid},
        "spec": needed | copy.deepcopy(dict(spec)),
    }


def job(spec: Mapping[str, Any] | None = None, name: str = "flight-delays", uid: str = UID) -> StreamJob:
    """The same, read."""
    return parse_manifest(manifest(spec or {}, name, uid))


def deployment(of: StreamJob, revision: int = 1) -> Deployment:
    """The deployment of a job as the operator writes it ahead."""
    return Deployment(
        revision=revision,
        generation=1,
        hash=hashes.deploy_hash(of),
        parallelism=of.spec.parallelism,
        config_map=config.manifest_name(of, of.metadata.uid, revision),
    )


def worker(of: StreamJob, case: Case | None = None) -> dict[str, Any]:
    """The body of a worker's pod."""
    case = case or Case({})
    return worker_pod(
        of,
        deployment(of, case.revision),
        case.defaults,
        case.worker,
        coordinator_ip=case.coordinator_ip,
        succession=case.succession,
    )


def coordinator(of: StreamJob, case: Case | None = None) -> dict[str, Any]:
    """The body of the coordinator's pod."""
    case = case or Case({})
    return coordinator_pod(
        of,
        deployment(of, case.revision),
        case.defaults,
        start=case.start,
        since_epoch=case.since_epoch,
        start_number=case.start_number,
        succession=case.succession,
    )


def objects(case: Case) -> list[dict[str, Any]]:
    """All objects of a job, made the way the operator makes them: pods of what the ConfigMap says."""
    live = job(case.spec)
    stored = config.config_map(live, case.revision, live.spec.image or case.defaults.image)
    deployed = config.deployed_job(stored)
    hashed = pod_hash(UID, COORDINATOR, 0, case.revision, case.succession.replaces)
    made = [
        stored,
        config.auth_secret(live, *SECRETS),
        config.service(live, hashed),
        config.disruption_budget(live),
        config.network_policy(live, case.peers),
        coordinator(deployed, case),
        worker(deployed, case),
    ]
    return made if live.spec.network_policy.enabled else [each for each in made if each["kind"] != "NetworkPolicy"]


def container(pod: Mapping[str, Any], name: str = "checkdam") -> dict[str, Any]:
    """A container of a pod."""
    [found] = [found for found in pod["spec"]["containers"] if found["name"] == name]
    return dict(found)


def environment(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of Checkdam's container: name → value, or where it comes from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(pod)["env"]}


def golden_text(case: Case) -> str:
    """What the golden file of a case holds."""
    return yaml.safe_dump_all(objects(case), sort_keys=False, width=120, allow_unicode=True)


def _storage(uri: str, **options: Any) -> dict[str, Any]:
    return {"storage": {"uri": uri, **options}}


CASES: dict[str, Case] = {
    "s3": Case(
        {
            "image": "registry.example/flight-delays:1.4",
            "parallelism": 2,
            "checkpoint": _storage("s3://checkpoints/jobs", s3={"credentialsSecret": "s3-keys", "region": "eu-1"}),
            "worker": {"env": [{"name": "TZ", "value": "UTC"}]},
        },
        worker=1,
    ),
    "volume": Case(
        {
            "checkpoint": _storage("file:///checkpoints/jobs/", persistentVolumeClaim={"claimName": "checkpoints"}),
            "networkPolicy": {"enabled": False},
            "restartNonce": "2",
        },
        defaults=PodDefaults("checkdam-runtime:1.0", "IfNotPresent"),
        revision=12,
        start=StartWish(resume=True, expected_checkpoint="chk-7-3.1-0"),
        since_epoch=41,
        start_number=3,
    ),
    "hdfs": Case(
        {"checkpoint": _storage("hdfs://namenode:9870/checkpoints", hdfs={"user": "streams"})},
        peers=config.NetworkPeers(),
    ),
    "memory": Case(
        {"checkpoint": _storage("memory://", memory={"limit": "128Mi"}, allowVolatile=True)},
        start=StartWish(fresh=True, request="1b4e28ba/4"),
    ),
    "rocksdb": Case(
        {
            "stateBackend": {"type": "rocksdb", "rocksdb": {"memory": "512Mi"}},
            "worker": {
                "disruptionBudget": {"maxUnavailable": 2},
                "env": [
                    {"name": "HOME", "value": "/var/lib/checkdam"},
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "password"}}},
                ],
                "podTemplate": {
                    "spec": {
                        "terminationGracePeriodSeconds": 300,
                        "volumes": [{"name": "checkdam-run", "emptyDir": {"sizeLimit": "20Gi"}}],
                        "containers": [{"name": "checkdam", "resources": {"limits": {"memory": "2Gi"}}}],
                    }
                },
            },
            "coordinator": {"resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}}},
        },
        coordinator_ip="fd00::17",
    ),
    "code-in-a-configmap": Case(
        {
            "program": {"entrypoint": "flight_delays:build", "args": {"window": "1h"}, "configMap": "flight-delays"},
            "serviceAccountName": "streams",
        },
        defaults=PodDefaults("registry.example/checkdam-runtime:1.0", "Always", ("registry-login",)),
        succession=Succession(OLD_POD_UID, 4),
    ),
    "pod-templates": Case(
        {
            "worker": {
                "podTemplate": {
                    "metadata": {"labels": {"team": "flights"}, "annotations": {"example.com/scrape": "no"}},
                    "spec": {
                        "nodeSelector": {"disk": "fast"},
                        "securityContext": {"runAsUser": 1000, "runAsGroup": None, "fsGroup": None},
                        "tolerations": [
                            {"key": "dedicated", "operator": "Equal", "value": "streams", "effect": "NoSchedule"},
                            {
                                "key": "node.kubernetes.io/unreachable",
                                "operator": "Exists",
                                "effect": "NoExecute",
                                "tolerationSeconds": 60,
                            },
                        ],
                        "initContainers": [{"name": "fetch", "image": "registry.example/fetch:1"}],
                        "containers": [
                            {
                                "name": "checkdam",
                                "env": [{"name": "TZ", "value": "UTC"}],
                                "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                            },
                            {
                                "name": "logs",
                                "image": "registry.example/logs:2",
                                "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}},
                            },
                        ],
                        "volumes": [{"name": "models", "configMap": {"name": "models", "optional": True}}],
                    },
                }
            },
            "coordinator": {"podTemplate": {"spec": {"imagePullSecrets": [{"name": "registry-login"}]}}},
        },
        defaults=PodDefaults("registry.example/checkdam-runtime:1.0", "", ("registry-login",)),
    ),
    "network": Case(
        {
            "networkPolicy": {
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "dashboard"}}}]}],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"port": 443}]}],
            },
            "worker": {"resources": {"requests": {"cpu": 1, "memory": "1Gi"}}},
        },
        start=StartWish(restore_from="s3://checkpoints/jobs/streams/flight-delays/savepoint-1", request="1b4e28ba/9"),
    ),
}


def main() -> None:
    """Write all golden files."""
    GOLDEN.mkdir(exist_ok=True)
    for name, case in CASES.items():
        (GOLDEN / f"{name}.yaml").write_text(golden_text(case), encoding="utf-8")


if __name__ == "__main__":
    main()
