"""What a version begins with: `restoreFrom`, and how long such a wish holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from decide_kit import (
    UID,
    after,
    asked_to_stop,
    condition,
    deployment,
    manifest,
    new_job,
    running,
    savepoint,
    stopped,
    with_deployment,
    with_status,
)

from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import StartWish
from checkdam_operator.decide import decide

OLD = manifest()
WISHES = [("Fresh", True, ""), ("s3://other/savepoint-1", False, "s3://other/savepoint-1")]
"""Value of `restoreFrom` → whether it starts over, and from where."""


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

    assert asked_to_stop(decision) == []
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
    situation = stopped(running(OLD, spec=manifest(restoreFrom=restore_from, image="words:2")))
    wish = StartWish(fresh=fresh, restore_from=uri, request=f"{UID}-g1")
    worked = deployment(OLD, restore_from=restore_from, start=wish)

    decision = decide(with_status(situation, deployment=worked, last_working=worked))

    assert decision.status is not None
    assert decision.status.deployment is not None
    assert decision.status.deployment.start == StartWish(resume=True)
