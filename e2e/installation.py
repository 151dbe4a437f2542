"""The operator on the cluster as tests find it: installed by its chart, and Ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from parts_cache import locked

from cluster.cluster import Cluster

PROJECT: Final = Path(__file__).resolve().parents[1]
OPERATOR_NAMESPACE: Final = "checkdam-system"
README_NAMESPACE: Final = "checkdam"
"""Where those install it who follow the README."""
OPERATOR: Final = "deployment/checkdam"
LEASE: Final = "lease/checkdam"


def install_operator(cluster: Cluster) -> None:
    """Install the chart, or upgrade what is installed, and wait until the operator is Ready. One that is installed as the README has it goes.

    Raises:
        CommandError: It does not become Ready.
    """
    chart = str(PROJECT / "charts" / "checkdam")
    # Other images have the same names, so that nothing of a pod would change.
    images = f"--set-string=podAnnotations.images={cluster.images_version}"
    where = (f"--namespace={OPERATOR_NAMESPACE}", "--create-namespace")
    with locked(cluster.volumes.parent / "installation.lock"):  # Helm refuses a second who upgrades meanwhile
        uninstall_operator(cluster, README_NAMESPACE)
        # The definitions stay when a release goes, and are marked as those of a release in that namespace.
        upgrade = ("upgrade", "--install", "--take-ownership", "--wait", "--timeout=120s")
        cluster.plane.helm(*upgrade, "checkdam", chart, *where, images)


def uninstall_operator(cluster: Cluster, namespace: str) -> None:
    """Uninstall the chart if it is installed in a namespace, which goes with all its pods. Definitions and jobs stay.

    Raises:
        CommandError: Something does not go.
    """
    cluster.plane.helm("uninstall", "checkdam", f"--namespace={namespace}", "--ignore-not-found")
    cluster.plane.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=60s")


def operator_pods(cluster: Cluster) -> list[dict[str, Any]]:
    """The operator's pods that are not being deleted."""
    found = json.loads(cluster.plane.kubectl("get", "pods", f"--namespace={OPERATOR_NAMESPACE}", "--output=json"))
    return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]


def leading_operator(cluster: Cluster) -> str:
    """The name of the operator's pod that holds the Lease."""
    where = (f"--namespace={OPERATOR_NAMESPACE}", LEASE)
    return cluster.plane.kubectl("get", *where, "--output=jsonpath={.spec.holderIdentity}").rpartition("_")[0]


def until_operator_runs(cluster: Cluster, patience_s: float = 120.0) -> None:
    """Wait until all of the operator's pods are Ready.

    Raises:
        CommandError: They do not become so.
    """
    where = f"--namespace={OPERATOR_NAMESPACE}"
    cluster.plane.kubectl("rollout", "status", where, OPERATOR, f"--timeout={patience_s:.0f}s")
