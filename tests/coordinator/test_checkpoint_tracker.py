"""When checkpoints are due, and who has acknowledged."""

from __future__ import annotations

import pytest

from checkdam.coordinator.checkpoints import CheckpointCause, CheckpointTracker, PendingCheckpoint, Schedule


def begun(tracker: CheckpointTracker, now_ms: int, cause: CheckpointCause = "interval") -> PendingCheckpoint:
    return tracker.begin(
        cause=cause,
        attempt="1.1",
        folder=f"chk-{tracker.next_id}",
        parallelism=2,
        sources={},
        now_ms=now_ms,
        wall_ms=now_ms,
    )


def test_the_next_checkpoint_is_due_an_interval_after_the_last_trigger() -> None:
    tracker = CheckpointTracker(Schedule(interval_ms=100), next_id=1)
    tracker.attempt_runs(1_000)
    assert tracker.due_ms() == 1_100
    pending = begun(tracker, 1_100)
    tracker.complete(pending, 10, 1_130)
    assert tracker.due_ms() == 1_200


def test_min_pause_counts_from_the_end_of_a_checkpoint_also_of_a_failed_one() -> None:
    tracker = CheckpointTracker(Schedule(interval_ms=100, min_pause_ms=500), next_id=1)
    tracker.attempt_runs(0)
    tracker.fail(begun(tracker, 100), "too slow", 300)
    assert (tracker.due_ms(), tracker.earliest_ms()) == (800, 800)


def test_a_trigger_from_outside_is_given_a_grace() -> None:
    tracker = CheckpointTracker(Schedule(interval_ms=60_000, external=True), next_id=1)
    tracker.attempt_runs(0)
    assert tracker.due_ms() == 65_000
    assert CheckpointTracker(Schedule(interval_ms=100, external=True), next_id=1).due_ms() == 200


def test_only_failures_in_a_row_count_and_only_those_that_should() -> None:
    tracker = CheckpointTracker(Schedule(interval_ms=1, tolerable_failures=1), next_id=1)
    assert not tracker.fail(begun(tracker, 0), "a", 0)
    tracker.complete(begun(tracker, 0), 0, 0)
    assert not tracker.fail(begun(tracker, 0), "b", 0)
    tracker.give_up(begun(tracker, 0), "the attempt ended", 0)
    assert (tracker.failures_in_a_row, tracker.problem) == (1, "b")
    assert tracker.fail(begun(tracker, 0), "c", 0)
    assert [record.status for record in tracker.history] == ["FAILED", "COMPLETED", "FAILED", "FAILED", "FAILED"]
    assert (tracker.completed_total, tracker.failed_total, tracker.next_id) == (1, 4, 6)


@pytest.mark.parametrize("cause", ["final", "stop"])
def test_a_last_checkpoint_that_fails_is_told_and_does_not_count_against_what_is_tolerated(
    cause: CheckpointCause,
) -> None:
    tracker = CheckpointTracker(Schedule(interval_ms=1, tolerable_failures=0), next_id=1)
    assert not tracker.fail(begun(tracker, 0, cause), "the sink cannot write", 0)
    assert not tracker.fail(begun(tracker, 0, cause), "the sink still cannot write", 0)
    assert (tracker.failures_in_a_row, tracker.problem) == (2, "the sink still cannot write")
    tracker.complete(begun(tracker, 0, cause), 0, 0)
    assert (tracker.failures_in_a_row, tracker.problem) == (0, "")
