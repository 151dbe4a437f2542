"""Which replica acts: the one that holds the Lease.

The Kubernetes client's own leader election does not do (a frozen API server gave it two leaders), so this is ours, and it is small. Its rules:

* Time is the monotonic clock of the process that reads it. The times in the Lease are for people: clocks of machines differ and jump. A candidate takes the
  Lease over when it has *seen* it unchanged for the whole duration that the holder wrote into it.
* A leader counts its time from before it sent the renewal, and stops acting `renew_deadline_s` after that, well before anybody else can begin.
* A leader that may no longer act ends its process, on the spot: whatever was under way in it must not go on. `check` is called before each write, for a
  process that was stopped for a while wakes up in the middle of anything.
* Writes of the Lease hold only for the resourceVersion that was read.

`Election` is the rules, without I/O; `Elector` carries them out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

from checkdam.core.errors import CheckdamError
from checkdam_operator.kube.errors import ConflictError, KubeError, NotFoundError
from checkdam_operator.kube.kinds import LEASE
from checkdam_operator.kube.protocol import Cluster, Object

_log = logging.getLogger(__name__)

Move = Literal["create", "take", "renew", "wait", "lost"]


EXIT_LOST: Final = 75
"""Exit code of a process that lost the Lease: it is to be started again."""


class NotLeaderError(CheckdamError):
    """This replica must not write."""


@dataclass(frozen=True)
class LeaseTimes:
    """How long things take.

    Attributes:
        duration_s: How long others wait for a leader that says nothing. It is also the longest time without a leader after one is killed.
        renew_deadline_s: When a leader that cannot renew ends itself; less than `duration_s` by more than clocks drift apart.
        retry_s: How often it is renewed or looked at.
        request_timeout_s: Of one request, so that several fit into the deadline.
    """

    duration_s: int = 10
    renew_deadline_s: float = 7.0
    retry_s: float = 2.0
    request_timeout_s: float = 2.5


@dataclass(frozen=True)
class LeaseRecord:
    """A Lease as it was read.

    Attributes:
        holder: Who holds it; empty if nobody does.
        duration_s: How long it holds from its last change, by its holder's word.
        version: Its resourceVersion.
        transitions: How often it changed hands.
    """

    holder: str
    duration_s: float
    version: str
    transitions: int = 0


class Election:
    """The rules, for one candidate.

    Args:
        identity: Who that is; no two processes ever share one.
        times: How long things take.
    """

    def __init__(self, identity: str, times: LeaseTimes) -> None:
        self.identity = identity
        self.times = times
        self._seen: LeaseRecord | None = None
        self._seen_at = 0.0
        self._leads_until: float | None = None

    def move(self, record: LeaseRecord | None, now: float) -> Move:
        """What to do about the Lease as it was read just now.

        Args:
            record: The Lease; `None` if there is none.
            now: Monotonic seconds, read after the Lease was.
        """
        if record != self._seen:
            self._seen, self._seen_at = record, now
        ours = record is not None and record.holder == self.identity
        if self._leads_until is not None:
            if now >= self._leads_until or not (ours or record is None):
                return "lost"
            return "renew" if ours else "create"
        if record is None:
            return "create"
        if not record.holder or ours or now - self._seen_at >= record.duration_s:
            return "take"
        return "wait"

    def written(self, sent_at: float) -> None:
        """The Lease was written in our name by a request that was sent then."""
        self._leads_until = sent_at + self.times.renew_deadline_s

    def resigned(self) -> None:
        """The Lease was given up."""
        self._leads_until = None

    @property
    def leads_until(self) -> float | None:
        """Until when we may act unless we renew; `None` for a replica that does not lead."""
        return self._leads_until

    def leads(self, now: float) -> bool:
        """Whether we may act at this moment."""
        return self._leads_until is not None and now < self._leads_until


class Elector:
    """Takes part in the election for a Lease.

    Args:
        cluster: The API server; a client of its own, without limiter, without retries and with `times.request_timeout_s`, so that renewing never waits for
            other requests.
        namespace: Of the Lease.
        name: Of the Lease.
        identity: Who we are; no two processes may ever share one.
        on_lost: Called with the reason when we led and must not any more. It is to end the process and not to return.
        times: How long things take.
        clock: Monotonic seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        on_lost: Callable[[str], None],
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._on_lost = on_lost
        self._times = times or LeaseTimes()
        self._clock = clock
        self._sleep = sleep
        self._election = Election(identity, self._times)
        self._record: LeaseRecord | None = None

    @property
    def leads(self) -> bool:
        """Whether we may act at this moment."""
        return self._election.leads(self._clock())

    def check(self) -> None:
        """To be called before each write.

        Raises:
            NotLeaderError: We must not write.
        """
        if self.leads:
            return
        if self._election.leads_until is not None:
            self._lose(f"the Lease was not renewed for {self._times.renew_deadline_s:g} s")
        raise NotLeaderError("this replica does not hold the Lease")

    async def acquire(self) -> None:
        """Wait until we lead. `keep` must follow at once."""
        while not self.leads:
            await self._round()
            if not self.leads:
                await self._sleep(self._times.retry_s)

    async def keep(self) -> None:
        """Renew until cancelled.

        Raises:
            NotLeaderError: The Lease is lost, and `on_lost` has returned.
        """
        renewing = asyncio.create_task(self._renew(), name="renew the Lease")
        watching = asyncio.create_task(self._watch_deadline(), name="watch the Lease's deadline")
        try:
            done, _ = await asyncio.wait({renewing, watching}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (renewing, watching):
                task.cancel()
            await asyncio.gather(renewing, watching, return_exceptions=True)

    async def release(self) -> None:
        """Give the Lease up, after the last write, so that another replica need not wait. To be called after `keep` was cancelled."""
        if not self.leads:
            return
        try:
            record = await self._read()
            if record is not None and record.holder == self._election.identity:
                spec: Object = {"holderIdentity": None, "leaseDurationSeconds": 1, "renewTime": _now_text()}
                await self._patch(record, spec)
        except KubeError as error:
            _log.warning("the Lease could not be given up; another replica takes it over in a while: %s", error)
        finally:
            self._election.resigned()

    async def _renew(self) -> None:
        while True:
            await self._sleep(self._times.retry_s)
            await self._round()

    async def _watch_deadline(self) -> None:
        while True:
            until = self._election.leads_until
            left_s = -1.0 if until is None else until - self._clock()
            if left_s <= 0:
                self._lose(f"the Lease was not renewed for {self._times.renew_deadline_s:g} s")
            await self._sleep(left_s)

    async def _round(self) -> None:
        """Look at the Lease once and do what is to be done. Errors of the API server are what the deadline is for."""
        try:
            record = await self._read()
            now = self._clock()
            move = self._election.move(record, now)
            if move == "lost":
                holder = record.holder if record is not None else ""
                self._lose(f"the Lease is held by {holder or 'nobody'}")
            if move == "wait":
                return
            if move == "create":
                await self._create()
            elif record is not None:
                await self._take(record) if move == "take" else await self._patch(record, {"renewTime": _now_text()})
            self._election.written(now)
        except ConflictError:
            _log.info("another replica has written the Lease first")
        except KubeError as error:
            _log.warning("the Lease cannot be read or written: %s", error)

    async def _read(self) -> LeaseRecord | None:
        try:
            body = await self._cluster.get(LEASE, self._namespace, self._name)
        except NotFoundError:
            return None
        spec = body.get("spec") or {}
        return LeaseRecord(
            spec.get("holderIdentity") or "",
            float(spec.get("leaseDurationSeconds") or self._times.duration_s),
            str(body["metadata"].get("resourceVersion", "")),
            int(spec.get("leaseTransitions") or 0),
        )

    async def _create(self) -> None:
        spec = self._claim(0)
        body: Object = {"metadata": {"name": self._name, "namespace": self._namespace}, "spec": spec}
        await self._cluster.create(LEASE, self._namespace, body)

    async def _take(self, record: LeaseRecord) -> None:
        await self._patch(record, self._claim(record.transitions + 1))

    async def _patch(self, record: LeaseRecord, spec: Object) -> None:
        body: Object = {"metadata": {"resourceVersion": record.version}, "spec": spec}
        await self._cluster.patch(LEASE, self._namespace, self._name, body)

    def _claim(self, transitions: int) -> Object:
        now = _now_text()
        return {
            "holderIdentity": self._election.identity,
            "leaseDurationSeconds": self._times.duration_s,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _lose(self, reason: str) -> NoReturn:
        self._on_lost(reason)
        raise NotLeaderError(reason)


def exit_at_once(reason: str) -> NoReturn:
    """End the process without any further ado: the `on_lost` of a real operator."""
    _log.critical("this replica must not act any more and ends: %s", reason)
    os._exit(EXIT_LOST)


def _now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
