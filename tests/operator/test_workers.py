"""Turns: several at once, with a time limit, and nothing that one raises ends the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from manual_time import ManualTime, settle

from checkdam_operator.kube.errors import UnavailableError
from checkdam_operator.metrics import OperatorMetrics
from checkdam_operator.queue import WorkQueue
from checkdam_operator.workers import WorkerPool


class Bench:
    """A pool whose looks do what the test says."""

    def __init__(self, turn_timeout_s: float = 60.0, clock: Callable[[], float] | None = None) -> None:
        self.queue = WorkQueue[str](2, clock=clock or ManualTime())
        self.metrics = OperatorMetrics()
        self.looked: list[str] = []
        self.what: Callable[[str], Awaitable[float | None]] = self._nothing
        self.pool = WorkerPool(self.queue, self._look, self.metrics, turn_timeout_s)
        self.task = asyncio.create_task(self.pool.run())

    async def _look(self, key: str) -> float | None:
        self.looked.append(key)
        return await self.what(key)

    async def _nothing(self, key: str) -> float | None:
        return None


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.pool.stop(0.0)
    await bench.task


async def test_what_becomes_ready_is_looked_at(bench: Bench) -> None:
    await settle()
    for key in "abc":
        bench.queue.add(key)
    await settle()
    assert bench.looked == ["a", "b", "c"]
    assert 'checkdam_operator_reconciles_total{result="ok"} 3.0' in bench.metrics.render().decode()


async def test_a_turn_says_when_it_wants_the_next_one() -> None:
    bench = Bench(clock=asyncio.get_running_loop().time)

    async def soon(key: str) -> float | None:
        return 0.01 if len(bench.looked) < 3 else None

    bench.what = soon
    bench.queue.add("a")
    async with asyncio.timeout(10):
        while len(bench.looked) < 3:
            await asyncio.sleep(0.005)
    await bench.pool.stop(1.0)
    await bench.task
    assert bench.looked == ["a", "a", "a"]


@pytest.mark.parametrize("error", [UnavailableError(0, "Timeout", "no answer"), ZeroDivisionError("a fault of ours")])
async def test_a_turn_that_raises_is_tried_again_later_and_harms_no_other(bench: Bench, error: Exception) -> None:
    async def fail(key: str) -> float | None:
        if key == "bad":
            raise error
        return None

    bench.what = fail
    bench.queue.add("bad")
    bench.queue.add("good")
    await settle()
    assert bench.looked == ["bad", "good"]
    assert bench.queue.failures("bad") == 1
    assert bench.queue.next_due_in_s() == 0.25
    assert 'checkdam_operator_reconciles_total{result="error"} 1.0' in bench.metrics.render().decode()


async def test_a_turn_that_takes_too_long_is_ended() -> None:
    bench = Bench(turn_timeout_s=0.01)

    async def hang(key: str) -> float | None:
        await asyncio.Event().wait()
        return None

    bench.what = hang
    bench.queue.add("a")
    async with asyncio.timeout(10):
        while not bench.queue.failures("a"):
            await asyncio.sleep(0.005)
    assert bench.queue.working == 0
    await bench.pool.stop(0.0)
    await bench.task


async def test_jobs_whose_requests_fail_and_hang_do_not_keep_the_others_waiting() -> None:
    time = ManualTime()
    bench = Bench(clock=time)
    good, bad = [f"good{number}" for number in range(20)], [f"bad{number}" for number in range(10)]

    async def fail_then_hang(key: str) -> float | None:
        if key in bad:
            if bench.queue.failures(key):
                await asyncio.Event().wait()
            raise UnavailableError(0, "Timeout", "no answer")
        return None

    bench.what = fail_then_hang
    for key in bad:
        bench.queue.add(key)
    await settle()
    time.now += 30.0
    for key in good:
        bench.queue.add(key)
    for _ in good:
        await settle()
    assert bench.queue.working == 1, "a turn of a bad one, which does not end"
    assert [key for key in bench.looked if key in good] == good
    await bench.pool.stop(0.0)
    await bench.task


async def test_stopping_lets_turns_end_and_begins_no_others() -> None:
    bench = Bench()
    gate = asyncio.Event()
    ended: list[str] = []

    async def wait(key: str) -> float | None:
        await gate.wait()
        ended.append(key)
        return None

    bench.what = wait
    for key in "abc":
        bench.queue.add(key)
    await settle()
    stopping = asyncio.create_task(bench.pool.stop(10.0))
    await settle()
    gate.set()
    await stopping
    await bench.task
    assert ended == ["a", "b"]
    assert bench.looked == ["a", "b"]


async def test_turns_that_do_not_end_in_time_are_cancelled() -> None:
    bench = Bench()

    async def hang(key: str) -> float | None:
        await asyncio.Event().wait()
        return None

    bench.what = hang
    bench.queue.add("a")
    await settle()
    await bench.pool.stop(0.0)
    await bench.task
    assert bench.queue.working == 0
