"""Finds what the watch has missed, by listing everything now and then.

kopf loses deletes: whenever it lists anew, be it that it was started again or that an outage was longer than the API server's memory of changes, what has gone
meanwhile is never mentioned. So a round follows each list of kopf's, and others now and then for what nobody thought of. The first round, before anything is decided,
fills the cache with all that there is, so that no decision is taken on half of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from checkdam.core.errors import CheckdamError
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.protocol import Cluster, Objects
from checkdam_operator.metrics import RESYNCS, OperatorMetrics

_log = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 2.0
_AFTER_LIST_S: Final = 10.0
"""From the first object of kopf's list to our own: kopf lists several kinds, one after the other."""


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
        self._asked = asyncio.Event()

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
            await self._wait(self._interval_s if self.filled else _FIRST_RETRY_S)

    def soon(self) -> None:
        """The watch begins anew: make a round when it has got through its own list. To be called as often as there is reason to."""
        self._asked.set()

    async def _wait(self, interval_s: float) -> None:
        """Wait for the next round."""
        sleeping = asyncio.ensure_future(self._sleep(interval_s))
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({sleeping, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not sleeping.done():
                await self._sleep(_AFTER_LIST_S)
            self._asked.clear()
        finally:
            sleeping.cancel()
            asked.cancel()

    async def wait_filled(self) -> None:
        """Wait for the first complete round."""
        await self._filled.wait()

    @property
    def filled(self) -> bool:
        """Whether there was a complete round."""
        return self._filled.is_set()
