"""Following coordinators: what is known of them, and when the job is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from checkdam_operator.coordinators.client import (
    Address,
    CoordinatorRefusedError,
    CoordinatorUnreachableError,
)
from checkdam_operator.coordinators.watch import Coordinators
from checkdam_operator.observed import CoordinatorSeen

ADDRESS = Address("10.0.0.1", 6471, "the-token")
RUNNING = {
    "state": "RUNNING",
    "epoch": 5,
    "attempt": 1,
    "workers": [{"index": 0, "connected": True, "instance": "words-w0-aaaaa/1"}],
    "lastCheckpoint": {"id": 7, "status": "COMPLETED", "attempt": "5.1", "folder": "chk-7"},
}


@dataclass
class ScriptedApi:
    """Coordinators that answer what the test says; requests that it has no answer for wait."""

    answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    others: dict[str, list[Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    async def ask(self, address: Address, method: str, path: str, body: Any = None, *, wait_s: float = 0.0) -> Any:
        self.asked.append((method, path, body))
        scripted = self.others.get(path.partition("?")[0])
        if path.startswith("/v1/job?"):
            answer = await self.answers.get()
        elif scripted:
            answer = scripted.pop(0)
        else:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Watching:
    """Coordinators over a scripted API, with a clock and a count of looks."""

    api: ScriptedApi
    coordinators: Coordinators
    now_ms: list[int]
    looks: list[str]

    def watch(self, pod_uid: str = "pod-1", address: Address = ADDRESS) -> None:
        self.coordinators.watch("job-1", pod_uid, address, lambda: self.looks.append(pod_uid))

    @property
    def seen(self) -> CoordinatorSeen:
        return self.coordinators.seen("job-1")

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0)


@pytest.fixture
async def watching() -> AsyncIterator[Watching]:
    now_ms = [1_000]

    async def no_wait(_: float) -> None:
        await asyncio.sleep(0)

    api = ScriptedApi()
    made = Watching(api, Coordinators(api, lambda: now_ms[0], no_wait), now_ms, [])
    yield made
    await made.coordinators.close()


async def test_a_report_is_known_and_the_job_is_looked_at_once(watching: Watching) -> None:
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "version": 4})
    await watching.until(lambda: watching.seen.report is not None)

    assert watching.seen.pod_uid == "pod-1"
    assert watching.seen.running_since_ms == 1_000
    assert watching.looks == ["pod-1"]
    await watching.until(lambda: len(watching.api.asked) == 2)
    assert watching.api.asked[1][1] == "/v1/job?version=4&waitMs=25000"


async def test_the_same_report_again_is_no_news(watching: Watching) -> None:
    watching.watch()
    for _ in range(3):
        watching.api.answers.put_nowait({**RUNNING, "version": 4})
    await watching.until(lambda: len(watching.api.asked) == 4)

    assert watching.looks == ["pod-1"]


async def test_one_that_does_not_answer_is_out_of_reach_since_the_first_time(watching: Watching) -> None:
    watching.watch()
    watching.api.answers.put_nowait(CoordinatorUnreachableError("refused"))
    await watching.until(lambda: watching.seen.unreachable_since_ms is not None)
    watching.now_ms[0] = 9_000
    watching.api.answers.put_nowait(CoordinatorUnreachableError("refused"))
    await watching.until(lambda: len(watching.api.asked) == 3)

    assert watching.seen.unreachable_since_ms == 1_000
    assert watching.looks == ["pod-1"]
    watching.api.answers.put_nowait({**RUNNING, "version": 1})
    await watching.until(lambda: watching.seen.unreachable_since_ms is None)
    assert watching.looks == ["pod-1", "pod-1"]


async def test_since_when_a_worker_is_missing_is_remembered(watching: Watching) -> None:
    watching.watch()
    lost = {
        **RUNNING,
        "state": "RESTARTING",
        "workers": [{"index": 0, "connected": False, "instance": "words-w0-aaaaa/1"}],
    }
    watching.api.answers.put_nowait({**lost, "version": 1})
    await watching.until(lambda: watching.seen.missing_since_ms == {0: 1_000})
    watching.now_ms[0] = 5_000
    watching.api.answers.put_nowait({**lost, "version": 2})
    await watching.until(lambda: len(watching.api.asked) == 3)

    assert watching.seen.missing_since_ms == {0: 1_000}
    assert watching.seen.not_running_since_ms == 1_000
    watching.api.answers.put_nowait({**RUNNING, "version": 3})
    await watching.until(lambda: watching.seen.missing_since_ms == {})
    assert watching.seen.running_since_ms == 5_000


async def test_what_was_known_of_another_pod_is_forgotten(watching: Watching) -> None:
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "version": 4})
    await watching.until(lambda: watching.seen.report is not None)

    watching.watch("pod-2")

    assert watching.seen == CoordinatorSeen(pod_uid="pod-2", followed_since_ms=1_000)
    assert len(watching.coordinators) == 1


async def test_a_checkpoint_that_has_completed_is_in_the_answer_to_the_next_trigger(watching: Watching) -> None:
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "version": 4})
    await watching.until(lambda: watching.seen.report is not None)
    completed = {"id": 8, "status": "COMPLETED", "attempt": "5.1", "folder": "chk-8"}
    watching.api.others["/v1/checkpoints"] = [{"id": 9, "status": "IN_PROGRESS", "lastCompleted": completed}]
    watching.now_ms[0] = 11_000

    await watching.coordinators.trigger_checkpoint("job-1", 7)

    assert ("POST", "/v1/checkpoints", {"after": 7}) in watching.api.asked
    assert watching.seen.report is not None
    assert watching.seen.report.last_checkpoint is not None
    assert watching.seen.report.last_checkpoint.id == 8
    assert watching.seen.last_trigger_ms == 11_000


async def test_a_refused_trigger_changes_nothing(watching: Watching) -> None:
    watching.watch()
    watching.api.others["/v1/checkpoints"] = [CoordinatorRefusedError(409, "the job is not running")]

    await watching.coordinators.trigger_checkpoint("job-1", 7)

    assert watching.seen.unreachable_since_ms is None


@pytest.mark.parametrize("answer", [{"state": "STOPPING"}, CoordinatorRefusedError(409, "the job has not begun")])
async def test_when_a_job_was_asked_to_stop_is_known(watching: Watching, answer: object) -> None:
    watching.watch()
    watching.api.others["/v1/stop"] = [answer]
    watching.now_ms[0] = 11_000

    await watching.coordinators.stop("job-1", checkpoint=True)

    assert ("POST", "/v1/stop", {"checkpoint": True}) in watching.api.asked
    assert watching.seen.last_stop_ms == 11_000
    assert watching.seen.unreachable_since_ms is None


async def test_a_savepoint_is_followed_to_its_end_and_asked_for_once(watching: Watching) -> None:
    watching.watch()
    taking = {"request": "r", "status": "IN_PROGRESS"}
    watching.api.others["/v1/savepoints"] = [taking]
    watching.api.others["/v1/savepoints/r"] = [
        taking,
        {"request": "r", "status": "COMPLETED", "uri": "s3://b/savepoint-8"},
    ]

    watching.coordinators.request_savepoint("job-1", "r", stop=True)
    watching.coordinators.request_savepoint("job-1", "r", stop=True)
    await watching.until(lambda: getattr(watching.seen.savepoints.get("r"), "status", "") == "COMPLETED")
    watching.coordinators.request_savepoint("job-1", "r", stop=True)

    posted = [asked for asked in watching.api.asked if asked[:2] == ("POST", "/v1/savepoints")]
    assert posted == [("POST", "/v1/savepoints", {"request": "r", "stop": True, "drain": False})]
    assert watching.looks == ["pod-1", "pod-1"]


async def test_a_coordinator_that_was_started_again_is_asked_for_the_savepoint_again(watching: Watching) -> None:
    watching.watch()
    taking = {"request": "r", "status": "IN_PROGRESS"}
    watching.api.others["/v1/savepoints"] = [taking, taking]
    watching.api.others["/v1/savepoints/r"] = [
        CoordinatorUnreachableError("gone"),
        CoordinatorRefusedError(404, "none was asked for"),
        {"request": "r", "status": "COMPLETED", "uri": "s3://b/savepoint-9"},
    ]

    watching.coordinators.request_savepoint("job-1", "r", stop=False)
    await watching.until(lambda: getattr(watching.seen.savepoints.get("r"), "status", "") == "COMPLETED")

    assert len([asked for asked in watching.api.asked if asked[0] == "POST"]) == 2


async def test_a_savepoint_that_is_refused_while_the_job_runs_has_failed(watching: Watching) -> None:
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "version": 4})
    await watching.until(lambda: watching.seen.report is not None)
    watching.api.others["/v1/savepoints"] = [CoordinatorRefusedError(409, "memory:// is lost with the coordinator")]

    watching.coordinators.request_savepoint("job-1", "r", stop=False)
    await watching.until(lambda: "r" in watching.seen.savepoints)

    assert watching.seen.savepoints["r"].status == "FAILED"
    assert "memory://" in watching.seen.savepoints["r"].failure


async def test_a_savepoint_that_is_refused_while_the_job_restarts_is_asked_for_again_later(watching: Watching) -> None:
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "state": "RESTARTING", "version": 4})
    await watching.until(lambda: watching.seen.report is not None)
    watching.api.others["/v1/savepoints"] = [CoordinatorRefusedError(409, "the job is restarting")]

    watching.coordinators.request_savepoint("job-1", "r", stop=False)
    await watching.until(lambda: len(watching.looks) == 2)

    assert watching.seen.savepoints == {}


async def test_what_a_coordinator_answers_to_a_rescale_is_known_at_once(watching: Watching) -> None:
    """Pods that it may need must not go by what it said before."""
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "version": 4, "parallelism": 2, "wantedParallelism": 2})
    await watching.until(lambda: watching.seen.report is not None)
    watching.api.others["/v1/rescale"] = [{"parallelism": 2, "wantedParallelism": 3}]
    watching.now_ms[0] = 11_000

    await watching.coordinators.rescale("job-1", 3)

    assert ("POST", "/v1/rescale", {"parallelism": 3}) in watching.api.asked
    assert watching.seen.last_rescale_ms == 11_000
    report = watching.seen.report
    assert report is not None
    assert (report.parallelism, report.wanted_parallelism) == (2, 3)


@pytest.mark.parametrize(
    ("answer", "unreachable_since_ms"),
    [(CoordinatorRefusedError(409, "the job has not begun"), None), (CoordinatorUnreachableError("gone"), 1_000)],
)
async def test_a_rescale_that_was_refused_or_not_heard_changes_nothing_that_is_known_of_the_job(
    watching: Watching, answer: object, unreachable_since_ms: int | None
) -> None:
    watching.watch()
    watching.api.answers.put_nowait({**RUNNING, "version": 4, "parallelism": 2, "wantedParallelism": 2})
    await watching.until(lambda: watching.seen.report is not None)
    watching.api.others["/v1/rescale"] = [answer]

    await watching.coordinators.rescale("job-1", 3)

    report = watching.seen.report
    assert report is not None
    assert (report.parallelism, report.wanted_parallelism) == (2, 2)
    assert watching.seen.last_rescale_ms == 1_000
    assert watching.seen.unreachable_since_ms == unreachable_since_ms


@pytest.mark.parametrize(
    ("answer", "disposed", "problem"),
    [
        ({}, True, ""),
        (CoordinatorUnreachableError("gone"), False, ""),
        (CoordinatorRefusedError(503, "storage"), False, ""),
        (CoordinatorRefusedError(409, "the job has not begun"), False, ""),
        (CoordinatorRefusedError(400, "it is of another job"), True, "it is of another job"),
    ],
)
async def test_files_are_disposed_of_once_or_never(
    watching: Watching, answer: Any, disposed: bool, problem: str
) -> None:
    watching.watch()
    watching.api.others["/v1/savepoints/dispose"] = [answer]

    assert await watching.coordinators.dispose("job-1", "uid-a", "s3://b/savepoint-8") == problem
    assert ("uid-a" in watching.seen.disposed) == disposed


def test_an_address_does_not_show_its_token() -> None:
    assert "the-token" not in repr(ADDRESS)
    assert Address("fd00::1", 6471, "t").url == "http://[fd00::1]:6471"
