"""The cluster of our own making: brings it up, takes it down, and cleans up after one that was killed.

Whatever is made is written down first, so `down` needs to know nothing else, and may be called at any time: it ends the
processes that were started, waits until the last is gone, and with them go the namespaces and all that was mounted in them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import yaml
from parts_cache import locked

from cluster.cgroups import CgroupError, cgroups
from cluster.cluster import S3_NODE_PORT, Cluster, Say, add_ons
from cluster.commands import CommandError
from cluster.containerd import import_image, import_images, start_containerd
from cluster.control_machine import start_api, start_controllers
from cluster.control_plane import ControlPlane
from cluster.images import image_archives
from cluster.layout import CGROUP, CONTROL, HOST_ADDRESS, LINK, MACHINES, NODES, Layout, layout
from cluster.machines import Machines
from cluster.mending import mend, until_ready
from cluster.network import connect_control, connect_node, disconnect
from cluster.node import start_kubelet
from cluster.programs import API_PROGRAMS, NODE_PROGRAMS, install
from cluster.requirements import prepare
from cluster.state import ClusterState, Process, load

_RUNS: Final = "runs"
_ENDED: Final = "ended"


class OwnCluster(Cluster):
    """See `Cluster`.

    Attributes:
        layout: Where everything of it is.
    """

    def __init__(self) -> None:
        self.layout: Final[Layout] = layout()

    @property
    def plane(self) -> ControlPlane:
        try:
            config = yaml.safe_load(self.layout.kubeconfig.read_text())
        except FileNotFoundError:
            raise RuntimeError("the cluster must be up: `python -m cluster up`") from None
        return ControlPlane(
            url=config["clusters"][0]["cluster"]["server"],
            token=config["users"][0]["user"]["token"],
            authority=(self.layout.secrets / "ca.crt").read_text(),
            kubeconfig=self.layout.kubeconfig,
            pids={name: process.pid for name, process in self._state().daemons.items()},
        )

    @property
    def volumes(self) -> Path:
        return self.layout.volumes

    @property
    def s3_outside(self) -> str:
        return f"http://{NODES[0].address}:{S3_NODE_PORT}"

    @property
    def computer(self) -> str:
        return HOST_ADDRESS

    @property
    def images_version(self) -> str:
        return hashlib.sha256(repr(self._state().images).encode()).hexdigest()[:16]

    @property
    def machines(self) -> Machines:
        """The machines of a cluster that is up, to run programs on."""
        return Machines(self.layout, cgroups(), self._state())

    def is_up(self) -> bool:
        return self._state().complete and set(self._doings().values()) == {_RUNS}

    def up(self, say: Say) -> None:
        self.layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.layout.folder / "lock"):
            if not self._lives():
                self._remove(say)
                prepare(say)
            for program in (*API_PROGRAMS, *NODE_PROGRAMS):
                install(program)
            images = image_archives()
            if self._lives() and not self._mended(say):
                self._remove(say)
            if not self._lives():
                self._start(images, say)
            elif self._state().images != list(map(str, images)):
                say("giving the new images to the nodes")
                with ThreadPoolExecutor() as pool:
                    list(pool.map(lambda node: import_images(self.machines, self.layout, node, images), NODES))
                self._remember_images(images)

    def down(self, say: Say) -> bool:
        if not self.layout.folder.exists():
            return False
        with locked(self.layout.folder / "lock"):
            return self._remove(say)

    def left(self) -> Sequence[str]:
        groups = [str(tree / CGROUP) for tree in cgroups().trees if (tree / CGROUP).exists()]
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        state = self._state()
        return [
            *(f"the control group {group}" for group in groups),
            *(f"the mount {mount}" for mount in mounts if str(self.layout.folder) in mount),
            *([f"the network link {LINK}"] if Path("/sys/class/net", LINK).exists() else []),
            *(f"the process {name}" for name, process in state.daemons.items() if process.lives()),
        ]

    def status(self) -> Sequence[str]:
        processes = self._state().processes()
        lines = [f"{name}: {doing} (process {processes[name].pid})" for name, doing in sorted(self._doings().items())]
        return lines or ["there is no cluster"]

    def remove_folder(self, folder: Path) -> None:
        shutil.rmtree(folder)

    def load_image(self, archive: Path) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: import_image(self.machines, node, archive), NODES))

    def logs(self) -> Sequence[Path]:
        return sorted(log for machine in MACHINES for log in self.layout.of(machine).glob("*.log"))

    def _state(self) -> ClusterState:
        return load(self.layout.state) or ClusterState()

    def _doings(self) -> dict[str, str]:
        """What each process does."""
        return {name: _doing(name, process) for name, process in self._state().processes().items()}

    def _lives(self) -> bool:
        """Whether it was brought up to the end, and all processes are there."""
        return self._state().complete and _ENDED not in self._doings().values()

    def _mended(self, say: Say) -> bool:
        """Whether it is as it was when it was brought up, whatever tests that were killed have left."""
        if not self.is_up():
            say("letting go on what stands still")
        try:
            mend(self.machines, self.layout, cgroups(), self._state(), self.plane)
        except (CgroupError, CommandError, RuntimeError) as error:
            say(f"the cluster is of no use any more: {error}")
            return False
        return True

    def _remember_images(self, images: Sequence[Path]) -> None:
        state = self._state()
        state.images = list(map(str, images))
        state.save(self.layout.state)

    def _start(self, images: Sequence[Path], say: Say) -> None:
        groups, state = cgroups(), ClusterState(cgroup=CGROUP, link=LINK, images=list(map(str, images)))
        state.save(self.layout.state)
        self.volumes.mkdir(exist_ok=True)
        machines = Machines(self.layout, groups, state)
        say("making the namespaces of three machines")
        for machine in MACHINES:
            machines.start(machine)
        connect_control(machines)
        for node in NODES:
            connect_node(machines, node)
        with ThreadPoolExecutor() as pool:
            prepared = [pool.submit(start_containerd, machines, self.layout, node, images) for node in NODES]
            say("starting etcd and the API server")
            plane = start_api(machines, self.layout)
            start_controllers(machines, self.layout)
            say("giving the images to the nodes")
            for node_prepared in prepared:
                node_prepared.result()
        for node in NODES:
            start_kubelet(machines, self.layout, groups, node)
        say("waiting for the nodes to be Ready")
        for node in NODES:
            until_ready(plane, node)
        say("waiting for the names of Services and the S3 server")
        add_ons(plane, self.volumes, ("dns", "s3"))
        state.complete = True
        state.save(self.layout.state)

    def _remove(self, say: Say) -> bool:
        state = load(self.layout.state)
        if state is None:
            return False
        groups = cgroups()
        say("ending the processes of the cluster")
        groups.kill(state.cgroup)
        groups.remove(state.cgroup)
        disconnect()
        where = self.layout
        for folder in (where.volumes, where.secrets, where.of(CONTROL) / "etcd", where.folder / "cache"):
            shutil.rmtree(folder, ignore_errors=True)
        for node in NODES:
            for folder in where.images(node).parent.glob("*"):
                if folder != where.images(node):
                    shutil.rmtree(folder, ignore_errors=True)
        where.kubeconfig.unlink(missing_ok=True)
        where.state.unlink()
        return True


def _doing(name: str, process: Process) -> str:
    """What a process does, whose name is `machine/program`."""
    if not process.lives():
        return _ENDED
    frozen = cgroups().is_frozen(f"{CGROUP}/{name.partition('/')[0]}")
    return "stands still" if frozen or process.is_stopped() else _RUNS
