"""How a job that runs is given another number of workers while its pods stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from decide_kit import (
    COORDINATOR,
    NOW_MS,
    after,
    asked_to_stop,
    condition,
    manifest,
    pod,
    reasons,
    running,
    with_coordinator,
    with_deployment,
    with_pod,
    with_report,
    with_status,
    without_coordinator,
    worker,
)

from checkdam.spec.status import CheckpointStatus, Deployment, Rejected, StartWish
from checkdam_operator.decide import Decision, decide
from checkdam_operator.decide.actions import CreatePod, DeletePod, KeepManifest, Rescale
from checkdam_operator.observed import CheckpointReport, Pod, Situation, Slot, WorkerReport
from checkdam_operator.resources.hashes import deploy_hash
from checkdam_operator.times import iso

OLD = manifest()
MORE = manifest(parallelism=3)
LESS = manifest(parallelism=1)


def _rescaling(wanted: int) -> Situation:
    """A job that runs with two workers, and is to have another number: the deployment says so, and nothing was done about it."""
    edited = running(OLD, spec=manifest(parallelism=wanted))
    return after(edited, decide(edited))


def _following(decision: Decision) -> Deployment:
    assert decision.status is not None
    assert decision.status.deployment is not None
    return decision.status.deployment


def _rescales(decision: Decision) -> list[int]:
    return [action.parallelism for action in decision.actions if isinstance(action, Rescale)]


def _created(decision: Decision) -> list[Slot]:
    return [action.slot for action in decision.actions if isinstance(action, CreatePod)]


def _deleted(decision: Decision) -> list[str]:
    return [action.name for action in decision.actions if isinstance(action, DeletePod)]


def _with_pods(situation: Situation, *pods: Pod) -> Situation:
    return replace(situation, pods=(*situation.pods, *pods))


def _told(**changes: Any) -> dict[str, Any]:
    """A report of a coordinator that knows that three workers are wanted, of which two are connected."""
    workers = [WorkerReport(index, index < 2, worker(index).name + "/a" if index < 2 else "") for index in range(3)]
    return {"wanted_parallelism": 3, "workers": workers, **changes}


# What is deployed


@pytest.mark.parametrize("mode", ["Savepoint", "LastState", "Stateless"])
@pytest.mark.parametrize("wanted", [1, 3])
def test_another_parallelism_is_written_ahead_for_the_same_revision_whatever_the_mode(wanted: int, mode: str) -> None:
    spec = manifest(parallelism=wanted, upgrade={"mode": mode})
    situation = running(OLD, spec=spec)
    before = situation.job.status.deployment
    assert before is not None

    decision = decide(situation)

    assert (decision.ahead, decision.before, decision.actions) == (True, (), ())
    changes = {"parallelism": wanted, "generation": 2, "hash": deploy_hash(spec), "time": iso(NOW_MS)}
    assert _following(decision) == before.model_copy(update=changes)
    [event] = decision.events
    assert (event.reason, event.key, event.warning) == ("Rescaled", "g2", False)
    assert event.message == f"rescale from 2 to {wanted} workers (generation 2)"


def test_a_job_that_does_not_run_just_now_is_rescaled_like_one_that_does() -> None:
    restarting = with_report(running(OLD, spec=MORE), state="RESTARTING")

    assert _following(decide(restarting)).revision == 1
    assert _following(decide(without_coordinator(restarting))).revision == 1


def test_what_was_written_ahead_may_change_again_before_it_is_reached() -> None:
    situation = _rescaling(3)
    for wanted in (4, 2):
        spec = manifest(parallelism=wanted)
        edited = replace(situation, job=replace(situation.job, spec=spec, generation=3))
        following = _following(decide(edited))
        assert (following.revision, following.generation, following.parallelism) == (1, 3, wanted)


@pytest.mark.parametrize("changes", [{"state": "STOPPED"}, {"state": "FAILED", "retryable": True}])
def test_a_job_whose_coordinator_has_ended_goes_on_with_another_one(changes: dict[str, Any]) -> None:
    following = _following(decide(with_report(running(OLD, spec=MORE), **changes)))

    assert (following.revision, following.parallelism, following.start.resume) == (2, 3, True)


def test_a_job_that_has_ended_for_good_begins_again_with_the_new_number() -> None:
    situation = with_deployment(running(OLD, spec=MORE), outcome="Failed", message="m")

    following = _following(decide(replace(without_coordinator(situation), pods=())))

    assert (following.revision, following.parallelism, following.outcome) == (2, 3, "")


def test_something_else_that_changes_as_well_makes_it_an_upgrade() -> None:
    situation = _rescaling(3)
    spec = manifest(parallelism=4, image="words:2")

    decision = decide(replace(situation, job=replace(situation.job, spec=spec, generation=3)))

    assert not decision.ahead
    assert len(asked_to_stop(decision)) == 1
    assert _rescales(decision) == []  # one thing after the other


def test_what_is_deployed_with_another_image_has_the_number_of_its_spec() -> None:
    situation = with_report(_rescaling(3), state="STOPPED")
    spec = manifest(parallelism=4, image="words:2")

    following = _following(decide(replace(situation, job=replace(situation.job, spec=spec, generation=3))))

    assert (following.revision, following.parallelism) == (2, 4)


def test_a_job_that_is_stopped_by_somebody_while_it_is_rescaled_goes_on_with_the_new_number() -> None:
    following = _following(decide(with_report(_rescaling(3), state="STOPPED")))

    assert (following.revision, following.parallelism) == (2, 3)


def test_the_manifest_of_a_job_that_was_rescaled_is_stored_again_if_it_is_lost() -> None:
    lost = replace(_rescaling(3), deployed=None)
    before = lost.job.status.deployment
    assert before is not None

    [kept] = [action for action in decide(lost).actions if isinstance(action, KeepManifest)]

    assert kept.config_map["metadata"]["name"] == before.config_map


# What the coordinator is told


def test_the_coordinator_is_told_and_the_missing_workers_are_created_in_one_step() -> None:
    decision = decide(_rescaling(3))

    assert _rescales(decision) == [3]
    assert _created(decision) == [Slot("worker", 2)]
    assert _deleted(decision) == []
    assert asked_to_stop(decision) == []


@pytest.mark.parametrize(
    "situation",
    [
        running(OLD),
        with_report(_rescaling(3), **_told()),
        with_report(_rescaling(3), state="STARTING", epoch=0, attempt=0),
        with_report(_rescaling(3), state="FAILED", retryable=True),
        without_coordinator(_rescaling(3)),
        with_coordinator(_rescaling(3), unreachable_since_ms=NOW_MS - 1),
        with_deployment(_rescaling(3), outcome="Failed", message="m"),
    ],
    ids=["as deployed", "knows already", "has not begun", "has failed", "unknown", "out of reach", "ended"],
)
def test_a_coordinator_that_knows_or_cannot_be_told_is_not_told(situation: Situation) -> None:
    assert _rescales(decide(situation)) == []


def test_a_coordinator_that_was_told_in_vain_is_told_again_after_a_pause() -> None:
    situation = with_coordinator(_rescaling(3), last_rescale_ms=NOW_MS - 500)

    decision = decide(situation)

    assert _rescales(decision) == []
    assert decision.again_ms == NOW_MS + 1_500
    again = decide(replace(situation, now_ms=NOW_MS + 1_500))
    assert _rescales(again) == [3]
    assert again.again_ms == NOW_MS + 3_500


# Which pods there are


def test_a_worker_that_is_not_wanted_any_more_stays_as_long_as_the_attempt_may_need_it() -> None:
    told = with_report(_rescaling(1), wanted_parallelism=1)

    assert _rescales(decide(_rescaling(1))) == [1]
    assert _deleted(decide(_rescaling(1))) == []
    assert _deleted(decide(told)) == []
    assert _deleted(decide(with_coordinator(told, unreachable_since_ms=NOW_MS - 1))) == []
    assert _deleted(decide(without_coordinator(told))) == []


def test_a_worker_that_the_attempt_does_without_goes() -> None:
    done = with_report(_rescaling(1), parallelism=1, wanted_parallelism=1, workers_connected=1, attempt=2)

    decision = decide(done)

    assert _deleted(decision) == [worker(1).name]
    assert _created(decision) == []


def test_a_worker_that_the_coordinator_may_still_believe_to_be_wanted_stays() -> None:
    """A rescale to three was taken back, and the coordinator was told of the first only."""
    situation = _with_pods(with_report(running(OLD), **_told()), worker(2))

    assert _deleted(decide(situation)) == []
    assert _rescales(decide(situation)) == [2]
    assert _deleted(decide(with_report(situation))) == [worker(2).name]


def test_a_surplus_worker_that_is_of_no_use_is_not_replaced() -> None:
    failed = with_pod(_rescaling(1), worker(1), phase="Failed")

    decision = decide(failed)

    assert (_created(decision), _deleted(decision)) == ([], [worker(1).name])


def test_pods_of_other_revisions_go_while_a_job_is_rescaled() -> None:
    decision = decide(_with_pods(_rescaling(1), worker(1, revision=0)))

    assert _deleted(decision) == [worker(1, revision=0).name]


def test_only_pods_that_are_wanted_are_counted() -> None:
    decision = decide(_rescaling(1))

    assert decision.status is not None
    assert (decision.status.replicas, decision.status.workers.desired) == (1, 1)


# What people are told


def test_a_job_that_runs_with_another_number_of_workers_is_not_ready_and_says_what_it_waits_for() -> None:
    decision = decide(with_report(_rescaling(3), **_told()))

    assert decision.status is not None
    assert decision.status.state == "Upgrading"
    for kind, status in (("Ready", "False"), ("Progressing", "True")):
        found = condition(decision, kind)
        assert (found.status, found.reason, found.observed_generation) == (status, "Rescale", 2)
        assert found.message == (
            "rescale from 2 to 3 workers is under way; the job runs with 2 until 3 are connected (2 of 3 are)"
        )
    assert condition(decision, "Stalled").status == "False"
    assert condition(decision, "CheckpointHealthy").status == "True"
    assert decision.status.workers_text == "2/3"


def test_nobody_is_told_to_be_waited_for_when_all_are_connected() -> None:
    decision = decide(with_report(_rescaling(1), wanted_parallelism=1, workers_connected=1))

    assert condition(decision, "Ready").message == "rescale from 2 to 1 workers is under way"


def test_a_job_that_changes_over_is_not_said_to_recover() -> None:
    told = with_report(_rescaling(3), **_told(workers_connected=3))
    begins = with_report(after(told, decide(told)), state="DEPLOYING", attempt=2, parallelism=3, wanted_parallelism=3)
    decision = decide(begins)
    assert decision.status is not None
    assert (decision.status.state, condition(decision, "Ready").reason) == ("Upgrading", "Rescale")
    runs = with_report(after(begins, decision), attempt=2, parallelism=3, wanted_parallelism=3)
    last = decide(runs)
    assert condition(last, "Ready").status == "True"
    assert "Recovered" not in reasons(last)


def test_what_keeps_a_new_worker_from_coming_is_told_while_the_job_runs_on() -> None:
    waiting = worker(2, phase="Pending", running_since_ms=None, node="", unschedulable="0/3 nodes: insufficient cpu")
    decision = decide(_with_pods(with_report(_rescaling(3), **_told()), waiting))

    ready, stalled = condition(decision, "Ready"), condition(decision, "Stalled")
    assert (ready.status, ready.reason) == ("False", "Unschedulable")
    assert (stalled.status, stalled.reason) == ("True", "Unschedulable")
    assert "insufficient cpu" in stalled.message
    assert stalled.message.endswith("; the job runs on with 2 workers")
    assert condition(decision, "Progressing").status == "False"
    assert asked_to_stop(decision) == []


def test_the_trouble_of_a_worker_that_is_not_wanted_is_nobodys() -> None:
    situation = with_pod(_rescaling(1), worker(1), running_since_ms=None, waiting_reason="CreateContainerConfigError")

    assert condition(decide(situation), "Stalled").status == "False"


def test_a_job_that_runs_as_it_is_to_but_may_be_about_to_change_is_not_ready() -> None:
    taken_back = with_report(running(OLD), **_told())

    decision = decide(taken_back)

    assert condition(decision, "Ready").status == "False"
    assert condition(decision, "Ready").message == (
        "the job runs with 2 workers, and its coordinator is told to stay with as many"
    )


def test_a_job_is_ready_once_it_runs_with_as_many_workers_as_it_is_to_have() -> None:
    done = with_report(_rescaling(3), parallelism=3, wanted_parallelism=3, workers_connected=3, attempt=2)

    decision = decide(_with_pods(done, worker(2)))

    assert condition(decision, "Ready").status == "True"
    assert decision.status is not None
    assert (decision.status.state, decision.status.workers_text) == ("Running", "3/3")


def test_a_coordinator_that_comes_back_is_replaced_like_any_other_while_a_job_is_rescaled() -> None:
    gone = with_pod(_rescaling(3), pod(COORDINATOR), deleting=True)

    assert _created(decide(gone)) == [COORDINATOR, Slot("worker", 2)]


# Whether it has worked, and what becomes of it if it has not


def _checkpoint(attempt: str) -> CheckpointReport:
    return CheckpointReport(8, "COMPLETED", "interval", attempt, NOW_MS - 1_000, f"chk-8-{attempt}-0", 300, 2**20)


@pytest.mark.parametrize(
    ("changes", "works"),
    [
        ({"last_checkpoint": _checkpoint("5.1"), "attempt": 1, "parallelism": 2}, False),
        ({"last_checkpoint": _checkpoint("5.1"), "attempt": 2, "parallelism": 3}, False),
        ({"last_checkpoint": _checkpoint("5.2"), "attempt": 2, "parallelism": 3}, True),
    ],
    ids=["before", "rescaled", "with a checkpoint"],
)
def test_a_number_of_workers_counts_as_working_with_the_first_checkpoint_of_an_attempt_that_has_it(
    changes: dict[str, Any], works: bool
) -> None:
    decision = decide(with_report(_rescaling(3), wanted_parallelism=3, **changes))

    assert decision.status is not None
    working = decision.status.last_working
    assert working is not None
    assert (working.revision, working.parallelism) == (1, 3 if works else 2)
    told = [event.message for event in decision.events if event.key == "g2 done"]
    assert told == ["the job runs with 3 workers, and has completed a checkpoint with them"] * works


def _back(decision: Decision) -> Deployment:
    assert decision.ahead
    assert decision.status is not None
    assert decision.status.rejected is not None
    assert (decision.status.rejected.hash, decision.status.rejected.generation) == (deploy_hash(MORE), 2)
    return _following(decision)


def test_a_job_that_fails_for_good_before_a_checkpoint_with_its_new_workers_gets_those_that_it_had() -> None:
    before = running(OLD).job.status.deployment
    assert before is not None
    last = CheckpointStatus(id=9, uri="s3://bucket/jobs/team/words/chk-9-5.1-0")
    failed = with_status(with_deployment(_rescaling(3), outcome="Failed", message="MemoryError"), last_checkpoint=last)

    decision = decide(failed)

    back = _back(decision)
    assert (back.revision, back.parallelism, back.generation) == (2, 2, 1)
    assert (back.config_map, back.outcome, back.epoch) == (before.config_map, "", 0)
    assert (back.start.resume, back.start.expected_checkpoint, back.base) == (True, "", "chk-9-5.1-0")
    assert reasons(decision) == ["RolledBack"]


@pytest.mark.parametrize("changes", [{"base": ""}, {"start": StartWish(fresh=True)}, {"restore_from": "Fresh"}])
def test_how_the_revision_once_began_does_not_matter(changes: dict[str, Any]) -> None:
    failed = with_deployment(_rescaling(3), outcome="Failed", message="MemoryError", **changes)
    spec = manifest(parallelism=3, restoreFrom=changes.get("restore_from", ""))

    assert _back(decide(replace(failed, job=replace(failed.job, spec=spec)))).parallelism == 2


def test_a_job_that_has_worked_with_its_new_workers_stays_failed() -> None:
    failed = with_deployment(_rescaling(3), outcome="Failed", message="MemoryError")
    worked = with_status(failed, last_working=failed.job.status.deployment)

    assert not decide(worked).ahead


def test_a_rescale_is_not_rolled_back_where_that_is_switched_off() -> None:
    failed = with_deployment(_rescaling(3), outcome="Failed", message="MemoryError")
    spec = manifest(parallelism=3, upgrade={"rollback": False})

    assert not decide(replace(failed, job=replace(failed.job, spec=spec))).ahead


def test_a_job_that_does_not_run_for_too_long_gets_the_workers_that_it_had() -> None:
    restarting = with_report(_rescaling(3), state="RESTARTING", parallelism=3, wanted_parallelism=3)
    situation = with_coordinator(restarting, not_running_since_ms=NOW_MS, running_since_ms=None)
    deadline_ms = NOW_MS + 600_000

    waiting = decide(replace(situation, now_ms=deadline_ms - 1))
    assert not waiting.ahead
    assert waiting.again_ms == deadline_ms
    assert _back(decide(replace(situation, now_ms=deadline_ms))).parallelism == 2


def test_workers_may_take_longer_than_the_deadline_to_come_while_the_job_runs_on() -> None:
    """Neither is it over when they do: the attempt before has ended, and the next one has not begun."""
    late_ms = NOW_MS + 3_600_000
    situation = replace(with_report(_rescaling(3), **_told()), now_ms=late_ms)
    switching = with_report(situation, state="DEPLOYING", parallelism=3, wanted_parallelism=3, attempt=2)

    assert not decide(situation).ahead
    assert not decide(with_coordinator(switching, not_running_since_ms=late_ms - 500, running_since_ms=None)).ahead


def test_what_was_rolled_back_is_told_and_not_tried_again() -> None:
    rejected = Rejected(hash=deploy_hash(MORE), generation=2, message="MemoryError")
    situation = with_status(running(OLD, spec=MORE, revision=2), rejected=rejected)

    decision = decide(situation)

    assert not decision.ahead
    assert condition(decision, "Stalled").reason == "RolledBack"
    assert condition(decision, "Ready").status == "False"


def test_another_number_is_tried_after_a_rollback() -> None:
    rejected = Rejected(hash=deploy_hash(MORE), generation=2, message="MemoryError")
    situation = with_status(running(OLD, spec=manifest(parallelism=4), revision=2), rejected=rejected)

    decision = decide(situation)

    assert _following(decision).parallelism == 4
    assert decision.status is not None
    assert decision.status.rejected is None
