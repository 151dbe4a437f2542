"""The example of a repository with jobs builds, and what tools for GitOps are told of it and of the chart is there."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml
from chart_kit import CHART, ROOT, Object, one, template

from checkdam.spec import parse_manifest
from cluster.programs import install

GITOPS = ROOT / "gitops"
STAGES = ("staging", "production")


def built(stage: str) -> list[Object]:
    """What kustomize makes of a stage of the example."""
    command = [str(install("kubectl")), "kustomize", str(GITOPS / "example" / stage)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return list(yaml.safe_load_all(text))


def manifests(file: str) -> list[Object]:
    """The objects of a file for a tool."""
    return list(yaml.safe_load_all((GITOPS / file).read_text()))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_the_example_is_a_valid_job_of_its_own(stage: str) -> None:
    job = parse_manifest(one(built(stage), "StreamJob"))
    assert job.spec.checkpoint.storage.uri == f"s3://streams-{stage}/jobs"


def test_stages_differ_in_image_namespace_and_storage_alone() -> None:
    staging, production = (one(built(stage), "StreamJob") for stage in STAGES)
    for job in (staging, production):
        del job["spec"]["image"]
        del job["spec"]["checkpoint"]["storage"]["uri"]
        del job["metadata"]["namespace"]
    assert staging == production


def test_what_is_scaled_by_an_autoscaler_says_no_parallelism_in_git() -> None:
    made = built("production")
    job = one(made, "StreamJob")
    assert "parallelism" not in job["spec"]
    target = one(made, "HorizontalPodAutoscaler")["spec"]
    assert target["scaleTargetRef"] == {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": job["metadata"]["name"],
    }
    assert target["maxReplicas"] <= job["spec"]["maxParallelism"]


@pytest.mark.parametrize("stage", STAGES)
def test_image_updates_find_their_marker_where_the_image_is(stage: str) -> None:
    lines = (GITOPS / "example" / stage / "flight-delays.yaml").read_text().splitlines()
    [line] = [line for line in lines if "$imagepolicy" in line]
    assert line.strip().startswith("image: ")


@pytest.mark.parametrize(("file", "kind"), [("flux/jobs.yaml", "Kustomization"), ("argocd/jobs.yaml", "Application")])
def test_the_tools_are_pointed_to_a_folder_that_exists(file: str, kind: str) -> None:
    spec = one(manifests(file), kind)["spec"]
    path = spec.get("path") or spec["source"]["path"]
    assert (ROOT / path / "kustomization.yaml").exists()


@pytest.mark.parametrize(
    ("file", "kind"), [("flux/operator.yaml", "HelmRelease"), ("argocd/operator.yaml", "Application")]
)
def test_the_tools_give_the_chart_values_that_it_takes(file: str, kind: str) -> None:
    made = one(manifests(file), kind)["spec"]
    source: dict[str, Any] = made["chart"]["spec"] if kind == "HelmRelease" else made["source"]
    assert (ROOT / (source.get("chart") or source["path"])).resolve() == CHART
    values = made["values"] if kind == "HelmRelease" else source["helm"]["valuesObject"]
    assert "PodMonitor" in {manifest["kind"] for manifest in template(values)}


def test_argo_cd_sees_the_same_chart_with_each_comparison() -> None:
    values = one(manifests("argocd/operator.yaml"), "Application")["spec"]["source"]["helm"]["valuesObject"]
    assert "Secret" not in {manifest["kind"] for manifest in template(values)}
