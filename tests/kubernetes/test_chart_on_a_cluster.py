"""The chart on a real API server: it installs and upgrades, grants what it should and no more, and its objects for other tools are valid there."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_manifests
import published_crds
import pytest
import yaml

from cluster.control_plane import ControlPlane
from cluster.programs import install
from cluster.stub_kubelet import stub_kubelet

ROOT = make_manifests.ROOT
CHART = str(make_manifests.CHART)
GITOPS = ROOT / "gitops"

PATIENCE_S = 30.0

WITHOUT_CRDS = ("--set", "crds.enabled=false")
"""The control plane of the tests has them already, and they are nobody's."""

JOB: dict[str, Any] = {
    "apiVersion": "checkdam.dev/v1alpha1",
    "kind": "StreamJob",
    "metadata": {"name": "words"},
    "spec": {
        "image": "registry.example/words:1",
        "program": {"entrypoint": "words:build"},
        "checkpoint": {"storage": {"uri": "s3://bucket/jobs"}},
    },
}


def new_restricted_namespace(plane: ControlPlane) -> str:
    """A namespace that lets nothing but restricted pods in."""
    name = plane.new_namespace("chart")
    plane.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    return name


@pytest.fixture(scope="module")
def released(control_plane: ControlPlane) -> Iterator[str]:
    """A release of the chart, in a namespace of this name."""
    name = new_restricted_namespace(control_plane)
    control_plane.helm("install", "checkdam", CHART, "--namespace", name, *WITHOUT_CRDS)
    yield name
    control_plane.helm("uninstall", "checkdam", "--namespace", name)
    control_plane.call("DELETE", f"/api/v1/namespaces/{name}")


def token(plane: ControlPlane, namespace: str) -> str:
    secret = json.loads(plane.kubectl("--namespace", namespace, "get", "secret", "checkdam-metrics", "--output=json"))
    return base64.b64decode(secret["data"]["token"]).decode()


def may(plane: ControlPlane, user: str, verb: str, resource: str, namespace: str, name: str = "") -> bool:
    """Whether a user may do this; the resource is `plural.group` or `plural.group/subresource`."""
    resource, _, subresource = resource.partition("/")
    plural, _, group = resource.partition(".")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    spec = {"user": user, "resourceAttributes": {**attributes, "namespace": namespace, "name": name}}
    review = plane.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})
    return bool(review["status"]["allowed"])


async def test_the_operator_becomes_ready_where_only_restricted_pods_are_let_in(control_plane: ControlPlane) -> None:
    namespace = await asyncio.to_thread(new_restricted_namespace, control_plane)
    here = ("--namespace", namespace)
    async with stub_kubelet(control_plane, namespace):
        helm = (control_plane.helm, "install", "checkdam", CHART, *here, *WITHOUT_CRDS, "--wait", "--timeout=60s")
        await asyncio.to_thread(*helm)
        pods = await asyncio.to_thread(control_plane.kubectl, *here, "get", "pods", "--output=name")
        assert len(pods.split()) == 2
        await asyncio.to_thread(control_plane.helm, "uninstall", "checkdam", *here)
    control_plane.call("DELETE", f"/api/v1/namespaces/{namespace}")


def test_an_upgrade_keeps_the_token_for_metrics(control_plane: ControlPlane, released: str) -> None:
    before = token(control_plane, released)
    assert len(before) == 48
    control_plane.helm("upgrade", "checkdam", CHART, "--namespace", released, *WITHOUT_CRDS, "--set", "replicas=3")
    assert token(control_plane, released) == before
    deployment = control_plane.kubectl("--namespace", released, "get", "deployment", "checkdam", "--output=json")
    assert json.loads(deployment)["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("create", "pods", True),
        ("watch", "streamjobs.checkdam.dev", True),
        ("patch", "streamjobs.checkdam.dev/status", True),
        ("get", "secrets", True),
        ("list", "secrets", False),
        ("delete", "secrets", False),
        ("patch", "streamjobs.checkdam.dev", False),
        ("delete", "streamjobs.checkdam.dev", False),
        ("create", "pods/exec", False),
        ("get", "nodes", False),
        ("create", "deployments.apps", False),
        ("create", "rolebindings.rbac.authorization.k8s.io", False),
        ("create", "serviceaccounts/token", False),
        ("create", "leases.coordination.k8s.io", False),
    ],
)
def test_what_the_operator_may_do_in_a_namespace_of_jobs(
    control_plane: ControlPlane, released: str, verb: str, resource: str, allowed: bool
) -> None:
    account = f"system:serviceaccount:{released}:checkdam"
    assert may(control_plane, account, verb, resource, "default") is allowed


def test_the_operator_may_touch_its_own_lease_and_no_other(control_plane: ControlPlane, released: str) -> None:
    account = f"system:serviceaccount:{released}:checkdam"
    leases = "leases.coordination.k8s.io"
    assert may(control_plane, account, "create", leases, released)
    assert may(control_plane, account, "patch", leases, released, "checkdam")
    assert not may(control_plane, account, "patch", leases, released, "other")


def test_an_operator_of_one_namespace_may_do_nothing_elsewhere(control_plane: ControlPlane, namespace: str) -> None:
    jobs = control_plane.new_namespace("jobs")
    values = ("--set", f"watchNamespaces={{{jobs}}}", "--set", "rbac.userRoles=false")
    control_plane.helm("install", "checkdam", CHART, "--namespace", namespace, *WITHOUT_CRDS, *values)
    try:
        account = f"system:serviceaccount:{namespace}:checkdam"
        assert may(control_plane, account, "create", "pods", jobs)
        assert not may(control_plane, account, "create", "pods", namespace)
        assert not may(control_plane, account, "list", "streamjobs.checkdam.dev", "")
    finally:
        control_plane.helm("uninstall", "checkdam", "--namespace", namespace)
        control_plane.call("DELETE", f"/api/v1/namespaces/{jobs}")


def test_who_may_view_or_edit_a_namespace_may_do_so_with_its_jobs(control_plane: ControlPlane, released: str) -> None:
    here = f"--namespace={released}"
    for role, user in (("view", "viewer"), ("edit", "editor")):
        control_plane.kubectl(here, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={user}")
    wanted = {
        ("viewer", "get", "streamjobs.checkdam.dev"): True,
        ("viewer", "create", "streamjobs.checkdam.dev"): False,
        ("editor", "create", "streamjobs.checkdam.dev"): True,
        ("editor", "patch", "streamjobs.checkdam.dev/scale"): True,
        ("editor", "delete", "savepoints.checkdam.dev"): True,
        ("editor", "patch", "streamjobs.checkdam.dev/status"): False,
    }
    # Roles are aggregated by a controller, which comes along a moment later.
    deadline = time.monotonic() + PATIENCE_S
    while (found := {asked: may(control_plane, *asked, released) for asked in wanted}) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_the_definitions_of_the_chart_are_accepted(control_plane: ControlPlane) -> None:
    rendered = control_plane.helm("template", "checkdam", CHART, "--show-only=templates/crds.yaml")
    options = ("--server-side", "--force-conflicts", "--dry-run=server", "--filename=-")
    assert control_plane.kubectl("apply", *options, stdin=rendered).count("serverside-applied") == 2


def test_what_kustomize_deploys_is_accepted(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    base = make_manifests.KUSTOMIZE / "operator" / "operator.yaml"
    (overlay / "operator.yaml").write_text(base.read_text())
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump({"namespace": namespace, "resources": ["operator.yaml"]})
    )
    applied = control_plane.kubectl("apply", "--server-side", "--dry-run=server", f"--kustomize={overlay}")
    assert applied.count("serverside-applied") == len(list(yaml.safe_load_all(base.read_text())))


@pytest.fixture(scope="module")
def definitions_of_others(control_plane: ControlPlane) -> None:
    """The Prometheus operator's, Flux's and Argo CD's."""
    folder = published_crds.install()
    control_plane.kubectl("apply", "--server-side", f"--filename={folder}")
    control_plane.kubectl("wait", "--for=condition=Established", f"--filename={folder}")


@pytest.mark.usefixtures("definitions_of_others")
def test_the_prometheus_operator_accepts_monitors_and_rules(control_plane: ControlPlane, namespace: str) -> None:
    switches = ("--set=metrics.podMonitor.enabled=true", "--set=metrics.prometheusRule.enabled=true")
    shown = ("--show-only=templates/podmonitors.yaml", "--show-only=templates/prometheusrule.yaml")
    for values in ((), ("--set=watchNamespaces={a,b}", "--set=metrics.podMonitor.labels.release=prometheus")):
        text = control_plane.helm("template", "checkdam", CHART, "--namespace", namespace, *switches, *shown, *values)
        created = control_plane.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=text)
        assert created.count("created") == 3


@pytest.mark.usefixtures("definitions_of_others")
@pytest.mark.parametrize("file", ["flux/operator.yaml", "flux/jobs.yaml", "argocd/operator.yaml", "argocd/jobs.yaml"])
def test_flux_and_argo_cd_accept_what_they_are_given(control_plane: ControlPlane, namespace: str, file: str) -> None:
    manifests = [made for made in yaml.safe_load_all((GITOPS / file).read_text()) if made["kind"] != "Namespace"]
    for made in manifests:
        made["metadata"]["namespace"] = namespace
    created = control_plane.kubectl(
        "create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=yaml.safe_dump_all(manifests)
    )
    assert created.count("created") == len(manifests)


def test_the_example_of_a_repository_is_accepted(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    for stage in ("staging", "production"):
        command = [str(install("kubectl")), "kustomize", str(GITOPS / "example" / stage)]
        text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        manifests = list(yaml.safe_load_all(text))
        for made in manifests:
            made["metadata"]["namespace"] = namespace
        applied = control_plane.kubectl(
            "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump_all(manifests)
        )
        assert applied.count("serverside-applied") == len(manifests)


def applied(plane: ControlPlane, namespace: str, manager: str, spec: dict[str, Any]) -> int:
    """The parallelism after a tool has applied this spec."""
    text = json.dumps({**JOB, "spec": spec})
    options = ("--namespace", namespace, "apply", "--server-side", f"--field-manager={manager}", "--output=json")
    return int(json.loads(plane.kubectl(*options, "--filename=-", stdin=text))["spec"]["parallelism"])


def test_parallelism_that_goes_from_git_falls_back_unless_somebody_else_owns_it_too(
    control_plane: ControlPlane, namespace: str
) -> None:
    assert applied(control_plane, namespace, "git", {**JOB["spec"], "parallelism": 8}) == 8
    assert applied(control_plane, namespace, "git", JOB["spec"]) == 1
    assert applied(control_plane, namespace, "git", {**JOB["spec"], "parallelism": 8}) == 8
    assert applied(control_plane, namespace, "scaling", {"parallelism": 8}) == 8
    assert applied(control_plane, namespace, "git", JOB["spec"]) == 8


def test_an_autoscaler_and_git_share_a_job_whose_parallelism_is_not_in_git(
    control_plane: ControlPlane, namespace: str
) -> None:
    assert applied(control_plane, namespace, "git", JOB["spec"]) == 1
    control_plane.kubectl("--namespace", namespace, "scale", "streamjob/words", "--replicas=4")
    assert applied(control_plane, namespace, "git", {**JOB["spec"], "image": "registry.example/words:2"}) == 4


def test_the_settings_for_argo_cd_are_a_patch_of_its_config_map(control_plane: ControlPlane, namespace: str) -> None:
    here = ("--namespace", namespace)
    control_plane.kubectl(*here, "create", "configmap", "argocd-cm", "--from-literal=url=https://argocd.example")
    text = (GITOPS / "argocd" / "argocd-cm.yaml").read_text().replace("namespace: argocd", f"namespace: {namespace}")
    control_plane.kubectl(*here, "patch", "configmap", "argocd-cm", "--patch-file=/dev/stdin", stdin=text)
    data = json.loads(control_plane.kubectl(*here, "get", "configmap", "argocd-cm", "--output=json"))["data"]
    assert data["url"] == "https://argocd.example"
    assert len(data) == 4
