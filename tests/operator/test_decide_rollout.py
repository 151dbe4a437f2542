"""Which version of a job is deployed, and how the one before is brought to its end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_kit import (
    NOW_MS,
    STOPPED_WITH,
    UID,
    after,
    asked_to_stop,
    condition,
    deployment,
    manifest,
    new_job,
    reasons,
    report,
    running,
    stopped,
    with_coordinator,
    with_deployment,
    with_report,
    with_status,
    without_coordinator,
)

from checkdam.spec import StreamJob
from checkdam.spec.status import CheckpointStatus
from checkdam_operator.decide import decide
from checkdam_operator.decide.actions import CreatePod, DeletePod, RequestSavepoint, RequestStop
from checkdam_operator.observed import CheckpointReport, FailureReport, SavepointReport
from checkdam_operator.resources.hashes import deploy_hash

OLD = manifest()
NEW = manifest(image="words:2")


@pytest.mark.parametrize(
    ("mode", "asked"),
    [
        ("Savepoint", RequestSavepoint("stop-r1-g2-0", stop=True)),
        ("LastState", RequestStop(checkpoint=True)),
        ("Stateless", RequestStop(checkpoint=True)),
    ],
)
def test_another_image_stops_the_running_version_first(mode: str, asked: object) -> None:
    spec = manifest(image="words:2", upgrade={"mode": mode})

    decision = decide(running(OLD, spec=spec))

    assert asked_to_stop(decision) == [asked]
    assert not decision.ahead
    assert not [action for action in decision.actions if isinstance(action, CreatePod | DeletePod)]
    assert (decision.status and decision.status.state) == "Upgrading"


def test_then_it_is_deployed_from_what_the_old_one_was_stopped_with() -> None:
    decision = decide(stopped(running(OLD, spec=NEW)))

    assert decision.ahead
    assert decision.status is not None
    following = decision.status.deployment
    assert following is not None
    assert (following.revision, following.generation, following.hash) == (2, 2, deploy_hash(NEW))
    assert following.start.resume
    assert following.base == "savepoint-8-5.1-0"
    assert decision.status.last_savepoint is not None
    assert decision.status.last_savepoint.uri == STOPPED_WITH
    assert reasons(decision) == ["Deployed"]
    assert STOPPED_WITH in decision.events[0].message


def test_after_that_the_old_pods_go_and_the_new_ones_come_in_one_step() -> None:
    situation = stopped(running(OLD, spec=NEW))

    decision = decide(after(situation, decide(situation)))

    assert len([action for action in decision.actions if isinstance(action, CreatePod)]) == 3
    assert len([action for action in decision.actions if isinstance(action, DeletePod)]) == 3


def test_a_stateless_upgrade_starts_over_under_a_name_of_its_own() -> None:
    spec = manifest(image="words:2", upgrade={"mode": "Stateless"})

    decision = decide(stopped(running(OLD, spec=spec), ""))

    assert decision.status is not None
    assert decision.status.deployment is not None
    start = decision.status.deployment.start
    assert (start.fresh, start.request, start.resume) == (True, f"{UID}-g2", False)


def test_what_only_the_operator_reads_restarts_nothing() -> None:
    spec = manifest(upgrade={"mode": "LastState"}, savepoints={"interval": "1h"}, networkPolicy={"enabled": False})

    decision = decide(running(OLD, spec=spec))

    assert not decision.ahead
    assert asked_to_stop(decision) == []
    assert condition(decision, "Ready").status == "True"
    assert condition(decision, "Ready").observed_generation == 2


def test_a_savepoint_in_flight_is_waited_for() -> None:
    situation = with_coordinator(
        with_report(running(OLD, spec=NEW), state="STOPPING"),
        savepoints={"stop-r1-g2-0": SavepointReport("stop-r1-g2-0")},
    )

    assert asked_to_stop(decide(situation)) == []


def test_a_failed_savepoint_is_asked_for_again_under_another_name_after_a_pause() -> None:
    failed = SavepointReport("stop-r1-g2-0", "FAILED", requested_ms=NOW_MS - 5_000, duration_ms=1_000, failure="503")
    situation = with_coordinator(running(OLD, spec=NEW), savepoints={failed.request: failed})

    assert asked_to_stop(decide(situation)) == []
    later = replace(situation, now_ms=NOW_MS + 6_000)
    assert asked_to_stop(decide(later)) == [RequestSavepoint("stop-r1-g2-1", stop=True)]


def test_savepoints_that_go_on_failing_are_told_with_a_remedy_while_the_old_version_runs_on() -> None:
    failed = {
        f"stop-r1-g2-{number}": SavepointReport(
            f"stop-r1-g2-{number}", "FAILED", requested_ms=NOW_MS - 60_000, duration_ms=1, failure="bucket `b` is full"
        )
        for number in range(3)
    }

    decision = decide(with_coordinator(running(OLD, spec=NEW), savepoints=failed))

    stalled = condition(decision, "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "StopFailed")
    assert "bucket `b` is full" in stalled.message
    assert "`spec.upgrade.mode: LastState`" in stalled.message
    assert "the version before runs on" in stalled.message
    assert asked_to_stop(decision) == [RequestSavepoint("stop-r1-g2-3", stop=True)]


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING"])
def test_a_job_that_is_tried_again_does_not_count_as_well_meanwhile(state: str) -> None:
    failed = {
        f"stop-r1-g2-{number}": SavepointReport(
            f"stop-r1-g2-{number}", "FAILED", requested_ms=NOW_MS - 60_000, duration_ms=1, failure="bucket `b` is full"
        )
        for number in range(3)
    }
    stalled = with_coordinator(running(OLD, spec=NEW), savepoints=failed)
    stalled = after(stalled, decide(stalled))
    again = {**failed, "stop-r1-g2-3": SavepointReport("stop-r1-g2-3", requested_ms=NOW_MS)}

    decision = decide(with_coordinator(with_report(stalled, state=state), savepoints=again))

    assert asked_to_stop(decision) == []
    assert reasons(decision) == []
    told = (decision.status or stalled.job.status).condition("Stalled")
    assert told is not None
    assert (told.status, told.reason) == ("True", "StopFailed")


LAST_STATE = {"mode": "LastState"}
NEWER = manifest(image="words:2", upgrade=LAST_STATE)


@pytest.mark.parametrize("spec", [NEWER, manifest(suspend=True, upgrade=LAST_STATE)])
@pytest.mark.parametrize(
    ("state", "waits"),
    [
        ("RUNNING", "waits for the job's last checkpoint"),
        ("STOPPING", "waits for the job to stop"),
        ("RESTARTING", "waits for the job to run, so that it can be stopped with its latest state"),
    ],
)
def test_why_the_job_could_not_be_stopped_is_told_while_it_is_tried_again(
    spec: StreamJob, state: str, waits: str
) -> None:
    failed = report(state=state, stop_problem="Traceback:\nbucket `b` is full", checkpoint_failures=2)
    situation = with_coordinator(running(OLD, spec=spec), report=failed, not_running_since_ms=NOW_MS - 1_000)

    decision = decide(situation)

    progressing = condition(decision, "Progressing")
    assert progressing.status == "True"
    assert progressing.message == f"{waits}; the last try to stop the job failed: bucket `b` is full"
    assert condition(decision, "Stalled").status == "False"


def test_why_a_savepoint_failed_is_told_from_the_first_time_on() -> None:
    failed = SavepointReport("stop-r1-g2-0", "FAILED", requested_ms=NOW_MS - 5_000, duration_ms=1_000, failure="503")

    decision = decide(with_coordinator(running(OLD, spec=NEW), savepoints={failed.request: failed}))

    told = "waits for another try of a savepoint; the last try to stop the job failed: 503"
    assert condition(decision, "Progressing").message == told


def test_a_last_checkpoint_that_failed_is_tried_again_after_a_pause() -> None:
    failed = report(stop_problem="503", checkpoint_failures=1)
    situation = with_coordinator(running(OLD, spec=NEWER), report=failed, last_stop_ms=NOW_MS - 4_000)

    decision = decide(situation)

    assert asked_to_stop(decision) == []
    assert decision.again_ms == NOW_MS + 6_000
    assert asked_to_stop(decide(replace(situation, now_ms=NOW_MS + 6_000))) == [RequestStop(checkpoint=True)]


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", [RequestStop(checkpoint=True)]), ("STOPPING", [])])
def test_last_checkpoints_that_go_on_failing_are_told_with_a_remedy(state: str, asked: list[object]) -> None:
    failed = report(state=state, stop_problem="bucket `b` is full", checkpoint_failures=3)

    decision = decide(with_coordinator(running(OLD, spec=NEWER), report=failed, last_stop_ms=NOW_MS - 60_000))

    stalled = condition(decision, "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "StopFailed")
    assert "the last 3 have failed, so the running version goes on: bucket `b` is full; correct" in stalled.message
    assert "StopFailed" in reasons(decision)
    assert asked_to_stop(decision) == asked


def test_checkpoints_that_failed_before_the_job_was_to_stop_do_not_mean_that_it_cannot_be() -> None:
    failed = report(checkpoint_failures=3, checkpoint_problem="503")

    decision = decide(with_coordinator(running(OLD, spec=NEWER), report=failed))

    assert condition(decision, "Stalled").status == "False"
    assert asked_to_stop(decision) == [RequestStop(checkpoint=True)]


def test_a_job_that_has_not_run_for_a_while_is_not_waited_for() -> None:
    crashing = report(state="RESTARTING", last_failure=FailureReport("user", "ValueError", 0, NOW_MS - 1_000))
    situation = with_coordinator(running(OLD, spec=NEW), report=crashing, not_running_since_ms=NOW_MS - 5_000)

    assert not decide(situation).ahead
    later = decide(replace(situation, now_ms=NOW_MS + 15_000))
    assert later.ahead
    assert later.status is not None
    assert later.status.deployment is not None
    assert later.status.deployment.base == "chk-7-5.1-0"


def test_a_version_that_never_came_up_is_replaced_without_waiting_for_it() -> None:
    situation = without_coordinator(running(OLD, spec=NEW))

    assert decide(situation).ahead


def test_an_operator_that_has_just_begun_to_ask_does_not_take_silence_for_a_bad_sign() -> None:
    asked = with_coordinator(without_coordinator(running(OLD, spec=NEW)), followed_since_ms=NOW_MS)

    assert not decide(asked).ahead
    assert decide(asked).again_ms == NOW_MS + 20_000
    assert decide(replace(asked, now_ms=NOW_MS + 20_000)).ahead


def test_volatile_state_cannot_be_saved_so_the_job_is_just_stopped() -> None:
    volatile = {"storage": {"uri": "memory://", "allowVolatile": True}}
    old, new = manifest(checkpoint=volatile), manifest(checkpoint=volatile, image="words:2")

    assert asked_to_stop(decide(running(old, spec=new))) == [RequestStop(checkpoint=False)]


def test_suspending_takes_a_savepoint_and_then_the_pods_go() -> None:
    spec = manifest(suspend=True)
    situation = running(OLD, spec=spec)

    assert asked_to_stop(decide(situation)) == [RequestSavepoint("stop-r1-g2-0", stop=True)]
    ended = stopped(situation)
    written = decide(ended)
    assert written.ahead
    assert reasons(written) == ["Suspended"]
    last = decide(after(ended, written))
    assert len([action for action in last.actions if isinstance(action, DeletePod)]) == 3
    assert last.status is not None
    assert last.status.state == "Suspended"
    assert last.status.workers_text == "0/0"


def test_resuming_deploys_the_spec_as_it_is_then() -> None:
    situation = with_deployment(running(OLD, spec=NEW), suspended=True, revision=2)
    situation = replace(situation, pods=())

    decision = decide(situation)

    assert decision.ahead
    assert decision.status is not None
    following = decision.status.deployment
    assert following is not None
    assert (following.revision, following.suspended, following.hash) == (3, False, deploy_hash(NEW))
    assert following.start.resume


def test_what_is_written_before_a_spec_is_deployed_does_not_say_that_the_job_is_well_with_it() -> None:
    situation = with_deployment(running(OLD, spec=NEW), suspended=True, revision=2)
    situation = with_status(replace(situation, pods=()), observed_generation=1)

    written = decide(situation)
    following = decide(after(situation, written))

    assert written.ahead
    assert written.status is not None
    assert written.status.observed_generation == 1
    assert following.status is not None
    assert following.status.observed_generation == situation.job.generation == 2
    assert condition(following, "Ready").status == "False"


def test_a_job_created_suspended_has_no_pods_and_keeps_its_wish_for_later() -> None:
    first = new_job(manifest(suspend=True, restoreFrom="Fresh"))
    suspended = after(first, decide(first))
    assert suspended.job.status.deployment is not None
    assert suspended.job.status.deployment.suspended

    spec = manifest(restoreFrom="Fresh")
    resumed = decide(replace(suspended, job=replace(suspended.job, spec=spec, generation=2)))

    assert resumed.status is not None
    assert resumed.status.deployment is not None
    assert resumed.status.deployment.start.fresh


def test_a_wrong_pod_template_is_told_before_the_running_version_is_stopped() -> None:
    spec = manifest(worker={"podTemplate": {"spec": {"containers": "none"}}})

    decision = decide(running(OLD, spec=spec))

    assert asked_to_stop(decision) == []
    assert condition(decision, "Stalled").reason == "InvalidSpec"


@pytest.mark.parametrize(
    ("changes", "outcome", "state"),
    [
        ({"state": "FINISHED", "message": "all input has been read"}, "Completed", "Completed"),
        ({"state": "FAILED", "message": "the restart strategy gave up"}, "Failed", "Failed"),
        ({"state": "FAILED", "refusal": "Deposed", "message": "m"}, "TakenOver", "Failed"),
        ({"state": "STOPPED", "drained": True, "message": "stopped with savepoint 8"}, "Stopped", "Failed"),
    ],
)
def test_how_a_job_ended_is_written_down_before_its_pods_go(
    changes: dict[str, object], outcome: str, state: str
) -> None:
    situation = with_report(running(OLD), **changes)

    written = decide(situation)
    assert written.ahead
    assert written.actions == ()
    assert written.status is not None
    assert written.status.deployment is not None
    assert written.status.deployment.outcome == outcome
    last = decide(after(situation, written))

    assert len([action for action in last.actions if isinstance(action, DeletePod)]) == 3
    assert last.status is not None
    assert last.status.state == state
    assert condition(last, "Ready").status == ("True" if outcome == "Completed" else "False")
    assert condition(last, "Stalled").status == ("False" if outcome == "Completed" else "True")


@pytest.mark.parametrize(
    "changes", [{"state": "STOPPED", "stopped_with": STOPPED_WITH}, {"state": "FAILED", "refusal": "NotResumed"}]
)
def test_a_job_that_was_stopped_though_it_is_to_run_goes_on(changes: dict[str, object]) -> None:
    decision = decide(with_report(running(OLD), **changes))

    assert decision.ahead
    assert decision.status is not None
    following, before = decision.status.deployment, running(OLD).job.status.deployment
    assert following is not None
    assert before is not None
    assert (following.revision, following.config_map) == (2, before.config_map)
    assert following.start.resume
    assert "`spec.suspend: true` stops it" in decision.events[0].message


def test_a_completed_job_still_takes_edits() -> None:
    situation = with_deployment(running(OLD, spec=NEW), outcome="Completed")

    decision = decide(replace(without_coordinator(situation), pods=()))

    assert decision.ahead
    assert decision.status is not None
    assert decision.status.deployment is not None
    assert (decision.status.deployment.revision, decision.status.deployment.outcome) == (2, "")


def test_a_version_counts_as_working_with_the_first_checkpoint_of_its_own() -> None:
    situation = with_status(running(NEW, spec=NEW, revision=2), last_working=deployment(OLD, 1))
    of_before = CheckpointReport(8, "COMPLETED", "savepoint", "3.1", NOW_MS - 1_000, "savepoint-8-3.1-0", 1, 1)

    waiting = decide(with_report(situation, last_checkpoint=of_before))
    working = decide(situation)

    assert waiting.status is None
    assert working.status is not None
    assert working.status.last_working is not None
    assert working.status.last_working.revision == 2


@pytest.mark.parametrize(
    ("attempt", "of", "works"),
    [(1, "5.1", True), (1, "5.0", True), (2, "5.2", True), (2, "5.1", False), (2, "5.0", False), (1, "4.1", False)],
)
def test_a_checkpoint_counts_if_it_is_one_of_the_attempt_that_runs(attempt: int, of: str, works: bool) -> None:
    situation = with_status(running(NEW, spec=NEW, revision=2), last_working=None)
    last = CheckpointReport(8, "COMPLETED", "interval", of, NOW_MS - 1_000, f"chk-8-{of}-0", 1, 1)

    decision = decide(with_report(situation, attempt=attempt, last_checkpoint=last))

    status = decision.status or situation.job.status
    assert (status.last_working is not None) == works


def test_the_first_epoch_of_a_revision_is_noted() -> None:
    decision = decide(with_deployment(running(OLD), epoch=0))

    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.epoch == 5


def test_without_a_report_the_status_knows_where_the_next_version_begins() -> None:
    last = CheckpointStatus(id=7, uri="s3://bucket/jobs/team/words/chk-7-5.1-0")
    situation = with_status(without_coordinator(running(OLD, spec=NEW)), last_checkpoint=last)

    decision = decide(situation)

    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.base == "chk-7-5.1-0"
