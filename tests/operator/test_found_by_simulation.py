"""Mistakes that stories in the simulated world have shown, each as small as it gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_kit import (
    COORDINATOR,
    NOW_MS,
    pod,
    report,
    running,
    savepoint,
    with_status,
    without_coordinator,
    worker,
)

from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import Disposal
from checkdam_operator.decide import Event, decide
from checkdam_operator.decide.actions import ApplyServices, CreatePod, WriteSavepointStatus
from checkdam_operator.observed import FailureReport, SavepointSeen
from checkdam_operator.reconcile.memory import JobMemory
from checkdam_operator.times import iso

DONE = SavepointStatus(state="Completed", uri="s3://bucket/jobs/team/words/savepoint-8", time=iso(NOW_MS - 30_000))


def _seen(status: SavepointStatus | None = None, version: str = "77") -> SavepointSeen:
    return replace(savepoint("a", status=status, onDelete="Delete"), resource_version=version)


def test_the_same_failure_is_news_once() -> None:
    failed = replace(running(), coordinator=replace(running().coordinator, report=report(last_failure=FailureReport())))
    memory = JobMemory(("team", "words"), "uid-1")

    looks = [[event for event in decide(failed).events if memory.is_news(event)] for _ in range(2)]

    assert [[event.reason for event in events] for events in looks] == [["AttemptFailed"], []]


def test_a_trouble_that_comes_back_is_told_again() -> None:
    memory = JobMemory(("team", "words"), "uid-1")
    wrong = replace(
        running(), job=replace(running().job, spec=None, problems=("`spec.parallelism` must be at least 1 (got 0)",))
    )

    first = [event for event in decide(wrong).events if memory.is_news(event)]
    again = [event for event in decide(replace(wrong, now_ms=NOW_MS + 60_000)).events if memory.is_news(event)]

    assert [event.reason for event in first] == [event.reason for event in again] != []


def test_what_was_told_long_ago_is_forgotten() -> None:
    memory = JobMemory(("team", "words"), "uid-1")
    for number in range(1_000):
        assert memory.is_news(Event("AttemptFailed", "", key=str(number)))
    assert memory.is_news(Event("AttemptFailed", "", key="0"))


def test_a_savepoints_status_is_written_on_the_version_that_was_decided_on() -> None:
    situation = replace(without_coordinator(running()), savepoints=(_seen(),))

    [written] = [action for action in decide(situation).actions if isinstance(action, WriteSavepointStatus)]

    assert written.resource_version == "77"


@pytest.mark.parametrize("status", [None, SavepointStatus(state="InProgress")])
def test_a_disposal_outlives_an_old_view_of_its_resource(status: SavepointStatus | None) -> None:
    known = [Disposal(name="a", uid="uid-a", uri=DONE.uri)]
    situation = with_status(replace(running(), savepoints=(_seen(status),)), disposals=known)

    decision = decide(situation)

    assert (decision.status or situation.job.status).disposals == known


def test_a_worker_is_replaced_at_its_coordinators_address_though_the_coordinators_replacement_has_to_wait() -> None:
    crashed = pod(
        COORDINATOR, created_ms=NOW_MS - 1_000, replacements=4, waiting_reason="CrashLoopBackOff", running_since_ms=None
    )
    situation = replace(without_coordinator(running()), pods=(crashed, worker(0)))

    actions = decide(situation).actions

    services = [action for action in actions if isinstance(action, ApplyServices)]
    created = [action for action in actions if isinstance(action, CreatePod)]
    assert services == [ApplyServices(crashed.pod_hash)]
    assert [str(action.slot) for action in created] == ["worker 1"]
    assert actions.index(services[0]) < actions.index(created[0])
