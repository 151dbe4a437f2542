"""The watch: kopf as a mere source of events, which starts and stops quickly and never stays dead."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kmock
import pytest
from aiohttp import web
from kmock import KubernetesEmulator
from kubernetes.aio.client.configuration import Configuration
from manual_time import ManualTime

from checkdam_operator import sources
from checkdam_operator.indexes import WATCHED
from checkdam_operator.kube.connection import ConnectionSettingsError
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.metrics import OperatorMetrics
from checkdam_operator.sources import WatchSource, connection_info

RESOURCES = {
    "checkdam.dev/v1alpha1/streamjobs": "StreamJob",
    "checkdam.dev/v1alpha1/savepoints": "Savepoint",
    "v1/pods": "Pod",
    # kopf waits for these three before it does anything, though it is not to watch them.
    "v1/namespaces": "Namespace",
    "v1/events": "Event",
    "apiextensions.k8s.io/v1/customresourcedefinitions": "CustomResourceDefinition",
}
JOBS = "/apis/checkdam.dev/v1alpha1/namespaces/ns/streamjobs"


class Watching:
    """A watch of an emulated cluster."""

    def __init__(self, cluster: KubernetesEmulator, *namespaces: str) -> None:
        self.cluster = cluster
        self.seen: list[tuple[str, str, bool]] = []
        self.threads: set[threading.Thread] = set()
        self.starts = 0
        self.listed = 0
        self.served = True
        self.time = ManualTime()
        self.waits: list[float] = []
        self.metrics = OperatorMetrics()
        self.source = WatchSource(
            WATCHED,
            namespaces,
            self.deliver,
            self.count_list,
            self.serves,
            self.before_start,
            self.configuration,
            self.metrics,
            self.time,
            self.sleep,
        )
        self.task = asyncio.create_task(self.source.run())

    def deliver(self, kind: Kind, body: dict[str, Any], deleted: bool) -> None:
        self.threads.add(threading.current_thread())
        self.seen.append((kind.kind, body["metadata"]["name"], deleted))

    def count_list(self) -> None:
        self.listed += 1

    async def serves(self, kind: Kind) -> bool:
        return self.served

    async def before_start(self) -> None:
        self.starts += 1

    async def configuration(self) -> Configuration:
        return Configuration(host=str(self.cluster.url).rstrip("/"))

    async def sleep(self, duration_s: float) -> None:
        self.waits.append(duration_s)
        self.time.now += duration_s
        await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                assert not self.task.done()
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> KubernetesEmulator:
    emulator: KubernetesEmulator = request.getfixturevalue("kmock")
    for resource, kind in RESOURCES.items():
        emulator.resources[resource] = {
            "namespaced": True,
            "kind": kind,
            "singular": kind.lower(),
            "verbs": ["get", "list", "watch"],
            "shortnames": [],
            "categories": [],
            "subresources": [],
        }
    emulator.objects["checkdam.dev/v1alpha1/streamjobs", "ns", "flights"] = job("flights", "1")
    return emulator


@pytest.fixture
async def watching(cluster: KubernetesEmulator) -> AsyncIterator[Watching]:
    watching = Watching(cluster)
    yield watching
    await watching.stop()


def job(name: str, version: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name, "uid": f"uid-{name}", "resourceVersion": version}}


async def test_what_is_there_and_what_changes_is_delivered_in_the_main_thread(watching: Watching) -> None:
    await watching.until(lambda: ("StreamJob", "flights", False) in watching.seen)
    async with aiohttp.ClientSession(str(watching.cluster.url)) as session:
        assert watching.listed == 1
        await (await session.post("/api/v1/namespaces/ns/pods", json=job("flights-w0", "2"))).release()
        await watching.until(lambda: ("Pod", "flights-w0", False) in watching.seen)
        await (await session.delete(f"{JOBS}/flights")).release()
        await watching.until(lambda: ("StreamJob", "flights", True) in watching.seen)
    assert watching.listed == 1, "what comes from the stream is no list"
    assert watching.threads == {threading.main_thread()}


async def test_kopf_only_reads_and_asks_the_server_to_leave_out_foreign_pods(watching: Watching) -> None:
    await watching.until(lambda: bool(watching.seen) and len(watches(watching)) == 3)
    assert {request.method for request in watching.cluster} == {kmock.method.GET}
    pods = [request.url.query for request in watching.cluster if request.url.path == "/api/v1/pods"]
    assert pods
    assert all(query["labelSelector"] == "checkdam.dev/job" for query in pods)
    assert not any(request.url.path.endswith(("namespaces", "definitions")) for request in watching.cluster)


async def test_listed_namespaces_alone_are_watched(cluster: KubernetesEmulator) -> None:
    watching = Watching(cluster, "ns", "other")
    await watching.until(lambda: bool(watching.seen) and len(watches(watching)) == 6)
    assert {path.split("/namespaces/")[1].split("/")[0] for path in watches(watching)} == {"ns", "other"}
    await watching.stop()


async def test_it_stops_quickly_and_takes_its_thread_along(watching: Watching) -> None:
    await watching.until(lambda: bool(watching.seen) and len(watches(watching)) == 3)
    started = time.monotonic()
    await watching.stop()
    assert time.monotonic() - started < 3.0
    assert not [thread for thread in threading.enumerate() if thread.name == "kopf"]


async def test_it_can_be_stopped_before_it_has_begun(cluster: KubernetesEmulator) -> None:
    watching = Watching(cluster)
    await watching.until(lambda: watching.starts == 1)
    await watching.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "kopf"]


async def test_it_begins_when_the_cluster_has_the_kinds(
    cluster: KubernetesEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    watching = Watching(cluster)
    watching.served = False
    await watching.until(lambda: len(watching.waits) >= 3)
    assert watching.starts == 0
    assert caplog.text.count("install the CustomResourceDefinitions") == 1
    watching.served = True
    await watching.until(lambda: bool(watching.seen))
    await watching.stop()


@pytest.mark.parametrize("status", [503, 404, 403])
async def test_answers_that_end_kopf_do_not_end_the_watch_for_good(
    cluster: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """For 503 and 403 it has to be for longer than its retries take; 404 is a kind that was taken away."""
    monkeypatch.setattr(sources, "_ERROR_BACKOFFS_S", (0.01,))
    broken = True

    def answer() -> Any:
        return (
            web.json_response({}, status=status)
            if broken
            else {"metadata": {"resourceVersion": "9"}, "items": [job("flights", "1")]}
        )

    cluster[kmock.action.LIST, kmock.resource("checkdam.dev/v1alpha1/streamjobs")] << answer
    watching = Watching(cluster)
    await watching.until(lambda: watching.starts >= 3)
    assert watching.waits[:2] == [2.0, 4.0]
    assert "checkdam_operator_watch_restarts_total 2.0" in watching.metrics.render().decode()
    assert watching.source.problem() == ""
    broken = False
    await watching.until(lambda: ("StreamJob", "flights", False) in watching.seen)
    await watching.stop()


async def test_an_api_server_that_cannot_be_reached_is_tried_again_and_said_after_a_minute(
    cluster: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_ERROR_BACKOFFS_S", (0.01,))
    watching = Watching(cluster)
    asleep = asyncio.Event()

    async def nowhere() -> Configuration:
        return Configuration(host="http://127.0.0.1:1")

    async def sleep(duration_s: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(watching.source, "_configuration", nowhere)
    monkeypatch.setattr(watching.source, "_sleep", sleep)
    await asyncio.wait_for(asleep.wait(), 20)
    assert watching.source.problem() == ""
    watching.time.now += 61
    assert watching.source.problem() == "nothing has been watched for 61 s"
    await watching.stop()


async def test_credentials_that_cannot_be_read_are_tried_again(
    cluster: KubernetesEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_LOGIN_RETRY_S", 0.01)
    watching = Watching(cluster)
    readable = watching.source._configuration
    attempts = 0

    async def unreadable() -> Configuration:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ConnectionSettingsError("no token")
        return await readable()

    monkeypatch.setattr(watching.source, "_configuration", unreadable)
    await watching.until(lambda: ("StreamJob", "flights", False) in watching.seen)
    assert (watching.starts, attempts) == (1, 2)
    await watching.stop()


async def test_kopf_uses_the_credentials_of_the_client() -> None:
    configuration = Configuration(host="https://10.0.0.1:443", ssl_ca_cert="/ca.crt")
    configuration.api_key["BearerToken"] = "bearer of-the-operator"
    info = await connection_info(configuration)
    assert (info.server, info.ca_path) == ("https://10.0.0.1:443", "/ca.crt")
    assert info.as_http_headers() == {"Authorization": "Bearer of-the-operator"}
    by_certificate = Configuration(host="https://10.0.0.1", cert_file="/c.crt", key_file="/c.key", verify_ssl=False)
    info = await connection_info(by_certificate)
    assert (info.certificate_path, info.private_key_path, info.insecure) == ("/c.crt", "/c.key", True)
    assert info.as_http_headers() == {}


def watches(watching: Watching) -> list[str]:
    """Paths of the watch streams that were opened."""
    return [request.url.path for request in watching.cluster if request.url.query.get("watch")]
