"""Failures that tests and the soak inflict on a cluster, each for as long as a `with` block lasts and put right at its end.

What happens at once, such as a killed container, is a plain function. Most need the machines of the cluster of our own making:
who asks for one of them elsewhere is told by `UnsupportedError`, and a test is skipped with its words.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from cluster.cgroups import cgroups
from cluster.cluster import Cluster
from cluster.control_machine import start_api_server, until_api_answers
from cluster.layout import CGROUP, NODES, Machine
from cluster.own_cluster import OwnCluster

OPERATOR: Final = ("--namespace=checkdam-system", "deployment/checkdam")
_DRAIN: Final = ("--ignore-daemonsets", "--delete-emptydir-data", "--force")
_WAIT: Final = "--timeout=120s"


class UnsupportedError(Exception):
    """This kind of cluster cannot be broken in this way."""


def own(cluster: Cluster) -> OwnCluster:
    """The cluster as the one of our own making.

    Raises:
        UnsupportedError: It is another.
    """
    if not isinstance(cluster, OwnCluster):
        raise UnsupportedError("only the cluster of our own making can be broken in this way: it needs its machines")
    return cluster


def processes_of(cluster: Cluster, pod: dict[str, Any]) -> dict[int, int]:
    """The processes of a pod's only container: number there → number on this computer.

    Raises:
        UnsupportedError: They are not ours to see.
    """
    own(cluster)
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    folders = (cgroups().freezer / CGROUP / pod["spec"]["nodeName"]).rglob(container)
    pids = (int(pid) for folder in folders for pid in (folder / "cgroup.procs").read_text().split())
    return {_number_inside(pid): pid for pid in pids}


def kill_container(cluster: Cluster, pod: dict[str, Any]) -> None:
    """Kill process 1 of a pod from outside: the kernel ignores such a signal from inside.

    Raises:
        UnsupportedError: See `processes_of`.
    """
    os.kill(processes_of(cluster, pod)[1], signal.SIGKILL)


@contextmanager
def drained(cluster: Cluster, node: str, selector: str) -> Iterator[None]:
    """All pods of a label are evicted from a node, which takes no new ones; budgets for disruption are kept."""
    try:
        cluster.plane.kubectl("drain", node, *_DRAIN, f"--pod-selector={selector}", _WAIT)
        yield
    finally:
        cluster.plane.kubectl("uncordon", node)


@contextmanager
def frozen(cluster: Cluster, node: str) -> Iterator[None]:
    """A node with its kubelet and all its pods stands still, as a computer that hangs; afterwards it is Ready again.

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


@contextmanager
def operator_away(cluster: Cluster) -> Iterator[None]:
    """No operator runs."""
    replicas = cluster.plane.kubectl("get", *OPERATOR, "--output=jsonpath={.spec.replicas}")
    try:
        cluster.plane.kubectl("scale", *OPERATOR, "--replicas=0")
        cluster.plane.kubectl("wait", OPERATOR[0], "pods", "--all", "--for=delete", _WAIT)
        yield
    finally:
        cluster.plane.kubectl("scale", *OPERATOR, f"--replicas={replicas}")
        cluster.plane.kubectl("rollout", "status", *OPERATOR, _WAIT)


@contextmanager
def api_server_killed(cluster: Cluster) -> Iterator[None]:
    """The API server is killed; afterwards another runs, and answers.

    Raises:
        UnsupportedError: Its process is not ours.
    """
    mine = own(cluster)
    os.kill(mine.plane.pids["control/kube-apiserver"], signal.SIGKILL)
    try:
        yield
    finally:
        start_api_server(mine.machines, mine.layout)
        until_api_answers(mine.machines, mine.layout, mine.plane)


@contextmanager
def etcd_paused(cluster: Cluster) -> Iterator[None]:
    """etcd stands still, and with it all that the API server is asked; afterwards the API server is ready.

    Raises:
        UnsupportedError: Its process is not ours.
    """
    mine = own(cluster)
    pid = mine.plane.pids["control/etcd"]
    try:
        os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        until_api_answers(mine.machines, mine.layout, mine.plane)


@contextmanager
def cut(cluster: Cluster, some: Iterable[str], others: Iterable[str]) -> Iterator[None]:
    """Nothing passes between the pods with some addresses and those with others, without a word to either.

    Raises:
        UnsupportedError: The nodes' packet filters are not ours.
    """
    mine = own(cluster)
    others = list(others)
    pairs = [pair for one in some for other in others if one != other for pair in ((one, other), (other, one))]
    with ExitStack() as stack:
        for node in NODES:
            stack.enter_context(_dropped(mine, node, pairs))
        yield


@contextmanager
def _dropped(cluster: OwnCluster, node: Machine, pairs: Iterable[tuple[str, str]]) -> Iterator[None]:
    """In a chain of its own, so that whatever happens all of it can be taken away."""
    chain = f"CUT-{uuid.uuid4().hex[:12]}"

    def iptables(*arguments: str) -> None:
        cluster.machines.run(node, "iptables", "--wait", *arguments)

    iptables("-N", chain)
    try:
        for source, destination in pairs:
            iptables("-A", chain, "-s", source, "-d", destination, "-j", "DROP")
        iptables("-I", "FORWARD", "-j", chain)
        try:
            yield
        finally:
            iptables("-D", "FORWARD", "-j", chain)
    finally:
        iptables("-F", chain)
        iptables("-X", chain)


@contextmanager
def small_volume(cluster: Cluster, node: str, volume: str, size_bytes: int) -> Iterator[Path]:
    """On one node a volume has room for so many bytes only; the path by which this computer sees what is in it.

    Pods see it if they start within the block, and must be gone at its end.

    Raises:
        UnsupportedError: The node's mounts are not ours.
    """
    mine = own(cluster)
    machine = next(found for found in NODES if found.name == node)
    folder = str(mine.volumes / volume)
    mine.machines.run(machine, "mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=777", "tmpfs", folder)
    try:
        yield Path(f"/proc/{mine.machines.pid(machine)}/root{folder}")
    finally:
        mine.machines.run(machine, "umount", "--lazy", folder)


def addresses(pods: Iterable[dict[str, Any]]) -> list[str]:
    """The addresses of pods."""
    return [pod["status"]["podIP"] for pod in pods]


def s3_address(cluster: Cluster) -> str:
    """The address of the S3 server's pod, as packets between pods have it."""
    found = json.loads(cluster.plane.kubectl("get", "pods", "--namespace=storage", "--output=json"))["items"]
    return str(next(pod["status"]["podIP"] for pod in found if pod["status"]["phase"] == "Running"))


def _number_inside(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])
