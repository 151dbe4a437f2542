"""The operator's process: its parts, put together, started and stopped.

Both replicas watch, hold all objects in memory and serve health and metrics; only the one that holds the Lease looks at jobs. When it begins to lead it lists everything
once more, so that its first decision is not taken on what an earlier leader has changed since. A leader that loses the Lease ends on the spot (`kube.lease`); on SIGTERM it
lets the looks under way come to an end, gives the Lease up, and ends.

All that is here runs in one event loop, but for kopf (`sources`), which has a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from checkdam.core.errors import CheckdamError
from checkdam.spec import API_VERSION
from checkdam_operator.cache import Key, ObjectCache
from checkdam_operator.coordinators.client import HttpCoordinatorApi
from checkdam_operator.coordinators.watch import Coordinators
from checkdam_operator.decide import Event
from checkdam_operator.delivery import Delivery
from checkdam_operator.freshness import Freshness
from checkdam_operator.indexes import INDEXES, WATCHED
from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.connection import load_configuration
from checkdam_operator.kube.events import EventRecorder
from checkdam_operator.kube.kinds import STREAM_JOB
from checkdam_operator.kube.lease import Elector, LeaseTimes, exit_at_once
from checkdam_operator.kube.limiter import TokenBucket, WriteLimiter
from checkdam_operator.logs import about_job
from checkdam_operator.metrics import LEADER, OperatorMetrics
from checkdam_operator.observed import Job
from checkdam_operator.queue import WorkQueue
from checkdam_operator.reconcile.doing import Hands
from checkdam_operator.reconcile.reconciler import Reconciler
from checkdam_operator.reconcile.seeing import Eyes
from checkdam_operator.resources.config import NetworkPeers
from checkdam_operator.resources.pods import PodDefaults
from checkdam_operator.resync import Resync
from checkdam_operator.server import OperatorServer
from checkdam_operator.settings import Settings
from checkdam_operator.sources import WatchSource
from checkdam_operator.workers import WorkerPool

_log = logging.getLogger(__name__)

STUCK_AFTER_S: Final = 120.0
"""A job that has waited so long for its turn means that the workers do not come back."""

STOP_GRACE_S: Final = 5.0
"""How long looks under way may take to end after SIGTERM."""


async def run_operator(settings: Settings, stop: asyncio.Event, on_listening: Callable[[str, int], None]) -> None:
    """Run the operator until `stop` is set.

    Args:
        settings: How.
        stop: Ends it.
        on_listening: Called with the address of the HTTP server.

    Raises:
        CheckdamError: There is no way to the API server, or the address cannot be used.
    """
    async with AsyncExitStack() as stack:
        operator = await _Operator.make(settings, stack)
        await operator.run(stop, on_listening)


class _Operator:
    """The parts of one process."""

    def __init__(
        self,
        settings: Settings,
        cluster: KubeClient,
        lease_cluster: KubeClient,
        api: HttpCoordinatorApi,
        metrics: OperatorMetrics,
    ) -> None:
        self._settings = settings
        self._identity = settings.process_identity()
        self._metrics = metrics
        self._cluster = cluster
        self._queue: WorkQueue[Key] = WorkQueue(settings.workers)
        self._cache = ObjectCache(INDEXES)
        self._freshness = Freshness()
        self._delivery = Delivery(self._cache, self._queue, self._freshness, settings.namespaces, self._metrics)
        self._resync = Resync(
            cluster, WATCHED, settings.namespaces, self._delivery.listed, settings.resync_interval_s, self._metrics
        )
        self._source = WatchSource(
            WATCHED,
            settings.namespaces,
            self._delivery.watched,
            self._resync.soon,
            cluster.serves,
            self._before_watching,
            lambda: load_configuration(settings.kubeconfig),
            self._metrics,
        )
        self._recorder = EventRecorder(cluster, self._identity, metrics=self._metrics)
        self._coordinators = Coordinators(api, now_ms)
        self._reconciler = self._make_reconciler()
        self._elector = Elector(
            lease_cluster, settings.namespace_of_lease(), settings.lease_name, self._identity, exit_at_once
        )
        self._pool = WorkerPool(self._queue, self._look, self._metrics)
        self._server = OperatorServer(
            (self._source.problem, self._freshness.problem, self._head_problem),
            (lambda: "" if self._resync.filled else "not all objects of the cluster are known yet",),
            self._metrics,
            settings.metrics_token_file,
        )

    @classmethod
    async def make(cls, settings: Settings, stack: AsyncExitStack) -> _Operator:
        """All parts, with connections that `stack` closes."""
        made: list[_Operator] = []
        metrics = OperatorMetrics()
        limiter = WriteLimiter(TokenBucket(settings.writes_per_second, settings.write_burst))
        cluster = KubeClient(
            await load_configuration(settings.kubeconfig),
            metrics=metrics,
            limiter=limiter,
            before_write=lambda: made[0]._elector.check(),
        )
        stack.push_async_callback(cluster.close)
        lease_cluster = KubeClient(
            await load_configuration(settings.kubeconfig), timeout_s=LeaseTimes().request_timeout_s, read_retry_s=()
        )
        stack.push_async_callback(lease_cluster.close)
        api = HttpCoordinatorApi(metrics)
        stack.push_async_callback(api.close)
        made.append(cls(settings, cluster, lease_cluster, api, metrics))
        return made[0]

    async def run(self, stop: asyncio.Event, on_listening: Callable[[str, int], None]) -> None:
        """Watch, lead when it is this replica's turn, and stop cleanly."""
        self._metrics.before_render.append(lambda: self._metrics.set(LEADER, float(self._elector.leads)))
        settings = self._settings
        try:
            host, port = await self._server.start(settings.http_host, settings.http_port)
        except OSError as error:
            address = f"{settings.http_host}:{settings.http_port}"
            raise CheckdamError(
                f"cannot serve health and metrics at {address}: {error}; choose another address or port"
            ) from error
        on_listening(host, port)
        tasks = [self._spawn(self._resync.run()), self._spawn(self._source.run()), self._spawn(self._lead())]
        stopping = self._spawn(stop.wait())
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            await self._pool.stop(STOP_GRACE_S)
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await self._coordinators.close()
            await self._elector.release()
            await self._server.close()

    async def _lead(self) -> None:
        """Wait for the Lease, then look at jobs for as long as it is held."""
        await self._resync.wait_filled()
        await self._elector.acquire()
        keeping = self._spawn(self._elector.keep())
        telling = self._spawn(self._recorder.run())
        try:
            await self._until_listed()
            for body in self._cache.all(STREAM_JOB):
                self._queue.add((body["metadata"]["namespace"], body["metadata"]["name"]))
            await self._pool.run()
        finally:
            for task in (keeping, telling):
                task.cancel()
            await asyncio.gather(keeping, telling, return_exceptions=True)

    async def _until_listed(self) -> None:
        """List everything now that nobody else writes: what the leader before has written is known before the first decision."""
        while True:
            try:
                await self._resync.once()
                return
            except CheckdamError as error:
                _log.warning("the objects of the cluster cannot be listed; it is tried again: %s", error)
                await asyncio.sleep(1.0)

    async def _before_watching(self) -> None:
        await self._resync.wait_filled()
        self._freshness.restarted()
        self._resync.soon()

    async def _look(self, key: Key) -> float | None:
        with about_job(*key):
            return await self._reconciler.reconcile(key)

    def _make_reconciler(self) -> Reconciler:
        settings = self._settings
        pods = PodDefaults(
            settings.runtime_image,
            settings.image_pull_policy,
            settings.image_pull_secrets,
            settings.unreachable_toleration_s,
        )
        eyes = Eyes(self._cluster, self._cache, self._coordinators, settings.runtime_image)
        hands = Hands(
            self._cluster,
            self._cache,
            self._coordinators,
            pods,
            network_peers(settings),
            self._metrics,
            _metrics_token(settings),
            now_ms,
        )
        return Reconciler(
            self._cluster,
            self._cache,
            self._coordinators,
            eyes,
            hands,
            self._queue.add,
            self._tell,
            self._metrics,
            now_ms,
        )

    def _tell(self, job: Job, event: Event) -> None:
        about = {
            "apiVersion": API_VERSION,
            "kind": STREAM_JOB.kind,
            "metadata": {"namespace": job.namespace, "name": job.name, "uid": job.uid},
        }
        self._recorder.record(about, "Warning" if event.warning else "Normal", event.reason, event.message)

    def _head_problem(self) -> str:
        age_s = self._queue.head_age_s()
        if not self._elector.leads or age_s < STUCK_AFTER_S:
            return ""
        return f"a job has waited {age_s:.0f} s for its turn"

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)


def network_peers(settings: Settings) -> NetworkPeers:
    """Who may reach the HTTP port of coordinators, by the network policies of jobs."""
    labels = dict(pair.split("=", 1) for pair in settings.pod_labels)
    namespaces = tuple(
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
        for name in settings.metrics_namespaces
    )
    return NetworkPeers(settings.own_namespace() if labels else "", labels, namespaces)


def _metrics_token(settings: Settings) -> str:
    if not settings.metrics_token_file:
        return ""
    try:
        return Path(settings.metrics_token_file).read_text().strip()
    except OSError as error:
        raise CheckdamError(
            f"the token for metrics cannot be read from {settings.metrics_token_file}: {error.strerror}; mount it, or leave "
            "CHECKDAM_OPERATOR_METRICS_TOKEN_FILE empty"
        ) from error


def now_ms() -> int:
    """The wall clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


async def until_signal(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run something until SIGTERM or SIGINT, of which it is told by the event; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        _log.info("%s: stopping", number.name)
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)
    await run(stop)
