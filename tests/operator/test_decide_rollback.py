"""When the version before is deployed again, and what is told of the one that failed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_kit import (
    COORDINATOR,
    NOW_MS,
    after,
    asked_to_stop,
    condition,
    deployment,
    manifest,
    pod,
    reasons,
    report,
    running,
    with_coordinator,
    with_deployment,
    with_pod,
    with_report,
    with_status,
    without_coordinator,
    worker,
)

from checkdam.spec.status import Rejected
from checkdam_operator.decide import Decision, decide
from checkdam_operator.observed import Situation
from checkdam_operator.resources.hashes import deploy_hash
from checkdam_operator.times import iso

OLD = manifest()
NEW = manifest(image="words:2")


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
    assert asked_to_stop(decision) == []
    assert condition(decision, "Stalled").reason == "RolledBack"
    assert "ImportError" in condition(decision, "Stalled").message
    assert decision.status is not None
    assert decision.status.state == "Running"


def test_a_mended_spec_is_tried_after_a_rollback() -> None:
    situation = running(OLD, spec=manifest(image="words:3"), revision=3)
    rejected = Rejected(hash=deploy_hash(NEW), generation=2, message="ImportError")

    assert asked_to_stop(decide(with_status(situation, rejected=rejected))) != []


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
