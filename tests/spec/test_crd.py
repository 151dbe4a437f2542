"""The CustomResourceDefinitions are what the models say. What a real API server makes of them is tested in tests/kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field
from spec_samples import manifest

from checkdam.spec import parse_manifest
from checkdam.spec.crd import crd_files, main, savepoint_crd, stream_job_crd
from checkdam.spec.fields import Model
from checkdam.spec.structural import structural_schema

FOLDER = Path(__file__).parents[2] / "crds"


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    [version] = crd["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]
    return schema


def test_the_files_are_up_to_date() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == crd_files(), "run `make crds`"


def test_the_files_are_written_into_the_folder_named(tmp_path: Path) -> None:
    main([str(tmp_path / "crds")])

    assert yaml.safe_load((tmp_path / "crds" / "savepoints.yaml").read_text(encoding="utf-8")) == savepoint_crd()


def test_all_definitions_together_stay_small_enough_to_be_applied_and_kept_in_a_helm_release() -> None:
    assert sum(len(text.encode()) for text in crd_files().values()) < 200_000


def filled_in(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """The value with the defaults that the API server adds."""
    made = dict(value)
    for name, member in schema.get("properties", {}).items():
        if name not in made and "default" in member:
            made[name] = member["default"]
            # The server checks a default without those below it, so it must be complete by itself.
            assert not isinstance(made[name], dict) or filled_in(member, made[name]) == made[name]
        elif isinstance(made.get(name), dict):
            made[name] = filled_in(member, made[name])
    return made


def test_the_defaults_of_the_definition_are_those_of_the_models() -> None:
    fields = {"spec.checkpoint.storage": {"uri": "s3://bucket", "s3": {}}, "spec.upgrade": {"mode": "LastState"}}
    written = manifest(fields)

    assert (
        filled_in(schema_of(stream_job_crd())["spec"], written["spec"]) == parse_manifest(written).to_manifest()["spec"]
    )


@pytest.mark.parametrize("crd", [stream_job_crd(), savepoint_crd()], ids=["StreamJob", "Savepoint"])
def test_every_field_is_described_for_kubectl_explain(crd: dict[str, Any]) -> None:
    def check(path: str, schema: dict[str, Any]) -> None:
        for name, member in schema.get("properties", {}).items():
            assert member.get("description") or f"{path}{name}" == "metadata", f"{path}{name}"
            check(f"{path}{name}.", member)
            check(f"{path}{name}[].", member.get("items", {}))

    check("", {"properties": schema_of(crd)})


@pytest.mark.parametrize("crd", [stream_job_crd(), savepoint_crd()], ids=["StreamJob", "Savepoint"])
def test_the_status_has_neither_defaults_nor_rules_of_its_own(crd: dict[str, Any]) -> None:
    def check(schema: dict[str, Any]) -> None:
        assert not {"default", "x-kubernetes-validations"} & schema.keys()
        for member in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
            check(member)

    check(schema_of(crd)["status"])
    assert schema_of(crd)["status"]["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]


class TwoTypes(Model):
    """A model that no CRD can hold."""

    value: int | str
    """Either."""


class WithPattern(Model):
    """A model with a rule that the API server would word by itself."""

    value: Annotated[str, Field(pattern="^a$")]
    """One letter."""


@pytest.mark.parametrize(("model", "reason"), [(TwoTypes, "one type in a CRD"), (WithPattern, r"got pattern")])
def test_a_model_that_a_definition_cannot_hold_is_refused(model: type[Model], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        structural_schema(model, "spec", written_by_users=True)
