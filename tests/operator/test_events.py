"""Events: the same thing again is counted, a flood of one object is cut off, and nothing waits or fails because of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_cluster import FakeCluster
from manual_time import ManualTime, settle

from checkdam_operator.kube.errors import ForbiddenError, UnavailableError
from checkdam_operator.kube.events import EventLimits, EventRecorder
from checkdam_operator.kube.kinds import EVENT
from checkdam_operator.metrics import OperatorMetrics

JOB = {
    "apiVersion": "checkdam.dev/v1alpha1",
    "kind": "StreamJob",
    "metadata": {"namespace": "ns", "name": "flights", "uid": "u1", "resourceVersion": "7"},
}
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Desk:
    """A recorder with all that belongs to it."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.time = ManualTime(0.0)
        self.metrics = OperatorMetrics()
        self.recorder = EventRecorder(
            cluster,
            "operator_1",
            limits=EventLimits(burst=3, per_minute=2.0),
            metrics=self.metrics,
            clock=self.time,
            wall_clock=lambda: START + timedelta(seconds=self.time.now),
            sleep=self.time.sleep,
        )
        self.task = asyncio.create_task(self.recorder.run())

    def record(self, message: str, reason: str = "PodReplaced", about: dict[str, Any] | None = None) -> None:
        self.recorder.record(about or JOB, "Warning", reason, message)

    def events(self) -> list[dict[str, Any]]:
        return [body for (plural, _, _), body in self.cluster.objects.items() if plural == "events"]

    def counted(self, result: str) -> bool:
        return f'checkdam_operator_events_total{{result="{result}"}}' in self.metrics.render().decode()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk(FakeCluster())
    yield desk
    desk.task.cancel()
    await asyncio.gather(desk.task, return_exceptions=True)


async def test_an_event_says_what_happened_to_which_object(desk: Desk) -> None:
    desk.record("worker 1 was replaced: its node is gone")
    await settle()
    (event,) = desk.events()
    assert event["involvedObject"] == {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "namespace": "ns",
        "name": "flights",
        "uid": "u1",
    }
    assert event["metadata"]["namespace"] == "ns"
    assert event["metadata"]["name"].startswith("flights.")
    assert (event["type"], event["reason"]) == ("Warning", "PodReplaced")
    assert event["message"] == "worker 1 was replaced: its node is gone"
    assert (event["count"], event["firstTimestamp"]) == (1, "2026-03-01T12:00:00Z")
    assert event["reportingInstance"] == "operator_1"


async def test_the_same_thing_again_raises_the_count(desk: Desk) -> None:
    desk.record("again")
    await settle()
    desk.time.now += 60
    desk.record("again")
    desk.record("again")
    await settle()
    (event,) = desk.events()
    assert event["count"] == 3
    assert event["firstTimestamp"] == "2026-03-01T12:00:00Z"
    assert event["lastTimestamp"] == "2026-03-01T12:01:00Z"


async def test_a_new_operator_goes_on_counting_where_the_last_one_was(desk: Desk) -> None:
    desk.record("again")
    await settle()
    successor = Desk(desk.cluster)
    successor.record("again")
    await settle()
    assert [event["count"] for event in desk.events()] == [2]
    successor.task.cancel()


async def test_an_event_that_has_expired_is_made_again(desk: Desk) -> None:
    desk.record("again")
    await settle()
    desk.cluster.objects.clear()
    desk.record("again")
    await settle()
    assert [event["count"] for event in desk.events()] == [1]


async def test_a_flood_of_one_object_is_cut_off_and_others_are_heard(desk: Desk) -> None:
    for number in range(10):
        desk.record(f"failure {number}")
    desk.record("another job", about={**JOB, "metadata": {**JOB["metadata"], "name": "other", "uid": "u2"}})  # type: ignore[dict-item]
    await settle()
    assert [event["message"] for event in desk.events()] == ["failure 0", "failure 1", "failure 2", "another job"]
    assert desk.counted("limited")
    desk.time.now += 30
    desk.record("failure 11")
    await settle()
    assert len(desk.events()) == 5


async def test_an_api_server_that_is_away_for_a_moment_loses_nothing(desk: Desk) -> None:
    desk.cluster.broken = lambda verb, kind, name: UnavailableError(0, "Timeout", "no answer")
    desk.record("important")
    await settle()
    desk.cluster.broken = lambda verb, kind, name: None
    await desk.time.advance(1.0)
    assert len(desk.events()) == 1


async def test_a_create_whose_answer_was_lost_is_not_written_twice(desk: Desk) -> None:
    desk.cluster.lost = lambda verb, kind, name: UnavailableError(0, "Timeout", "lost") if verb == "create" else None
    desk.record("important")
    await settle()
    await desk.time.advance(1.0)
    assert len(desk.events()) == 1


async def test_what_cannot_be_written_is_dropped_and_counted_and_the_next_is_tried(desk: Desk) -> None:
    desk.cluster.broken = lambda verb, kind, name: ForbiddenError(403, "Forbidden", "the namespace is being deleted")
    desk.record("first")
    await settle()
    desk.cluster.broken = lambda verb, kind, name: None
    desk.record("second")
    await settle()
    assert [event["message"] for event in desk.events()] == ["second"]
    assert desk.counted("failed")
    assert not desk.task.done()


async def test_long_messages_are_cut(desk: Desk) -> None:
    desk.record("x" * 5_000)
    await settle()
    assert len(desk.events()[0]["message"]) == 1_024


async def test_many_of_the_same_while_the_writer_is_busy_are_one_write(desk: Desk) -> None:
    desk.cluster.flowing.clear()
    desk.record("first")
    await settle()
    for _ in range(100):
        desk.record("storm")
    desk.cluster.flowing.set()
    await settle()
    assert sorted((event["message"], event["count"]) for event in desk.events()) == [("first", 1), ("storm", 100)]
    assert desk.cluster.requests.count(("create", EVENT.plural, desk.events()[1]["metadata"]["name"])) == 1
