"""Manifests as files: YAML as kubectl reads it, several documents, and files that are no manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_samples import manifest

from checkdam.core.errors import ManifestError
from checkdam.spec import load_manifest, parse_manifest
from checkdam.spec.documents import load_documents

JOB = yaml.safe_dump(manifest())


def problem_of(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    assert caught.value.source == str(path)
    [problem] = caught.value.problems
    return problem


def test_the_only_stream_job_of_a_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: code}}\n---\n{JOB}---\n")

    assert load_manifest(path) == parse_manifest(manifest())


def test_json_is_a_manifest_too(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(parse_manifest(manifest()).model_dump_json(by_alias=True, exclude_none=True))

    assert load_manifest(path).job_id == "default/flight-delays"


def test_a_file_without_exactly_one_job_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: code}\n"

    assert problem_of(tmp_path, "") == "the file must hold exactly one StreamJob (got nothing)"
    assert (
        problem_of(tmp_path, f"{config_map}---\n3\n")
        == "the file must hold exactly one StreamJob (got ConfigMap 'code', 3)"
    )
    assert (
        problem_of(tmp_path, f"{JOB}---\n{JOB}")
        == "the file must hold exactly one StreamJob (got StreamJob 'flight-delays', StreamJob 'flight-delays')"
    )


def test_a_lone_document_of_another_kind_is_told_what_its_kind_must_be(tmp_path: Path) -> None:
    assert problem_of(tmp_path, JOB.replace("StreamJob", "Streamjob")) == "`kind` must be 'StreamJob' (got 'Streamjob')"


def test_a_syntax_error_names_line_and_column(tmp_path: Path) -> None:
    assert problem_of(tmp_path, "kind: StreamJob\nspec: [1, 2\nmetadata: {}\n").startswith(
        "the file must be YAML (got line 3, column 9: "
    )


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    text = JOB.replace("kind: StreamJob", "kind: StreamJob\nkind: StreamJob")
    assert problem_of(tmp_path, text) == "the file must be YAML (got line 3, column 1: the key 'kind' is given twice)"


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"nowhere\.yaml is not valid:\n  - the file must be readable \(got No such file"
    ):
        load_manifest(tmp_path / "nowhere.yaml")
    assert problem_of(tmp_path, b"kind: \xff") == "the file must be text in UTF-8 (got byte 0xff at 6)"
    assert problem_of(tmp_path, "just words") == "the manifest must be a mapping (got 'just words')"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("y", True),
        ("No", False),
        ("off", False),
        ("1e3", 1000.0),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("-7", -7),
        ("+.5", 0.5),
        ("-.inf", float("-inf")),
        ("~", None),
        ('"n"', "n"),
        ("1.2.3", "1.2.3"),
        ("10s", "10s"),
    ],
)
def test_scalars_mean_what_they_mean_to_kubectl(text: str, value: object) -> None:
    [document] = load_documents(f"field: {text}")
    assert document == {"field": value}
    assert type(document["field"]) is type(value)


def test_keys_are_always_strings() -> None:
    assert load_documents("{n: 1, 8080: 2, 1.5: 3}") == [{"false": 1, "8080": 2, "1.5": 3}]


def test_anchors_and_merge_keys_work() -> None:
    [document] = load_documents("base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}")
    assert document["more"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    "text", ["!!set {a}", "!!binary aGk=", "!!python/object/apply:os.system [ls]", "!thing 3", "? [1]\n: 2"]
)
def test_what_json_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        load_documents(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.text("0123456789_.eExobXyYnN+-:{}[]!&*<~#'\" \n", max_size=20))
def test_any_text_is_documents_or_a_value_error(text: str) -> None:
    try:
        load_documents(text)
    except ValueError:
        pass
