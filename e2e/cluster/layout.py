"""Where everything of the cluster of our own is: folders, names and addresses. Nothing here does anything.

Everything lies in one folder, and every address in two ranges that nobody else should have a route to. There is one cluster
on a computer at a time, so all of this is constant, and what a run that was killed has left is found by it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LINK: Final = "checkdam0"
"""The computer's own end of the cluster's network; there is nothing else of it in the computer's namespace."""
CGROUP: Final = "checkdam"
"""The control group that holds all processes of the cluster."""
NETWORK: Final = "10.199.0.0/24"
HOST_ADDRESS: Final = "10.199.0.254"
POD_RANGE: Final = "10.244.0.0/16"
DNS_ADDRESS: Final = "10.96.0.10"


@dataclass(frozen=True)
class Machine:
    """What stands for a computer: namespaces of its own for network, mounts and host name.

    Attributes:
        address: In `NETWORK`.
        pod_range: Addresses of its pods; empty if it runs none.
        labels: Of the node.
    """

    name: str
    address: str
    pod_range: str = ""
    labels: tuple[tuple[str, str], ...] = ()


CONTROL: Final = Machine("control", "10.199.0.1")
"""Where the control plane runs. It carries the bridge that connects the others, so it is never cut off or frozen."""
STAYS: Final = ("checkdam.dev/e2e", "stays")
"""Label of the node whose loss no test is about: it runs what the tests themselves need."""
NODES: Final = (
    Machine("node1", "10.199.0.2", "10.244.1.0/24", (STAYS,)),
    Machine("node2", "10.199.0.3", "10.244.2.0/24"),
)
MACHINES: Final = (CONTROL, *NODES)


@dataclass(frozen=True)
class Layout:
    """The folder of the cluster, and what is where in it."""

    folder: Path

    @property
    def state(self) -> Path:
        """The file that says what was made."""
        return self.folder / "state.json"

    @property
    def secrets(self) -> Path:
        """Certificates, keys and tokens of the control plane, and the kubeconfig of each that uses it."""
        return self.folder / "secrets"

    @property
    def kubeconfig(self) -> Path:
        """Of the user who may do everything."""
        return self.folder / "kubeconfig"

    @property
    def volumes(self) -> Path:
        """A folder that all nodes see under the same path, for PersistentVolumes."""
        return self.folder / "volumes"

    def of(self, machine: Machine) -> Path:
        """What only this machine sees and writes."""
        return self.folder / machine.name

    def images(self, node: Machine) -> Path:
        """What a node's containerd keeps: `/var/lib/containerd` there."""
        return self.of(node) / "lib" / "containerd"

    def given_images(self, node: Machine) -> Path:
        """The file that says which images a node has, whole."""
        return self.of(node) / "images"

    def log(self, machine: Machine, program: str) -> Path:
        """What a program of a machine has printed."""
        return self.of(machine) / f"{program}.log"


def layout() -> Layout:
    """In `$CHECKDAM_CLUSTER`, or else in a folder of the user's cache."""
    return Layout(Path(os.environ.get("CHECKDAM_CLUSTER") or Path.home() / ".cache" / "checkdam-cluster").absolute())
