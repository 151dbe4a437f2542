"""A coordinator process is killed or stopped while it takes a savepoint; what its successor finds."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import aiohttp
import psutil
import pytest
from coordinator_kit import (
    Worker,
    call,
    connected,
    coordinator,
    ending_at_once,
    eventually,
    process,
    published,
    started,
    storage_of,
    workers,
)

from checkdam.checkpoint.store import CheckpointStore
from checkdam.wire.messages import Complete, Deploy, Trigger

# The first hit of the commit points is checkpoint 0, the second the savepoint that the job stops with.
STOPS = {
    "before-manifest:2": False,
    "after-manifest:2": False,
    "before-journal:2": False,
    "journal-written:2": True,
    "complete-sent": True,
}

# Of a plain savepoint: where the journal stands then, and whether it is complete.
PLAIN = {
    "before-manifest:2": (0, False),
    "journal-written:2": (2, False),
    "before-savepoint": (2, False),
    "after-savepoint": (2, True),
}


async def ask(addresses: object, **wish: bool) -> None:
    """Ask for a savepoint of a coordinator that may die before it answers."""
    with contextlib.suppress(aiohttp.ClientError):
        await call(addresses, "POST", "/v1/savepoints", {"request": "mine", **wish})


async def killed(tmp_path: Path, fault: str, **wish: bool) -> list[Worker]:
    """A coordinator that dies at `fault` while it takes a savepoint; its workers."""
    async with process(tmp_path, fault, interval="1h") as (child, config):
        addresses = await published(config)
        found = await connected(addresses)
        await started(found)
        await ask(addresses, **wish)
        async with asyncio.timeout(10):
            assert await child.wait() == -signal.SIGKILL
    for worker in found:
        await worker.close()
    return found


def savepoints(tmp_path: Path) -> list[str]:
    store = CheckpointStore(storage_of(tmp_path))
    return [info.folder for info in store.list_checkpoints() if info.kind == "savepoint"]


@pytest.mark.parametrize(("fault", "journalled"), STOPS.items(), ids=STOPS)
async def test_a_stop_counts_from_the_journal_entry_on(tmp_path: Path, fault: str, journalled: bool) -> None:
    orphans = await killed(tmp_path, fault, stop=True)
    if journalled:
        assert (await ending_at_once(tmp_path)).state == "NOT_RESUMED"
    assert journalled or not orphans[0].of(Complete)
    async with coordinator(tmp_path, resume=journalled) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert (restore.id, restore.kind) == ((1, "savepoint") if journalled else (0, "checkpoint"))


@pytest.mark.parametrize(("fault", "expected"), PLAIN.items(), ids=PLAIN)
async def test_a_savepoint_is_complete_or_nothing(tmp_path: Path, fault: str, expected: tuple[int, bool]) -> None:
    orphans = await killed(tmp_path, fault)
    folder = orphans[0].of(Trigger)[0].folder
    left = f"{folder}/count-0/state.blocks"
    storage_of(tmp_path).create(left, b"state")
    restored, complete = expected
    async with coordinator(tmp_path) as running, workers(running) as found:
        await started(found)
        restore = found[0].of(Deploy)[0].restore
        assert restore is not None
        assert (restore.id, restore.kind) == (restored, "checkpoint")
        assert savepoints(tmp_path) == ([folder] if complete else [])
        if not complete:
            await eventually(lambda: not storage_of(tmp_path).exists(left), "what a dead attempt left goes")
    assert storage_of(tmp_path).exists(left) == complete


async def test_a_coordinator_that_sleeps_through_its_succession_completes_no_savepoint(tmp_path: Path) -> None:
    async with process(tmp_path, "before-savepoint", "SIGSTOP", interval="1h") as (child, config):
        addresses = await published(config)
        orphans = await connected(addresses)
        await started(orphans)
        await ask(addresses)
        zombie = psutil.Process(child.pid)
        await eventually(lambda: zombie.status() == psutil.STATUS_STOPPED)
        async with coordinator(tmp_path) as running, workers(running) as found:
            await started(found)
            waiting = asyncio.create_task(call(addresses, "GET", "/v1/savepoints/mine?waitMs=10000"))
            zombie.resume()
            async with asyncio.timeout(10):
                assert await child.wait() == 3
            with contextlib.suppress(aiohttp.ClientError):
                assert (await waiting)[1]["status"] != "COMPLETED"
    for orphan in orphans:
        await orphan.close()
