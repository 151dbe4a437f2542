"""What people are told: conditions, state, events, and when it is written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_kit import (
    COORDINATOR,
    NOW_MS,
    after,
    condition,
    deployment,
    manifest,
    new_job,
    pod,
    reasons,
    report,
    running,
    with_coordinator,
    with_pod,
    with_report,
    with_status,
    without_coordinator,
    worker,
)

from checkdam.spec.status import CHECKPOINT_HEALTHY, PROGRESSING, READY, STALLED
from checkdam_operator.decide import decide
from checkdam_operator.observed import CheckpointReport, FailureReport, Situation, Trouble, WorkerReport


def _starting() -> Situation:
    situation = new_job()
    return after(situation, decide(situation))


def test_all_conditions_are_there_from_the_first_look_on() -> None:
    decision = decide(_starting())

    kinds = {READY: "False", PROGRESSING: "True", STALLED: "False", CHECKPOINT_HEALTHY: "Unknown"}
    assert {kind: condition(decision, kind).status for kind in kinds} == kinds
    assert all(condition(decision, kind).reason for kind in kinds)
    assert decision.status is not None
    assert decision.status.state == "Starting"


def test_a_job_that_runs_is_ready_and_nothing_is_under_way() -> None:
    status = running().job.status

    assert status.state == "Running"
    found = {
        kind: getattr(status.condition(kind), "status", None)
        for kind in (READY, PROGRESSING, STALLED, CHECKPOINT_HEALTHY)
    }
    assert found == {READY: "True", PROGRESSING: "False", STALLED: "False", CHECKPOINT_HEALTHY: "True"}
    assert status.workers_text == "2/2"
    assert status.replicas == 2
    assert status.selector == "checkdam.dev/job-uid=uid-1,app.kubernetes.io/component=worker"
    assert status.last_checkpoint is not None
    assert status.last_checkpoint.uri == "s3://bucket/jobs/team/words/chk-7-5.1-0"
    assert (status.last_checkpoint.duration, status.last_checkpoint.size) == ("300ms", "1Mi")


def test_the_time_of_a_condition_changes_with_its_status_alone() -> None:
    before = running()
    was = before.job.status.condition(READY)
    assert was is not None
    failing = with_report(replace(before, now_ms=NOW_MS + 60_000), state="RESTARTING", workers_connected=1)

    now = condition(decide(failing), READY)

    assert now.last_transition_time != was.last_transition_time
    stalled, was_stalled = condition(decide(failing), STALLED), before.job.status.condition(STALLED)
    assert was_stalled is not None
    assert stalled.last_transition_time == was_stalled.last_transition_time


def test_a_checkpoint_alone_is_news_only_every_half_minute() -> None:
    newer = CheckpointReport(8, "COMPLETED", "interval", "5.1", NOW_MS, "chk-8-5.1-0", 300, 2**20)
    situation = with_report(running(), last_checkpoint=newer)

    soon = decide(replace(situation, now_ms=NOW_MS + 1_000))
    late = decide(replace(situation, now_ms=NOW_MS + 30_000))

    assert soon.status is None
    assert soon.again_ms is not None
    assert soon.again_ms <= NOW_MS + 30_000
    assert late.status is not None
    assert late.status.last_checkpoint is not None
    assert late.status.last_checkpoint.id == 8


def test_a_failure_is_told_with_its_cause_and_counted_once() -> None:
    failure = FailureReport("user", "Traceback …\nValueError: no such airport 'XXX'", 1, NOW_MS - 500)
    situation = with_report(running(), state="RUNNING", attempt=2, restarts=1, last_failure=failure)
    situation = with_status(situation, state="Restarting")

    decision = decide(situation)

    assert decision.status is not None
    assert (decision.status.attempt, decision.status.restarts) == (2, 1)
    told = {event.reason: event for event in decision.events}
    assert told["AttemptFailed"].warning
    assert told["AttemptFailed"].message == "the user's code raised at worker 1: ValueError: no such airport 'XXX'"
    assert "Recovered" in told
    again = decide(
        with_status(situation, **{name: getattr(decision.status, name) for name in type(decision.status).model_fields})
    )
    assert again.status is None
    assert "Recovered" not in reasons(again)


@pytest.mark.parametrize(
    ("epoch", "attempt", "first_epoch", "restarts"), [(5, 3, 5, 2), (9, 1, 5, 1), (9, 3, 5, 3), (9, 1, 0, 0)]
)
def test_restarts_count_on_over_the_lives_of_coordinators(
    epoch: int, attempt: int, first_epoch: int, restarts: int
) -> None:
    situation = with_status(running(), deployment=deployment(manifest(), epoch=first_epoch))

    decision = decide(with_report(situation, epoch=epoch, attempt=attempt))

    assert decision.status is not None or restarts == 0
    assert (decision.status or situation.job.status).restarts == restarts


@pytest.mark.parametrize(
    ("failures", "told"), [(2, "the last 2 checkpoints failed: 503"), (1, "the last checkpoint failed: 503")]
)
def test_failing_checkpoints_are_told_while_the_job_runs(failures: int, told: str) -> None:
    decision = decide(with_report(running(), checkpoint_failures=failures, checkpoint_problem="503 Slow Down"))

    healthy = condition(decision, CHECKPOINT_HEALTHY)
    assert (healthy.status, healthy.reason) == ("False", "CheckpointsFail")
    assert told in healthy.message
    assert condition(decision, READY).status == "True"
    assert "CheckpointFailed" in reasons(decision)


def test_a_checkpoint_of_which_storage_does_not_say_whether_it_counts_is_told_before_it_fails() -> None:
    decision = decide(with_report(running(), checkpoint_problem="503 Slow Down"))

    healthy = condition(decision, CHECKPOINT_HEALTHY)
    assert healthy.status == "False"
    assert "it is not known yet whether the last checkpoint counts" in healthy.message
    assert "503 Slow Down" in healthy.message
    assert "CheckpointFailed" not in reasons(decision)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"waiting_reason": "ImagePullBackOff", "waiting_message": "not found: nowhere/words:9"},
            "ImagePullFailed",
            ["nowhere/words:9", "`spec.image`"],
        ),
        (
            {"waiting_reason": "ErrImagePull", "waiting_message": "not found: nowhere/words:9"},
            "ImagePullFailed",
            ["nowhere/words:9", "`spec.image`"],
        ),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "keys" not found'},
            "ContainerCannotStart",
            ['secret "keys" not found'],
        ),
        (
            {"unschedulable": "0/3 nodes are available: 3 Insufficient cpu.", "node": ""},
            "Unschedulable",
            ["Insufficient cpu", "`spec.worker`"],
        ),
    ],
)
def test_what_keeps_pods_from_starting_is_told_with_its_remedy(
    changes: dict[str, object], reason: str, words: list[str]
) -> None:
    situation = with_pod(without_coordinator(running()), worker(0), running_since_ms=None, phase="Pending", **changes)

    stalled = condition(decide(situation), STALLED)

    assert (stalled.status, stalled.reason) == ("True", reason)
    for word in [worker(0).name, *words]:
        assert word in stalled.message


def test_the_scheduler_is_given_a_moment() -> None:
    young = {"unschedulable": "0/3 nodes", "created_ms": NOW_MS - 5_000, "running_since_ms": None, "phase": "Pending"}
    decision = decide(with_pod(without_coordinator(running()), worker(0), **young))

    assert condition(decision, STALLED).status == "False"
    assert decision.again_ms is not None
    assert decision.again_ms <= NOW_MS + 15_000


def test_a_trouble_goes_when_its_cause_goes_and_that_is_told() -> None:
    stuck = replace(without_coordinator(running()), trouble=Trouble("QuotaExceeded", "raise the quota"))
    decision = decide(stuck)
    assert condition(decision, STALLED).reason == "QuotaExceeded"
    assert "QuotaExceeded" in reasons(decision)

    mended = decide(replace(after(stuck, decision), trouble=None, coordinator=running().coordinator))

    assert condition(mended, STALLED).status == "False"
    assert "Resolved" in reasons(mended)


def test_a_coordinator_that_is_tried_again_does_not_flicker() -> None:
    failed = with_report(running(), state="FAILED", retryable=True, message="bucket `b` is missing")
    stalled = after(failed, decide(failed))
    successor = pod(COORDINATOR, replaces=pod(COORDINATOR).uid, replacements=1, created_ms=NOW_MS - 500)
    trying = replace(without_coordinator(stalled), pods=(*stalled.pods, successor))

    again = decide(trying)

    found = (again.status or trying.job.status).condition(STALLED)
    assert found is not None
    assert (found.status, found.reason) == ("True", "CannotStart")


def test_a_wrong_spec_is_told_and_the_version_before_runs_on() -> None:
    situation = running()
    wrong = replace(
        situation.job, spec=None, problems=("`spec.parallelism` must be an integer (got '2')",), generation=2
    )

    decision = decide(replace(situation, job=wrong))

    assert condition(decision, STALLED).reason == "InvalidSpec"
    assert "`spec.parallelism` must be an integer (got '2')" in condition(decision, READY).message
    assert "the version before runs on" in condition(decision, READY).message
    assert [type(action).__name__ for action in decision.actions] == ["ApplyServices"]


def test_long_messages_are_cut() -> None:
    situation = replace(without_coordinator(running()), trouble=Trouble("Refused", "x" * 10_000))

    assert len(condition(decide(situation), STALLED).message) == 2000


def test_a_job_out_of_reach_is_not_called_ready() -> None:
    decision = decide(with_coordinator(running(), unreachable_since_ms=NOW_MS - 3_000))

    assert condition(decision, READY).status == "False"
    assert decision.status is not None
    assert decision.status.state == "Restarting"


def test_an_operator_that_has_just_begun_to_ask_says_of_a_job_that_runs_what_the_one_before_has_said() -> None:
    asking = with_coordinator(replace(running(), status_written_ms=0), report=None, running_since_ms=None)

    assert decide(asking).status is None
    assert decide(asking).events == ()
    unreachable = with_coordinator(asking, unreachable_since_ms=NOW_MS)
    assert condition(decide(unreachable), READY).status == "False"


def test_workers_that_are_missing_are_counted() -> None:
    lost = [WorkerReport(0, True, "a/1"), WorkerReport(1, False, "b/1")]
    decision = decide(with_coordinator(running(), report=report(state="RESTARTING", workers=lost, workers_connected=1)))

    assert decision.status is not None
    assert decision.status.workers_text == "1/2"
    assert "1 of 2 are connected" in condition(decision, READY).message


def _failing() -> Situation:
    failure = FailureReport("user", "Traceback …\nValueError: no such airport", 0, NOW_MS - 500)
    return with_report(running(), state="RESTARTING", attempt=5, restarts=4, last_failure=failure)


def test_attempts_that_fail_again_and_again_are_told_with_the_cause() -> None:
    decision = decide(_failing())

    assert condition(decision, STALLED).reason == "AttemptsFail"
    assert "ValueError: no such airport" in condition(decision, STALLED).message


def test_such_a_job_counts_as_well_only_when_it_has_run_for_a_while() -> None:
    failing = _failing()
    told = after(failing, decide(failing))
    failure = FailureReport("user", "ValueError: no such airport", 0, NOW_MS - 500)
    again = with_report(told, attempt=6, restarts=5, last_failure=failure)

    soon = decide(with_coordinator(again, running_since_ms=NOW_MS - 1_000))
    later = decide(with_coordinator(again, running_since_ms=NOW_MS - 15_000))

    assert condition(soon, READY).status == "False"
    assert soon.again_ms is not None
    assert soon.again_ms <= NOW_MS + 14_000
    assert condition(later, READY).status == "True"
    assert condition(later, STALLED).status == "False"


def test_a_version_that_never_comes_to_run_is_overdue_at_some_time() -> None:
    situation = _starting()

    assert condition(decide(situation), STALLED).status == "False"
    late = decide(replace(situation, now_ms=NOW_MS + 600_000))
    assert condition(late, STALLED).reason == "ProgressDeadlineExceeded"
    assert "waits for the coordinator" in condition(late, STALLED).message


def _volatile() -> Situation:
    storage = {"uri": "memory://", "allowVolatile": True}
    return running(manifest(checkpoint={"storage": storage}))


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("memory://", "memory://team/words/chk-7-5.1-0"),
        ("s3://bucket/jobs/", "s3://bucket/jobs/team/words/chk-7-5.1-0"),
        ("file:///state", "file:///state/team/words/chk-7-5.1-0"),
        ("file:///", "file:///team/words/chk-7-5.1-0"),
    ],
)
def test_the_uri_of_a_checkpoint_is_that_of_its_folder(storage: str, expected: str) -> None:
    places = {"uri": storage, "allowVolatile": True} if storage == "memory://" else {"uri": storage}
    status = running(manifest(checkpoint={"storage": places})).job.status
    assert status.last_checkpoint is not None
    assert status.last_checkpoint.uri == expected


def test_a_job_that_has_lost_its_memory_says_so_once() -> None:
    lost = with_report(_volatile(), epoch=6)
    told = decide(lost)

    assert "StartedAfresh" in reasons(told)
    assert "StartedAfresh" not in reasons(decide(after(lost, told)))
    assert "StartedAfresh" not in reasons(decide(with_report(running(), epoch=6)))


def test_nobody_is_told_that_state_is_kept_which_was_in_memory_alone() -> None:
    volatile = _volatile()
    asks = replace(volatile.job, spec=manifest(suspend=True), generation=2)
    written = decide(with_report(replace(volatile, job=asks), state="STOPPED"))

    [suspended] = written.events
    assert "memory" in suspended.message
    assert "memory" in condition(decide(after(replace(volatile, job=asks), written)), READY).message


def test_a_coordinator_that_has_not_begun_yet_has_no_epoch_to_tell() -> None:
    starting = decide(with_report(running(), state="STARTING", epoch=0, attempt=0))

    assert starting.status is not None
    assert (starting.status.epoch, starting.status.attempt) == (5, 1)


def test_the_first_attempt_of_a_revision_is_no_restart_however_slowly_it_begins() -> None:
    situation = with_status(running(), deployment=deployment(manifest(), epoch=0), epoch=3, attempt=2, restarts=1)
    for changes in ({"epoch": 0, "attempt": 0}, {"epoch": 5, "attempt": 0}, {"epoch": 5, "attempt": 1}):
        situation = with_report(situation, state="STARTING", **changes)
        situation = after(situation, decide(situation))

    assert situation.job.status.restarts == 1
    again = decide(with_report(situation, epoch=8, attempt=1)).status
    assert again is not None
    assert again.restarts == 2


def test_the_news_of_a_checkpoint_wait_for_the_look_at_the_next_one_if_that_comes_soon() -> None:
    newer = CheckpointReport(8, "COMPLETED", "interval", "5.1", NOW_MS, "chk-8-5.1-0", 300, 2**20)
    rarely = manifest(checkpoint={"interval": "1h"})

    often = decide(with_report(running(), last_checkpoint=newer))
    seldom = decide(with_report(running(rarely), last_checkpoint=newer))

    assert often.again_ms == NOW_MS + 10_000
    assert seldom.again_ms == NOW_MS + 30_000
