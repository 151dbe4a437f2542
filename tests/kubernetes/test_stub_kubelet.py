"""The stub kubelet does to pods what a kubelet would, as far as the API shows it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest

from cluster.control_plane import ApiError, ControlPlane
from cluster.stub_kubelet import Behaviour, StubKubelet, stub_kubelet

PATIENCE_S = 30.0


class Pods:
    """Pods of one container in the test's namespace. Requests are sent from a thread: the kubelet plays in the test's own."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._path = f"/api/v1/namespaces/{namespace}/pods"

    async def create(self, name: str) -> None:
        spec = {"containers": [{"name": "main", "image": "registry.example/none:1"}]}
        body = {"metadata": {"name": name}, "spec": spec}
        await asyncio.to_thread(self._plane.call, "POST", self._path, body)

    async def get(self, name: str) -> dict[str, Any]:
        return dict(await asyncio.to_thread(self._plane.call, "GET", f"{self._path}/{name}"))

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._plane.call, "DELETE", f"{self._path}/{name}")

    async def when(self, name: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The pod, as soon as this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(pod := await self.get(name)):
                await asyncio.sleep(0.02)
        return pod

    async def when_gone(self, name: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.get(name)
                except ApiError as error:
                    if error.status == 404:
                        return
                    raise
                await asyncio.sleep(0.02)


@pytest.fixture
def pods(control_plane: ControlPlane, namespace: str) -> Pods:
    return Pods(control_plane, namespace)


def is_ready(pod: dict[str, Any]) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((found for found in pod["status"].get("conditions", []) if found["type"] == kind), {})


def container(pod: dict[str, Any]) -> dict[str, Any]:
    return dict(next(iter(pod["status"].get("containerStatuses", [])), {"state": {}}))


async def test_a_pod_becomes_ready_at_an_address_of_its_own(pods: Pods, kubelet: StubKubelet) -> None:
    await pods.create("a")
    await pods.create("b")
    a, b = await pods.when("a", is_ready), await pods.when("b", is_ready)
    assert a["status"]["phase"] == "Running"
    assert a["spec"]["nodeName"] == "stub"
    assert container(a)["restartCount"] == 0
    assert ipaddress.ip_address(a["status"]["podIP"]).is_loopback
    assert a["status"]["podIP"] != b["status"]["podIP"]


async def test_pods_that_were_there_before_the_kubelet_run_too(
    pods: Pods, control_plane: ControlPlane, namespace: str
) -> None:
    await pods.create("early")
    async with stub_kubelet(control_plane, namespace):
        await pods.when("early", is_ready)


async def test_a_deleted_pod_goes_when_its_containers_have_ended(pods: Pods, kubelet: StubKubelet) -> None:
    await pods.create("a")
    await pods.when("a", is_ready)
    await pods.delete("a")
    await pods.when_gone("a")


async def test_a_deleted_pod_on_a_lost_node_stays(pods: Pods, kubelet: StubKubelet) -> None:
    kubelet.behaviour = lambda pod: Behaviour(termination_s=None if pod["metadata"]["name"] == "lost" else 0.0)
    for name in ("lost", "other"):
        await pods.create(name)
        await pods.when(name, is_ready)
        await pods.delete(name)
    await pods.when_gone("other")
    assert "deletionTimestamp" in (await pods.get("lost"))["metadata"]


async def test_a_crash_shows_its_cause_and_then_counts_as_a_restart(
    pods: Pods, kubelet: StubKubelet, namespace: str
) -> None:
    await pods.create("a")
    await pods.when("a", is_ready)
    await kubelet.crash(namespace, "a", 137, "OOMKilled", "too much")
    crashed = await pods.get("a")
    assert not is_ready(crashed)
    end = container(crashed)["state"]["terminated"]
    assert (end["exitCode"], end["reason"], end["message"]) == (137, "OOMKilled", "too much")
    await kubelet.restart(namespace, "a")
    again = await pods.get("a")
    assert is_ready(again)
    assert container(again)["restartCount"] == 1
    assert container(again)["lastState"]["terminated"]["exitCode"] == 137
    assert again["status"]["podIP"] == crashed["status"]["podIP"]
    await kubelet.crash(namespace, "a")
    assert container(await pods.get("a"))["restartCount"] == 1


async def test_a_pod_that_does_not_run_cannot_crash(pods: Pods, kubelet: StubKubelet, namespace: str) -> None:
    kubelet.behaviour = lambda pod: Behaviour(schedulable=False)
    await pods.create("a")
    with pytest.raises(ValueError, match=r"the pod a must be Running \(got Pending\)"):
        await kubelet.crash(namespace, "a")


async def test_an_image_that_cannot_be_had_is_said_in_the_status(pods: Pods, kubelet: StubKubelet) -> None:
    kubelet.behaviour = lambda pod: Behaviour(pullable=False)
    await pods.create("a")
    pod = await pods.when("a", lambda pod: "waiting" in container(pod)["state"])
    assert container(pod)["state"]["waiting"]["reason"] == "ImagePullBackOff"
    assert pod["status"]["phase"] == "Pending"


async def test_a_pod_that_fits_nowhere_has_no_node(pods: Pods, kubelet: StubKubelet) -> None:
    kubelet.behaviour = lambda pod: Behaviour(schedulable=False)
    await pods.create("a")
    pod = await pods.when("a", lambda pod: condition(pod, "PodScheduled"))
    assert condition(pod, "PodScheduled")["reason"] == "Unschedulable"
    assert "nodeName" not in pod["spec"]


async def test_an_evicted_pod_has_failed(pods: Pods, kubelet: StubKubelet, namespace: str) -> None:
    await pods.create("a")
    await pods.when("a", is_ready)
    await kubelet.fail(namespace, "a", "Evicted", "low on memory")
    status = (await pods.get("a"))["status"]
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "Evicted", "low on memory")


async def test_a_pod_that_is_never_ready_runs(pods: Pods, kubelet: StubKubelet) -> None:
    kubelet.behaviour = lambda pod: Behaviour(ready=False)
    await pods.create("a")
    pod = await pods.when("a", lambda pod: pod["status"]["phase"] == "Running")
    assert not is_ready(pod)
