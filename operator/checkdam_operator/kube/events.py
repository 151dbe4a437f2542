"""Kubernetes Events: what happened to a job, its cause and its remedy, where `kubectl describe` shows it.

kopf writes Events only from inside its own handlers, so these are ours. The same thing happening again raises the count of its Event. Its name is a function of
what it says, so a restarted operator or a second one goes on counting where the first was. Of one object so many Events are written and no more: what
does not fit is in the log and in a metric. Nothing waits for an Event, and nothing fails because of one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from checkdam.core.errors import CheckdamError
from checkdam_operator.kube.errors import AlreadyExistsError, NotFoundError, UnavailableError
from checkdam_operator.kube.kinds import EVENT
from checkdam_operator.kube.limiter import TokenBucket
from checkdam_operator.kube.protocol import FIELD_MANAGER, Cluster, Object
from checkdam_operator.metrics import EVENTS, OperatorMetrics

_log = logging.getLogger(__name__)

EventType = Literal["Normal", "Warning"]

_MESSAGE_LIMIT: Final = 1024
_OBJECT_NAME_LIMIT: Final = 200
_PENDING_LIMIT: Final = 1_000
_REMEMBERED_LIMIT: Final = 4_000
_RETRY_S: Final = (0.0, 1.0, 5.0)


@dataclass(frozen=True)
class EventLimits:
    """How many Events there may be of one object.

    Attributes:
        burst: At once, after a rest.
        per_minute: Afterwards.
    """

    burst: int = 25
    per_minute: float = 2.0


@dataclass(frozen=True)
class _Identity:
    """What makes two happenings the same."""

    uid: str
    type: EventType
    reason: str
    message: str

    @property
    def hash(self) -> str:
        text = "\0".join((self.uid, self.type, self.reason, self.message))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class _Pending:
    """What is to be written.

    Attributes:
        identity: What happened.
        regarding: To which object.
        times: How often since it was last written.
        last: When last.
    """

    identity: _Identity
    regarding: Object
    times: int
    last: datetime

    @property
    def name(self) -> str:
        return f"{self.regarding['name'][:_OBJECT_NAME_LIMIT]}.{self.identity.hash}"


class EventRecorder:
    """Writes Events in the background.

    Args:
        cluster: Where.
        instance: Which replica writes.
        limits: How many there may be of one object.
        metrics: Counts them.
        clock: Monotonic seconds.
        wall_clock: The time that Events carry.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        instance: str,
        *,
        limits: EventLimits | None = None,
        metrics: OperatorMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._instance = instance
        self._limits = limits or EventLimits()
        self._metrics = metrics or OperatorMetrics()
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._pending: OrderedDict[_Identity, _Pending] = OrderedDict()
        self._counts: OrderedDict[_Identity, int] = OrderedDict()
        self._buckets: dict[str, TokenBucket] = {}
        self._buckets_limit = _REMEMBERED_LIMIT
        self._waiting = asyncio.Event()

    def record(self, about: Object, type: EventType, reason: str, message: str) -> None:
        """Have an Event written, soon.

        Args:
            about: The object that it is about, with `apiVersion` and `kind`.
            type: `Normal`, or `Warning` for what somebody should look at.
            reason: One word in CamelCase for programs.
            message: What happened, why, and what to do about it.
        """
        if len(message) > _MESSAGE_LIMIT:
            message = message[: _MESSAGE_LIMIT - 1] + "…"
        metadata = about["metadata"]
        identity = _Identity(str(metadata.get("uid", "")), type, reason, message)
        pending = self._pending.get(identity)
        if pending is not None:
            pending.times += 1
            pending.last = self._wall_clock()
            return
        if len(self._pending) >= _PENDING_LIMIT or not self._bucket(identity.uid).try_take():
            self._metrics.count(EVENTS, "limited")
            return
        regarding: Object = {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "namespace": metadata.get("namespace", ""),
            "name": metadata["name"],
            "uid": identity.uid,
        }
        self._pending[identity] = _Pending(identity, regarding, 1, self._wall_clock())
        self._waiting.set()

    async def run(self) -> None:
        """Write what is recorded until cancelled."""
        while True:
            await self._waiting.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what has been recorded so far."""
        self._waiting.clear()
        while self._pending:
            _, pending = self._pending.popitem(last=False)
            try:
                await self._write(pending)
                self._metrics.count(EVENTS, "written")
            except CheckdamError as error:
                self._metrics.count(EVENTS, "failed")
                _log.warning("the Event %s could not be written: %s", pending.name, error)

    async def _write(self, pending: _Pending) -> None:
        for number, wait_s in enumerate(_RETRY_S, start=1):
            if wait_s:
                await self._sleep(wait_s)
            try:
                count = await self._raise_count(pending)
                break
            except UnavailableError:
                if number == len(_RETRY_S):
                    raise
        self._counts[pending.identity] = count
        self._counts.move_to_end(pending.identity)
        while len(self._counts) > _REMEMBERED_LIMIT:
            self._counts.popitem(last=False)

    async def _raise_count(self, pending: _Pending) -> int:
        """Create the Event, or raise the count of the one that there is; returns the count."""
        namespace = pending.regarding["namespace"]
        known = self._counts.get(pending.identity, 0)
        if not known:
            try:
                await self._cluster.create(EVENT, namespace, self._body(pending))
                return pending.times
            except AlreadyExistsError:
                known = int((await self._cluster.get(EVENT, namespace, pending.name)).get("count") or 1)
        count = known + pending.times
        try:
            await self._cluster.patch(
                EVENT, namespace, pending.name, {"count": count, "lastTimestamp": _seconds(pending.last)}
            )
        except NotFoundError:  # Events live for an hour.
            await self._cluster.create(EVENT, namespace, self._body(pending))
            return pending.times
        return count

    def _body(self, pending: _Pending) -> Object:
        last = _seconds(pending.last)
        return {
            "metadata": {"name": pending.name, "namespace": pending.regarding["namespace"]},
            "involvedObject": pending.regarding,
            "type": pending.identity.type,
            "reason": pending.identity.reason,
            "message": pending.identity.message,
            "count": pending.times,
            "firstTimestamp": last,
            "lastTimestamp": last,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }

    def _bucket(self, uid: str) -> TokenBucket:
        bucket = self._buckets.get(uid)
        if bucket is None:
            if len(self._buckets) >= self._buckets_limit:
                self._buckets = {known: its for known, its in self._buckets.items() if not its.full}
                self._buckets_limit = max(_REMEMBERED_LIMIT, 2 * len(self._buckets))
            bucket = TokenBucket(self._limits.per_minute / 60, self._limits.burst, self._clock)
            self._buckets[uid] = bucket
        return bucket


def _seconds(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
