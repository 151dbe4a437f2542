"""The operator's client, watch, lists and Events on a real API server."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from checkdam_operator.cache import Key, ObjectCache
from checkdam_operator.delivery import Delivery
from checkdam_operator.freshness import Freshness
from checkdam_operator.indexes import INDEXES, PODS_BY_JOB_UID, WATCHED
from checkdam_operator.kube import client as client_module
from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.connection import ConnectionSettingsError, load_configuration
from checkdam_operator.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from checkdam_operator.kube.events import EventRecorder
from checkdam_operator.kube.kinds import CONFIG_MAP, EVENT, POD, SAVEPOINT, SERVICE, STREAM_JOB, Kind
from checkdam_operator.queue import WorkQueue
from checkdam_operator.resync import Resync
from checkdam_operator.sources import WatchSource
from cluster.control_plane import ControlPlane


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    client = KubeClient(await load_configuration(str(control_plane.kubeconfig)))
    yield client
    await client.close()


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def pod(name: str, **labels: str) -> dict[str, Any]:
    container = {"name": "main", "image": "none.invalid/none:1"}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}


def job(name: str) -> dict[str, Any]:
    spec = {"program": {"entrypoint": "m:f"}, "checkpoint": {"storage": {"uri": "s3://bucket/prefix"}}}
    return {"metadata": {"name": name}, "spec": spec}


async def test_what_is_created_can_be_read_listed_changed_and_deleted(client: KubeClient, namespace: str) -> None:
    made = await client.create(CONFIG_MAP, namespace, config_map("one", a="1"))
    assert await client.get(CONFIG_MAP, namespace, "one") == made
    items, version = await client.list(CONFIG_MAP, namespace, fields="metadata.name=one")
    assert [item["metadata"]["uid"] for item in items] == [made["metadata"]["uid"]]
    assert int(version) >= int(made["metadata"]["resourceVersion"])
    patched = await client.patch(CONFIG_MAP, namespace, "one", {"data": {"a": None, "b": "2"}})
    assert patched["data"] == {"b": "2"}
    await client.delete(CONFIG_MAP, namespace, "one", uid=made["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await client.get(CONFIG_MAP, namespace, "one")
    await client.delete(CONFIG_MAP, namespace, "one")


async def test_a_name_that_is_taken_is_told_apart(client: KubeClient, namespace: str) -> None:
    await client.create(POD, namespace, pod("one"))
    with pytest.raises(AlreadyExistsError):
        await client.create(POD, namespace, pod("one"))


async def test_only_the_object_that_is_meant_is_deleted(client: KubeClient, namespace: str) -> None:
    made = await client.create(CONFIG_MAP, namespace, config_map("one"))
    await client.delete(CONFIG_MAP, namespace, "one", uid="00000000-0000-0000-0000-000000000000")
    assert (await client.get(CONFIG_MAP, namespace, "one"))["metadata"]["uid"] == made["metadata"]["uid"]


async def test_apply_drops_what_it_leaves_out_and_takes_over_what_others_set(
    client: KubeClient, namespace: str
) -> None:
    await client.create(CONFIG_MAP, namespace, config_map("one", foreign="x", shared="theirs"))
    await client.apply(CONFIG_MAP, namespace, "one", {"data": {"shared": "ours", "extra": "1"}})
    applied = await client.apply(CONFIG_MAP, namespace, "one", {"data": {"shared": "ours"}})
    assert applied["data"] == {"foreign": "x", "shared": "ours"}


async def test_apply_with_a_version_holds_for_that_version_alone(client: KubeClient, namespace: str) -> None:
    made = await client.create(STREAM_JOB, namespace, job("flights"))
    version = made["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version}, "status": {"state": "Starting"}}
    written = await client.apply(STREAM_JOB, namespace, "flights", body, subresource="status")
    assert written["status"]["state"] == "Starting"
    assert written["metadata"]["generation"] == 1
    with pytest.raises(ConflictError):
        await client.apply(STREAM_JOB, namespace, "flights", body, subresource="status")


async def test_what_is_wrong_with_an_object_is_told_in_the_server_s_words(client: KubeClient, namespace: str) -> None:
    body = pod("one")
    body["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(InvalidError, match=r'unknown field "spec\.containers\[0\]\.imagePullPolice"'):
        await client.create(POD, namespace, body)
    with pytest.raises(InvalidError):
        await client.apply(SERVICE, namespace, "one", {"spec": {"ports": [{"port": 99_999}]}})


async def test_an_exhausted_quota_and_a_namespace_that_ends_are_told_apart(
    client: KubeClient, namespace: str, control_plane: ControlPlane
) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/configmaps": "1"}}}
    control_plane.call("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota)
    with pytest.raises(ForbiddenError, match="exceeded quota: few") as refused:
        await create_many(client, namespace)
    assert refused.value.quota
    ending = control_plane.new_namespace()
    await client.create(CONFIG_MAP, ending, {**config_map("held"), "metadata": {"name": "held", "finalizers": ["a/b"]}})
    control_plane.call("DELETE", f"/api/v1/namespaces/{ending}")
    with pytest.raises(ForbiddenError) as refused:
        await client.create(CONFIG_MAP, ending, config_map("late"))
    assert not refused.value.quota
    await client.patch(CONFIG_MAP, ending, "held", {"metadata": {"finalizers": None}})


async def test_a_wrong_token_is_no_answer(control_plane: ControlPlane, namespace: str) -> None:
    configuration = await load_configuration(str(control_plane.kubeconfig))
    configuration.api_key["BearerToken"] = "Bearer wrong"
    client = KubeClient(configuration, read_retry_s=())
    with pytest.raises(UnavailableError, match="Unauthorized"):
        await client.get(POD, namespace, "one")
    await client.close()


async def test_without_any_way_to_a_cluster_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConnectionSettingsError, match=r"/nowhere/kubeconfig.*CHECKDAM_OPERATOR_KUBECONFIG"):
        await load_configuration("/nowhere/kubeconfig")


async def test_a_list_of_many_pages_is_whole(
    client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        await client.create(CONFIG_MAP, namespace, config_map(f"n{number}"))
    monkeypatch.setattr(client_module, "PAGE", 3)
    items, _ = await client.list(CONFIG_MAP, namespace)
    assert {f"n{number}" for number in range(7)} <= {item["metadata"]["name"] for item in items}


async def test_discovery_tells_which_kinds_there_are(client: KubeClient) -> None:
    assert [await client.serves(kind) for kind in (POD, STREAM_JOB, SAVEPOINT)] == [True] * 3
    assert not await client.serves(Kind("checkdam.dev", "v1alpha1", "nothings", "Nothing"))
    assert not await client.serves(Kind("nobody.invalid", "v1", "nothings", "Nothing"))


class Office:
    """What the operator knows of one namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.namespace = namespace
        self.cache = ObjectCache(INDEXES)
        self.queue = WorkQueue[Key](4)
        self.freshness = Freshness()
        self.delivery = Delivery(self.cache, self.queue, self.freshness, [namespace])
        self.resync = Resync(client, WATCHED, [namespace], self.delivery.listed, 300.0)

    def looks(self) -> list[Key]:
        found = []
        while (key := self.queue.take()) is not None:
            self.queue.done(key)
            found.append(key)
        return found


async def test_a_list_finds_deletes_and_changes_that_were_missed(client: KubeClient, namespace: str) -> None:
    office = Office(client, namespace)
    labels = {"checkdam.dev/job": "flights", "checkdam.dev/job-uid": "u1"}
    kept = await client.create(POD, namespace, pod("kept", **labels))
    gone = await client.create(POD, namespace, pod("gone", **labels))
    for body in (kept, gone):
        office.delivery.watched(POD, body, deleted=False)
    office.looks()
    await client.create(POD, namespace, pod("foreign", app="other"))
    await client.delete(POD, namespace, "gone", grace_s=0)
    await client.patch(POD, namespace, "kept", {"metadata": {"labels": {"more": "x"}}})
    await office.resync.once()
    assert [found["metadata"]["name"] for found in office.cache.find(PODS_BY_JOB_UID, "u1")] == ["kept"]
    assert office.cache.count(POD) == 1
    assert office.looks() == [(namespace, "flights")]
    office.delivery.watched(POD, gone, deleted=False)
    assert office.cache.get(POD, namespace, "gone") is None, "a late event brings nothing back"


async def test_the_watch_shows_what_happens_and_never_writes(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    office = Office(client, namespace)
    made = await client.create(STREAM_JOB, namespace, job("flights"))

    async def nothing() -> None:
        pass

    source = WatchSource(
        WATCHED,
        (namespace,),
        office.delivery.watched,
        office.resync.soon,
        client.serves,
        nothing,
        lambda: load_configuration(str(control_plane.kubeconfig)),
    )
    watching = asyncio.create_task(source.run())
    await until(lambda: office.cache.get(STREAM_JOB, namespace, "flights") is not None)
    labels = {"checkdam.dev/job": "flights", "checkdam.dev/job-uid": made["metadata"]["uid"]}
    await client.create(POD, namespace, pod("foreign"))
    await client.create(POD, namespace, pod("flights-w0", **labels))
    await until(lambda: office.cache.get(POD, namespace, "flights-w0") is not None)
    assert office.cache.get(POD, namespace, "foreign") is None
    await client.delete(POD, namespace, "flights-w0", grace_s=0)
    await until(lambda: office.cache.get(POD, namespace, "flights-w0") is None)
    await client.delete(STREAM_JOB, namespace, "flights")
    await until(lambda: office.cache.get(STREAM_JOB, namespace, "flights") is None)
    await client.create(STREAM_JOB, namespace, job("again"))
    await until(lambda: office.cache.get(STREAM_JOB, namespace, "again") is not None)
    await office.resync.once()
    assert office.freshness.problem() == ""
    now = await client.get(STREAM_JOB, namespace, "again")
    assert {entry["manager"] for entry in now["metadata"]["managedFields"]} == {"checkdam-operator"}, "we made it"
    assert not now["metadata"].get("finalizers")
    assert not now["metadata"].get("annotations")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    assert [str(warning.message) for warning in told] == [], "no connection is left open"


async def test_events_are_shown_where_people_look_for_them(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    made = await client.create(STREAM_JOB, namespace, job("flights"))
    recorder = EventRecorder(client, "operator_1")
    for _ in range(3):
        recorder.record(made, "Warning", "StorageUnreachable", "cannot reach s3://bucket: make the bucket")
        await recorder.flush()
    (event,) = (await client.list(EVENT, namespace, fields="involvedObject.name=flights"))[0]
    assert event["count"] == 3
    described = await asyncio.to_thread(control_plane.kubectl, "describe", "streamjob", "flights", "-n", namespace)
    assert "StorageUnreachable" in described
    assert "(x3 over" in described
    assert "make the bucket" in described


async def create_many(client: KubeClient, namespace: str) -> None:
    """Create until a quota, which is counted in the background, is known to be exhausted."""
    async with asyncio.timeout(20):
        for number in range(1_000):
            await client.create(CONFIG_MAP, namespace, config_map(f"n{number}"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
