"""Puts right what tests have done to a cluster that were killed before they could.

Processes that stand still go on, nodes take pods again, and what has the name of a process that is gone is taken away: it cannot be of a
test that runs. The rest is only right while nobody breaks the cluster, as `Cluster.up` demands.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any, Final

from cluster.cgroups import Cgroups
from cluster.control_machine import until_api_answers
from cluster.control_plane import ApiError, ControlPlane
from cluster.layout import CGROUP, MACHINES, NODES, Layout, Machine, layout
from cluster.machines import Machines
from cluster.owners import CUT, NAMESPACE, SMALL_DISK, orphans
from cluster.state import ClusterState

_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.1


def mend(machines: Machines, where: Layout, groups: Cgroups, state: ClusterState, plane: ControlPlane) -> None:
    """Bring a cluster whose processes are all there to what it was when it was brought up.

    Raises:
        RuntimeError: It does not answer, or a node does not become Ready.
        CommandError: Something cannot be taken away.
        CgroupError: Processes stay frozen.
    """
    for group in (f"{CGROUP}/{machine.name}" for machine in MACHINES):
        if groups.is_frozen(group):
            groups.thaw(group)
    for process in state.daemons.values():
        process.send(signal.SIGCONT)
    until_api_answers(machines, where, plane)
    plane.kubectl("uncordon", *(node.name for node in NODES))
    for node in NODES:
        until_ready(plane, node)
        for chain in orphans(CUT, _chains(machines, node)):
            remove_chain(machines, node, chain)
        for folder in _orphaned_disks(machines, node):
            machines.run(node, "umount", "--lazy", folder)


def delete_orphaned_namespaces(plane: ControlPlane) -> None:
    """Delete the namespaces of tests that were killed, and do not wait until they are gone.

    Raises:
        ApiError: The API server refuses.
    """
    found = plane.call("GET", "/api/v1/namespaces")["items"]
    for name in orphans(NAMESPACE, (namespace["metadata"]["name"] for namespace in found)):
        plane.call("DELETE", f"/api/v1/namespaces/{name}")


def until_ready(plane: ControlPlane, node: Machine) -> None:
    """Come back when a node is Ready, and takes pods: a controller takes a taint away a moment after its cause.

    Raises:
        RuntimeError: It takes too long.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while not _is_ready(plane, node):
        if time.monotonic() > deadline_s:
            raise RuntimeError(
                f"{node.name} was not Ready after {_PATIENCE_S:.0f} s; its logs are in {layout().of(node)}"
            )
        time.sleep(_POLL_S)


def remove_chain(machines: Machines, node: Machine, chain: str) -> None:
    """Take a chain out of a node's packet filter, whether packets that are passed on come to it or not.

    Raises:
        CommandError: It is not there.
    """
    iptables = ("iptables", "--wait")
    if f"-A FORWARD -j {chain}" in machines.run(node, *iptables, "-S", "FORWARD").splitlines():
        machines.run(node, *iptables, "-D", "FORWARD", "-j", chain)
    machines.run(node, *iptables, "-F", chain)
    machines.run(node, *iptables, "-X", chain)


def _is_ready(plane: ControlPlane, node: Machine) -> bool:
    try:
        found: dict[str, Any] = plane.call("GET", f"/api/v1/nodes/{node.name}")
    except ApiError:
        return False  # the kubelet has not registered it yet
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in found["status"]["conditions"])
    return ready and not found["spec"].get("taints")


def _chains(machines: Machines, node: Machine) -> list[str]:
    rules = machines.run(node, "iptables", "--wait", "-S").splitlines()
    return [rule.split()[1] for rule in rules if rule.startswith("-N ")]


def _orphaned_disks(machines: Machines, node: Machine) -> list[str]:
    """The folders that small disks of tests which were killed are mounted on."""
    mounts = [line.split()[:2] for line in Path(f"/proc/{machines.pid(node)}/mounts").read_text().splitlines()]
    gone = orphans(SMALL_DISK, (source for source, _ in mounts))
    return [folder for source, folder in mounts if source in gone]
