"""What becomes of a change in the cluster: the object goes into the cache, and the job that it belongs to is looked at.

Changes come from the watch, from lists and from the answers to our own writes. All go this one way.
"""

from __future__ import annotations

from collections.abc import Iterable

from checkdam_operator.cache import Key, ObjectCache, key_of, version_of
from checkdam_operator.freshness import Freshness
from checkdam_operator.indexes import JOBS_BY_SAVEPOINT, WATCHED, job_of
from checkdam_operator.kube.kinds import SAVEPOINT, Kind
from checkdam_operator.kube.protocol import Object
from checkdam_operator.metrics import CACHE_OBJECTS, RESYNC_FOUND, WATCH_EVENTS, WATCH_STALE, OperatorMetrics
from checkdam_operator.queue import WorkQueue


class Delivery:
    """Takes changes in.

    Args:
        cache: Holds the objects.
        queue: Of jobs to be looked at.
        freshness: Told what the watch and the lists show.
        namespaces: Which are watched; empty for all of them.
        metrics: Counts changes.
    """

    def __init__(
        self,
        cache: ObjectCache,
        queue: WorkQueue[Key],
        freshness: Freshness,
        namespaces: Iterable[str] = (),
        metrics: OperatorMetrics | None = None,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._freshness = freshness
        self._everywhere = not tuple(namespaces)
        self._metrics = metrics or OperatorMetrics()
        self._metrics.before_render.append(self._show)

    def watched(self, kind: Kind, body: Object, deleted: bool) -> None:
        """The watch has shown an object, or that it was deleted."""
        self._metrics.count(WATCH_EVENTS, kind.plural)
        scope = None if self._everywhere else key_of(body)[0]
        self._freshness.watched(kind, scope, version_of(body))
        if self._cache.remove(kind, body) if deleted else self._cache.put(kind, body):
            self._look_at(kind, body)

    def written(self, kind: Kind, body: Object) -> None:
        """The API server has answered a write of ours with this object. No look at the job follows: whoever writes knows what it wrote."""
        self._cache.put(kind, body)

    def listed(self, kind: Kind, namespace: str | None, items: Iterable[Object], resource_version: str) -> None:
        """These are all objects of a kind in a namespace, or in all of them (`None`), as of a moment."""
        changes = self._cache.take_list(kind, namespace, items, resource_version)
        self._freshness.listed(kind, namespace, changes.newest)
        if changes.news:
            self._metrics.count(RESYNC_FOUND, kind.plural, "changed", by=len(changes.news))
        if changes.removed:
            self._metrics.count(RESYNC_FOUND, kind.plural, "deleted", by=len(changes.removed))
        for body in (*changes.news, *changes.removed):
            self._look_at(kind, body)

    def _look_at(self, kind: Kind, body: Object) -> None:
        job = job_of(kind, body)
        if job is not None:
            self._queue.add(job)
        if kind == SAVEPOINT:
            for restoring in self._cache.find(JOBS_BY_SAVEPOINT, key_of(body)):
                self._queue.add(key_of(restoring))

    def _show(self) -> None:
        self._metrics.set(WATCH_STALE, float(bool(self._freshness.problem())))
        for kind in WATCHED:
            self._metrics.set(CACHE_OBJECTS, self._cache.count(kind), kind.plural)
