"""A list tells a quiet cluster from a dead watch."""

from __future__ import annotations

import pytest
from manual_time import ManualTime

from checkdam_operator.freshness import PATIENCE_S, Freshness
from checkdam_operator.kube.kinds import POD, STREAM_JOB


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


@pytest.fixture
def freshness(time: ManualTime) -> Freshness:
    return Freshness(clock=time)


def test_a_quiet_cluster_is_no_dead_watch(freshness: Freshness, time: ManualTime) -> None:
    freshness.watched(POD, None, 10)
    freshness.listed(POD, None, 0)
    time.now += 3_600
    assert freshness.problem() == ""


def test_a_watch_that_does_not_show_what_a_list_has_shown_is_dead(freshness: Freshness, time: ManualTime) -> None:
    freshness.watched(POD, "a", 10)
    freshness.listed(POD, "a", 12)
    time.now += PATIENCE_S
    assert freshness.problem() == "", "it may be a little behind"
    time.now += 1
    assert freshness.problem() == "the watch of pods in a does not show what a list has shown"


def test_a_later_change_shows_that_the_watch_lives(freshness: Freshness, time: ManualTime) -> None:
    freshness.listed(POD, None, 12)
    freshness.watched(POD, None, 11)
    time.now += PATIENCE_S + 1
    assert freshness.problem()
    freshness.watched(POD, None, 15)
    assert freshness.problem() == ""


def test_further_lists_do_not_give_a_dead_watch_more_time(freshness: Freshness, time: ManualTime) -> None:
    freshness.listed(POD, None, 12)
    time.now += PATIENCE_S
    freshness.listed(POD, None, 20)
    time.now += 1
    assert freshness.problem()


def test_a_watch_that_is_ahead_of_the_list_is_not_waited_for(freshness: Freshness, time: ManualTime) -> None:
    freshness.watched(POD, None, 20)
    freshness.listed(POD, None, 12)
    time.now += PATIENCE_S + 1
    assert freshness.problem() == ""


def test_the_watch_of_one_kind_or_namespace_does_not_vouch_for_another(freshness: Freshness, time: ManualTime) -> None:
    freshness.listed(POD, "a", 12)
    freshness.watched(STREAM_JOB, "a", 20)
    freshness.watched(POD, "b", 20)
    time.now += PATIENCE_S + 1
    assert "pods in a" in freshness.problem()


def test_a_watch_that_was_started_again_has_all_its_time(freshness: Freshness, time: ManualTime) -> None:
    freshness.listed(POD, None, 12)
    time.now += PATIENCE_S
    freshness.restarted()
    time.now += PATIENCE_S
    assert freshness.problem() == ""
    time.now += 1
    assert freshness.problem()
