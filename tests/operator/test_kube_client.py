"""The six verbs over HTTP: what is sent, what answers mean, what is tried again and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from manual_time import ManualTime, settle

from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubeError,
    NotFoundError,
    UnavailableError,
    error_of,
)
from checkdam_operator.kube.kinds import CONFIG_MAP, LEASE, NAMESPACE, POD, STREAM_JOB
from checkdam_operator.kube.lease import NotLeaderError
from checkdam_operator.kube.limiter import TokenBucket, WriteLimiter
from checkdam_operator.metrics import OperatorMetrics

Answer = tuple[int, Any]


class Server:
    """An API server that answers what the test says and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[Any] = []
        self.answers: list[Answer] = []
        self.headers: dict[str, str] = {}
        self.speaking = asyncio.Event()
        self.speaking.set()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        text = await request.text()
        self.bodies.append(json.loads(text) if text else None)
        await self.speaking.wait()
        status, body = self.answers.pop(0) if self.answers else (200, {"metadata": {"name": "x"}})
        if isinstance(body, str):
            return web.Response(status=status, text=body, headers=self.headers)
        return web.json_response(body, status=status, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    server.speaking.set()
    await runner.cleanup()


@pytest.fixture
async def make(server: Server) -> AsyncIterator[Callable[..., KubeClient]]:
    clients: list[KubeClient] = []

    def make(**options: Any) -> KubeClient:
        configuration = Configuration(host=server.url)
        configuration.api_key["BearerToken"] = "Bearer of-the-operator"
        clients.append(KubeClient(configuration, **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


def status(code: int, reason: str, message: str = "the reason") -> Answer:
    return code, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}


def test_paths_are_those_of_the_api() -> None:
    assert POD.path() == "/api/v1/pods"
    assert POD.path("a", "p", "status") == "/api/v1/namespaces/a/pods/p/status"
    assert STREAM_JOB.path("a") == "/apis/checkdam.dev/v1alpha1/namespaces/a/streamjobs"
    assert NAMESPACE.path("", "n") == "/api/v1/namespaces/n"
    assert POD.path("a", "../../secrets") == "/api/v1/namespaces/a/pods/..%2F..%2Fsecrets"
    assert (LEASE.api_version, POD.api_version) == ("coordination.k8s.io/v1", "v1")


async def test_apply_sends_the_whole_object_as_the_operator_s_and_by_force(
    server: Server, make: Callable[..., KubeClient]
) -> None:
    body = {"status": {"state": "Running"}}
    await make().apply(STREAM_JOB, "a", "flights", body, subresource="status")
    (request,) = server.requests
    assert (request.method, request.path) == (
        "PATCH",
        "/apis/checkdam.dev/v1alpha1/namespaces/a/streamjobs/flights/status",
    )
    assert dict(request.query) == {"fieldManager": "checkdam-operator", "force": "true"}
    assert request.content_type == "application/apply-patch+yaml"
    assert request.headers["Authorization"] == "Bearer of-the-operator"
    assert request.headers["User-Agent"] == "checkdam-operator"
    assert server.bodies == [
        {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "flights"},
            "status": {"state": "Running"},
        }
    ]
    assert body == {"status": {"state": "Running"}}, "what was given stays as it is"


async def test_create_refuses_fields_that_do_not_exist(server: Server, make: Callable[..., KubeClient]) -> None:
    server.answers = [(201, {"metadata": {"name": "p", "uid": "u"}})]
    made = await make().create(POD, "a", {"metadata": {"name": "p"}})
    assert made["metadata"]["uid"] == "u"
    assert (server.requests[0].method, server.requests[0].path) == ("POST", "/api/v1/namespaces/a/pods")
    assert server.requests[0].query["fieldValidation"] == "Strict"
    assert server.bodies[0] == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}


async def test_patch_is_a_merge_patch(server: Server, make: Callable[..., KubeClient]) -> None:
    await make().patch(LEASE, "a", "l", {"spec": {"holderIdentity": None}})
    assert server.requests[0].content_type == "application/merge-patch+json"
    assert server.bodies[0] == {"spec": {"holderIdentity": None}}


async def test_delete_says_which_object_it_means(server: Server, make: Callable[..., KubeClient]) -> None:
    await make().delete(POD, "a", "p", uid="u1", grace_s=0)
    assert server.requests[0].method == "DELETE"
    assert server.bodies[0]["preconditions"] == {"uid": "u1"}
    assert server.bodies[0]["gracePeriodSeconds"] == 0
    assert server.bodies[0]["propagationPolicy"] == "Background"


async def test_deleting_what_is_gone_or_was_replaced_is_success(
    server: Server, make: Callable[..., KubeClient]
) -> None:
    server.answers = [status(404, "NotFound"), status(409, "Conflict"), status(409, "Conflict")]
    client = make()
    await client.delete(POD, "a", "p")
    await client.delete(POD, "a", "p", uid="u1")
    with pytest.raises(ConflictError):
        await client.delete(POD, "a", "p")


async def test_a_list_is_read_in_pages_and_its_items_say_what_they_are(
    server: Server, make: Callable[..., KubeClient]
) -> None:
    server.answers = [
        (200, {"metadata": {"resourceVersion": "70", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        (200, {"metadata": {"resourceVersion": "70"}, "items": [{"metadata": {"name": "b"}}]}),
    ]
    items, version = await make().list(POD, "ns", labels="app=x", fields="status.phase=Running")
    assert [(item["metadata"]["name"], item["kind"], item["apiVersion"]) for item in items] == [
        ("a", "Pod", "v1"),
        ("b", "Pod", "v1"),
    ]
    assert version == "70"
    queries = [dict(request.query) for request in server.requests]
    selectors = {"labelSelector": "app=x", "fieldSelector": "status.phase=Running", "limit": "500"}
    assert queries == [selectors, {**selectors, "continue": "more"}]


async def test_a_list_whose_pages_expired_is_read_at_once(server: Server, make: Callable[..., KubeClient]) -> None:
    server.answers = [
        (200, {"metadata": {"resourceVersion": "70", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        status(410, "Expired"),
        (200, {"metadata": {"resourceVersion": "90"}, "items": [{"metadata": {"name": "z"}}]}),
    ]
    items, version = await make().list(POD)
    assert ([item["metadata"]["name"] for item in items], version) == (["z"], "90")
    assert "limit" not in server.requests[-1].query


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (status(404, "NotFound"), NotFoundError),
        (status(409, "AlreadyExists"), AlreadyExistsError),
        (status(409, "Conflict"), ConflictError),
        (status(403, "Forbidden"), ForbiddenError),
        (status(422, "Invalid"), InvalidError),
        (status(400, "BadRequest"), InvalidError),
        (status(401, "Unauthorized"), UnavailableError),
        (status(429, "TooManyRequests"), UnavailableError),
        (status(500, "InternalError"), UnavailableError),
        ((503, "<html>a proxy in between</html>"), UnavailableError),
        ((200, "<html>a proxy in between</html>"), UnavailableError),
        ((200, ["no object"]), UnavailableError),
        (status(405, "MethodNotAllowed"), KubeError),
    ],
)
async def test_an_answer_means_what_the_operator_can_do_about_it(
    server: Server, make: Callable[..., KubeClient], answer: Answer, expected: type[KubeError]
) -> None:
    server.answers = [answer]
    with pytest.raises(KubeError) as raised:
        await make(read_retry_s=()).create(POD, "a", {"metadata": {"name": "p"}})
    assert type(raised.value) is expected
    assert len(server.requests) == 1, "a write is sent once"


def test_the_sentence_of_the_api_server_is_kept() -> None:
    quota = error_of(*status(403, "Forbidden", 'pods "p" is forbidden: exceeded quota: pods, limited: pods=4'))
    assert isinstance(quota, ForbiddenError)
    assert quota.quota
    assert "limited: pods=4" in str(quota)
    ending = error_of(*status(403, "Forbidden", 'unable to create new content in namespace "a"'))
    assert isinstance(ending, ForbiddenError)
    assert not ending.quota
    assert error_of(429, {}, "7").retry_after_s == 7.0
    assert error_of(429, {}, "Fri, 01 Jan 2027 00:00:00 GMT").retry_after_s is None


async def test_reads_are_tried_again_a_few_times(server: Server, make: Callable[..., KubeClient]) -> None:
    time = ManualTime()
    client = make(read_retry_s=(0.2, 1.0), sleep=time.sleep)
    server.answers = [status(500, "InternalError"), status(429, "TooManyRequests")]
    server.headers = {"Retry-After": "3"}
    reading = asyncio.create_task(client.get(POD, "a", "p"))
    await until(lambda: len(server.requests) == 1 and time.waiting == 1)
    await time.advance(3.0)
    await until(lambda: len(server.requests) == 2 and time.waiting == 1)
    await time.advance(3.0)
    assert (await reading)["metadata"]["name"] == "x"
    assert len(server.requests) == 3


async def test_reads_that_fail_for_good_are_not_tried_again(server: Server, make: Callable[..., KubeClient]) -> None:
    server.answers = [status(404, "NotFound")]
    with pytest.raises(NotFoundError):
        await make().get(POD, "a", "p")
    assert len(server.requests) == 1


async def test_a_request_that_gets_no_answer_ends(server: Server, make: Callable[..., KubeClient]) -> None:
    server.speaking.clear()
    with pytest.raises(UnavailableError, match=r"create /api/v1/namespaces/a/pods .*no answer within 0.05 s"):
        await make(timeout_s=0.05).create(POD, "a", {"metadata": {"name": "p"}})


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    client = KubeClient(Configuration(host="http://127.0.0.1:1"), read_retry_s=())
    with pytest.raises(UnavailableError, match="cannot reach it"):
        await client.get(POD, "a", "p")
    await client.close()


async def test_writes_wait_for_the_limiter_and_reads_do_not(server: Server, make: Callable[..., KubeClient]) -> None:
    time = ManualTime()
    client = make(limiter=WriteLimiter(TokenBucket(1.0, 1, time), time.sleep))
    await client.create(CONFIG_MAP, "a", {"metadata": {"name": "one"}})
    second = asyncio.create_task(client.create(CONFIG_MAP, "a", {"metadata": {"name": "two"}}))
    await settle()
    await client.get(CONFIG_MAP, "a", "one")
    assert [request.method for request in server.requests] == ["POST", "GET"]
    await time.advance(1.0)
    await second
    assert [request.method for request in server.requests] == ["POST", "GET", "POST"]


async def test_a_replica_that_lost_the_lease_while_a_write_waited_does_not_send_it(
    server: Server, make: Callable[..., KubeClient]
) -> None:
    time = ManualTime()
    leads = True

    def check() -> None:
        if not leads:
            raise NotLeaderError("lost")

    client = make(limiter=WriteLimiter(TokenBucket(1.0, 1, time), time.sleep), before_write=check)
    await client.apply(CONFIG_MAP, "a", "one", {})
    second = asyncio.create_task(client.apply(CONFIG_MAP, "a", "two", {}))
    await settle()
    leads = False
    await time.advance(1.0)
    with pytest.raises(NotLeaderError):
        await second
    assert len(server.requests) == 1
    await client.get(CONFIG_MAP, "a", "one")


async def test_requests_are_counted(server: Server, make: Callable[..., KubeClient]) -> None:
    metrics = OperatorMetrics()
    client = make(metrics=metrics)
    server.answers = [(200, {}), status(409, "AlreadyExists")]
    await client.get(POD, "a", "p")
    with pytest.raises(AlreadyExistsError):
        await client.create(POD, "a", {"metadata": {"name": "p"}})
    text = metrics.render().decode()
    assert 'checkdam_operator_api_requests_total{code="200",kind="pods",verb="get"} 1.0' in text
    assert 'checkdam_operator_api_requests_total{code="409",kind="pods",verb="create"} 1.0' in text
    assert 'checkdam_operator_api_request_duration_seconds_count{verb="create"} 1.0' in text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
