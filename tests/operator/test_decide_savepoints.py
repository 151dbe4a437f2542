"""Checkpoints that are due, and Savepoint resources."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from decide_kit import (
    NOW_MS,
    manifest,
    reasons,
    report,
    running,
    savepoint,
    with_coordinator,
    with_report,
    with_status,
)
from msgspec import structs

from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import Disposal
from checkdam_operator.decide import Decision, decide
from checkdam_operator.decide.actions import (
    CreateSavepoint,
    DeleteSavepoint,
    DisposeSavepoint,
    RequestSavepoint,
    TriggerCheckpoint,
    WriteSavepointStatus,
)
from checkdam_operator.observed import SavepointReport, SavepointSeen, Situation
from checkdam_operator.times import iso

DONE = SavepointStatus(state="Completed", uri="s3://bucket/jobs/team/words/savepoint-8", time=iso(NOW_MS - 30_000))


def _of(decision: Decision, *kinds: type) -> list[object]:
    return [action for action in decision.actions if isinstance(action, kinds)]


def _with(*savepoints: SavepointSeen, situation: Situation | None = None) -> Situation:
    return replace(situation or running(), savepoints=savepoints)


def _written(decision: Decision) -> SavepointStatus:
    [written] = _of(decision, WriteSavepointStatus)
    assert isinstance(written, WriteSavepointStatus)
    return written.status


def test_a_checkpoint_is_asked_for_when_the_interval_is_over() -> None:
    assert decide(running()).again_ms == NOW_MS + 9_000
    due = replace(running(), now_ms=NOW_MS + 9_000)
    assert _of(decide(due), TriggerCheckpoint) == [TriggerCheckpoint(7)]


def test_a_checkpoint_that_was_asked_for_is_not_asked_for_again_at_once() -> None:
    due = with_coordinator(replace(running(), now_ms=NOW_MS + 9_000), last_trigger_ms=NOW_MS + 8_500)

    assert _of(decide(due), TriggerCheckpoint) == []


def test_a_coordinator_whose_clock_is_ahead_does_not_put_checkpoints_off() -> None:
    last = report().last_checkpoint
    assert last is not None
    ahead = with_report(running(), last_checkpoint=structs.replace(last, triggered_ms=NOW_MS + 3_600_000))

    assert _of(decide(replace(ahead, now_ms=NOW_MS + 3_600_000)), TriggerCheckpoint) == []
    assert _of(decide(replace(ahead, now_ms=NOW_MS + 3_610_000)), TriggerCheckpoint) == [TriggerCheckpoint(7)]


def test_no_checkpoint_is_asked_for_while_the_job_does_not_run() -> None:
    due = replace(with_report(running(), state="RESTARTING"), now_ms=NOW_MS + 60_000)

    assert _of(decide(due), TriggerCheckpoint) == []


def test_a_savepoint_that_is_being_taken_does_not_wait_for_the_job_because_another_operator_leads() -> None:
    taking = savepoint("nightly", status=SavepointStatus(state="InProgress", request="resource-uid-nightly"))
    situation = replace(with_coordinator(_with(taking), report=None), status_written_ms=0)

    assert _of(decide(situation), WriteSavepointStatus) == []
    unreachable = with_coordinator(situation, unreachable_since_ms=NOW_MS)
    assert _written(decide(unreachable)).state == "Pending"


def test_a_savepoint_is_asked_for_under_the_name_of_its_uid() -> None:
    decision = decide(_with(savepoint("nightly")))

    assert _of(decision, RequestSavepoint) == [RequestSavepoint("resource-uid-nightly")]
    assert _written(decision).state == "InProgress"


def test_it_waits_for_the_job_to_run() -> None:
    decision = decide(_with(savepoint("nightly"), situation=with_report(running(), state="RESTARTING")))

    assert _of(decision, RequestSavepoint) == []
    assert _written(decision).state == "Pending"
    assert "waits for the StreamJob words to run" in _written(decision).message


def test_its_end_is_written_down() -> None:
    account = SavepointReport(
        "resource-uid-nightly", "COMPLETED", 8, DONE.uri, 2**20, 400, requested_ms=NOW_MS - 30_400
    )
    situation = with_coordinator(_with(savepoint("nightly")), savepoints={account.request: account})

    decision = decide(situation)

    status = _written(decision)
    assert (status.state, status.uri, status.id, status.size, status.time) == (
        "Completed",
        DONE.uri,
        8,
        "1Mi",
        DONE.time,
    )
    assert "SavepointCompleted" in reasons(decision)


def test_a_failed_one_is_final_and_says_why() -> None:
    account = SavepointReport("resource-uid-nightly", "FAILED", failure="bucket `b` is full")
    decision = decide(with_coordinator(_with(savepoint("nightly")), savepoints={account.request: account}))

    assert _written(decision).state == "Failed"
    assert _written(decision).message == "bucket `b` is full"
    failed = savepoint("nightly", status=_written(decision))
    assert _of(decide(_with(failed)), RequestSavepoint, WriteSavepointStatus) == []


def test_an_existing_one_is_adopted_without_asking_anybody() -> None:
    decision = decide(_with(savepoint("old", uri="s3://elsewhere/savepoint-1")))

    assert (_written(decision).state, _written(decision).uri) == ("Completed", "s3://elsewhere/savepoint-1")
    assert _of(decision, RequestSavepoint) == []


def test_the_job_knows_its_newest_savepoint() -> None:
    decision = decide(_with(savepoint("a", status=DONE)))

    assert decision.status is not None
    assert decision.status.last_savepoint is not None
    assert (decision.status.last_savepoint.name, decision.status.last_savepoint.uri) == ("a", DONE.uri)


def test_what_goes_with_a_resource_is_remembered_while_it_is_there_and_disposed_of_after() -> None:
    there = decide(_with(savepoint("a", status=DONE, onDelete="Delete")))
    assert there.status is not None
    remembered = there.status.disposals
    assert [disposal.uri for disposal in remembered] == [DONE.uri]
    assert _of(there, DisposeSavepoint) == []

    gone = with_status(running(), disposals=remembered)
    assert _of(decide(gone), DisposeSavepoint) == [DisposeSavepoint("uid-a", DONE.uri)]
    done = decide(with_coordinator(gone, disposed=frozenset({"uid-a"})))
    assert done.status is not None
    assert done.status.disposals == []


def test_it_is_disposed_of_only_when_somebody_can_do_it() -> None:
    gone = with_status(running(), disposals=[Disposal(name="a", uid="uid-a", uri=DONE.uri)])
    away = with_coordinator(gone, unreachable_since_ms=NOW_MS)

    decision = decide(away)

    assert _of(decision, DisposeSavepoint) == []
    assert [disposal.uid for disposal in (decision.status or away.job.status).disposals] == ["uid-a"]


def test_a_resource_that_is_to_keep_its_files_is_not_remembered() -> None:
    kept = with_status(_with(savepoint("a", status=DONE)), disposals=[Disposal(name="a", uid="uid-a", uri=DONE.uri)])

    decision = decide(kept)

    assert decision.status is not None
    assert decision.status.disposals == []


def _nightly(at: str, **savepoints: object) -> Situation:
    spec = manifest(savepoints={"schedule": "0 3 * * *", **savepoints})
    now_ms = round(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() * 1000)
    situation = running(spec)
    deployed = situation.job.status.deployment
    assert deployed is not None
    begun = deployed.model_copy(update={"time": "2026-11-28T12:00:00Z"})
    fresh = with_status(situation, deployment=begun)
    return replace(with_coordinator(fresh, last_trigger_ms=now_ms), now_ms=now_ms)


def test_the_schedule_creates_a_savepoint_with_a_name_that_all_would_give() -> None:
    assert _of(decide(_nightly("2026-11-29T02:59:59")), CreateSavepoint) == []
    decision = decide(_nightly("2026-11-29T03:00:00"))
    assert _of(decision, CreateSavepoint) == [CreateSavepoint("words-20261129030000")]


def test_of_those_that_were_missed_one_is_made_good() -> None:
    late = _nightly("2026-12-09T10:00:00")

    assert _of(decide(late), CreateSavepoint) == [CreateSavepoint("words-20261129030000")]
    made = replace(savepoint("words-20261129030000", scheduled=True, status=DONE), created_ms=late.now_ms)
    assert _of(decide(replace(late, savepoints=(made,))), CreateSavepoint) == []


def test_a_new_one_waits_for_the_one_before() -> None:
    late = _nightly("2026-12-09T10:00:00")
    pending = savepoint("words-20261129030000", scheduled=True)

    assert _of(decide(replace(late, savepoints=(pending,))), CreateSavepoint) == []


def test_older_scheduled_ones_go_and_others_stay() -> None:
    situation = _nightly("2026-11-29T03:30:00", retain=2)
    scheduled = [
        replace(
            savepoint(f"s{day}", scheduled=True, status=DONE, onDelete="Delete"),
            created_ms=situation.now_ms - 1_000 + day,
        )
        for day in range(4)
    ]
    by_hand = replace(savepoint("mine", status=DONE), created_ms=0)

    deleted = _of(decide(replace(situation, savepoints=(*scheduled, by_hand))), DeleteSavepoint)

    assert deleted == [DeleteSavepoint("s0", "uid-s0"), DeleteSavepoint("s1", "uid-s1")]
