"""Operators: the real reconciler with cache, queue and watch, put together as in the program itself, on the clients of this world.

An operator that is killed is dropped with all its tasks and does nothing more; another one begins with empty memory and fresh lists. Several may lead at
once: what the Lease is to prevent must do no harm either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from checkdam_operator.cache import Key, ObjectCache
from checkdam_operator.coordinators.watch import Coordinators
from checkdam_operator.decide import Event
from checkdam_operator.delivery import Delivery
from checkdam_operator.freshness import Freshness
from checkdam_operator.indexes import INDEXES, WATCHED
from checkdam_operator.kube.errors import KubeError
from checkdam_operator.kube.kinds import STREAM_JOB, Kind
from checkdam_operator.metrics import OperatorMetrics
from checkdam_operator.observed import Job
from checkdam_operator.queue import WorkQueue
from checkdam_operator.reconcile.doing import Hands
from checkdam_operator.reconcile.reconciler import Reconciler
from checkdam_operator.reconcile.seeing import Eyes
from checkdam_operator.resources.config import NetworkPeers
from checkdam_operator.resources.pods import PodDefaults
from checkdam_operator.resync import Resync
from checkdam_operator.workers import WorkerPool
from world.clients import ClusterClient, CoordinatorClient

if TYPE_CHECKING:
    from world.run import World

RESYNC_S = 300.0
RUNTIME_IMAGE = "app:1"


class Operator:
    """One instance.

    Args:
        world: Where it runs.
        number: Tells it from others.

    Attributes:
        alive: Until it is killed.
        stale: Kinds whose changes its watch does not show for now.
    """

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.alive = True
        self.stale: set[Kind] = set()
        self._world = world
        loop = world.loop
        self._tasks: set[asyncio.Task[Any]] = set()
        # Its memory of metrics is of no interest, but counting is cheap.
        metrics = OperatorMetrics()
        cluster = ClusterClient(world, self)
        cache = ObjectCache(INDEXES, clock=loop.time)
        queue: WorkQueue[Key] = WorkQueue(2, clock=loop.time)
        delivery = Delivery(cache, queue, Freshness(clock=loop.time), metrics=metrics)
        coordinators = Coordinators(CoordinatorClient(world, self), loop.now_ms)
        hands = Hands(
            cluster, cache, coordinators, PodDefaults(RUNTIME_IMAGE), NetworkPeers(), metrics, "metrics", loop.now_ms
        )
        eyes = Eyes(cluster, cache, coordinators, RUNTIME_IMAGE)
        self._reconciler = Reconciler(
            cluster, cache, coordinators, eyes, hands, queue.add, self._tell, metrics, loop.now_ms
        )
        self._delivery = delivery
        self._cache, self._queue = cache, queue
        self._coordinators = coordinators
        self._pool = WorkerPool(queue, self._look, metrics)
        self._resync = Resync(cluster, WATCHED, (), delivery.listed, RESYNC_S, metrics)

    def start(self) -> None:
        """Fill the cache, then watch and lead."""
        self._spawn(self._resync.run())
        self._spawn(self._lead())
        for kind in WATCHED:
            self._spawn(self._watch(kind))

    def kill(self) -> None:
        """Drop it, with all that it does and knows."""
        self.alive = False
        for task in [*self._tasks, *self._pool_tasks(), *self._coordinator_tasks()]:
            task.cancel()

    async def may_die(self) -> None:
        """A point at which it waits, and may be killed."""
        if self.alive:
            self._world.waited(self)
        if not self.alive:
            raise asyncio.CancelledError  # whoever still runs for a dead operator does nothing more

    async def _lead(self) -> None:
        await self._resync.wait_filled()
        for body in self._cache.all(STREAM_JOB):
            self._queue.add((body["metadata"]["namespace"], body["metadata"]["name"]))
        await self._pool.run()

    async def _look(self, key: Key) -> float | None:
        self._world.looks += 1
        return await self._reconciler.reconcile(key)

    async def _watch(self, kind: Kind) -> None:
        """Show changes of one kind in their order, each a while after it happened."""
        world = self._world
        position = len(world.server.history)
        listed = False
        while True:
            if not listed:
                try:
                    items, version = await ClusterClient(world, self).list(kind, labels=WATCHED[kind])
                except KubeError:
                    await asyncio.sleep(1.0)
                    continue
                position = sum(1 for change in world.server.history if _version(change.body) <= int(version))
                for body in items:
                    self._delivery.watched(kind, body, False)
                listed = True
            history = world.server.history
            while position < len(history) and history[position].kind != kind:
                position += 1
            if position == len(history):
                await world.history_grows()
                continue
            late = world.chance.happens(world.weather.late)
            await asyncio.sleep(world.chance.between(2.0, 20.0) if late else world.chance.between(0.001, 0.1))
            while kind in self.stale:
                await asyncio.sleep(0.5)
            if world.watch_lost:
                # What happens meanwhile is never shown: it lists anew, and knows nothing of deletions.
                while world.watch_lost:
                    await asyncio.sleep(1.0)
                listed = False
                continue
            change = history[position]
            position += 1
            self._delivery.watched(kind, change.body, change.deleted)

    def _tell(self, job: Job, event: Event) -> None:
        self._world.rules.told(job, event, self.number)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._world.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._world.rules.broken(f"operator {self.number}: {error!r}")

    def _pool_tasks(self) -> list[asyncio.Task[Any]]:
        return list(self._pool._turns)

    def _coordinator_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for watched in self._coordinators._watched.values() for task in watched.tasks.values()]


def _version(body: Any) -> int:
    return int(body["metadata"]["resourceVersion"])
