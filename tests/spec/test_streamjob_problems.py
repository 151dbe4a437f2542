"""What a wrong manifest gets: each problem in one sentence that names field, value and what is allowed, and all at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_samples import manifest
from wrong_manifests import FIELDS, LOCAL, OTHERWISE, RULES

from checkdam.core.errors import ManifestError
from checkdam.spec import parse_manifest


def problems(fields: dict[str, Any]) -> list[str]:
    try:
        parse_manifest(manifest(fields))
    except ManifestError as error:
        return error.problems or ["a ManifestError without problems"]
    return []


@pytest.mark.parametrize(("fields", "sentence"), [*FIELDS, *OTHERWISE, *LOCAL])
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(fields: dict[str, Any], sentence: str) -> None:
    assert problems(fields) == [sentence]


@pytest.mark.parametrize(("fields", "sentence"), RULES)
def test_a_broken_rule_between_fields_is_explained(fields: dict[str, Any], sentence: str) -> None:
    assert problems(fields) == [sentence]


@pytest.mark.parametrize("mode", ["ExactlyOnce", "AtMostOnce"])
def test_memory_storage_is_accepted_where_its_loss_breaks_no_promise(mode: str) -> None:
    fields = {"spec.checkpoint.storage.uri": "memory://", "spec.checkpoint.mode": mode}

    assert problems({**fields, "spec.checkpoint.storage.allowVolatile": True}) == []
    assert problems({**fields, "spec.restart.strategy": "Never"}) == []
    assert problems({**fields, "spec.checkpoint.mode": "AtLeastOnce"}) == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://my-bucket/a/b",
        "file:///a b/%23",
        "file://./out",
        "file://../out",
        "hdfs://nn:8020/x",
        "hdfs:///x",
        "gs://bucket/x",
    ],
)
def test_every_storage_scheme_is_known(uri: str) -> None:
    assert problems({"spec.checkpoint.storage.uri": uri}) == []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/data",
        "s3://",
        "S3://bucket",
        "file:",
        "memory://x",
        "gs://",
        "gs:x",
        "s3://bucket/x?y=z",
        "hdfs://nn:8020",
    ],
)
def test_a_uri_of_no_known_form_is_refused(uri: str) -> None:
    assert len(problems({"spec.checkpoint.storage.uri": uri})) == 1


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("spec.paralelism", "spec.parallelism"),
        ("spec.max_parallelism", "spec.maxParallelism"),
        ("spec.checkpoint.storage.persistentvolumeclaim", "spec.checkpoint.storage.persistentVolumeClaim"),
        ("metadata.lables", "metadata.labels"),
        ("sepc", "spec"),
    ],
)
def test_a_mistyped_field_gets_the_one_that_was_meant(path: str, meant: str) -> None:
    assert problems({path: {}}) == [f"`{path}` must be left out: there is no such field; did you mean `{meant}`?"]


def test_a_field_that_resembles_none_gets_the_list_of_fields() -> None:
    assert problems({"spec.upgrade.zzz": 1}) == [
        "`spec.upgrade.zzz` must be left out: there is no such field; the fields here are `mode`, `rollback`, `progressDeadline`"
    ]


def test_all_problems_come_at_once_with_rules_beside_wrong_fields() -> None:
    found = problems(
        {
            "metadata.name": "-",
            "spec.parallelism": 500,
            "spec.checkpoint.mode": "x",
            "spec.checkpoint.retain": 0,
            "spec.restart": {"strategy": "Never", "delay": "soon"},
        }
    )

    assert [problem.split("`")[1] for problem in found] == [
        "metadata.name",
        "spec.checkpoint.mode",
        "spec.checkpoint.retain",
        "spec.restart.delay",
        "spec.parallelism",
        "spec.restart.delay",
    ]


def test_the_heading_names_where_the_manifest_came_from() -> None:
    with pytest.raises(ManifestError, match=r"^job\.yaml is not valid:\n  - `spec\.program` must be given"):
        parse_manifest(manifest({"spec.program": ...}), "job.yaml")


def test_values_of_environment_variables_never_appear_in_messages() -> None:
    assert problems({"spec.worker.env": [{"name": "TOKEN", "value": 12345}]}) == [
        "`spec.worker.env[0].value` must be a string"
    ]


def test_a_long_value_is_cut() -> None:
    [problem] = problems({"spec.checkpoint.interval": "x" * 5000})
    assert len(problem) < 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200_000) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
_PATHS = st.sampled_from(
    [
        "metadata",
        "metadata.name",
        "spec",
        "spec.program",
        "spec.program.inline",
        "spec.parallelism",
        "spec.maxParallelism",
        "spec.stateBackend",
        "spec.checkpoint",
        "spec.checkpoint.interval",
        "spec.checkpoint.storage",
        "spec.checkpoint.storage.uri",
        "spec.restart",
        "spec.restart.strategy",
        "spec.restart.maxDelay",
        "spec.worker.env",
        "spec.runtime.channelCredit",
    ]
)


@settings(max_examples=150, deadline=None)
@given(path=_PATHS, value=_JSON)
def test_whatever_stands_in_a_field_the_answer_is_a_job_or_sentences(path: str, value: Any) -> None:
    found = problems({path: value})

    assert all(problem[0] in "`t" and "\n" not in problem for problem in found)
