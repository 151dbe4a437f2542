"""What the HTTP API tells whoever looks after a job from outside: changes, ends, reasons."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from coordinator_kit import (
    Numbers,
    Running,
    config_of,
    coordinator,
    ending_of,
    eventually,
    graph_of,
    job_of,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.folders import METADATA
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.connectors.base import Split
from checkdam.coordinator import ending
from checkdam.coordinator.app import coordinate
from checkdam.coordinator.config import Addresses, CoordinatorConfig
from checkdam.core.errors import (
    CheckdamError,
    CorruptCheckpointError,
    DeposedError,
    DrainedError,
    EntrypointError,
    IncompatibleCheckpointError,
    OutOfTouchError,
    SourceError,
    StorageError,
    SupersededError,
    UnknownOutcomeError,
)
from checkdam.graph.model import Graph
from checkdam.spec import StreamJob
from checkdam.wire.messages import Abort, Complete, Decline, Trigger


async def job_view(running: Running, query: str = "") -> dict[str, Any]:
    status, view = await running.call("GET", f"/v1/job{query}")
    assert status == 200, view
    return dict(view)


async def settled(running: Running) -> dict[str, Any]:
    """The job when nothing changes any more."""
    view = await job_view(running)
    while (after := await job_view(running, f"?version={view['version']}&waitMs=200"))["version"] != view["version"]:
        view = after
    return after


@asynccontextmanager
async def without_a_beginning(
    tmp_path: Path, job: StreamJob | None = None, graph: Graph | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """A coordinator that lingers and is not expected to begin: it publishes no address, so it gets one of its own, as in a pod."""
    job, graph = job or job_of(tmp_path), graph or graph_of()
    host = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
    config = config_of(tmp_path, job, host=host, http_port=6471, linger=True, **settings)
    task = asyncio.create_task(coordinate(config, job, graph, storage_of(tmp_path)))
    try:
        await eventually(lambda: task.done() or ending_file(config).exists(), "the job ends")
        yield Running(config, job, graph, task, Addresses("", 0, host, 6471, 0, 0))
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def ending_file(config: CoordinatorConfig) -> Path:
    return Path(config.run_dir) / ending.OUTCOME_FILE


async def at_its_end(running: Running) -> dict[str, Any]:
    """The job when it has ended and its coordinator lingers."""
    view = await running.until_state("FINISHED", "STOPPED", "FAILED")
    assert not running.task.done()
    return view


async def test_whoever_waits_is_told_of_a_lost_worker_at_once(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        before = await settled(running)
        waiting = asyncio.create_task(job_view(running, f"?version={before['version']}&waitMs=9000"))
        await found[1].close()
        async with asyncio.timeout(3):
            assert (await waiting)["version"] > before["version"]
        assert [worker["connected"] for worker in before["workers"]] == [True, True]
        assert (await settled(running))["workers"] == [
            {"index": 0, "connected": True, "instance": found[0].instance},
            {"index": 1, "connected": False, "instance": found[1].instance},
        ]


async def test_a_checkpoint_that_completes_is_no_news_and_one_that_fails_is(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        before = await settled(running)
        await running.trigger()
        await found[0].until(Complete)
        after = await job_view(running, f"?version={before['version']}&waitMs=150")
        assert (after["version"], after["lastCheckpoint"]["id"]) == (before["version"], 1)
        found[0].acks = False
        await running.trigger()
        trigger = await found[0].until(Trigger, 2)
        found[0].send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        failed = await job_view(running, f"?version={before['version']}&waitMs=9000")
        assert failed["checkpointFailures"] == 1
        assert "disk full" in failed["checkpointProblem"]
        found[0].acks = True
        _, answer = await running.call("POST", "/v1/checkpoints", {})
        assert answer["lastCompleted"]["id"] == 1
        await found[0].until(Complete, 2)
        healthy = await job_view(running, f"?version={failed['version']}&waitMs=9000")
        assert (healthy["checkpointFailures"], healthy["checkpointProblem"]) == (0, "")


class SilentJournal(FileStorage):
    """Storage that never says whether entries of the journal were written, while a test says so."""

    silent = False

    def create(self, path: str, data: bytes) -> None:
        if self.silent and path.startswith("journal/"):
            raise UnknownOutcomeError("create", path, "the server did not answer in time", "look at the server")
        super().create(path, data)


async def test_a_checkpoint_of_which_storage_does_not_say_whether_it_counts_is_told_before_it_fails(
    tmp_path: Path,
) -> None:
    storage = SilentJournal(storage_of(tmp_path).root)
    async with coordinator(tmp_path, storage=storage) as running, workers(running) as found:
        await started(found)
        before = await settled(running)
        storage.silent = True
        await running.trigger()
        waits = await job_view(running, f"?version={before['version']}&waitMs=9000")
        assert (waits["state"], waits["checkpointFailures"]) == ("RUNNING", 0)
        assert "the server did not answer in time; look at the server" in waits["checkpointProblem"]
        storage.silent = False
        await found[0].until(Abort)
        failed = await job_view(running)
        assert failed["checkpointFailures"] == 1
        assert "the entry had not been written" in failed["checkpointProblem"]


async def test_failed_checkpoints_are_counted_over_attempts(tmp_path: Path) -> None:
    job = job_of(tmp_path, checkpoint__tolerableFailures=0)
    async with coordinator(tmp_path, job) as running, workers(running, acks=False) as found:
        for attempt in (1, 2):
            await started(found, attempt)
            await running.trigger()
            trigger = await found[0].until(Trigger, attempt)
            found[0].send(Decline(trigger.attempt, trigger.checkpoint, "disk full"))
        await started(found, 3)
        assert (await job_view(running))["checkpointFailures"] == 2


async def test_a_version_is_never_that_of_an_earlier_coordinator(tmp_path: Path) -> None:
    versions = []
    for _ in range(2):
        async with coordinator(tmp_path) as running:
            versions.append((await job_view(running))["version"])
    assert versions[0] < versions[1]


async def test_a_wait_that_is_no_number_is_refused(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        for query in ("?version=x", "?waitMs=-1", "?version=1&waitMs=1s"):
            status, answer = await running.call("GET", f"/v1/job{query}")
            assert (status, "must be a whole number" in answer["error"]) == (400, True), query


async def test_a_token_for_metrics_opens_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics-token"
    path.write_text("for metrics")
    path.chmod(0o600)
    async with coordinator(tmp_path, metrics_token_file=str(path)) as running:
        header = {"Authorization": "Bearer for metrics"}
        assert (await running.call("GET", "/metrics", **header))[0] == 200
        assert (await running.call("GET", "/metrics"))[0] == 200
        assert (await running.call("GET", "/v1/job", **header))[0] == 401
        assert (await running.call("GET", "/metrics", Authorization="Bearer "))[0] == 401
    async with coordinator(tmp_path) as running:
        assert (await running.call("GET", "/metrics", Authorization="Bearer "))[0] == 401


async def test_a_coordinator_that_lingers_tells_what_the_job_was_stopped_with(tmp_path: Path) -> None:
    async with coordinator(tmp_path, linger=True) as running, workers(running) as found:
        await started(found)
        wish = {"request": "stop", "stop": True, "drain": True}
        assert (await running.call("POST", "/v1/savepoints", wish))[0] == 202
        view = await at_its_end(running)
        assert (view["state"], view["drained"], view["refusal"]) == ("STOPPED", True, "")
        status, record = await running.call("POST", "/v1/savepoints", wish)
        assert (status, record["status"], record["uri"]) == (202, "COMPLETED", view["stoppedWith"])
        assert (await running.call("POST", "/v1/stop", {}))[1] == {"state": "STOPPED"}
        status, answer = await running.call("POST", "/v1/checkpoints", {})
        assert (status, "it is STOPPED" in answer["error"]) == (409, True)
        assert (await running.call("GET", "/metrics"))[0] == 200
    for settings, state, refusal in (({}, "FAILED", "NotResumed"), ({"resume": True}, "FAILED", "Drained")):
        async with without_a_beginning(tmp_path, **settings) as later:
            refused = await at_its_end(later)
            assert (refused["state"], refused["refusal"], refused["retryable"]) == (state, refusal, False)
            assert refused["lastCheckpoint"]["folder"] in view["stoppedWith"]
            assert refused["message"]
    async with without_a_beginning(tmp_path) as later:
        refused = await at_its_end(later)
        assert (refused["stoppedWith"], refused["drained"]) == (view["stoppedWith"], True)


async def test_a_finished_job_is_told_by_a_coordinator_that_comes_later(tmp_path: Path) -> None:
    async with coordinator(tmp_path, linger=True) as running, workers(running) as found:
        await started(found)
        for worker in found:
            worker.ended()
        assert (await at_its_end(running))["state"] == "FINISHED"
    async with without_a_beginning(tmp_path) as later:
        view = await at_its_end(later)
        assert (view["state"], view["stoppedWith"], view["workersConnected"]) == ("FINISHED", "", 0)
        for path in ("attempts", "workers", "operators", "checkpoints", "savepoints"):
            assert await later.call("GET", f"/v1/{path}") == (200, [])
        assert (await later.call("GET", "/v1/checkpoints/0"))[0] == 404
        assert (await later.call("POST", "/v1/checkpoints", {}))[0] == 409


async def test_a_job_does_not_begin_from_another_checkpoint_than_was_expected(tmp_path: Path) -> None:
    async with coordinator(tmp_path, linger=True) as running, workers(running) as found:
        await started(found)
        await running.trigger()
        await found[0].until(Complete)
        folder = (await job_view(running))["lastCheckpoint"]["folder"]
    async with without_a_beginning(tmp_path, expected_checkpoint="chk-0-1.0-0") as later:
        view = await at_its_end(later)
        assert (view["state"], view["refusal"], view["retryable"]) == ("FAILED", "NewerCheckpoint", False)
        assert folder in view["message"]
        assert view["lastCheckpoint"]["folder"] == folder
    async with coordinator(tmp_path, expected_checkpoint=folder) as running, workers(running) as found:
        await started(found)
        epoch = running.addresses.epoch
        await running.trigger()
        await found[0].until(Complete)
    # What is newer by now comes from a coordinator with the same wish.
    async with (
        coordinator(tmp_path, expected_checkpoint=folder, since_epoch=epoch) as running,
        workers(running) as again,
    ):
        await started(again)


async def test_a_source_that_does_not_answer_is_no_reason_to_give_up(tmp_path: Path) -> None:
    class Unreachable(Numbers):
        def splits(self, parallelism: int) -> list[Split]:
            raise ConnectionError("nobody there")

    async with without_a_beginning(tmp_path, graph=graph_of(Unreachable([]))) as running:
        view = await at_its_end(running)
        assert (view["state"], view["retryable"], view["refusal"]) == ("FAILED", True, "")
        assert "nobody there" in view["message"]


async def test_a_checkpoint_that_does_not_fit_is_told_apart(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        await running.trigger()
        await found[0].until(Complete)
    async with without_a_beginning(tmp_path, graph=graph_of(keyed="sum")) as running:
        view = await at_its_end(running)
        assert (view["state"], view["refusal"], view["retryable"]) == ("FAILED", "Incompatible", False)


async def test_a_deposed_coordinator_that_lingers_says_so_and_touches_nothing(tmp_path: Path) -> None:
    async with coordinator(tmp_path, linger=True) as first, workers(first) as found:
        await started(found)
        async with coordinator(tmp_path) as second:
            await first.call("POST", "/v1/checkpoints", {})
            view = await at_its_end(first)
            assert (view["state"], view["refusal"], view["retryable"]) == ("FAILED", "Deposed", False)
            assert ending_of(first.config).stands
            await eventually(lambda: all(worker.closed for worker in found), "the workers are let go")
            assert second.addresses.epoch > first.addresses.epoch


async def test_a_savepoint_can_be_disposed_of_as_long_as_nothing_needs_it(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        _, asked = await running.call("POST", "/v1/savepoints", {"request": "one"})
        _, record = await running.call("GET", f"/v1/savepoints/{asked['request']}?waitMs=9000")
        folder = record["uri"].rpartition("/")[2]
        assert storage_of(tmp_path).exists(f"{folder}/{METADATA}")
        for _ in range(2):
            answer = await running.call("POST", "/v1/savepoints/dispose", {"uri": record["uri"] + "/"})
            assert answer == (200, {"uri": record["uri"]})
        assert not list(storage_of(tmp_path).list(folder))
        checkpoint = record["uri"].replace(folder, "chk-0-1.0-0")
        for wrong in (checkpoint, record["uri"].replace("default", "other"), "", "savepoint-1-1.1-0"):
            status, answer = await running.call("POST", "/v1/savepoints/dispose", {"uri": wrong})
            assert (status, "must be of a savepoint below" in answer["error"]) == (400, True), wrong


async def test_a_savepoint_that_the_job_goes_on_from_is_kept(tmp_path: Path) -> None:
    async with coordinator(tmp_path, linger=True) as running, workers(running) as found:
        await started(found)
        await running.call("POST", "/v1/savepoints", {"request": "stop", "stop": True})
        view = await at_its_end(running)
        status, answer = await running.call("POST", "/v1/savepoints/dispose", {"uri": view["stoppedWith"]})
        assert (status, "goes on from it" in answer["error"]) == (409, True)


@pytest.mark.parametrize(
    ("error", "refusal", "retryable"),
    [
        (StorageError("create", "s3://b/p", "503"), "", True),
        (SourceError("source `numbers` cannot find its splits"), "", True),
        (ending.UnusableHostError("it cannot listen"), "", True),
        (CorruptCheckpointError("damaged"), "", False),
        (IncompatibleCheckpointError("another graph"), "Incompatible", False),
        (DrainedError("drained"), "Drained", False),
        (DeposedError("fenced"), "Deposed", False),
        (SupersededError("started later"), "", True),
        (OutOfTouchError("the journal was silent"), "", True),
        (CheckdamError("anything"), "", False),
    ],
)
def test_why_a_job_failed_decides_whether_it_is_worth_another_try(
    error: CheckdamError, refusal: str, retryable: bool
) -> None:
    found = ending.ending_of(error)
    assert (found.job_state, found.refusal, found.retryable) == ("FAILED", refusal, retryable)
    assert found.stands is not retryable
    assert msgspec.json.decode(msgspec.json.encode(found), type=ending.Ending) == found


def test_whatever_goes_wrong_while_the_program_loads_is_the_programs_fault() -> None:
    for error in (EntrypointError("no module"), StorageError("open", "hdfs://x", "install checkdam[hdfs]")):
        found = ending.ending_of(error, while_loading=True)
        assert (found.refusal, found.retryable) == ("Program", False)
