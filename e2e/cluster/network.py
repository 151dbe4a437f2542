"""Connects the machines: a bridge on the control machine, a pair of interfaces for each node and one for the computer itself.

No address is translated anywhere: every machine, and the computer, has a route to the pods of each node. So a packet can be
told by where it comes from, as tests that cut connections need.
"""

from __future__ import annotations

from typing import Final

from cluster.commands import CommandError, run
from cluster.layout import CONTROL, HOST_ADDRESS, LINK, NETWORK, NODES, POD_RANGE, Machine
from cluster.machines import Machines

_BRIDGE: Final = "cluster"
_PREFIX: Final = NETWORK.partition("/")[2]


def address_conflict() -> str:
    """Why the cluster's addresses cannot be used on this computer; empty if they can.

    A route that covers everything, as the one to the Internet, does not count.
    """
    for wanted in (NETWORK, POD_RANGE):
        for route in run("ip", "-4", "route", "show", "root", wanted).splitlines():
            if f"dev {LINK}" not in route:
                return f"no route may lead to the addresses {wanted} (got `{route.strip()}`): `ip route delete {route.strip()}`"
    return ""


def connect_control(machines: Machines) -> None:
    """Set up the bridge, and the computer's own connection to it.

    Raises:
        CommandError: The kernel refuses.
    """
    inside = machines.pid(CONTROL)
    _batch(
        machines,
        CONTROL,
        f"link add {_BRIDGE} type bridge",
        f"address add {CONTROL.address}/{_PREFIX} dev {_BRIDGE}",
        f"link set {_BRIDGE} up",
    )
    run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "computer", "netns", str(inside))
    run("ip", "address", "add", f"{HOST_ADDRESS}/{_PREFIX}", "dev", LINK)
    run("ip", "link", "set", LINK, "up")
    _batch(machines, CONTROL, f"link set computer master {_BRIDGE} up")
    # The control machine passes on what the computer has for pods.
    run("ip", "route", "add", POD_RANGE, "via", CONTROL.address, "dev", LINK)
    _sysctl(machines, CONTROL, "net/ipv4/ip_forward", "net/ipv4/conf/all/send_redirects=0")


def connect_node(machines: Machines, node: Machine) -> None:
    """Plug a node into the bridge, and tell all where its pods are.

    Raises:
        CommandError: The kernel refuses.
    """
    _batch(
        machines,
        CONTROL,
        f"link add {node.name} type veth peer name eth0 netns {machines.pid(node)}",
        f"link set {node.name} master {_BRIDGE} up",
        f"route add {node.pod_range} via {node.address}",
    )
    _batch(
        machines,
        node,
        f"address add {node.address}/{_PREFIX} dev eth0",
        "link set eth0 up",
        f"route add default via {CONTROL.address}",
        *(f"route add {other.pod_range} via {other.address}" for other in NODES if other != node),
    )
    _sysctl(machines, node, "net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")


def disconnect() -> None:
    """Take away what is in the computer's own namespace; the rest goes with the namespaces.

    Raises:
        CommandError: It is there and cannot be removed.
    """
    try:
        run("ip", "link", "delete", LINK)
    except CommandError as error:
        if "Cannot find device" not in str(error):
            raise


def _batch(machines: Machines, machine: Machine, *lines: str) -> None:
    for line in lines:
        machines.run(machine, "ip", *line.split())


def _sysctl(machines: Machines, machine: Machine, *settings: str) -> None:
    """Set each to 1, or what follows `=`."""
    script = "\n".join(
        f"echo {value or 1} > /proc/sys/{name}" for name, _, value in (setting.partition("=") for setting in settings)
    )
    machines.run(machine, "sh", "-ec", script)
