"""Finds what the watch has missed, by listing everything now and then.

kopf loses deletes: after an outage that is longer than the API server's memory of changes it lists anew, and what has gone meanwhile is never mentioned. The
first round, before anything is decided, fills the cache with all that there is, so that no decision is taken on half of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from checkdam.core.errors import CheckdamError
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.protocol import Cluster, Objects
from checkdam_operator.metrics import RESYNCS, OperatorMetrics

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 2.0


class Resync:
    """Lists what is watched.

    Args:
        cluster: Where.
        watched: Kinds and their label selectors.
        namespaces: Where to list; empty for everywhere.
        deliver: Takes a whole list: kind, namespace (`None` for all), objects, resourceVersion.
        interval_s: From the end of one round to the next.
        metrics: Counts rounds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        watched: Mapping[Kind, str],
        namespaces: Iterable[str],
        deliver: Callable[[Kind, str | None, Objects, str], None],
        interval_s: float,
        metrics: OperatorMetrics | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._watched = dict(watched)
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._deliver = deliver
        self._interval_s = interval_s
        self._metrics = metrics or OperatorMetrics()
        self._sleep = sleep
        self._filled = asyncio.Event()

    async def once(self) -> None:
        """List everything once.

        Raises:
            KubeError: A list failed; those before it were delivered.
        """
        try:
            for kind, labels in self._watched.items():
                for namespace in self._namespaces:
                    items, version = await self._cluster.list(kind, namespace, labels=labels)
                    self._deliver(kind, namespace, items, version)
        except BaseException:
            self._metrics.count(RESYNCS, "error")
            raise
        self._metrics.count(RESYNCS, "ok")
        self._filled.set()

    async def run(self) -> None:
        """List everything again and again until cancelled; the first time as soon as it succeeds."""
        while True:
            try:
                await self.once()
            except CheckdamError as error:
                _log.warning("the objects of the cluster cannot be listed; it is tried again: %s", error)
            await self._sleep(self._interval_s if self.filled else _FIRST_RETRY_S)

    async def wait_filled(self) -> None:
        """Wait for the first complete round."""
        await self._filled.wait()

    @property
    def filled(self) -> bool:
        """Whether there was a complete round."""
        return self._filled.is_set()
