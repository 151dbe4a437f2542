"""The models of the status are written by the operator as well as read by it."""

from __future__ import annotations

from checkdam.spec.status import Deployment, StartWish


def test_a_status_made_with_the_names_of_python_is_the_one_that_is_read_back() -> None:
    made = Deployment(
        revision=3,
        generation=7,
        hash="0123",
        parallelism=2,
        config_map="job-abcdefgh",
        start=StartWish(restore_from="s3://bucket/savepoint", expected_checkpoint="chk-1"),
    )
    assert made.config_map == "job-abcdefgh"
    assert made.start.restore_from == "s3://bucket/savepoint"
    written = made.model_dump(by_alias=True)
    assert written["start"]["expectedCheckpoint"] == "chk-1"
    assert Deployment.model_validate(written) == made


def test_what_another_version_of_the_operator_has_added_is_dropped() -> None:
    read = Deployment.model_validate({"revision": 1, "generation": 1, "hash": "", "parallelism": 1, "weather": "fine"})
    assert read == Deployment(revision=1, generation=1, hash="", parallelism=1)
