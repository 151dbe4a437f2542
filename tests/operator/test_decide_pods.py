"""Which pods are created and deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decide_kit import (
    COORDINATOR,
    NOW_MS,
    after,
    manifest,
    new_job,
    pod,
    reasons,
    report,
    running,
    with_coordinator,
    with_deployment,
    with_pod,
    with_report,
    without_coordinator,
    worker,
)

from checkdam_operator.decide import decide
from checkdam_operator.decide.actions import ApplyServices, CreatePod, DeletePod, KeepManifest
from checkdam_operator.decide.pods import replacement_pause_ms
from checkdam_operator.observed import Situation, Slot, Termination, WorkerReport, pod_of
from checkdam_operator.resources.names import pod_hash
from checkdam_operator.resources.pods import Succession


def _created(situation: Situation) -> list[CreatePod]:
    return [action for action in decide(situation).actions if isinstance(action, CreatePod)]


def _deleted(situation: Situation) -> list[str]:
    return [action.name for action in decide(situation).actions if isinstance(action, DeletePod)]


def test_a_new_job_is_written_ahead_before_anything_is_made() -> None:
    decision = decide(new_job())

    assert decision.ahead
    assert decision.actions == ()
    assert [type(action) for action in decision.before] == [KeepManifest]
    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.start.resume


def test_then_the_services_come_first_and_all_pods_at_once() -> None:
    situation = new_job()
    situation = after(situation, decide(situation))

    actions = decide(situation).actions

    assert isinstance(actions[0], ApplyServices)
    assert actions[0].coordinator_hash == pod_hash("uid-1", "coordinator", 0, 1, "")
    assert [action.slot for action in actions[1:] if isinstance(action, CreatePod)] == [
        COORDINATOR,
        Slot("worker", 0),
        Slot("worker", 1),
    ]


def test_a_job_that_runs_well_is_left_alone() -> None:
    decision = decide(running())

    assert [type(action) for action in decision.actions] == [ApplyServices]
    assert decision.status is None
    assert decision.events == ()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"deleting": True}, "Deleted"),
        ({"phase": "Failed", "evicted": "Evicted"}, "Evicted"),
        ({"phase": "Failed"}, "Failed"),
        ({"phase": "Succeeded"}, "Succeeded"),
        ({"terminated": Termination("Error", 1), "restart_count": 1, "running_since_ms": None}, "Crashed"),
        ({"waiting_reason": "CrashLoopBackOff", "restart_count": 1, "running_since_ms": None}, "Crashed"),
    ],
)
def test_a_pod_that_is_of_no_use_is_replaced_at_once_beside_itself(changes: dict[str, object], cause: str) -> None:
    old = worker(1)

    situation = with_pod(running(), old, **changes)

    assert _created(situation) == [
        CreatePod(Slot("worker", 1), cause, Succession(old.uid, 0 if cause == "Deleted" else 1))
    ]
    assert _deleted(situation) == ([] if cause == "Deleted" else [old.name])


def test_a_container_that_ends_for_the_first_time_is_left_to_the_kubelet() -> None:
    situation = with_pod(running(), worker(1), terminated=Termination("OOMKilled", 137), running_since_ms=None)

    assert _created(situation) == []


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (Termination("OOMKilled", 137, "Killed", NOW_MS - 500), "raise `resources.limits.memory` of `spec.worker`"),
        (Termination("Error", 1, "no words", NOW_MS - 500), "is started again: Error with exit code 1: no words"),
    ],
)
@pytest.mark.parametrize("started", [False, True])
def test_the_first_end_of_a_container_is_told_once_however_often_it_is_seen(
    end: Termination, said: str, started: bool
) -> None:
    ended = {"terminated": end, "running_since_ms": None}
    again = {"last_terminated": end, "restart_count": 1, "running_since_ms": NOW_MS - 100}

    [event] = decide(with_pod(running(), worker(1), **(again if started else ended))).events

    assert (str(event.reason), event.warning) == ("ContainerEnded", True)
    assert said in event.message
    assert event.key == f"{worker(1).uid} {NOW_MS - 500}"


def test_the_pod_that_took_a_place_keeps_it_when_the_old_one_wakes_up() -> None:
    old, successor = worker(1), worker(1, replaces=worker(1).uid, replacements=1, created_ms=NOW_MS - 5_000)
    situation = replace(running(), pods=(*running().pods, successor))

    assert _created(situation) == []
    assert _deleted(situation) == [old.name]


def test_a_worker_that_is_missing_though_its_container_runs_is_replaced() -> None:
    lost = [WorkerReport(0, True, worker(0).name + "/a"), WorkerReport(1, False, worker(1).name + "/b")]
    situation = with_report(running(), state="RESTARTING", workers=lost, workers_connected=1)
    situation = with_coordinator(situation, missing_since_ms={1: NOW_MS - 3_000})
    situation = with_pod(situation, worker(1), node="node-b")

    assert _created(situation) == [CreatePod(Slot("worker", 1), "Lost", Succession(worker(1).uid, 1, "node-b"))]


def test_a_worker_that_has_just_broken_off_is_given_a_moment() -> None:
    lost = [WorkerReport(0, True, worker(0).name + "/a"), WorkerReport(1, False, worker(1).name + "/b")]
    situation = with_report(running(), state="RESTARTING", workers=lost, workers_connected=1)
    situation = with_coordinator(situation, missing_since_ms={1: NOW_MS - 1_000})

    assert _created(situation) == []
    assert decide(situation).again_ms == NOW_MS + 2_000


def test_a_worker_whose_container_was_started_again_may_import_again() -> None:
    lost = [WorkerReport(0, True, worker(0).name + "/a"), WorkerReport(1, False, worker(1).name + "/b")]
    situation = with_report(running(), state="RESTARTING", workers=lost, workers_connected=1)
    situation = with_coordinator(situation, missing_since_ms={1: NOW_MS - 9_500})
    in_that_second = NOW_MS - 10_000

    restarted = with_pod(situation, worker(1), restart_count=1, running_since_ms=in_that_second)

    assert _created(restarted) == []
    assert [action.cause for action in _created(situation)] == ["Lost"]


def test_a_worker_that_imports_for_a_minute_is_not_replaced() -> None:
    starting = worker(1, created_ms=NOW_MS - 62_000, running_since_ms=NOW_MS - 60_000)
    situation = with_pod(
        running(), worker(1), created_ms=starting.created_ms, running_since_ms=starting.running_since_ms
    )
    situation = with_report(situation, workers=[WorkerReport(0, True, ""), WorkerReport(1, False, "")])
    situation = with_coordinator(situation, missing_since_ms={1: NOW_MS - 60_000})

    assert _created(situation) == []


def test_workers_are_not_called_lost_by_a_coordinator_that_is_out_of_reach() -> None:
    lost = [WorkerReport(0, False, worker(0).name + "/a"), WorkerReport(1, False, worker(1).name + "/b")]
    situation = with_coordinator(
        running(),
        report=report(workers=lost),
        missing_since_ms={0: NOW_MS - 60_000, 1: NOW_MS - 60_000},
        unreachable_since_ms=NOW_MS - 1_000,
    )

    assert _created(situation) == []


def test_a_coordinator_out_of_reach_is_replaced_only_if_kubernetes_does_not_call_it_ready() -> None:
    situation = with_coordinator(running(), unreachable_since_ms=NOW_MS - 20_000)

    assert _created(situation) == []
    assert [action.cause for action in _created(with_pod(situation, pod(COORDINATOR), ready=False))] == ["Lost"]


def test_replacing_the_coordinator_leads_the_service_to_the_new_pod() -> None:
    old = pod(COORDINATOR)

    actions = decide(with_pod(running(), old, deleting=True)).actions

    assert actions[0] == ApplyServices(pod_hash("uid-1", "coordinator", 0, 1, old.uid))


def test_replacements_in_a_row_wait_longer_and_longer() -> None:
    pauses = [replacement_pause_ms(row) for row in range(1, 12)]

    assert pauses == [0, 0, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000]


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"deleting": True}, False),
        ({"deleting": True, "phase": "Failed", "terminated": Termination("Error", 143)}, False),
        ({"deleting": True, "phase": "Succeeded", "terminated": Termination("Completed", 0)}, False),
        ({"deleting": True, "disrupted": True}, False),
        ({"deleting": True, "waiting_reason": "CrashLoopBackOff", "restart_count": 1}, False),
        ({"phase": "Failed", "evicted": "Evicted", "disrupted": True}, False),
        ({"phase": "Failed", "evicted": "Terminated", "disrupted": True}, False),
        ({"phase": "Failed", "evicted": "Evicted"}, True),
        ({"phase": "Failed", "evicted": "OutOfcpu"}, True),
        ({"phase": "Failed"}, True),
        ({"terminated": Termination("OOMKilled", 137), "restart_count": 1}, True),
        ({"terminated": Termination("Error", 1), "restart_count": 1, "disrupted": True}, True),
        ({"waiting_reason": "CrashLoopBackOff", "restart_count": 1}, True),
    ],
)
def test_a_row_grows_with_pods_that_fail_and_not_with_those_that_are_ended_from_outside(
    changes: dict[str, object], counts: bool
) -> None:
    fifth = {"created_ms": NOW_MS - 15_000, "replacements": 5, "running_since_ms": None}
    situation = with_pod(running(), worker(1), **{**fifth, **changes})

    created = _created(situation)
    later = _created(replace(situation, now_ms=NOW_MS + 1_000))

    assert [action.succession.replacements for action in created] == ([] if counts else [5])
    assert [action.succession.replacements for action in later] == [6 if counts else 5]


@pytest.mark.parametrize(("status", "disrupted"), [("True", True), ("False", False)])
def test_kubernetes_says_in_a_condition_that_it_ends_a_pod_for_a_reason_outside_of_it(
    status: str, disrupted: bool
) -> None:
    labels = {"app.kubernetes.io/component": "worker", "checkdam.dev/index": "1", "checkdam.dev/revision": "1"}
    body = {
        "metadata": {"name": "words-w1-abcde", "uid": "uid-1", "labels": labels},
        "status": {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": status}]},
    }

    seen = pod_of(body)

    assert seen is not None
    assert seen.disrupted is disrupted


def test_whoever_deletes_each_pod_as_it_comes_does_not_keep_the_operator_busy() -> None:
    situation = with_pod(running(), worker(1), created_ms=NOW_MS - 500, deleting=True)

    assert _created(situation) == []
    assert decide(situation).again_ms == NOW_MS + 1_500
    assert [action.cause for action in _created(replace(situation, now_ms=NOW_MS + 1_500))] == ["Deleted"]


def test_a_pod_that_must_wait_for_its_replacement_stays_to_tell_why() -> None:
    crashing = {
        "created_ms": NOW_MS - 1_000,
        "replacements": 3,
        "restart_count": 1,
        "running_since_ms": None,
        "waiting_reason": "CrashLoopBackOff",
        "last_terminated": Termination("Error", 1, "ImportError: no words", NOW_MS - 500),
    }
    situation = with_report(with_pod(running(), worker(0), **crashing), state="RESTARTING", workers_connected=1)

    decision = decide(situation)

    assert _created(situation) == []
    assert _deleted(situation) == []
    assert decision.again_ms == NOW_MS + 3_000
    stalled = decision.status.condition("Stalled") if decision.status else None
    assert stalled is not None
    assert stalled.reason == "CrashLoop"
    assert "ImportError: no words" in stalled.message


def test_a_row_of_replacements_ends_when_a_pod_has_lived_for_a_while() -> None:
    failed = with_pod(running(), worker(0), replacements=7, phase="Failed")
    deleted = with_pod(running(), worker(0), replacements=7, deleting=True)

    assert [action.succession.replacements for action in _created(failed)] == [1]
    assert [action.succession.replacements for action in _created(deleted)] == [0]


def test_pods_of_other_revisions_and_of_a_smaller_parallelism_go() -> None:
    situation = replace(running(), pods=(*running().pods, worker(0, revision=0), worker(2)))

    assert sorted(_deleted(situation)) == sorted([worker(0, revision=0).name, worker(2).name])


@pytest.mark.parametrize(
    "changes", [{"suspended": True}, {"outcome": "Completed"}, {"outcome": "Failed", "message": "m"}]
)
def test_a_job_that_has_ended_or_is_suspended_has_no_pods(changes: dict[str, object]) -> None:
    situation = with_deployment(running(spec=manifest(suspend=bool(changes.get("suspended")))), **changes)

    assert len(_deleted(situation)) == 3


def test_a_deleted_job_gets_nothing_any_more() -> None:
    situation = running()
    situation = replace(situation, job=replace(situation.job, deleting=True), pods=())

    decision = decide(situation)

    assert (decision.actions, decision.status, decision.events) == ((), None, ())


def test_a_coordinator_that_could_not_start_for_an_outer_reason_is_started_again() -> None:
    situation = with_report(running(), state="FAILED", retryable=True, message="bucket `b` is missing", workers=[])

    decision = decide(situation)

    assert [action.cause for action in decision.actions if isinstance(action, CreatePod)] == ["CannotStart"]
    stalled = decision.status.condition("Stalled") if decision.status else None
    assert stalled is not None
    assert (stalled.status, stalled.reason) == ("True", "CannotStart")
    assert "bucket `b` is missing" in stalled.message


def test_replaced_pods_are_told_of_but_not_those_that_somebody_deleted() -> None:
    crashed = {"phase": "Failed", "evicted": "Evicted"}

    assert "PodReplaced" in reasons(decide(with_pod(running(), worker(0), **crashed)))
    assert "PodReplaced" not in reasons(decide(with_pod(running(), worker(0), deleting=True)))


def test_pods_go_on_when_their_manifest_is_lost() -> None:
    situation = replace(without_coordinator(running()), deployed=None)

    assert _created(situation) == []
    assert _deleted(situation) == []


def test_a_lost_manifest_is_made_again_from_the_spec_it_was_made_of() -> None:
    situation = replace(running(), deployed=None)
    deployed = situation.job.status.deployment
    assert deployed is not None

    kept = [action for action in decide(situation).actions if isinstance(action, KeepManifest)]

    assert [action.config_map["metadata"]["name"] for action in kept] == [deployed.config_map]


def test_a_lost_manifest_of_a_version_that_no_spec_says_any_more_is_told() -> None:
    situation = replace(with_deployment(running(), config_map="words-lost"), deployed=None)

    decision = decide(situation)

    assert [action for action in decision.actions if isinstance(action, KeepManifest)] == []
    assert decision.status is not None
    stalled = decision.status.condition("Stalled")
    assert stalled is not None
    assert stalled.reason == "ManifestLost"


def test_a_pod_that_is_gone_before_its_deletion_was_seen_is_replaced_under_another_name() -> None:
    gone = next(pod for pod in running().pods if pod.slot == Slot("worker", 1))
    situation = replace(
        running(),
        pods=tuple(pod for pod in running().pods if pod != gone),
        last_pods={pod.slot: pod for pod in running().pods},
    )

    assert _created(situation) == [CreatePod(gone.slot, "Deleted", Succession(gone.uid))]


def test_the_successor_of_a_pod_that_is_gone_is_not_replaced_as_its_predecessor_was() -> None:
    ending = next(replace(pod, deleting=True) for pod in running().pods if pod.slot == Slot("worker", 1))
    gone = replace(ending, uid="uid-gone", deleting=False, replaces=ending.uid, replacements=1)
    others = tuple(pod for pod in running().pods if pod.slot != ending.slot)
    situation = replace(running(), pods=(*others, ending), last_pods={ending.slot: gone})

    assert [action.succession.replaces for action in _created(situation)] == ["uid-gone"]


def test_a_pod_of_an_earlier_revision_has_no_successor() -> None:
    situation = new_job()
    situation = after(situation, decide(situation))
    earlier = replace(running().pods[0], slot=Slot("worker", 1), revision=0)

    created = _created(replace(situation, last_pods={earlier.slot: earlier}))

    assert [action.succession.replaces for action in created] == ["", "", ""]
