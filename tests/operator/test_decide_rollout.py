"""Which version of a job is deployed, and how the one before is brought to its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from decide_kit import (
    COORDINATOR,
    NOW_MS,
    UID,
    after,
    condition,
    deployment,
    manifest,
    new_job,
    pod,
    reasons,
    report,
    running,
    savepoint,
    with_coordinator,
    with_deployment,
    with_pod,
    with_report,
    with_status,
    without_coordinator,
    worker,
)

from checkdam.spec import StreamJob
from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import CheckpointStatus, Rejected, StartWish
from checkdam_operator.decide import Decision, decide
from checkdam_operator.decide.actions import CreatePod, DeletePod, RequestSavepoint, RequestStop
from checkdam_operator.observed import CheckpointReport, FailureReport, SavepointReport, Situation
from checkdam_operator.resources.hashes import deploy_hash
from checkdam_operator.times import iso

OLD = manifest()
NEW = manifest(image="words:2")
STOPPED_WITH = "s3://bucket/jobs/team/words/savepoint-8-5.1-0"
WISHES = [("Fresh", True, ""), ("s3://other/savepoint-1", False, "s3://other/savepoint-1")]
"""Value of `restoreFrom` → whether it starts over, and from where."""


def _asked(decision: Decision) -> list[object]:
    return [action for action in decision.actions if isinstance(action, RequestSavepoint | RequestStop)]


def _stopped(situation: Situation, uri: str = STOPPED_WITH) -> Situation:
    return with_report(situation, state="STOPPED", stopped_with=uri, message="stopped with checkpoint 8")


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

    assert _asked(decision) == [asked]
    assert not decision.ahead
    assert not [action for action in decision.actions if isinstance(action, CreatePod | DeletePod)]
    assert (decision.status and decision.status.state) == "Upgrading"


def test_then_it_is_deployed_from_what_the_old_one_was_stopped_with() -> None:
    decision = decide(_stopped(running(OLD, spec=NEW)))

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
    situation = _stopped(running(OLD, spec=NEW))

    decision = decide(after(situation, decide(situation)))

    assert len([action for action in decision.actions if isinstance(action, CreatePod)]) == 3
    assert len([action for action in decision.actions if isinstance(action, DeletePod)]) == 3


def test_a_stateless_upgrade_starts_over_under_a_name_of_its_own() -> None:
    spec = manifest(image="words:2", upgrade={"mode": "Stateless"})

    decision = decide(_stopped(running(OLD, spec=spec), ""))

    assert decision.status is not None
    assert decision.status.deployment is not None
    start = decision.status.deployment.start
    assert (start.fresh, start.request, start.resume) == (True, f"{UID}-g2", False)


def test_another_parallelism_is_stopped_with_a_checkpoint_whatever_the_mode() -> None:
    decision = decide(running(OLD, spec=manifest(parallelism=3)))

    assert _asked(decision) == [RequestStop(checkpoint=True)]


def test_what_only_the_operator_reads_restarts_nothing() -> None:
    spec = manifest(upgrade={"mode": "LastState"}, savepoints={"interval": "1h"}, networkPolicy={"enabled": False})

    decision = decide(running(OLD, spec=spec))

    assert not decision.ahead
    assert _asked(decision) == []
    assert condition(decision, "Ready").status == "True"
    assert condition(decision, "Ready").observed_generation == 2


def test_a_savepoint_in_flight_is_waited_for() -> None:
    situation = with_coordinator(
        with_report(running(OLD, spec=NEW), state="STOPPING"),
        savepoints={"stop-r1-g2-0": SavepointReport("stop-r1-g2-0")},
    )

    assert _asked(decide(situation)) == []


def test_a_failed_savepoint_is_asked_for_again_under_another_name_after_a_pause() -> None:
    failed = SavepointReport("stop-r1-g2-0", "FAILED", requested_ms=NOW_MS - 5_000, duration_ms=1_000, failure="503")
    situation = with_coordinator(running(OLD, spec=NEW), savepoints={failed.request: failed})

    assert _asked(decide(situation)) == []
    later = replace(situation, now_ms=NOW_MS + 6_000)
    assert _asked(decide(later)) == [RequestSavepoint("stop-r1-g2-1", stop=True)]


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
    assert _asked(decision) == [RequestSavepoint("stop-r1-g2-3", stop=True)]


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

    assert _asked(decision) == []
    assert reasons(decision) == []
    told = (decision.status or stalled.job.status).condition("Stalled")
    assert told is not None
    assert (told.status, told.reason) == ("True", "StopFailed")


RESCALED = manifest(parallelism=3)
LAST_STATE = {"mode": "LastState"}


@pytest.mark.parametrize(
    "spec", [RESCALED, manifest(image="words:2", upgrade=LAST_STATE), manifest(suspend=True, upgrade=LAST_STATE)]
)
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
    situation = with_coordinator(running(OLD, spec=RESCALED), report=failed, last_stop_ms=NOW_MS - 4_000)

    decision = decide(situation)

    assert _asked(decision) == []
    assert decision.again_ms == NOW_MS + 6_000
    assert _asked(decide(replace(situation, now_ms=NOW_MS + 6_000))) == [RequestStop(checkpoint=True)]


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", [RequestStop(checkpoint=True)]), ("STOPPING", [])])
def test_last_checkpoints_that_go_on_failing_are_told_with_a_remedy(state: str, asked: list[object]) -> None:
    failed = report(state=state, stop_problem="bucket `b` is full", checkpoint_failures=3)

    decision = decide(with_coordinator(running(OLD, spec=RESCALED), report=failed, last_stop_ms=NOW_MS - 60_000))

    stalled = condition(decision, "Stalled")
    assert (stalled.status, stalled.reason) == ("True", "StopFailed")
    assert "the last 3 have failed, so the running version goes on: bucket `b` is full; correct" in stalled.message
    assert "StopFailed" in reasons(decision)
    assert _asked(decision) == asked


def test_checkpoints_that_failed_before_the_job_was_to_stop_do_not_mean_that_it_cannot_be() -> None:
    failed = report(checkpoint_failures=3, checkpoint_problem="503")

    decision = decide(with_coordinator(running(OLD, spec=RESCALED), report=failed))

    assert condition(decision, "Stalled").status == "False"
    assert _asked(decision) == [RequestStop(checkpoint=True)]


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

    assert _asked(decide(running(old, spec=new))) == [RequestStop(checkpoint=False)]


def test_suspending_takes_a_savepoint_and_then_the_pods_go() -> None:
    spec = manifest(suspend=True)
    situation = running(OLD, spec=spec)

    assert _asked(decide(situation)) == [RequestSavepoint("stop-r1-g2-0", stop=True)]
    stopped = _stopped(situation)
    written = decide(stopped)
    assert written.ahead
    assert reasons(written) == ["Suspended"]
    last = decide(after(stopped, written))
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


@pytest.mark.parametrize(("restore_from", "fresh", "uri"), WISHES)
def test_a_new_job_begins_with_what_restore_from_says(restore_from: str, fresh: bool, uri: str) -> None:
    decision = decide(new_job(manifest(restoreFrom=restore_from)))

    assert decision.status is not None
    assert decision.status.deployment is not None
    start = decision.status.deployment.start
    assert (start.fresh, start.restore_from, start.request) == (fresh, uri, f"{UID}-g1")


def test_a_savepoint_resource_gives_its_uri() -> None:
    done = SavepointStatus(state="Completed", uri="s3://bucket/other/savepoint-3")
    situation = replace(
        new_job(manifest(restoreFrom="nightly")), restore_source=savepoint("nightly", job="other", status=done)
    )

    decision = decide(situation)

    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.start.restore_from == "s3://bucket/other/savepoint-3"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "SavepointNotFound"),
        (savepoint("nightly"), "SavepointNotReady"),
        (savepoint("nightly", status=SavepointStatus(state="Failed", message="503")), "SavepointFailed"),
    ],
)
def test_a_savepoint_that_cannot_be_restored_is_told_before_anything_is_stopped(source: object, reason: str) -> None:
    situation = replace(running(OLD, spec=manifest(restoreFrom="nightly")), restore_source=source)  # type: ignore[arg-type]

    decision = decide(situation)

    assert _asked(decision) == []
    assert not decision.ahead
    assert condition(decision, "Stalled").reason == reason
    assert "'nightly'" in condition(decision, "Stalled").message


def test_the_same_restore_from_is_a_new_wish_once_it_was_taken_away() -> None:
    situation = with_deployment(running(OLD), restore_from="Fresh")

    decision = decide(situation)

    assert decision.ahead
    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.restore_from == ""
    assert decision.status.deployment.revision == 1
    assert decision.events == ()


@pytest.mark.parametrize(("restore_from", "fresh", "uri"), WISHES)
def test_a_wish_of_a_version_that_failed_before_it_worked_is_that_of_the_next_one(
    restore_from: str, fresh: bool, uri: str
) -> None:
    first = new_job(manifest(restoreFrom=restore_from))
    failed = with_deployment(after(first, decide(first)), outcome="Failed", message="the image has no such module")
    mended = replace(failed.job, spec=manifest(restoreFrom=restore_from, image="words:2"), generation=2)

    decision = decide(replace(failed, job=mended))

    assert decision.status is not None
    assert decision.status.deployment is not None
    start = decision.status.deployment.start
    assert (start.resume, start.fresh, start.restore_from, start.request) == (True, fresh, uri, f"{UID}-g1")


ELSEWHERE = "s3://other/savepoint-1"
BEFORE = StartWish(resume=True, restore_from=ELSEWHERE, request=f"{UID}-g1")
NOTHING = StartWish(fresh=True, request=f"{UID}-g2")


@pytest.mark.parametrize(
    ("mode", "edit", "start"),
    [
        ("Savepoint", {"image": "words:2"}, BEFORE),
        ("LastState", {"image": "words:2"}, BEFORE),
        ("Stateless", {"image": "words:2"}, NOTHING),
        ("Stateless", {"image": "words:2", "restoreFrom": ""}, NOTHING),
        ("Stateless", {"image": "words:2", "restoreFrom": "Fresh"}, NOTHING),
        (
            "Stateless",
            {"image": "words:2", "restoreFrom": "s3://other/savepoint-2"},
            StartWish(restore_from="s3://other/savepoint-2", request=f"{UID}-g2"),
        ),
        ("Stateless", {"parallelism": 3}, BEFORE),
    ],
)
def test_what_follows_a_version_that_failed_before_it_had_restored(
    mode: str, edit: dict[str, Any], start: StartWish
) -> None:
    upgrade = {"mode": mode}
    first = new_job(manifest(restoreFrom=ELSEWHERE, upgrade=upgrade))
    failed = with_deployment(after(first, decide(first)), outcome="Failed", message="the image has no such module")
    edited = replace(failed.job, spec=manifest(**{"restoreFrom": ELSEWHERE, "upgrade": upgrade, **edit}), generation=2)

    decision = decide(replace(failed, job=edited))

    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.start == start


@pytest.mark.parametrize(("restore_from", "fresh", "uri"), WISHES)
def test_a_wish_is_over_once_a_version_that_had_it_has_worked(restore_from: str, fresh: bool, uri: str) -> None:
    situation = _stopped(running(OLD, spec=manifest(restoreFrom=restore_from, image="words:2")))
    wish = StartWish(fresh=fresh, restore_from=uri, request=f"{UID}-g1")
    worked = deployment(OLD, restore_from=restore_from, start=wish)

    decision = decide(with_status(situation, deployment=worked, last_working=worked))

    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.start == StartWish(resume=True)


def test_a_wrong_pod_template_is_told_before_the_running_version_is_stopped() -> None:
    spec = manifest(worker={"podTemplate": {"spec": {"containers": "none"}}})

    decision = decide(running(OLD, spec=spec))

    assert _asked(decision) == []
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


def _upgraded(**changes: object) -> Situation:
    """Revision 2 was deployed a minute ago, from checkpoint 8, and revision 1 had worked."""
    situation = running(NEW, spec=NEW, revision=2)
    following = deployment(NEW, 2, base="chk-8-5.1-0", generation=2, time=iso(NOW_MS - 60_000), epoch=0, **changes)
    working = deployment(OLD, 1)
    return with_status(without_coordinator(situation), deployment=following, last_working=working)


def test_a_version_that_fails_before_its_first_checkpoint_is_rolled_back() -> None:
    failed = _upgraded(outcome="Failed", message="ImportError: no module words2")

    decision = decide(failed)

    assert decision.ahead
    assert decision.before == ()
    assert decision.status is not None
    back = decision.status.deployment
    assert back is not None
    assert (back.revision, back.hash, back.config_map) == (3, deploy_hash(OLD), deployment(OLD, 1).config_map)
    assert (back.start.resume, back.start.expected_checkpoint) == (True, "chk-8-5.1-0")
    assert decision.status.rejected is not None
    assert decision.status.rejected.hash == deploy_hash(NEW)
    assert reasons(decision) == ["RolledBack"]


def test_a_version_that_does_not_come_to_run_in_time_is_rolled_back() -> None:
    assert not decide(_upgraded()).ahead
    assert decide(replace(_upgraded(), now_ms=NOW_MS + 540_000)).ahead


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"waiting_reason": "ImagePullBackOff", "waiting_message": "not found: words:2"}, "not found: words:2"),
        ({"unschedulable": "0/3 nodes are available", "node": ""}, "0/3 nodes are available"),
        ({}, "it waits for the coordinator"),
    ],
)
def test_what_kept_a_version_from_running_is_told_after_its_pods_are_gone(
    changes: dict[str, object], words: str
) -> None:
    pending = with_pod(_upgraded(), worker(0, 2), running_since_ms=None, phase="Pending", **changes)

    rejected = _rejected(decide(replace(pending, now_ms=NOW_MS + 540_000)))

    assert rejected.message.startswith("it has not come to run within 10m: ")
    assert words in rejected.message


def test_what_kept_a_coordinator_from_beginning_is_told_after_its_pod_is_gone() -> None:
    failed = report(state="FAILED", retryable=True, message="the bucket `b` does not exist")
    upgraded = with_coordinator(_upgraded(), pod_uid=pod(COORDINATOR, 2).uid, report=failed)

    rejected = _rejected(decide(replace(upgraded, now_ms=NOW_MS + 540_000)))

    assert rejected.message == "it has not come to run within 10m: the bucket `b` does not exist"


def _rejected(decision: Decision) -> Rejected:
    assert decision.status is not None
    assert decision.status.rejected is not None
    return decision.status.rejected


def test_after_the_rollback_the_old_version_runs_and_the_reason_is_told() -> None:
    situation = running(OLD, spec=NEW, revision=3)
    rejected = Rejected(hash=deploy_hash(NEW), generation=2, message="ImportError: no module words2")

    decision = decide(with_status(situation, rejected=rejected))

    assert not decision.ahead
    assert _asked(decision) == []
    assert condition(decision, "Stalled").reason == "RolledBack"
    assert "ImportError" in condition(decision, "Stalled").message
    assert decision.status is not None
    assert decision.status.state == "Running"


def test_a_mended_spec_is_tried_after_a_rollback() -> None:
    situation = running(OLD, spec=manifest(image="words:3"), revision=3)
    rejected = Rejected(hash=deploy_hash(NEW), generation=2, message="ImportError")

    assert _asked(decide(with_status(situation, rejected=rejected))) != []


@pytest.mark.parametrize(
    "changes",
    [{"base": ""}, {"start": {"fresh": True}}, {"start": {"restore_from": "s3://b/savepoint-1"}}],
)
def test_there_is_no_way_back_from_what_began_elsewhere(changes: dict[str, object]) -> None:
    situation = _upgraded(outcome="Failed", message="m")
    last = situation.job.status.deployment
    assert last is not None
    start = changes.get("start")
    update = {"base": ""} if start is None else {"start": last.start.model_copy(update=start)}  # type: ignore[dict-item]

    assert not decide(with_deployment(situation, **update)).ahead


def test_rollback_can_be_switched_off() -> None:
    spec = manifest(image="words:2", upgrade={"rollback": False})
    situation = _upgraded(outcome="Failed", message="m")

    decision = decide(replace(situation, job=replace(situation.job, spec=spec)))

    assert not decision.ahead
    assert condition(decision, "Stalled").reason == "JobFailed"


def test_a_rollback_that_the_journal_does_not_allow_stays_failed() -> None:
    situation = running(OLD, spec=NEW, revision=3)
    situation = with_status(situation, rejected=Rejected(hash=deploy_hash(NEW), generation=2, message="m"))
    refused = with_report(situation, state="FAILED", refusal="NewerCheckpoint", message="the tail names chk-9")

    written = decide(refused)
    assert written.ahead
    assert written.status is not None
    assert written.status.deployment is not None
    assert written.status.deployment.outcome == "Failed"
    last = decide(after(refused, written))
    assert not last.ahead
    stalled = condition(last, "Stalled")
    assert stalled.reason == "JobFailed"
    assert "the version before cannot be put back" in stalled.message
    assert "generation 2 was rolled back" in stalled.message


def test_a_version_counts_as_working_with_the_first_checkpoint_of_its_own() -> None:
    situation = with_status(running(NEW, spec=NEW, revision=2), last_working=deployment(OLD, 1))
    of_before = CheckpointReport(8, "COMPLETED", "savepoint", "3.1", NOW_MS - 1_000, "savepoint-8-3.1-0", 1, 1)

    waiting = decide(with_report(situation, last_checkpoint=of_before))
    working = decide(situation)

    assert waiting.status is None
    assert working.status is not None
    assert working.status.last_working is not None
    assert working.status.last_working.revision == 2


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
