"""Lists of everything: until they succeed, then now and then."""

from __future__ import annotations

import asyncio

import pytest
from fake_cluster import FakeCluster
from manual_time import ManualTime, settle

from checkdam_operator.kube.errors import NotFoundError
from checkdam_operator.kube.kinds import POD, STREAM_JOB, Kind
from checkdam_operator.kube.protocol import Objects
from checkdam_operator.resync import Resync


async def test_the_first_round_is_tried_until_it_succeeds_and_then_rounds_are_made_now_and_then() -> None:
    cluster, time = FakeCluster(), ManualTime()
    await cluster.create(POD, "a", {"metadata": {"name": "p"}})
    delivered: list[tuple[Kind, str | None, int]] = []

    def deliver(kind: Kind, namespace: str | None, items: Objects, version: str) -> None:
        delivered.append((kind, namespace, len(items)))

    cluster.broken = lambda verb, kind, name: (
        NotFoundError(404, "NotFound", "no such kind") if kind == STREAM_JOB else None
    )
    resync = Resync(cluster, {POD: "l", STREAM_JOB: ""}, (), deliver, 300.0, sleep=time.sleep)
    running = asyncio.create_task(resync.run())
    waiting = asyncio.create_task(resync.wait_filled())
    await time.advance(5.0)
    assert not resync.filled
    assert not waiting.done()
    cluster.broken = lambda verb, kind, name: None
    await time.advance(2.0)
    assert resync.filled
    assert waiting.done()
    delivered.clear()
    await time.advance(298.0)
    assert delivered == []
    await time.advance(2.0)
    assert delivered == [(POD, None, 1), (STREAM_JOB, None, 0)]
    running.cancel()
    await settle()


async def test_a_round_follows_each_list_of_the_watch_when_that_has_settled() -> None:
    cluster, time = FakeCluster(), ManualTime()
    rounds: list[float] = []
    resync = Resync(cluster, {POD: ""}, (), lambda *_: rounds.append(time.now), 300.0, sleep=time.sleep)
    running = asyncio.create_task(resync.run())
    await time.advance(100.0)
    for _ in range(50):
        resync.soon()
    await time.advance(5.0)
    resync.soon()
    await time.advance(195.0)
    assert rounds == [1_000.0, 1_110.0], "one round for all that was asked for meanwhile"
    await time.advance(200.0)
    assert rounds == [1_000.0, 1_110.0, 1_410.0]
    running.cancel()
    await settle()


async def test_each_listed_namespace_is_listed() -> None:
    cluster = FakeCluster()
    delivered: list[str | None] = []
    resync = Resync(cluster, {POD: ""}, ("a", "b"), lambda kind, where, items, version: delivered.append(where), 1.0)
    await resync.once()
    assert delivered == ["a", "b"]


async def test_a_round_that_fails_says_so_to_who_asked_for_it() -> None:
    cluster = FakeCluster()
    cluster.broken = lambda verb, kind, name: NotFoundError(404, "NotFound", "no such kind")
    resync = Resync(cluster, {POD: ""}, (), lambda kind, where, items, version: None, 1.0)
    with pytest.raises(NotFoundError):
        await resync.once()
    assert not resync.filled
