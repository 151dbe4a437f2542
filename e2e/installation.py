"""The operator on the cluster as tests find it: installed by its chart, and Ready."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parts_cache import locked

from cluster.cluster import Cluster

PROJECT: Final = Path(__file__).resolve().parents[1]
OPERATOR_NAMESPACE: Final = "checkdam-system"


def install_operator(cluster: Cluster) -> None:
    """Install the chart, or upgrade what is installed, and wait until the operator is Ready.

    Raises:
        CommandError: It does not become Ready.
    """
    chart = str(PROJECT / "charts" / "checkdam")
    # Other images have the same names, so that nothing of a pod would change.
    images = f"--set-string=podAnnotations.images={cluster.images_version}"
    where = (f"--namespace={OPERATOR_NAMESPACE}", "--create-namespace")
    with locked(cluster.volumes.parent / "installation.lock"):  # Helm refuses a second who upgrades meanwhile
        cluster.plane.helm("upgrade", "--install", "checkdam", chart, *where, images, "--wait", "--timeout=120s")
