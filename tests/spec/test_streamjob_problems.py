"""What a wrong manifest gets: each problem in one sentence that names field, value and what is allowed, and all at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_samples import manifest

from checkdam.core.errors import ManifestError
from checkdam.spec import parse_manifest


def problems(fields: dict[str, Any]) -> list[str]:
    try:
        parse_manifest(manifest(fields))
    except ManifestError as error:
        return error.problems or ["a ManifestError without problems"]
    return []


FIELDS = [
    (
        {"spec.checkpoint.mode": "exactly-once"},
        "`spec.checkpoint.mode` must be one of 'ExactlyOnce', 'AtLeastOnce', 'AtMostOnce' (got 'exactly-once')",
    ),
    ({"apiVersion": "v1"}, "`apiVersion` must be 'checkdam.dev/v1alpha1' (got 'v1')"),
    ({"spec.parallelism": "4"}, "`spec.parallelism` must be an integer (got '4')"),
    ({"spec.parallelism": True}, "`spec.parallelism` must be an integer (got true)"),
    ({"spec.parallelism": 0}, "`spec.parallelism` must be greater than or equal to 1 (got 0)"),
    ({"spec.maxParallelism": 32769}, "`spec.maxParallelism` must be less than or equal to 32768 (got 32769)"),
    ({"spec.suspend": "yes"}, "`spec.suspend` must be true or false (got 'yes')"),
    ({"spec.restart.jitter": float("nan")}, "`spec.restart.jitter` must be a finite number (got NaN)"),
    ({"spec.program": "flights:build"}, "`spec.program` must be a mapping (got 'flights:build')"),
    ({"spec.program.entrypoint": ...}, "`spec.program.entrypoint` must be given (got nothing)"),
    (
        {"spec.program.entrypoint": "flights.py"},
        "`spec.program.entrypoint` must be written as module:callable, such as flight_delays:build (got 'flights.py')",
    ),
    (
        {"spec.program.inline": {"../x.py": ""}},
        "`spec.program.inline` must have plain file names such as flight_delays.py as its keys (got '../x.py')",
    ),
    ({"spec.program.inline": {"x.py": 3}}, "`spec.program.inline['x.py']` must be a string (got 3)"),
    (
        {"spec.checkpoint.interval": 10},
        "`spec.checkpoint.interval` must be a duration such as 500ms, 10s, 5m or 1h (got 10)",
    ),
    (
        {"spec.checkpoint.interval": "10 s"},
        "`spec.checkpoint.interval` must be a duration such as 500ms, 10s, 5m or 1h (got '10 s')",
    ),
    (
        {"spec.checkpoint.timeout": "1d"},
        "`spec.checkpoint.timeout` must be a duration such as 500ms, 10s, 5m or 1h (got '1d')",
    ),
    ({"spec.checkpoint.interval": "0s"}, "`spec.checkpoint.interval` must be longer than 0s (got '0s')"),
    (
        {"spec.stateBackend.rocksdb.memory": "512MB"},
        "`spec.stateBackend.rocksdb.memory` must be a size in bytes such as 65536, 256Ki, 512Mi or 2Gi (got '512MB')",
    ),
    ({"spec.runtime.channelCredit": 0}, "`spec.runtime.channelCredit` must be more than 0 bytes (got 0)"),
    (
        {"spec.checkpoint.storage.uri": "file://data"},
        "`spec.checkpoint.storage.uri` must be s3://bucket/prefix, file:///folder, file://./folder (below the manifest's folder, for "
        "local runs), hdfs://host:port/folder, memory://, or a uri that fsspec knows (got 'file://data')",
    ),
    (
        {"metadata.name": "Flight_Delays"},
        "`metadata.name` must be at most 45 lower-case letters, digits and '-', beginning with a letter and ending with a letter or "
        "digit (got 'Flight_Delays')",
    ),
    (
        {"spec.jobId": "a/b/c"},
        "`spec.jobId` must be one or two names with '/' between them, each of at most 63 letters, digits, '-', '_' and '.', beginning "
        "and ending with a letter or digit (got 'a/b/c')",
    ),
    (
        {"spec.serviceAccountName": "../x"},
        "`spec.serviceAccountName` must be the name of an object: at most 253 lower-case letters, digits, '-' and '.', beginning and "
        "ending with a letter or digit (got '../x')",
    ),
    ({"spec.savepoints.interval": "0s"}, "`spec.savepoints.interval` must be longer than 0s (got '0s')"),
    (
        {"spec.savepoints.schedule": "0 24 * * *"},
        "`spec.savepoints.schedule` must be five fields as in cron, minute, hour, day of month, month and day of week, such as "
        "'0 3 * * *' or '*/30 8-18 * * mon-fri' (got '0 24 * * *')",
    ),
    (
        {"spec.savepoints.schedule": "0 0 30 2 *"},
        "`spec.savepoints.schedule` must name a time that comes (got '0 0 30 2 *')",
    ),
    ({"spec.worker.env": [{"name": "A"}, {"value": "x"}]}, "`spec.worker.env[1].name` must be given (got nothing)"),
]


@pytest.mark.parametrize(("fields", "sentence"), FIELDS)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(fields: dict[str, Any], sentence: str) -> None:
    assert problems(fields) == [sentence]


RULES = [
    (
        {"spec.parallelism": 200},
        "`spec.parallelism` must be less than or equal to `spec.maxParallelism`, 128 (got 200)",
    ),
    (
        {"spec.program.configMap": "code", "spec.program.inline": {"x.py": ""}},
        "`spec.program.inline` must be left out where `spec.program.configMap` is given (got 'code')",
    ),
    (
        {"spec.checkpoint.storage.s3": {"region": "eu"}},
        "`spec.checkpoint.storage.s3` must be left out unless `spec.checkpoint.storage.uri` begins with s3:// (got 'file:///checkpoints')",
    ),
    (
        {"spec.restart": {"strategy": "FixedDelay", "delay": "1s", "multiplier": 2.0}},
        "`spec.restart.multiplier` must be left out with the strategy 'FixedDelay': it belongs to 'ExponentialDelay' (got 2.0)",
    ),
    (
        {"spec.restart": {"attempts": 3}},
        "`spec.restart.attempts` must be left out with the strategy 'ExponentialDelay': it belongs to 'FixedDelay' (got 3)",
    ),
    (
        {"spec.savepoints": {"interval": "1h", "schedule": "0 3 * * *"}},
        "`spec.savepoints.schedule` must be left out where `spec.savepoints.interval` is given (got '1h')",
    ),
    (
        {"spec.restart.initialDelay": "2m"},
        "`spec.restart.maxDelay` must be at least `spec.restart.initialDelay`, 2m (got '1m')",
    ),
]


@pytest.mark.parametrize(("fields", "sentence"), RULES)
def test_a_broken_rule_between_fields_is_explained(fields: dict[str, Any], sentence: str) -> None:
    assert problems(fields) == [sentence]


@pytest.mark.parametrize("mode", ["ExactlyOnce", "AtMostOnce"])
def test_memory_storage_is_refused_where_losing_the_coordinator_breaks_the_promise(mode: str) -> None:
    fields = {"spec.checkpoint.storage.uri": "memory://", "spec.checkpoint.mode": mode}

    [problem] = problems(fields)
    assert problem.startswith("`spec.checkpoint.storage.uri` must be storage that outlives the coordinator")
    assert "`spec.checkpoint.storage.allowVolatile: true`" in problem
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
