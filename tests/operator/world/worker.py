"""The model of a worker's supervisor: it looks for the coordinator behind the job's Service, and stays with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkdam_operator.kube.kinds import SERVICE
from checkdam_operator.resources.names import POD_HASH_LABEL, service_name
from world.process import Process

if TYPE_CHECKING:
    from world.coordinator import CoordinatorProcess
    from world.nodes import PodLife

HEARTBEAT_S = 10.0
"""So long either side waits for a sign of life of the other."""


class WorkerProcess(Process):
    """One life of a worker's container.

    Attributes:
        coordinator: Whom it is connected to.
        epoch: The latest that it has served.
    """

    def __init__(self, life: PodLife) -> None:
        super().__init__(life)
        self.coordinator: CoordinatorProcess | None = None
        self.epoch = 0
        self._leaving = False

    @property
    def instance(self) -> str:
        """Its id, as it tells the coordinator."""
        return f"{self.life.name}/{self.life.restarts}"

    def start(self) -> None:
        if self.life.program.connects:
            self.later(self.world.chance.between(0.3, 3.0), self._look)

    def terminate(self) -> None:
        self._leaving = True
        if self.coordinator is not None and self.coordinator.alive and not self.coordinator.frozen:
            self.coordinator.worker_leaves(self)
            self.later(50.0, lambda: self.exit(0))
        else:
            self.later(0.1, lambda: self.exit(0))

    def die(self) -> None:
        super().die()
        if self.coordinator is not None:
            self.coordinator.worker_lost(self, "its connection was closed")
            self.coordinator = None

    def released(self) -> None:
        """The coordinator lets it go."""
        self.coordinator = None
        if self._leaving:
            self.later(0.1, lambda: self.exit(0))

    def dropped(self) -> None:
        """The connection has ended."""
        self.coordinator = None
        if self._leaving:
            self.exit(0)

    def _look(self) -> None:
        """Connect where there is no connection; notice a coordinator that has gone or stands still."""
        coordinator = self.coordinator
        if coordinator is not None:
            stale = coordinator.frozen and self.world.loop.time() - coordinator.frozen_since_s >= HEARTBEAT_S
            if not coordinator.alive or stale or coordinator.links.get(self.life.index) is not self:
                self.dropped()
        elif not self._leaving:
            found = self._behind_service()
            if found is not None and not found.frozen and found.welcomes(self):
                self.coordinator = found
        if self.alive:
            self.later(0.5 if self.coordinator is None else 2.0, self._look)

    def _behind_service(self) -> CoordinatorProcess | None:
        service = self.world.server.find(SERVICE, self.life.namespace, service_name(self.life.job))
        if service is None:
            return None
        return self.world.nodes.coordinator_by_hash(service["spec"]["selector"][POD_HASH_LABEL])
