"""What befalls nodes: pods that stay off them, drains, computers that hang, and disks that are small.

Each lasts as long as a `with` block, and is put right at its end. Whoever does the first three to a node has the cluster for himself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from waiting import wait_until

from cluster.cgroups import cgroups
from cluster.cluster import Cluster
from cluster.layout import CGROUP, NODES
from cluster.owners import SMALL_DISK, new_name
from strikes import own

_DRAIN: Final = ("--ignore-daemonsets", "--delete-emptydir-data", "--force")
_WAIT: Final = "--timeout=120s"


def nodes(cluster: Cluster) -> list[str]:
    """The nodes that pods may run on. The first has what the tests themselves need, such as the S3 server."""
    found = json.loads(cluster.plane.kubectl("get", "nodes", "--output=json"))["items"]
    return sorted(node["metadata"]["name"] for node in found if not node["spec"].get("taints"))


@contextmanager
def cordoned(cluster: Cluster, node: str) -> Iterator[None]:
    """The node takes no new pods."""
    try:
        cluster.plane.kubectl("cordon", node)
        yield
    finally:
        _uncordon(cluster, node)


@contextmanager
def drained(cluster: Cluster, node: str, *which: str) -> Iterator[None]:
    """Pods were evicted from the node, as budgets for disruption allow it, and it takes no new ones.

    Args:
        which: What their labels are, as a selector.
    """
    try:
        cluster.plane.kubectl("drain", node, *_DRAIN, f"--pod-selector={','.join(which)}", _WAIT)
        yield
    finally:
        _uncordon(cluster, node)


@contextmanager
def frozen(cluster: Cluster, node: str) -> Iterator[None]:
    """The node stands still with all that runs on it, as a computer that hangs; at the end it goes on, and is Ready.

    Raises:
        UnsupportedError: There is no such machine.
    """
    own(cluster)
    group = f"{CGROUP}/{node}"
    try:
        cgroups().freeze(group)
        yield
    finally:
        cgroups().thaw(group)
        cluster.plane.kubectl("wait", f"node/{node}", "--for=condition=Ready", _WAIT)
        _until_it_takes_pods(cluster, node)


@contextmanager
def small_disk(cluster: Cluster, node: str, folder: Path, size_bytes: int) -> Iterator[Path]:
    """On one node there is a small file system in place of a folder; yields the path by which this computer sees what is in it.

    Pods see it that start meanwhile, and keep it for as long as they live.

    Raises:
        UnsupportedError: The node's mounts are not ours.
    """
    mine = own(cluster)
    machine = next(found for found in NODES if found.name == node)
    options = f"size={size_bytes},mode=777"
    mine.machines.run(machine, "mount", "-t", "tmpfs", "-o", options, new_name(SMALL_DISK), str(folder))
    try:
        yield Path(f"/proc/{mine.machines.pid(machine)}/root{folder}")
    finally:
        mine.machines.run(machine, "umount", "--lazy", str(folder))


def _uncordon(cluster: Cluster, node: str) -> None:
    cluster.plane.kubectl("uncordon", node)
    _until_it_takes_pods(cluster, node)


def _until_it_takes_pods(cluster: Cluster, node: str) -> None:
    """Wait until the node has no taint: a controller takes one away a moment after its cause."""
    wait_until(lambda: node in nodes(cluster))
