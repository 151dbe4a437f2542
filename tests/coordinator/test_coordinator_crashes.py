"""A coordinator process is killed or stopped at a named point; its successor goes on from what the journal says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest
from coordinator_kit import (
    Worker,
    connected,
    coordinator,
    ending_of,
    eventually,
    graph_of,
    journal_kinds,
    process,
    published,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.journal import Journal
from checkdam.wire.messages import Complete, Deploy, Shutdown, Start, Trigger

# The first hit of the commit points is checkpoint 0, the second the first one of the workers.
POINTS = {
    "before-manifest:2": 0,
    "before-journal:2": 0,
    "journal-written:2": 1,
    "complete-sent": 1,
    "deploying": 0,
    "journal-written:1": 0,
}


@pytest.mark.parametrize(("fault", "restored"), POINTS.items(), ids=POINTS)
async def test_after_a_kill_the_successor_starts_from_the_last_journalled_checkpoint(
    tmp_path: Path, fault: str, restored: int
) -> None:
    orphans = [Worker(index, graph_of()) for index in range(2)]
    async with process(tmp_path, fault) as (child, config):
        addresses = asyncio.create_task(published(config))
        died = asyncio.create_task(child.wait())
        await asyncio.wait({addresses, died}, return_when=asyncio.FIRST_COMPLETED)
        if addresses.done():
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                for orphan in orphans:
                    await orphan.connect(addresses.result())
        addresses.cancel()
        async with asyncio.timeout(10):
            assert await died == -signal.SIGKILL
    for orphan in orphans:
        await orphan.close()
    told = max((message.checkpoint for orphan in orphans for message in orphan.of(Complete)), default=0)
    assert told <= restored
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.id == restored
        epochs = {deploy.attempt.epoch for orphan in orphans for deploy in orphan.of(Deploy)}
        assert all(epoch < running.addresses.epoch for epoch in epochs)


@pytest.mark.parametrize("fault", POINTS)
async def test_a_coordinator_that_sleeps_through_its_succession_commits_nothing_when_it_wakes(
    tmp_path: Path, fault: str
) -> None:
    orphans = [Worker(index, graph_of()) for index in range(2)]
    async with process(tmp_path, fault, "SIGSTOP") as (child, config):
        zombie = psutil.Process(child.pid)
        address = Path(config.address_file)
        await eventually(lambda: address.exists() or zombie.status() == psutil.STATUS_STOPPED)
        if address.exists():
            connecting = [asyncio.create_task(orphan.connect(await published(config))) for orphan in orphans]
            await eventually(lambda: zombie.status() == psutil.STATUS_STOPPED)
            for task in connecting:
                task.cancel()
            await asyncio.gather(*connecting, return_exceptions=True)
        async with coordinator(tmp_path) as running, workers(running) as found:
            await started(found)
            zombie.resume()
            await running.call("POST", "/v1/checkpoints", {})
            complete = await found[0].until(Complete)
            async with asyncio.timeout(10):
                assert await child.wait() == 3
            _, view = await running.call("GET", "/v1/job")
            assert view["lastCheckpoint"]["id"] == complete.checkpoint
            tail = Journal(storage_of(tmp_path)).tail()
            assert tail is not None
            assert tail.epoch == running.addresses.epoch
        zombies_words = [orphan.of(Complete) for orphan in orphans]
        restored = found[0].of(Deploy)[0].restore
        assert restored is not None
        assert all(word.checkpoint <= restored.id for words in zombies_words for word in words)
    for orphan in orphans:
        await orphan.close()


async def test_a_kill_after_the_final_checkpoint_repeats_the_end_and_finishes(tmp_path: Path) -> None:
    async with process(tmp_path, "final-checkpoint") as (child, config):
        found = await connected(await published(config))
        for worker in found:
            await worker.until(Start)
            worker.ended()
        assert await child.wait() == -signal.SIGKILL
    for worker in found:
        await worker.close()
    async with coordinator(tmp_path) as running, workers(running) as again:
        await started(again)
        restore = again[0].of(Deploy)[0].restore
        assert restore is not None
        assert restore.final
        for worker in again:
            worker.ended()
        assert await running.exit_code() == 0
    assert journal_kinds(tmp_path)[-1] == "finished"


async def test_sigterm_stops_with_a_last_checkpoint(tmp_path: Path) -> None:
    async with process(tmp_path) as (child, config):
        found = await connected(await published(config))
        await started(found)
        child.send_signal(signal.SIGTERM)
        await found[0].until(Shutdown)
        assert await child.wait() == 0
        assert found[0].of(Trigger)[-1].stop
        assert ending_of(config).state == "STOPPED"
    for worker in found:
        await worker.close()
    assert journal_kinds(tmp_path)[-1] == "stopped"


async def test_a_coordinator_that_stood_still_while_another_took_over_commits_nothing(tmp_path: Path) -> None:
    async with process(tmp_path) as (child, config):
        orphans = await connected(await published(config))
        await started(orphans)
        os.kill(child.pid, signal.SIGSTOP)
        async with coordinator(tmp_path) as running, workers(running) as found:
            await started(found)
            await running.call("POST", "/v1/checkpoints", {})
            await found[0].until(Complete)
            told = len(orphans[0].of(Complete))
            os.kill(child.pid, signal.SIGCONT)
            async with asyncio.timeout(10):
                assert await child.wait() == 3
            assert len(orphans[0].of(Complete)) <= told + 1, "at most what was journalled before it stood still"
            assert not orphans[0].of(Shutdown)
            await running.call("POST", "/v1/checkpoints", {})
            await found[0].until(Complete, 2)
    for orphan in orphans:
        await orphan.close()
