"""What becomes of a change in the cluster: the object goes into the cache, and the job that it belongs to is looked at.

Changes come from the watch, from lists and from the answers to our own writes. All go this one way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from checkdam_operator.cache import Index, Key, ObjectCache, key_of, version_of
from checkdam_operator.freshness import Freshness
from checkdam_operator.kube.kinds import POD, SAVEPOINT, STREAM_JOB, Kind
from checkdam_operator.kube.protocol import Object
from checkdam_operator.metrics import CACHE_OBJECTS, RESYNC_FOUND, WATCH_EVENTS, OperatorMetrics
from checkdam_operator.queue import WorkQueue
from checkdam_operator.resources.names import JOB_LABEL, JOB_UID_LABEL

WATCHED: Final[dict[Kind, str]] = {STREAM_JOB: "", SAVEPOINT: "", POD: JOB_LABEL}
"""What is watched, and by which label selector."""

PODS_BY_JOB_UID: Final = Index(POD, "job uid", lambda pod: _labels(pod).get(JOB_UID_LABEL))
SAVEPOINTS_BY_JOB: Final = Index(SAVEPOINT, "job", lambda savepoint: job_of(SAVEPOINT, savepoint))

INDEXES: Final = (PODS_BY_JOB_UID, SAVEPOINTS_BY_JOB)
"""All that the operator looks objects up by."""


def job_of(kind: Kind, body: Object) -> Key | None:
    """Namespace and name of the job that an object belongs to, if it says so."""
    namespace, name = key_of(body)
    if kind == STREAM_JOB:
        return namespace, name
    job = (body.get("spec") or {}).get("job") if kind == SAVEPOINT else _labels(body).get(JOB_LABEL)
    return (namespace, str(job)) if job else None


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

    def _show(self) -> None:
        for kind in WATCHED:
            self._metrics.set(CACHE_OBJECTS, self._cache.count(kind), kind.plural)


def _labels(body: Object) -> dict[str, str]:
    return body["metadata"].get("labels") or {}
