"""Requests to coordinators are counted by what they do and how they were answered."""

from __future__ import annotations

import pytest
from aiohttp import web

from checkdam_operator.coordinators.client import (
    Address,
    CoordinatorRefusedError,
    CoordinatorUnreachableError,
    HttpCoordinatorApi,
)
from checkdam_operator.metrics import OperatorMetrics


async def test_requests_are_counted_by_operation_and_status() -> None:
    async def answer(request: web.Request) -> web.Response:
        refused = request.method == "POST"
        return web.json_response({"error": "not now"} if refused else {}, status=409 if refused else 200)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    metrics = OperatorMetrics()
    api = HttpCoordinatorApi(metrics)
    address = Address("127.0.0.1", runner.addresses[0][1], "token")
    await api.ask(address, "GET", "/v1/savepoints/one?waitMs=10")
    await api.ask(address, "GET", "/v1/savepoints/two")
    with pytest.raises(CoordinatorRefusedError, match="not now"):
        await api.ask(address, "POST", "/v1/savepoints", {"request": "one"})
    with pytest.raises(CoordinatorUnreachableError):
        await api.ask(Address("127.0.0.1", 1, "token"), "GET", "/v1/job")
    await api.close()
    await runner.cleanup()
    text = metrics.render().decode()
    name = "checkdam_operator_coordinator_requests_total"
    assert f'{name}{{code="200",operation="GET /v1/savepoints"}} 2.0' in text
    assert f'{name}{{code="409",operation="POST /v1/savepoints"}} 1.0' in text
    assert f'{name}{{code="0",operation="GET /v1/job"}} 1.0' in text
