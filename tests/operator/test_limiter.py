"""The limit of writes: a burst at once, then a steady rate, in order."""

from __future__ import annotations

import asyncio

from manual_time import ManualTime, settle

from checkdam_operator.kube.limiter import TokenBucket, WriteLimiter


def test_a_burst_passes_at_once_and_the_rest_at_the_rate() -> None:
    time = ManualTime()
    bucket = TokenBucket(50.0, 3, time)
    waits = [round(bucket.reserve(), 6) for _ in range(6)]
    assert waits == [0.0, 0.0, 0.0, 0.02, 0.04, 0.06]
    time.now += 0.06
    assert round(bucket.reserve(), 6) == 0.02


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    time = ManualTime()
    bucket = TokenBucket(10.0, 2, time)
    assert bucket.full
    assert bucket.try_take()
    assert bucket.try_take()
    assert not bucket.try_take()
    assert not bucket.full
    time.now += 3_600
    assert bucket.full
    assert [bucket.try_take() for _ in range(3)] == [True, True, False]


async def test_writers_go_in_the_order_in_which_they_came() -> None:
    time = ManualTime()
    limiter = WriteLimiter(TokenBucket(10.0, 1, time), time.sleep)
    passed: list[int] = []

    async def write(number: int) -> None:
        await limiter.acquire()
        passed.append(number)

    writers = [asyncio.create_task(write(number)) for number in range(4)]
    await settle()
    assert passed == [0]
    await time.advance(0.2)
    assert passed == [0, 1, 2]
    await time.advance(0.1)
    assert passed == [0, 1, 2, 3]
    await asyncio.gather(*writers)
