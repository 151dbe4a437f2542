"""What is known of each job's coordinator, and who finds it out.

For each job there is one `Watched`: the pod that is asked, the newest report, and since when things have been as they are. A task follows the coordinator by requests
that are answered when something has changed; one task for each savepoint that was asked for follows that. Whatever they learn they write down and
say that the job is to be looked at. All of it is memory that another operator, or the next one, builds up anew within a second.

Concurrency: everything here runs in the operator's main event loop and is touched by nobody else. A task that belongs to a pod which is no
longer the job's coordinator is cancelled, and what it knew is dropped with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

from checkdam_operator.coordinators.client import (
    Address,
    CoordinatorApi,
    CoordinatorRefusedError,
    CoordinatorUnreachableError,
)
from checkdam_operator.observed import CheckpointReport, CoordinatorSeen, JobReport, SavepointReport

_log = logging.getLogger(__name__)

LONG_WAIT_S: Final = 25.0
"""How long a coordinator may hold back an answer while nothing changes; it allows 30 s at most."""

RETRY_S: Final = 0.5
"""From one request that was not answered to the next. A coordinator that was started again answers within a second or two."""

SETTLE_S: Final = 0.05
"""Between an answer and the next request: changes come in groups, and one look serves them all."""


@dataclass
class Watched:
    """A coordinator that is being followed."""

    pod_uid: str
    address: Address
    changed: Callable[[], None]
    since_ms: int
    report: JobReport | None = None
    unreachable_since_ms: int | None = None
    running_since_ms: int | None = None
    not_running_since_ms: int | None = None
    missing_since_ms: dict[int, int] = field(default_factory=dict)
    savepoints: dict[str, SavepointReport] = field(default_factory=dict)
    disposed: set[str] = field(default_factory=set)
    last_trigger_ms: int = 0
    last_stop_ms: int = 0
    last_rescale_ms: int = 0
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def seen(self) -> CoordinatorSeen:
        """What is known now, as data for a decision."""
        return CoordinatorSeen(
            pod_uid=self.pod_uid,
            followed_since_ms=self.since_ms,
            report=self.report,
            unreachable_since_ms=self.unreachable_since_ms,
            not_running_since_ms=self.not_running_since_ms,
            missing_since_ms=dict(self.missing_since_ms),
            savepoints=dict(self.savepoints),
            disposed=frozenset(self.disposed),
            last_trigger_ms=self.last_trigger_ms,
            last_stop_ms=self.last_stop_ms,
            last_rescale_ms=self.last_rescale_ms,
            running_since_ms=self.running_since_ms,
        )


class Coordinators:
    """The coordinators of all jobs, by the jobs' uids.

    Args:
        api: How they are asked.
        now_ms: The wall clock.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        api: CoordinatorApi,
        now_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._now_ms = now_ms
        self._sleep = sleep
        self._watched: dict[str, Watched] = {}

    def seen(self, job_uid: str) -> CoordinatorSeen:
        """What is known of a job's coordinator."""
        watched = self._watched.get(job_uid)
        return watched.seen() if watched is not None else CoordinatorSeen()

    def watch(self, job_uid: str, pod_uid: str, address: Address, changed: Callable[[], None]) -> None:
        """Follow this coordinator, instead of another one if there was one. Without effect if it is being followed.

        Args:
            job_uid: Whose coordinator.
            pod_uid: Its pod.
            address: Where it is.
            changed: Called whenever there is news.
        """
        watched = self._watched.get(job_uid)
        if watched is not None and (watched.pod_uid, watched.address) == (pod_uid, address) and "job" in watched.tasks:
            return
        self.forget(job_uid)
        watched = Watched(pod_uid, address, changed, self._now_ms())
        self._watched[job_uid] = watched
        self._spawn(watched, "job", self._follow(watched))

    def forget(self, job_uid: str) -> None:
        """Follow a job's coordinator no longer, and forget what is known of it."""
        watched = self._watched.pop(job_uid, None)
        if watched is not None:
            for task in watched.tasks.values():
                task.cancel()

    async def close(self) -> None:
        """Follow nobody any more."""
        tasks = [task for watched in self._watched.values() for task in watched.tasks.values()]
        for job_uid in list(self._watched):
            self.forget(job_uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._watched)

    # What is asked of them

    async def trigger_checkpoint(self, job_uid: str, after: int) -> None:
        """Ask for a checkpoint newer than `after`; what came of the last one is in the answer. Without effect if nobody answers: the
        coordinator triggers by itself what is overdue."""
        watched = self._watched.get(job_uid)
        if watched is None:
            return
        watched.last_trigger_ms = self._now_ms()
        try:
            answer = await self._api.ask(watched.address, "POST", "/v1/checkpoints", {"after": after})
        except CoordinatorRefusedError:
            return  # not running just now: the next report says so
        except CoordinatorUnreachableError as error:
            self._missed(watched, error)
            return
        last = answer.get("lastCompleted") if isinstance(answer, dict) else None
        if last is not None and watched.report is not None:
            completed = msgspec.convert(last, CheckpointReport)
            watched.report = msgspec.structs.replace(watched.report, last_checkpoint=completed)

    async def stop(self, job_uid: str, *, checkpoint: bool) -> None:
        """Ask the job to stop. Without effect if nobody answers: whoever still wants it asks again."""
        watched = self._watched.get(job_uid)
        if watched is None:
            return
        watched.last_stop_ms = self._now_ms()
        try:
            await self._api.ask(watched.address, "POST", "/v1/stop", {"checkpoint": checkpoint})
        except CoordinatorRefusedError as error:
            _log.warning("the coordinator in pod %s refused to stop the job: %s", watched.pod_uid, error)
        except CoordinatorUnreachableError as error:
            self._missed(watched, error)

    async def rescale(self, job_uid: str, parallelism: int) -> None:
        """Tell how many workers the job is to have. Without effect if nobody answers, or the job does not run yet or any more: whoever still
        wants it asks again."""
        watched = self._watched.get(job_uid)
        if watched is None:
            return
        watched.last_rescale_ms = self._now_ms()
        try:
            answer = await self._api.ask(watched.address, "POST", "/v1/rescale", {"parallelism": parallelism})
        except CoordinatorRefusedError as error:
            _log.info("the coordinator in pod %s refused to rescale the job: %s", watched.pod_uid, error)
            return
        except CoordinatorUnreachableError as error:
            self._missed(watched, error)
            return
        if watched.report is not None and isinstance(answer, dict):
            # Newer than any report that was heard: what was thought before must not lead to anything now.
            told = {"parallelism": answer["parallelism"], "wanted_parallelism": answer["wantedParallelism"]}
            watched.report = msgspec.structs.replace(watched.report, **told)

    async def dispose(self, job_uid: str, savepoint_uid: str, uri: str) -> str:
        """Ask for the files of a savepoint to be deleted; returns why that will never be done, empty if it is, or will be asked again."""
        watched = self._watched.get(job_uid)
        if watched is None:
            return ""
        try:
            await self._api.ask(watched.address, "POST", "/v1/savepoints/dispose", {"uri": uri}, wait_s=30.0)
        except CoordinatorUnreachableError:
            return ""
        except CoordinatorRefusedError as error:
            if error.status in (401, 409) or error.status >= 500:
                return ""  # it has not begun, still needs them, or cannot reach them: that passes
            watched.disposed.add(savepoint_uid)
            return str(error)
        watched.disposed.add(savepoint_uid)
        return ""

    def request_savepoint(self, job_uid: str, request: str, *, stop: bool) -> None:
        """Ask for a savepoint and follow it; its account is in `seen`. Without effect if it is being followed."""
        watched = self._watched.get(job_uid)
        if watched is None or request in watched.tasks or request in watched.savepoints:
            return
        self._spawn(watched, request, self._follow_savepoint(watched, request, stop))

    # Finding out

    async def _follow(self, watched: Watched) -> None:
        while True:
            version = watched.report.version if watched.report is not None else 0
            path = f"/v1/job?version={version}&waitMs={int(LONG_WAIT_S * 1000)}"
            try:
                answer = await self._api.ask(watched.address, "GET", path, wait_s=LONG_WAIT_S)
                report = msgspec.convert(answer, JobReport)
            except (CoordinatorUnreachableError, CoordinatorRefusedError, msgspec.ValidationError) as error:
                self._missed(watched, error)
                await self._sleep(RETRY_S)
                continue
            self._heard(watched, report)
            await self._sleep(SETTLE_S)

    async def _follow_savepoint(self, watched: Watched, request: str, stop: bool) -> None:
        wish = {"request": request, "stop": stop, "drain": False}
        path, known = "/v1/savepoints", False
        while True:
            try:
                if known:
                    wait_ms = int(LONG_WAIT_S * 1000)
                    asked = f"{path}/{quote(request, safe='')}?waitMs={wait_ms}"
                    answer = await self._api.ask(watched.address, "GET", asked, wait_s=LONG_WAIT_S)
                else:
                    answer = await self._api.ask(watched.address, "POST", path, wish)
                account = msgspec.convert(answer, SavepointReport)
            except (CoordinatorUnreachableError, msgspec.ValidationError):
                await self._sleep(RETRY_S)
                continue
            except CoordinatorRefusedError as error:
                if known and error.status == 404:
                    known = False  # a coordinator that was started again knows nothing of it
                    continue
                if error.status == 409 and watched.report is not None and watched.report.state == "RUNNING":
                    account = SavepointReport(request, "FAILED", requested_ms=self._now_ms(), failure=str(error))
                    self._account(watched, account)
                else:
                    watched.savepoints.pop(request, None)  # it is asked for again when the job runs
                    watched.changed()
                return
            known = True
            self._account(watched, account)
            if account.status != "IN_PROGRESS":
                return
            await self._sleep(SETTLE_S)

    def _account(self, watched: Watched, account: SavepointReport) -> None:
        if watched.savepoints.get(account.request) != account:
            watched.savepoints[account.request] = account
            watched.changed()

    def _heard(self, watched: Watched, report: JobReport) -> None:
        now_ms = self._now_ms()
        news = watched.report != report or watched.unreachable_since_ms is not None
        watched.report = report
        watched.unreachable_since_ms = None
        if report.running:
            watched.running_since_ms = watched.running_since_ms or now_ms
            watched.not_running_since_ms = None
        else:
            watched.running_since_ms = None
            watched.not_running_since_ms = watched.not_running_since_ms or now_ms
        missing = {worker.index for worker in report.workers if not worker.connected}
        watched.missing_since_ms = {index: watched.missing_since_ms.get(index, now_ms) for index in sorted(missing)}
        if news:
            watched.changed()

    def _missed(self, watched: Watched, error: Exception) -> None:
        if watched.unreachable_since_ms is None:
            _log.info("the coordinator in pod %s does not answer: %s", watched.pod_uid, error)
            watched.unreachable_since_ms = self._now_ms()
            watched.changed()

    def _spawn(self, watched: Watched, name: str, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except Exception:
                # The next look at the job begins to follow it again.
                _log.exception("following the coordinator in pod %s failed", watched.pod_uid)
                watched.changed()
            finally:
                if watched.tasks.get(name) is asyncio.current_task():
                    del watched.tasks[name]

        watched.tasks[name] = asyncio.get_running_loop().create_task(run())
