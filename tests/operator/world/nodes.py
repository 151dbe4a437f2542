"""The model of scheduler, kubelets and node controller: what becomes of a pod after its creation and until it is gone.

Containers take a while to start, end, are started again with a growing pause; images may be missing; pods are evicted; nodes go away with their pods
standing still, which go on for a moment when the node comes back, as zombies.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from checkdam_operator.kube.errors import ConflictError, NotFoundError
from checkdam_operator.kube.kinds import CONFIG_MAP, POD
from checkdam_operator.kube.protocol import Object
from checkdam_operator.resources.config import MANIFEST_KEY
from checkdam_operator.resources.names import (
    COMPONENT_LABEL,
    CONTAINER,
    INDEX_LABEL,
    JOB_LABEL,
    JOB_UID_LABEL,
    POD_HASH_LABEL,
    REVISION_LABEL,
)
from checkdam_operator.times import iso
from world.coordinator import CoordinatorProcess
from world.process import Process
from world.programs import PROGRAMS
from world.server import Change
from world.worker import WorkerProcess

if TYPE_CHECKING:
    from world.run import World

NODES = ("node-a", "node-b", "node-c")
LOST_AFTER_S = 50.0
TOLERATED_S = 10.0
LONGEST_RESTART_S = 300.0


class PodLife:
    """A pod from its creation to its end.

    Args:
        world: Where.
        body: As it was created.

    Attributes:
        run_dir: What its containers leave to the next one in the same pod.
        restarts: How often its container was started again.
        process: The one that runs, if one does.
    """

    def __init__(self, world: World, body: Object) -> None:
        self.world = world
        metadata, labels = body["metadata"], body["metadata"]["labels"]
        self.namespace: str = metadata["namespace"]
        self.name: str = metadata["name"]
        self.uid: str = metadata["uid"]
        self.job: str = labels[JOB_LABEL]
        self.uid_of_job: str = labels[JOB_UID_LABEL]
        self.role: str = labels[COMPONENT_LABEL]
        self.index = int(labels.get(INDEX_LABEL, "0"))
        self.revision = int(labels[REVISION_LABEL])
        self.pod_hash: str = labels[POD_HASH_LABEL]
        container = next(found for found in body["spec"]["containers"] if found["name"] == CONTAINER)
        self.image: str = container["image"]
        self.program = PROGRAMS[self.image]
        self.env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        self.config_map = next(
            volume["configMap"]["name"]
            for volume in body["spec"]["volumes"]
            if volume.get("configMap", {}).get("name", "").startswith(self.job)
        )
        self.manifest: dict[str, Any] = {}
        self.manifest_hash = ""
        self.node = ""
        self.ip = ""
        self.run_dir: dict[str, Any] = {}
        self.restarts = 0
        self.process: Process | None = None
        self.ending = False
        self.gone = False
        self._status: Object = {"phase": "Pending"}

    @property
    def running(self) -> bool:
        """Whether its container runs, on a node that is there."""
        return self.process is not None and self.process.alive and not self.process.frozen

    def _later(self, delay_s: float, work: Any) -> None:
        self.world.loop.call_later(delay_s, work)

    def _show(self, **fields: Any) -> None:
        self._status = {**self._status, **fields}
        if not self.world.nodes.is_lost(self.node):
            self.world.server.set_status(POD, self.namespace, self.name, self.uid, self._status)

    def _show_container(self, state: Object, last: Object | None = None) -> None:
        before = (self._status.get("containerStatuses") or [{}])[0]
        shown = {
            "name": CONTAINER,
            "state": state,
            "lastState": last if last is not None else before.get("lastState", {}),
            "restartCount": self.restarts,
        }
        self._show(containerStatuses=[shown])

    def _show_ready(self, ready: bool) -> None:
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ]
        self._show(conditions=conditions)

    # Starting

    def schedule(self) -> None:
        """Find a node."""
        if self.gone or self.ending:
            return
        places = [node for node in NODES if not self.world.nodes.is_lost(node)]
        if self.world.nodes.full or not places:
            message = "0/3 nodes are available: 3 Insufficient cpu."
            self._show(
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
            )
            self._later(3.0, self.schedule)
            return
        self.node = self.world.chance.pick(places)
        self.world.nodes.bind(self)
        self._show(conditions=[{"type": "PodScheduled", "status": "True"}])
        self._later(self.world.chance.between(0.2, 2.0), self._pull)

    def _pull(self) -> None:
        if self.gone or self.ending or self._waits_for_node(self._pull):
            return
        if not self.program.pulls:
            self._show_container({"waiting": {"reason": "ErrImagePull", "message": "not found"}})
            self._later(5.0, self._back_off)
            return
        stored = self.world.server.find(CONFIG_MAP, self.namespace, self.config_map)
        if stored is None:
            self._later(2.0, self._pull)  # FailedMount: the kubelet tries again
            return
        self.manifest = json.loads(stored["data"][MANIFEST_KEY])
        self.manifest_hash = self.config_map
        self._run()

    def _back_off(self) -> None:
        if not self.gone and not self.ending and not self._waits_for_node(self._back_off):
            self._show_container(
                {"waiting": {"reason": "ImagePullBackOff", "message": f"image {self.image} not found"}}
            )

    def _run(self) -> None:
        if self.gone or self.ending or self._waits_for_node(self._run):
            return
        self.ip = self.ip or self.world.nodes.new_ip(self)
        self._show(phase="Running", podIP=self.ip)
        self._show_container({"running": {"startedAt": iso(self.world.loop.now_ms())}})
        self.process = (CoordinatorProcess if self.role == "coordinator" else WorkerProcess)(self)
        self.process.start()
        process = self.process
        process.later(self.world.chance.between(0.5, 6.0), lambda: self._show_ready(True))
        if not self.program.stays:
            process.later(self.world.chance.between(0.3, 2.0), lambda: process.exit(1, message="Segmentation fault"))

    def _waits_for_node(self, work: Any) -> bool:
        if self.world.nodes.is_lost(self.node):
            self._later(1.0, work)
            return True
        return False

    # Ending

    def process_ended(self, code: int, reason: str, message: str) -> None:
        """Its process has ended by itself."""
        if self.gone:
            return
        if self.ending:
            self._later(0.1, self.remove)
            return
        end = {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "message": message,
                "finishedAt": iso(self.world.loop.now_ms()),
            }
        }
        self._show_ready(False)
        self._show_container(end)
        pause_s = 1.0 if self.restarts == 0 else min(10.0 * 2 ** (self.restarts - 1), LONGEST_RESTART_S)
        if self.restarts:
            self._later(12.0 if pause_s > 12.0 else pause_s / 2, lambda: self._show_loop(end))
        self._later(pause_s, lambda: self._again(end))

    def _show_loop(self, end: Object) -> None:
        if not self.ending and not self.gone and not self.running:
            self._show_container({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, end)

    def _again(self, end: Object) -> None:
        if self.ending or self.gone or self._waits_for_node(lambda: self._again(end)):
            return
        self.restarts += 1
        self._show_container({"waiting": {"reason": "ContainerCreating"}}, end)
        self._run()

    def crash(self, reason: str = "Error") -> None:
        """Its process is killed."""
        if self.running and self.process is not None:
            self.process.exit(137, reason)

    def evict(self) -> None:
        """Kubernetes ends it, and leaves it behind as failed."""
        if self.gone or self.ending or not self.node or self.world.nodes.is_lost(self.node):
            return
        self.ending = True
        if self.process is not None:
            self.process.die()
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "False"},
            {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"},
        ]
        message = "The node was low on resource: memory."
        self._show(phase="Failed", reason="Evicted", message=message, conditions=conditions)

    def delete(self) -> None:
        """It is being deleted: end gracefully."""
        if self.gone or self.world.nodes.is_lost(self.node):
            return
        first = not self.ending
        self.ending = True
        if self.process is None or not self.process.alive:
            self._later(0.1, self.remove)
        elif first:
            process = self.process
            process.terminate()
            self._later(60.0, self._kill)

    def _kill(self) -> None:
        if self.gone or self._waits_for_node(self._kill):
            return
        if self.process is not None:
            self.process.die()
        self.remove()

    def remove(self) -> None:
        """It is gone."""
        if self.gone:
            return
        self.gone = True
        if self.process is not None:
            self.process.die()
        self.world.nodes.forget(self)
        found = self.world.server.find(POD, self.namespace, self.name)
        if found is not None and found["metadata"]["uid"] == self.uid:
            self.world.server.remove(POD, self.namespace, self.name)

    def node_lost(self) -> None:
        """Its node goes away."""
        if self.process is not None and self.process.alive:
            self.process.freeze()

    def called_not_ready(self) -> None:
        """Its node has not been heard of for a while."""
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
        status = {**self._status, "conditions": conditions}
        self.world.server.set_status(POD, self.namespace, self.name, self.uid, status)

    def node_back(self) -> None:
        """Its node is there again: it goes on before anybody can tell it what has happened meanwhile."""
        if self.process is not None and self.process.alive:
            self.process.thaw()
        self.world.server.set_status(POD, self.namespace, self.name, self.uid, self._status)
        self._later(self.world.chance.between(0.5, 4.0), self._catch_up)

    def _catch_up(self) -> None:
        found = self.world.server.find(POD, self.namespace, self.name)
        if found is None or found["metadata"]["uid"] != self.uid or "deletionTimestamp" in found["metadata"]:
            self.delete()


class Nodes:
    """All nodes and the pods on them.

    Attributes:
        full: Whether there is no room for another pod.
    """

    def __init__(self, world: World) -> None:
        self.full = False
        self._world = world
        self._lives: dict[str, PodLife] = {}
        self._lost: set[str] = set()
        self._ips: dict[str, PodLife] = {}
        world.server.watchers.append(self._on_change)

    @property
    def lives(self) -> list[PodLife]:
        """All pods that are not gone."""
        return list(self._lives.values())

    def find(self, role: str, index: int = 0) -> PodLife | None:
        """The newest pod of a place."""
        found = [life for life in self._lives.values() if life.role == role and life.index == index]
        return found[-1] if found else None

    def named(self, name: str) -> PodLife | None:
        """The pod of this name that is there."""
        return next((life for life in self._lives.values() if life.name == name), None)

    def at(self, ip: str) -> PodLife | None:
        """The pod that has this address."""
        return self._ips.get(ip)

    def coordinator_by_hash(self, pod_hash: str) -> CoordinatorProcess | None:
        """The process that a Service leads to, if it runs."""
        for life in self._lives.values():
            if life.pod_hash == pod_hash and isinstance(life.process, CoordinatorProcess) and life.process.alive:
                return life.process
        return None

    def is_lost(self, node: str) -> bool:
        """Whether a node is away."""
        return node in self._lost

    def lose(self, node: str) -> None:
        """A node goes away; its pods stand still, and are deleted after a while."""
        if node in self._lost or len(self._lost) == len(NODES) - 1:
            return
        self._lost.add(node)
        for life in self.lives:
            if life.node == node:
                life.node_lost()
        self._world.loop.call_later(LOST_AFTER_S, self._call_not_ready, node)
        self._world.loop.call_later(LOST_AFTER_S + TOLERATED_S, self._give_up, node)

    def bring_back(self, node: str) -> None:
        """A node comes back."""
        if node in self._lost:
            self._lost.discard(node)
            for life in self.lives:
                if life.node == node:
                    life.node_back()

    def bring_back_all(self) -> None:
        """All nodes come back."""
        for node in sorted(self._lost):
            self.bring_back(node)

    def bind(self, life: PodLife) -> None:
        """A pod is assigned to its node."""

        def assign(body: Object) -> None:
            body["spec"]["nodeName"] = life.node

        self._world.server.edit(POD, life.namespace, life.name, assign)

    def new_ip(self, life: PodLife) -> str:
        """An address that nobody had."""
        number = len(self._ips) + 1
        ip = f"10.0.{number // 250}.{number % 250 + 1}"
        self._ips[ip] = life
        return ip

    def forget(self, life: PodLife) -> None:
        """A pod is gone."""
        self._lives.pop(life.uid, None)

    def _call_not_ready(self, node: str) -> None:
        for life in self.lives:
            if life.node == node and node in self._lost:
                life.called_not_ready()

    def _give_up(self, node: str) -> None:
        if node not in self._lost:
            return
        for life in self.lives:
            if life.node == node:
                try:
                    self._world.server.delete(POD, life.namespace, life.name, uid=life.uid)
                except (NotFoundError, ConflictError):
                    continue

    def _on_change(self, change: Change) -> None:
        if change.kind != POD:
            return
        uid = change.body["metadata"]["uid"]
        life = self._lives.get(uid)
        if life is None and not change.deleted:
            life = PodLife(self._world, change.body)
            self._lives[uid] = life
            self._world.loop.call_later(self._world.chance.between(0.01, 1.0), life.schedule)
        elif life is not None and change.deleted:
            life.remove()
        elif life is not None and "deletionTimestamp" in change.body["metadata"] and not life.gone:
            self._world.loop.call_later(self._world.chance.between(0.01, 0.5), life.delete)
