"""Two replicas as processes, a real API server: whatever happens to the leader, the other takes over and the two never write at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from checkdam_operator.kube.lease import EXIT_LOST, LeaseTimes
from cluster.control_plane import ControlPlane, run_control_plane

SCRIPT = Path(__file__).with_name("lease_candidate.py")
TIMES = LeaseTimes()


class Replica:
    """One candidate process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, plane: ControlPlane, namespace: str, identity: str) -> Replica:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SCRIPT),
            namespace,
            identity,
            env={**os.environ, **plane.environment()},
            stdout=asyncio.subprocess.PIPE,
        )
        replica = cls(process)
        assert await replica.line(30) == "waits"
        return replica

    async def line(self, patience_s: float) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), patience_s)).decode().strip()

    async def leads(self, patience_s: float = 30) -> float:
        """Wait until it leads; returns how long that took."""
        started = time.monotonic()
        assert await self.line(patience_s) == "leads"
        return time.monotonic() - started


class Replicas:
    """The replicas of a test, ended with it."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._namespace = namespace
        self._all: list[Replica] = []

    async def start(self, identity: str) -> Replica:
        self._all.append(await Replica.start(self._plane, self._namespace, identity))
        return self._all[-1]

    def writes(self) -> dict[str, list[float]]:
        """Who wrote when."""
        maps = self._plane.call("GET", f"/api/v1/namespaces/{self._namespace}/configmaps")["items"]
        found: dict[str, list[float]] = {}
        for body in maps:
            if "by" in body.get("data", {}):
                found.setdefault(body["data"]["by"], []).append(float(body["data"]["at"]))
        return found

    async def end(self) -> None:
        for replica in self._all:
            if replica.process.returncode is None:
                replica.process.kill()
                await replica.process.wait()


@pytest.fixture
async def replicas(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Replicas]:
    replicas = Replicas(control_plane, namespace)
    yield replicas
    await replicas.end()


def never_at_once(writes: dict[str, list[float]]) -> bool:
    return max(writes["one"]) < min(writes["two"])


@pytest.mark.slow
async def test_a_killed_leader_is_followed_within_the_lease_s_duration(replicas: Replicas) -> None:
    one = await replicas.start("one")
    await one.leads()
    two = await replicas.start("two")
    await asyncio.sleep(TIMES.retry_s)  # It has seen the Lease.
    one.process.kill()
    waited_s = await two.leads()
    assert TIMES.duration_s - 2 * TIMES.retry_s <= waited_s <= TIMES.duration_s + 2 * TIMES.retry_s
    await until_written(replicas, "two")
    assert never_at_once(replicas.writes())


@pytest.mark.slow
async def test_a_leader_that_stops_cleanly_is_followed_at_once(replicas: Replicas) -> None:
    one = await replicas.start("one")
    await one.leads()
    two = await replicas.start("two")
    await until_written(replicas, "one")
    one.process.terminate()
    assert await two.leads() <= 2 * TIMES.retry_s
    assert await asyncio.wait_for(one.process.wait(), 10) == 0
    await until_written(replicas, "two")
    assert never_at_once(replicas.writes())


@pytest.mark.slow
async def test_a_leader_that_was_stopped_and_wakes_up_ends_without_another_write(replicas: Replicas) -> None:
    one = await replicas.start("one")
    await one.leads()
    two = await replicas.start("two")
    await until_written(replicas, "one")
    one.process.send_signal(signal.SIGSTOP)
    await two.leads()
    await until_written(replicas, "two")
    one.process.send_signal(signal.SIGCONT)
    assert await asyncio.wait_for(one.process.wait(), 10) == EXIT_LOST
    assert never_at_once(replicas.writes())


@pytest.mark.slow
async def test_a_leader_that_the_api_server_does_not_answer_ends_before_the_other_begins(tmp_path: Path) -> None:
    """The API server is frozen, so nobody can do anything; when it goes on, the old leader is gone already."""
    with run_control_plane(tmp_path) as plane:
        replicas = Replicas(plane, plane.new_namespace())
        try:
            one = await replicas.start("one")
            await one.leads()
            two = await replicas.start("two")
            await until_written(replicas, "one")
            frozen = plane.pids["kube-apiserver"]
            os.kill(frozen, signal.SIGSTOP)
            started = time.monotonic()
            try:
                assert await asyncio.wait_for(one.process.wait(), 20) == EXIT_LOST
                took_s = time.monotonic() - started
            finally:
                os.kill(frozen, signal.SIGCONT)
            assert took_s <= TIMES.renew_deadline_s + 1.0
            await two.leads()
            await until_written(replicas, "two")
            assert never_at_once(replicas.writes())
        finally:
            await replicas.end()


async def until_written(replicas: Replicas, identity: str) -> None:
    async with asyncio.timeout(20):
        while identity not in await asyncio.to_thread(replicas.writes):
            await asyncio.sleep(0.05)
