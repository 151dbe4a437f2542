"""Failures that tests inflict on a cluster, each for as long as a `with` block lasts and put right at its end.

What happens at once, such as a killed container, is a plain function. Most need the machines of the cluster of our own making:
who asks for one of them elsewhere is told by `UnsupportedError`, and a test is skipped with its words.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from waiting import wait_until

from cluster.cgroups import cgroups
from cluster.cluster import Cluster
from cluster.control_machine import restart_controllers, start_api_server, until_api_answers
from cluster.layout import CGROUP, NODES, Machine
from cluster.mending import remove_chain
from cluster.own_cluster import OwnCluster
from cluster.owners import CUT, new_name
from installation import OPERATOR, OPERATOR_NAMESPACE, until_operator_runs

Packets = Callable[[], int]
"""Says how many packets have been dropped so far."""


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
    """The processes of a pod's only container: number there → number on this computer. Those that end meanwhile are left out.

    Raises:
        UnsupportedError: They are not ours to see.
    """
    own(cluster)
    container, groups = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2], cgroups()
    # Not by `rglob`, which fails where the group of another pod goes away while it looks.
    folders = (Path(below) for below, _, _ in os.walk(groups.freezer / CGROUP / pod["spec"]["nodeName"]))
    found = (folder.relative_to(groups.freezer) for folder in folders if folder.name == container)
    numbers = {pid: _number_inside(pid) for group in found for pid in groups.processes(str(group))}
    return {number: pid for pid, number in numbers.items() if number is not None}


def kill_container(cluster: Cluster, pod: dict[str, Any]) -> None:
    """Kill process 1 of a pod from outside: the kernel ignores such a signal from inside.

    Raises:
        UnsupportedError: See `processes_of`.
    """
    os.kill(processes_of(cluster, pod)[1], signal.SIGKILL)


@contextmanager
def operator_away(cluster: Cluster) -> Iterator[None]:
    """No operator runs."""
    where = f"--namespace={OPERATOR_NAMESPACE}"
    replicas = cluster.plane.kubectl("get", where, OPERATOR, "--output=jsonpath={.spec.replicas}")
    try:
        cluster.plane.kubectl("scale", where, OPERATOR, "--replicas=0")
        cluster.plane.kubectl("wait", where, "pods", "--all", "--for=delete", "--timeout=120s")
        yield
    finally:
        cluster.plane.kubectl("scale", where, OPERATOR, f"--replicas={replicas}")
        until_operator_runs(cluster)


@contextmanager
def api_server_away(cluster: Cluster) -> Iterator[None]:
    """The API server is killed; at the end another is started, and answers, and those that schedule and control see what there is.

    Raises:
        UnsupportedError: Its process is not ours.
    """
    mine = own(cluster)
    try:
        os.kill(mine.plane.pids["control/kube-apiserver"], signal.SIGKILL)
        yield
    finally:
        start_api_server(mine.machines, mine.layout)
        until_api_answers(mine.machines, mine.layout, mine.plane)
        restart_controllers(mine.machines, mine.layout)


@contextmanager
def etcd_paused(cluster: Cluster) -> Iterator[None]:
    """etcd stands still, and with it whatever the API server is asked; at the end the API server answers again.

    Raises:
        UnsupportedError: Its process is not ours.
    """
    mine = own(cluster)
    etcd = mine.plane.pids["control/etcd"]
    try:
        os.kill(etcd, signal.SIGSTOP)
        yield
    finally:
        os.kill(etcd, signal.SIGCONT)
        until_api_answers(mine.machines, mine.layout, mine.plane)


@contextmanager
def cut(cluster: Cluster, some: Iterable[str], others: Iterable[str]) -> Iterator[Packets]:
    """Nothing passes between the pods with some addresses and those with others, without a word to either.

    Raises:
        UnsupportedError: The nodes' packet filters are not ours.
    """
    mine = own(cluster)
    others = list(others)
    pairs = [pair for one in some for other in others if one != other for pair in ((one, other), (other, one))]
    with ExitStack() as stack:
        counts = [stack.enter_context(_dropped(mine, node, pairs)) for node in NODES]
        yield lambda: sum(count() for count in counts)


def until_dropped(*cuts: Packets) -> None:
    """Wait until each of these cuts has stopped something: before that it proves nothing.

    Raises:
        AssertionError: One has not within half a minute.
    """
    wait_until(lambda: all(packets() > 0 for packets in cuts))


@contextmanager
def _dropped(cluster: OwnCluster, node: Machine, pairs: Iterable[tuple[str, str]]) -> Iterator[Packets]:
    """In a chain of its own, so that whatever happens all of it can be taken away."""
    chain = new_name(CUT)

    def iptables(*arguments: str) -> str:
        return cluster.machines.run(node, "iptables", "--wait", *arguments)

    def count() -> int:
        _, _, *rows = iptables("-nvxL", chain).splitlines()
        return sum(int(row.split()[0]) for row in rows)

    iptables("-N", chain)
    try:
        for source, destination in pairs:
            iptables("-A", chain, "-s", source, "-d", destination, "-j", "DROP")
        iptables("-I", "FORWARD", "-j", chain)
        yield count
    finally:
        remove_chain(cluster.machines, node, chain)


def addresses(pods: Iterable[dict[str, Any]]) -> list[str]:
    """The addresses of pods."""
    return [pod["status"]["podIP"] for pod in pods]


def _number_inside(pid: int) -> int | None:
    """`None` if it has ended: snapshots of state are made by processes that live for a moment."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])
