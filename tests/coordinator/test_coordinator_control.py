"""The control server: who may connect, and when a worker is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from coordinator_kit import Worker, coordinator, eventually, job_of, started, workers

from checkdam.core.errors import AuthenticationError
from checkdam.wire.frames import frame
from checkdam.wire.messages import Deploy, Drop


async def test_a_second_worker_of_an_index_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running, workers(running) as (first, second):
        await started([first, second])
        twin = await Worker(1, running.graph).connect(running.addresses)
        assert "connected already" in twin.welcome.refused
        await eventually(lambda: twin.closed, "the refused worker is cut off")
        await twin.close()
        assert len(first.of(Deploy)) == 1
        assert not first.of(Drop)


async def test_an_index_beyond_the_highest_parallelism_and_a_wrong_job_are_refused(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        beyond = await Worker(128, running.graph).connect(running.addresses)
        assert "below `spec.maxParallelism`, which is 128 (got 128)" in beyond.welcome.refused
        await beyond.close()
        with pytest.raises(asyncio.IncompleteReadError):
            await _closing(Worker(0, running.graph, job_id="default/other"), running.addresses)


async def test_a_peer_without_the_secret_is_dropped_and_counted(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as running:
        stranger = Worker(0, running.graph)
        with pytest.raises(AuthenticationError):
            await stranger.connect(running.addresses, secret=b"a guess")
        await stranger.close()
        reader, writer = await asyncio.open_connection(running.addresses.control_host, running.addresses.control_port)
        writer.write(frame(b"GET / HTTP/1.1"))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        for _ in range(200):
            _, view = await running.call("GET", "/v1/job")
            if view["rejectedPeers"] == 2:
                break
            await asyncio.sleep(0.01)
        assert (view["rejectedPeers"], view["workersConnected"]) == (2, 0)


async def test_a_worker_that_falls_silent_is_lost(tmp_path: Path) -> None:
    job = job_of(tmp_path, runtime__heartbeatTimeout="1s")
    async with coordinator(tmp_path, job) as running, workers(running) as (first, second):
        await started([first, second])
        await asyncio.sleep(1.5)
        assert len(first.of(Deploy)) == 1, "workers that answer stay"
        second.pongs = False
        await first.until(Drop)
        await eventually(lambda: second.closed, "the silent worker is cut off")
        _, view = await running.call("GET", "/v1/job")
        assert view["lastFailure"]["kind"] == "lost"
        assert "has not been heard of" in view["lastFailure"]["error"]
        _, [one, two] = await running.call("GET", "/v1/workers")
        assert (one["connected"], two["connected"]) == (True, False)


async def _closing(worker: Worker, addresses: object) -> None:
    try:
        await worker.connect(addresses)  # type: ignore[arg-type]
    finally:
        await worker.close()
