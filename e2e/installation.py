"""The operator on the cluster as all tests but those of the installation itself find it: installed by its chart, and Ready."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parts_cache import locked

from cluster.cluster import Cluster

PROJECT: Final = Path(__file__).resolve().parents[1]
OPERATOR_NAMESPACE: Final = "checkdam-system"


def install_operator(cluster: Cluster, *values: str) -> None:
    """Install the chart, or upgrade what is installed, and wait until the operator is Ready.

    Args:
        values: Given to the chart beside its own, as `--set` has them.

    Raises:
        CommandError: It does not become Ready.
    """
    chart = str(PROJECT / "charts" / "checkdam")
    # Other images have the same names, so that nothing of a pod would change.
    images = f"--set-string=podAnnotations.images={cluster.images_version}"
    where = (f"--namespace={OPERATOR_NAMESPACE}", "--create-namespace")
    given = (f"--set={value}" for value in values)
    with locked(cluster.volumes.parent / "installation.lock"):  # Helm refuses a second who upgrades meanwhile
        cluster.plane.helm(
            "upgrade", "--install", "checkdam", chart, *where, images, *given, "--wait", "--timeout=120s"
        )


def uninstall_operator(cluster: Cluster) -> None:
    """Uninstall the chart, and wait until the operator's pods are gone. Definitions and jobs stay."""
    where = f"--namespace={OPERATOR_NAMESPACE}"
    cluster.plane.helm("uninstall", "checkdam", where, "--ignore-not-found", "--wait", "--timeout=120s")
    cluster.plane.kubectl("wait", "pods", "--all", where, "--for=delete", "--timeout=60s")
