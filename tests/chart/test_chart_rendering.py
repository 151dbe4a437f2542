"""The chart renders to what people expect, and refuses values that mean nothing."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_kit import CHART, ROOT, HelmError, container, environment, helm, one, template
from make_golden import VALUES, golden_file, golden_text

from checkdam_operator.settings import PREFIX, Settings, variables

CRD = "CustomResourceDefinition"


def test_helm_finds_nothing_to_object_to() -> None:
    for values in VALUES:
        report = helm("lint", "--strict", CHART, f"--values={values}")
        assert "[WARNING]" not in report
        assert "[ERROR]" not in report


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_chart_renders_to_what_is_kept(values: Path) -> None:
    assert golden_text(values) == golden_file(values).read_text(), (
        "run `python tests/chart/make_golden.py` and read the change"
    )


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    assert {chart["version"], chart["appVersion"], *(image["image"].rpartition(":")[2] for image in images)} == {
        version
    }


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"replicas": "many"}, "at '/replicas': got string, want integer"),
        ({"replicas": -1}, "at '/replicas': minimum: got -1, want 0"),
        ({"image": {"tga": "1"}}, "at '/image': additional properties 'tga' not allowed"),
        ({"image": {"digest": "abc"}}, "at '/image/digest': 'abc' does not match pattern"),
        ({"operator": {"logLevel": "loud"}}, "at '/operator/logLevel': value must be one of 'DEBUG', 'INFO'"),
        (
            {"operator": {"resyncInterval": "5 minutes"}},
            "at '/operator/resyncInterval': '5 minutes' does not match pattern",
        ),
        ({"watchNamespaces": ["Team_A"]}, "at '/watchNamespaces/0': 'Team_A' does not match pattern"),
        ({"watchNamespaces": ["a", "a"]}, "at '/watchNamespaces': items at 0 and 1 are equal"),
        ({"commonLabels": {"a": True}}, "at '/commonLabels/a': got boolean, want string"),
        ({"crd": {"keep": False}}, "additional properties 'crd' not allowed"),
        (
            {"networkPolicy": {"metricsNamespaces": "monitoring"}},
            "at '/networkPolicy/metricsNamespaces': got string, want array",
        ),
        (
            {"serviceAccount": {"create": False}},
            "serviceAccount.name must be given where serviceAccount.create is false",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(HelmError, match=re.escape(problem)):
        template(values)


def test_every_value_is_documented_and_has_a_type() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    typed = set(_schema_paths(schema, schema["definitions"]))
    assert set(_value_paths(values)) == typed - {"global"}
    lines = (CHART / "values.yaml").read_text().splitlines()
    documented = sum(line.strip().startswith("# -- ") for line in lines)
    assert documented == len(typed) - 1


def _value_paths(values: dict[str, Any], above: str = "") -> list[str]:
    """What can be given: maps of the chart's own are gone into; those that are handed through count as one."""
    found = []
    for name, value in values.items():
        handed_through = not isinstance(value, dict) or not value or name in _HANDED_THROUGH
        found += [f"{above}{name}"] if handed_through else _value_paths(value, f"{above}{name}.")
    return found


_HANDED_THROUGH = {"podSecurityContext", "securityContext", "resources", "labels"}


def _schema_paths(schema: dict[str, Any], definitions: dict[str, Any], above: str = "") -> list[str]:
    found = []
    for name, part in schema["properties"].items():
        inside = "properties" in part and name not in _HANDED_THROUGH
        found += _schema_paths(part, definitions, f"{above}{name}.") if inside else [f"{above}{name}"]
    return found


def test_the_definitions_are_those_of_the_project() -> None:
    rendered = {manifest["metadata"]["name"]: manifest for manifest in template() if manifest["kind"] == CRD}
    files = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "crds").glob("*.yaml"))]
    assert {crd["metadata"]["name"]: crd["spec"] for crd in files} == {
        name: crd["spec"] for name, crd in rendered.items()
    }
    for crd in rendered.values():
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_definitions_can_be_left_to_others_or_go_with_the_release() -> None:
    assert not [manifest for manifest in template({"crds": {"enabled": False}}) if manifest["kind"] == CRD]
    going = [manifest for manifest in template({"crds": {"keep": False}}) if manifest["kind"] == CRD]
    assert len(going) == 2
    assert not [crd for crd in going if "annotations" in crd["metadata"]]


SET_BY_THE_POD = {"IDENTITY", "LEASE_NAMESPACE", "HTTP_HOST", "HTTP_PORT", "KUBECONFIG"}
"""Settings whose default is right in a pod of the chart."""


def test_the_chart_sets_every_setting_of_the_operator_and_no_other() -> None:
    given = {name for name in environment(template()) if name.startswith(PREFIX)}
    assert given == set(variables()) - {PREFIX + name for name in SET_BY_THE_POD}


def test_the_operator_accepts_what_the_chart_sets() -> None:
    for values in VALUES:
        environment_of_pod = environment(template(yaml.safe_load(values.read_text())))
        settings = Settings.from_environment(environment_of_pod)
        assert settings.runtime_image == environment_of_pod["CHECKDAM_OPERATOR_RUNTIME_IMAGE"]
    assert settings.model_dump() == settings.model_dump() | {
        "namespaces": ("team-a", "team-b"),
        "log_level": "DEBUG",
        "lease_name": "streams",
    }


def test_the_defaults_of_the_chart_are_those_of_the_operator() -> None:
    theirs = Settings()
    ours = Settings.from_environment(environment(template()))
    different = {name for name in Settings.model_fields if getattr(ours, name) != getattr(theirs, name)}
    assert different == {"runtime_image", "lease_name", "metrics_token_file", "pod_labels"}


def test_jobs_let_the_pods_of_the_operator_in_and_those_that_read_metrics() -> None:
    made = template({"networkPolicy": {"metricsNamespaces": ["monitoring"]}})
    settings = Settings.from_environment(environment(made))
    labels = one(made, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert dict(label.split("=") for label in settings.pod_labels).items() <= labels.items()
    assert settings.metrics_namespaces == ("monitoring",)
    [rule] = one(made, "NetworkPolicy")["spec"]["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_the_operator_listens_where_the_chart_probes_it() -> None:
    made = container(template())
    assert made["ports"] == [{"name": "http", "containerPort": Settings().http_port, "protocol": "TCP"}]
    assert made["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert made["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_a_release_names_its_objects_after_itself() -> None:
    names = {
        manifest["metadata"]["name"]
        for manifest in template(release="prod", namespace="streams")
        if manifest["kind"] != CRD
    }
    assert names == {
        "prod-checkdam",
        "prod-checkdam-leader",
        "prod-checkdam-metrics",
        "streams-prod-checkdam",
        "streams-prod-checkdam-edit",
        "streams-prod-checkdam-view",
    }


def test_two_releases_in_two_namespaces_share_no_object_of_the_cluster() -> None:
    cluster_wide = [
        {
            (manifest["kind"], manifest["metadata"]["name"])
            for manifest in template(namespace=namespace)
            if "namespace" not in manifest["metadata"] and manifest["kind"] != CRD
        }
        for namespace in ("one", "two")
    ]
    assert all(cluster_wide)
    assert not cluster_wide[0] & cluster_wide[1]


def test_a_single_operator_has_no_disruption_budget_that_would_block_drains() -> None:
    assert one(template(), "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    assert "PodDisruptionBudget" not in {manifest["kind"] for manifest in template({"replicas": 1})}
