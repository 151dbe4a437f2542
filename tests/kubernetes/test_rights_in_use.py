"""The operator with the settings and the account that the chart gives it, and nothing else, does its work on a real API server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import aiohttp
import make_manifests
import yaml
from operator_process import Jobs, OperatorProcess, eventually

from cluster.control_plane import ControlPlane
from cluster.stub_kubelet import StubKubelet

CHART = str(make_manifests.CHART)
TOKEN = "a-token-for-metrics"


def install(plane: ControlPlane, release: str, jobs: str) -> None:
    """Install the chart, for the jobs of one namespace, without pods: the operator is a process of the test."""
    values = ("crds.enabled=false", "rbac.userRoles=false", "replicas=0", f"watchNamespaces={{{jobs}}}")
    plane.helm("install", "checkdam", CHART, "--namespace", release, *(f"--set={value}" for value in values))


def settings(plane: ControlPlane, release: str, folder: Path) -> dict[str, str]:
    """The environment of the operator's container, with the account's own credentials in place of mounted ones."""
    here = ("--namespace", release)
    deployment = json.loads(plane.kubectl(*here, "get", "deployment", "checkdam", "--output=json"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": plane.kubectl(*here, "create", "token", "checkdam").strip()}
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    token = folder / "token"
    token.write_text(TOKEN)
    return {
        **{name: value for name, value in given.items() if name.startswith("CHECKDAM_OPERATOR_")},
        "CHECKDAM_OPERATOR_KUBECONFIG": str(kubeconfig),
        "CHECKDAM_OPERATOR_LEASE_NAMESPACE": release,
        "CHECKDAM_OPERATOR_METRICS_TOKEN_FILE": str(token),
        "CHECKDAM_OPERATOR_HTTP_HOST": "127.0.0.1",
        "CHECKDAM_OPERATOR_HTTP_PORT": "0",
    }


async def metrics(operator: OperatorProcess) -> str:
    """What the operator tells to who has the token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{operator.port}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


async def test_the_rights_and_settings_of_the_chart_are_enough(
    control_plane: ControlPlane, namespace: str, kubelet: StubKubelet, tmp_path: Path
) -> None:
    release = await asyncio.to_thread(control_plane.new_namespace, "release")
    await asyncio.to_thread(install, control_plane, release, namespace)
    operator = OperatorProcess(control_plane, namespace, tmp_path / "operator.log")
    operator.settings = await asyncio.to_thread(settings, control_plane, release, tmp_path)
    jobs = Jobs(control_plane, namespace)
    await operator.start()
    try:
        await asyncio.to_thread(jobs.create)
        await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods to be Ready")
        victim = jobs.pods("worker")[0]["metadata"]
        await asyncio.to_thread(jobs.delete_pod, victim["name"])

        def replaced() -> bool:
            # A pod that is gone before the watch has shown that it goes is followed by one of the same name.
            uids = {pod["metadata"]["uid"] for pod in jobs.pods()}
            return victim["uid"] not in uids and len(jobs.ready_pods()) == 3

        await eventually(replaced, "a replacement")
        await asyncio.to_thread(jobs.patch, {"networkPolicy": {"enabled": False}})
        policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        await eventually(lambda: not control_plane.call("GET", policies)["items"], "the network policy to go")
        await eventually(lambda: "Deployed" in jobs.reasons(), "an event")
        await asyncio.to_thread(jobs.savepoint, "by-hand")
        await eventually(lambda: jobs.savepoint_status("by-hand").get("state"), "a status of the savepoint")
        await asyncio.to_thread(jobs.patch, {"suspend": True})
        assert (await operator.get("/metrics"))[0] == 401
        text = await metrics(operator)
        answers = re.findall(r"^checkdam_operator_api_requests_total\{(.*)\} ", text, re.MULTILINE)
        assert [answer for answer in answers if 'code="201"' in answer and 'kind="pods"' in answer]
        assert [answer for answer in answers if 'code="403"' in answer] == []
        assert "Forbidden" not in operator.log.read_text()
    finally:
        await operator.stop()
        await asyncio.to_thread(control_plane.helm, "uninstall", "checkdam", "--namespace", release)
        await asyncio.to_thread(control_plane.call, "DELETE", f"/api/v1/namespaces/{release}")
