"""What is made of whole jobs, byte for byte; a difference is for a person to judge before the files are written anew."""

from __future__ import annotations

import difflib
import json

import pytest
from resource_jobs import CASES, GOLDEN, SECRETS, Case, golden_text, job, objects

from checkdam.spec import parse_manifest


@pytest.mark.parametrize("name", CASES)
def test_the_objects_of_a_job_are_those_of_its_golden_file(name: str) -> None:
    expected = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    made = golden_text(CASES[name])
    difference = difflib.unified_diff(expected.splitlines(), made.splitlines(), f"{name}.yaml", "made now", lineterm="")
    assert made == expected, "\n".join(["if this is meant, run tests/operator/resource_jobs.py:", *difference])


def test_no_golden_file_is_left_of_a_job_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_same_job_gives_the_same_objects_again_and_shares_nothing_with_them(case: Case) -> None:
    first = json.dumps(objects(case))
    for made in objects(case):
        # Whoever is given a body may change it.
        made.clear()
    assert json.dumps(objects(case)) == first


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_everything_of_a_job_is_owned_by_it_and_carries_its_labels(case: Case) -> None:
    for made in objects(case):
        metadata = made["metadata"]
        [owner] = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("StreamJob", "flight-delays", True)
        # Otherwise deleting a StreamJob would wait for each of them.
        assert owner["blockOwnerDeletion"] is False
        assert metadata["namespace"] == "streams"
        assert metadata["labels"]["checkdam.dev/job-uid"] == owner["uid"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_secrets_are_in_the_secret_and_nowhere_else(case: Case) -> None:
    for made in objects(case):
        if made["kind"] != "Secret":
            assert not any(secret in json.dumps(made) for secret in SECRETS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_manifest_in_the_config_map_is_one_that_can_be_read(case: Case) -> None:
    [stored] = [made for made in objects(case) if made["kind"] == "ConfigMap"]
    read = parse_manifest(json.loads(stored["data"]["streamjob.json"]))
    assert read.metadata.name == "flight-delays"
    assert read.spec.checkpoint.storage.uri == job(case.spec).spec.checkpoint.storage.uri
