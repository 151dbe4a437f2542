"""The operator as a process on a real API server, with pods that a stub plays: what is made, replaced, told and left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from next_operator import NEW_VARIABLE
from operator_process import IMAGE, Jobs, OperatorProcess, eventually, operator_process

from cluster.control_plane import ControlPlane
from cluster.stub_kubelet import Behaviour, StubKubelet


@pytest.fixture
def jobs(control_plane: ControlPlane, namespace: str) -> Jobs:
    return Jobs(control_plane, namespace)


@pytest.fixture
async def running_operator(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> AsyncIterator[OperatorProcess]:
    async with operator_process(control_plane, namespace, tmp_path) as operator:
        yield operator


async def test_a_job_gets_its_pods_and_what_belongs_to_them(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    await asyncio.to_thread(jobs.create)

    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods to be Ready")

    owners = {
        owner["kind"]
        for plural in ("pods", "services", "configmaps", "secrets")
        for body in jobs.list(plural)
        for owner in body["metadata"]["ownerReferences"]
    }
    assert owners == {"StreamJob"}
    assert {pod["spec"]["containers"][0]["image"] for pod in jobs.pods()} == {IMAGE}
    [service] = jobs.list("services")
    coordinator = jobs.pods("coordinator")[0]["metadata"]["labels"]["checkdam.dev/pod-hash"]
    assert service["spec"]["selector"]["checkdam.dev/pod-hash"] == coordinator
    worker = jobs.pods("worker")[0]["spec"]["containers"][0]
    addresses = [variable["value"] for variable in worker["env"] if variable["name"] == "CHECKDAM_COORDINATOR"]
    assert addresses == [f"{service['spec']['clusterIP']}:6470"]
    await eventually(lambda: jobs.status().get("replicas") == 2, "the status to count the workers")
    assert (await asyncio.to_thread(jobs.status))["state"] == "Starting"
    await eventually(lambda: "Deployed" in jobs.reasons(), "the event")
    columns = await asyncio.to_thread(jobs.plane.kubectl, "-n", jobs.namespace, "get", "sjob", "words")
    assert columns.split()[:3] == ["NAME", "READY", "STATE"]


async def test_a_deleted_pod_is_replaced_beside_itself_and_the_others_stay(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    kubelet.behaviour = lambda pod: Behaviour(termination_s=None)
    await asyncio.to_thread(jobs.create)
    before = set(await eventually(lambda: found if len(found := jobs.ready_pods()) == 3 else None, "three pods"))
    victim = next(name for name in before if "-w1-" in name)

    await asyncio.to_thread(jobs.delete_pod, victim)

    after = set(await eventually(lambda: found if len(found := jobs.ready_pods()) == 3 else None, "a replacement"))
    assert len(after - before) == 1
    assert before - after == {victim}
    assert victim in {pod["metadata"]["name"] for pod in jobs.pods(ending=True)}


@pytest.mark.parametrize("fate", ["evicted", "crashed twice"])
async def test_a_pod_that_ends_is_replaced(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet, fate: str
) -> None:
    await asyncio.to_thread(jobs.create)
    before = await eventually(lambda: found if len(found := jobs.ready_pods()) == 3 else None, "three pods")
    victim = next(name for name in before if "-w0-" in name)

    if fate == "evicted":
        await kubelet.fail(jobs.namespace, victim)
    else:
        await kubelet.crash(jobs.namespace, victim)
        await kubelet.restart(jobs.namespace, victim)
        assert victim in jobs.ready_pods()
        await kubelet.crash(jobs.namespace, victim, reason="OOMKilled", exit_code=137)

    await eventually(lambda: victim not in jobs.ready_pods() and len(jobs.ready_pods()) == 3, "a replacement")
    await eventually(lambda: "PodReplaced" in jobs.reasons(), "the event")


@pytest.mark.long
async def test_an_image_that_cannot_be_pulled_is_told_and_healed(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    kubelet.behaviour = lambda pod: Behaviour(pullable=pod["spec"]["containers"][0]["image"] != "nowhere/words:9")
    await asyncio.to_thread(jobs.create, image="nowhere/words:9")

    stalled = await eventually(
        lambda: found if (found := jobs.condition("Stalled")).get("status") == "True" else None, "Stalled"
    )
    assert stalled["reason"] == "ImagePullFailed"
    assert "nowhere/words:9" in stalled["message"]
    assert "`spec.image`" in stalled["message"]

    await asyncio.to_thread(jobs.patch, {"image": "somewhere/words:1"})

    await eventually(lambda: len(jobs.ready_pods()) == 3, "the pods of the next version")
    await eventually(lambda: jobs.condition("Stalled")["status"] == "False", "Stalled to go")
    assert {pod["spec"]["containers"][0]["image"] for pod in jobs.pods()} == {"somewhere/words:1"}


async def test_an_exhausted_quota_is_told_and_healed(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}
    await asyncio.to_thread(jobs.create_object, "resourcequotas", quota)
    path = f"/api/v1/namespaces/{jobs.namespace}/resourcequotas/small"
    await eventually(lambda: jobs.plane.call("GET", path).get("status", {}).get("hard"), "the quota to be counted")
    await asyncio.to_thread(jobs.create)

    stalled = await eventually(
        lambda: found if (found := jobs.condition("Stalled")).get("status") == "True" else None, "Stalled"
    )
    assert stalled["reason"] == "QuotaExceeded"
    assert "exceeded quota: small" in stalled["message"]

    await asyncio.to_thread(jobs.plane.call, "DELETE", path)
    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods")
    await eventually(lambda: jobs.condition("Stalled")["status"] == "False", "Stalled to go")


async def test_suspending_before_anything_ran_and_resuming(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    await asyncio.to_thread(jobs.create, suspend=True)
    await eventually(lambda: jobs.status().get("state") == "Suspended", "Suspended")
    assert jobs.pods() == []

    await asyncio.to_thread(jobs.patch, {"suspend": False})

    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods")


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
async def test_deleting_a_job_hangs_on_nothing_even_without_an_operator(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet, policy: str
) -> None:
    await asyncio.to_thread(jobs.create)
    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods")
    await running_operator.kill()

    await asyncio.to_thread(jobs.delete, policy=policy)

    await eventually(lambda: not jobs.exists(), "the job to be gone")
    await eventually(
        lambda: not any(jobs.list(plural) for plural in ("pods", "services", "configmaps", "secrets")),
        "all of it to be gone",
    )


async def test_pods_that_a_deletion_has_orphaned_are_deleted(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    await asyncio.to_thread(jobs.create)
    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods")

    await asyncio.to_thread(jobs.delete, policy="Orphan")

    await eventually(lambda: jobs.pods() == [], "the pods to be gone")


async def test_another_operator_goes_on_without_touching_a_pod(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    await asyncio.to_thread(jobs.create)
    before = await eventually(lambda: found if len(found := jobs.ready_pods()) == 3 else None, "three pods")
    versions = _versions(jobs.pods())

    assert await running_operator.stop() == 0
    await running_operator.start()
    await asyncio.to_thread(jobs.create, name="other")
    await eventually(lambda: len(jobs.ready_pods()) == 6, "the operator to act")

    assert set(before) <= set(jobs.ready_pods())
    assert versions.items() <= _versions(jobs.pods()).items()


async def test_the_next_version_of_the_operator_leaves_pods_alone_and_keeps_the_image_of_those_it_replaces(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    await asyncio.to_thread(jobs.create)
    before = await eventually(lambda: found if len(found := jobs.ready_pods()) == 3 else None, "three pods")
    versions = _versions(jobs.pods())

    assert await running_operator.stop() == 0
    running_operator.program = [str(Path(__file__).with_name("next_operator.py"))]
    running_operator.settings["CHECKDAM_OPERATOR_RUNTIME_IMAGE"] = "checkdam-runtime:next"
    await running_operator.start()
    await asyncio.to_thread(jobs.create, name="other")
    await eventually(lambda: len(jobs.ready_pods()) == 6, "the next version to act")

    def of(name: str) -> dict[str, dict[str, Any]]:
        return {
            pod["metadata"]["name"]: pod for pod in jobs.pods() if pod["metadata"]["labels"]["checkdam.dev/job"] == name
        }

    kept = await asyncio.to_thread(of, "words")
    assert _versions(kept.values()) == versions
    others = await asyncio.to_thread(of, "other")
    assert {_container(pod)["image"] for pod in others.values()} == {"checkdam-runtime:next"}
    assert all(NEW_VARIABLE in _container(pod)["env"] for pod in others.values())

    await asyncio.to_thread(jobs.delete_pod, before[-1])
    replaced = await eventually(
        lambda: found if len(found := of("words")) == 3 and before[-1] not in found else None, "a replacement"
    )
    [new] = [pod for name, pod in replaced.items() if name not in before]
    assert _container(new)["image"] == IMAGE
    assert NEW_VARIABLE in _container(new)["env"]


def _versions(pods: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["resourceVersion"] for pod in pods}


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


async def test_a_second_replica_takes_over_when_the_first_is_killed(
    jobs: Jobs,
    running_operator: OperatorProcess,
    kubelet: StubKubelet,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(jobs.create)
    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods")
    (tmp_path / "second").mkdir()
    async with operator_process(control_plane, namespace, tmp_path / "second") as second:
        await running_operator.kill()
        victim = jobs.pods("coordinator")[0]["metadata"]
        await asyncio.to_thread(jobs.delete_pod, victim["name"])

        def replaced() -> bool:
            uids = {pod["metadata"]["uid"] for pod in jobs.pods()}
            return victim["uid"] not in uids and len(jobs.ready_pods()) == 3

        await eventually(replaced, "a replacement")
        status, text = await second.get("/metrics")
        assert status == 200
        assert "checkdam_operator_leader 1.0" in text
        await running_operator.start()


async def test_health_readiness_and_metrics_are_served(jobs: Jobs, running_operator: OperatorProcess) -> None:
    await asyncio.to_thread(jobs.create)
    await eventually(lambda: len(jobs.pods()) == 3, "three pods")

    assert (await running_operator.get("/healthz"))[0] == 200
    assert (await running_operator.get("/readyz"))[0] == 200
    _, text = await running_operator.get("/metrics")
    assert f'checkdam_streamjob_ready{{name="words",namespace="{jobs.namespace}"}} 0.0' in text
    assert 'checkdam_operator_pods_created_total{cause="Missing",component="worker"} 2.0' in text


async def test_a_manifest_that_fits_into_no_config_map_is_told_and_healed(
    jobs: Jobs, running_operator: OperatorProcess, kubelet: StubKubelet
) -> None:
    large = {"entrypoint": "words:build", "inline": {"words.py": "#" * 1_100_000}}
    await asyncio.to_thread(jobs.create, program=large)

    stalled = await eventually(
        lambda: found if (found := jobs.condition("Stalled")).get("status") == "True" else None, "Stalled"
    )
    assert stalled["reason"] == "ManifestRefused"

    await asyncio.to_thread(jobs.patch, {"program": {"inline": {"words.py": "# small"}}})
    await eventually(lambda: len(jobs.ready_pods()) == 3, "three pods")
    await eventually(lambda: jobs.condition("Stalled")["status"] == "False", "Stalled to go")
