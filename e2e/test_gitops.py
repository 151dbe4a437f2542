"""What tools for GitOps rely on: what is applied again changes nothing, and Argo CD shows of real jobs what is so, and acts on them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import yaml
from argo_cd import CUSTOMIZATIONS, run

from cluster.cluster import Cluster
from cluster.programs import install
from installation import PROJECT
from job_quota import quota_exhausted
from orders_job import NAME, OrdersJob

_KINDS: Final = CUSTOMIZATIONS / "checkdam.dev"
_ACTIONS: Final = _KINDS / "StreamJob" / "actions"
_CLUSTER_WIDE: Final = ("ClusterRole", "ClusterRoleBinding")
"""Kinds of the base that do not go with a namespace, save for the definitions, which are everybody's."""


@contextmanager
def overlay(cluster: Cluster, namespace: str, folder: Path) -> Iterator[str]:
    """A folder that has the base beside what is installed: under other names, for jobs of one namespace alone.

    What was applied of it is gone afterwards with the namespace, and what is in none at once.
    """
    only = {"op": "replace", "path": "/spec/template/spec/containers/0/env/0/value", "value": namespace}
    named = {
        "op": "test",
        "path": "/spec/template/spec/containers/0/env/0/name",
        "value": "CHECKDAM_OPERATOR_NAMESPACES",
    }
    kustomization = {
        "resources": [os.path.relpath(PROJECT / "deploy" / "kustomize", folder)],
        "namespace": namespace,
        "namePrefix": f"{namespace}-",
        "patches": [{"target": {"kind": "Deployment"}, "patch": yaml.safe_dump([named, only])}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    try:
        yield str(folder)
    finally:
        made = yaml.safe_load_all(cluster.plane.kubectl("kustomize", str(folder)))
        roles = [manifest for manifest in made if manifest["kind"] in _CLUSTER_WIDE]
        cluster.plane.kubectl("delete", "--ignore-not-found", "--filename=-", stdin=yaml.safe_dump_all(roles))


def versions(cluster: Cluster, kustomization: str) -> dict[tuple[str, str], str]:
    """Kind and name of each object of a folder → the version of what it is to be; a status has no part in it."""
    found = json.loads(cluster.plane.kubectl("get", f"--kustomize={kustomization}", "--output=json"))["items"]
    metadata = {(made["kind"], made["metadata"]["name"]): made["metadata"] for made in found}
    return {key: str(about.get("generation") or about["resourceVersion"]) for key, about in metadata.items()}


def test_the_kustomize_base_that_is_applied_again_changes_nothing(
    checkdam: Cluster, namespace: str, tmp_path: Path
) -> None:
    kubectl, here = checkdam.plane.kubectl, f"--namespace={namespace}"
    kubectl(here, "create", "secret", "generic", "checkdam-metrics", "--from-literal=token=anything")
    with overlay(checkdam, namespace, tmp_path) as base:
        apply = ("apply", "--server-side", f"--kustomize={base}")
        kubectl(*apply)
        kubectl(here, "rollout", "status", f"deployment/{namespace}-checkdam", "--timeout=120s")
        before = versions(checkdam, base)
        assert kubectl("diff", "--server-side", f"--kustomize={base}") == ""
        kubectl(*apply)
        assert versions(checkdam, base) == before
        kubectl(here, "rollout", "status", f"deployment/{namespace}-checkdam", "--timeout=0s")


@contextmanager
def recorded(job: OrdersJob, file: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Every version of the job from now on, as the API server has it, however long it takes until somebody watches."""
    path = f"/apis/checkdam.dev/v1alpha1/namespaces/{job.namespace}/streamjobs"
    now = job.cluster.plane.call("GET", path)["metadata"]["resourceVersion"]
    command = [str(install("kubectl")), "get", "--raw", f"{path}?watch=true&resourceVersion={now}"]
    environment = {**os.environ, **job.cluster.plane.environment()}
    with file.open("w") as output, subprocess.Popen(command, stdout=output, env=environment) as watch:
        try:
            yield lambda: [json.loads(line)["object"] for line in file.read_text().rpartition("\n")[0].splitlines()]
        finally:
            watch.terminate()


def health(found: dict[str, Any]) -> tuple[str, str]:
    """What Argo CD shows of an object, and the message with it."""
    shown = run((_KINDS / found["kind"] / "health.lua").read_text(), found)
    return shown["status"], shown["message"]


def act(job: OrdersJob, action: str) -> Any:
    """What an action of Argo CD, which must be offered, makes of the job as it is: Argo CD patches it so."""
    found = job.object()
    assert not run((_ACTIONS / "discovery.lua").read_text(), found)[action]["disabled"]
    return run((_ACTIONS / action / "action.lua").read_text(), found)


def test_argo_cd_shows_each_state_of_a_job_for_what_it_is_and_its_actions_are_carried_out(
    checkdam: Cluster, namespace: str, tmp_path: Path
) -> None:
    job = OrdersJob(checkdam, namespace)
    with recorded(job, tmp_path / "recorded") as versions_of_job:
        with quota_exhausted(job):
            job.apply()
            job.wait("condition=Stalled")
        job.wait("condition=Ready")
        job.until_more(0)
        pods, generation = job.names(), job.object()["metadata"]["generation"]
        job.apply()
        assert job.object()["metadata"]["generation"] == generation

        [asked] = act(job, "savepoint")
        savepoint = json.dumps(asked["resource"])
        made = json.loads(job.kubectl(asked["operation"], "--output=json", "--filename=-", stdin=savepoint))
        assert health(made)[0] == "Progressing"
        name = made["metadata"]["name"]
        job.kubectl("wait", f"savepoint/{name}", "--for=condition=Ready", "--timeout=120s")
        done = json.loads(job.kubectl("get", "savepoint", name, "--output=json"))
        assert health(done) == ("Healthy", done["status"]["uri"])
        assert job.names() == pods

        job.patch(**act(job, "suspend")["spec"])
        job.wait("jsonpath={.status.state}=Suspended")
        resumed = act(job, "resume")["spec"]
        resumed["program"]["args"] |= {"count": 50_000, "rate": 20_000}
        job.patch(**resumed)
        job.wait("jsonpath={.status.state}=Completed")
        job.kubectl("delete", "streamjob", NAME, "--cascade=foreground", "--timeout=90s")
        shown = job.until(lambda: _until_deleted(versions_of_job()), "version of a job that is being deleted")
    assert job.check() == 50_000
    assert [status for status, _ in groupby(status for status, _ in shown)] == [
        *("Progressing", "Degraded", "Progressing", "Healthy"),
        *("Progressing", "Suspended", "Progressing", "Healthy", "Progressing"),
    ]
    assert all("raise the quota" in message for status, message in shown if status == "Degraded")


def _until_deleted(found: list[dict[str, Any]]) -> list[tuple[str, str]] | None:
    """What was shown of each version of a job, once there is one that is being deleted."""
    return list(map(health, found)) if any("deletionTimestamp" in made["metadata"] for made in found) else None
