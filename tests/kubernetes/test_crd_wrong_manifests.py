"""What the API server says to wrong manifests: what the command line says."""

from __future__ import annotations

from typing import Any

import pytest
from crd_calls import Resources, refusal
from spec_samples import manifest, savepoint
from wrong_manifests import FIELDS, OTHERWISE, RULES, SAVEPOINTS, SAVEPOINTS_OTHERWISE

from cluster.control_plane import ApiError, ControlPlane


def answer(resources: Resources, wrong: dict[str, Any]) -> str:
    with pytest.raises(ApiError) as caught:
        resources.try_out(wrong)
    assert caught.value.status in (400, 422)
    return refusal(caught.value)


@pytest.mark.parametrize(("fields", "sentence"), [*FIELDS, *RULES])
def test_a_wrong_manifest_gets_the_sentence_of_the_command_line(
    control_plane: ControlPlane, fields: dict[str, Any], sentence: str
) -> None:
    assert sentence in answer(Resources(control_plane, "default"), manifest(fields))


@pytest.mark.parametrize(("fields", "sentence"), OTHERWISE)
def test_what_the_server_finds_by_itself_is_refused_in_its_own_words(
    control_plane: ControlPlane, fields: dict[str, Any], sentence: str
) -> None:
    said = answer(Resources(control_plane, "default"), manifest(fields))

    assert sentence not in said
    assert next(iter(fields)).removeprefix("spec.") in said


def test_the_address_of_a_server_is_not_repeated_where_it_may_hold_a_password(control_plane: ControlPlane) -> None:
    storage = {"uri": "s3://bucket", "s3": {"endpoint": "https://me:secret@minio"}}

    said = answer(Resources(control_plane, "default"), manifest({"spec.checkpoint.storage": storage}))

    assert "path or query (got" not in said


def test_all_broken_rules_are_told_at_once(control_plane: ControlPlane) -> None:
    fields = {"metadata.name": "f1.8", "spec.parallelism": 500, "spec.checkpoint.interval": "soon"}

    said = answer(Resources(control_plane, "default"), manifest(fields))

    assert all(f"`{field}` must be" in said for field in fields)


@pytest.mark.parametrize(("fields", "sentence"), SAVEPOINTS)
def test_a_wrong_savepoint_gets_the_sentence_of_the_command_line(
    control_plane: ControlPlane, fields: dict[str, Any], sentence: str
) -> None:
    assert sentence in answer(Resources(control_plane, "default", "savepoints"), savepoint(fields))


@pytest.mark.parametrize(("fields", "sentence"), SAVEPOINTS_OTHERWISE)
def test_of_a_savepoint_too_the_server_finds_some_things_by_itself(
    control_plane: ControlPlane, fields: dict[str, Any], sentence: str
) -> None:
    assert sentence not in answer(Resources(control_plane, "default", "savepoints"), savepoint(fields))
