"""Savepoint, the resource: what it means, and what is wrong with wrong ones."""

from __future__ import annotations

from typing import Any

import pytest
from spec_samples import manifest, savepoint
from wrong_manifests import SAVEPOINTS, SAVEPOINTS_OTHERWISE

from checkdam.core.errors import ManifestError
from checkdam.spec import parse_savepoint


def test_the_smallest_savepoint_needs_a_job_only() -> None:
    parsed = parse_savepoint(savepoint())

    assert (parsed.metadata.name, parsed.metadata.namespace) == ("before-friday", "default")
    assert (parsed.spec.job, parsed.spec.uri, parsed.spec.on_delete) == ("flight-delays", "", "Keep")


def test_a_savepoint_that_is_there_already_is_named_by_its_uri() -> None:
    parsed = parse_savepoint(savepoint({"spec.uri": "s3://bucket/jobs/default/flights/savepoint-7"}))

    assert parsed.spec.uri == "s3://bucket/jobs/default/flights/savepoint-7"


def test_a_savepoint_read_back_from_the_api_server_is_accepted() -> None:
    read = savepoint({"metadata.uid": "5b1e", "metadata.managedFields": [{}], "status": {"state": "Completed"}})

    assert parse_savepoint(read).metadata.uid == "5b1e"


@pytest.mark.parametrize(("fields", "sentence"), [*SAVEPOINTS, *SAVEPOINTS_OTHERWISE])
def test_a_wrong_savepoint_is_refused_with_what_is_allowed(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_savepoint(savepoint(fields), "savepoint.yaml")
    assert (caught.value.problems, caught.value.source) == ([sentence], "savepoint.yaml")


def test_a_stream_job_is_no_savepoint() -> None:
    with pytest.raises(ManifestError, match="`kind` must be 'Savepoint'"):
        parse_savepoint(manifest())
