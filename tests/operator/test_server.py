"""Health is open, metrics are not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from checkdam_operator.metrics import LEADER, OperatorMetrics
from checkdam_operator.server import OperatorServer

Ask = Callable[..., Awaitable[tuple[int, str]]]
Problems = dict[str, str]


@pytest.fixture
def problems() -> Problems:
    return {"alive": "", "ready": ""}


@pytest.fixture
async def serve(problems: Problems) -> AsyncIterator[Callable[..., Awaitable[Ask]]]:
    servers: list[OperatorServer] = []

    async def start(host: str = "127.0.0.1", token_file: str = "") -> Ask:
        metrics = OperatorMetrics()
        metrics.set(LEADER, 1)
        server = OperatorServer([lambda: problems["alive"]], [lambda: problems["ready"]], metrics, token_file)
        servers.append(server)
        _, port = await server.start(host, 0)

        async def ask(path: str, token: str = "") -> tuple[int, str]:
            headers = {"Authorization": token} if token else {}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
            ):
                return answer.status, await answer.text()

        return ask

    yield start
    for server in servers:
        await server.close()


async def test_health_and_readiness_say_what_is_wrong(serve: Callable[..., Awaitable[Ask]], problems: Problems) -> None:
    ask = await serve("0.0.0.0")
    assert await ask("/healthz") == (200, "ok\n")
    assert await ask("/readyz") == (200, "ok\n")
    problems["alive"] = "the watch is dead"
    assert await ask("/healthz") == (503, "the watch is dead\n")
    assert await ask("/readyz") == (200, "ok\n")
    problems["ready"] = "not all objects are known yet"
    assert await ask("/readyz") == (503, "not all objects are known yet\n")


async def test_on_loopback_metrics_need_no_token(serve: Callable[..., Awaitable[Ask]]) -> None:
    ask = await serve("127.0.0.1")
    status, text = await ask("/metrics")
    assert status == 200
    assert "checkdam_operator_leader 1.0" in text


async def test_elsewhere_metrics_are_refused_without_a_token_file(serve: Callable[..., Awaitable[Ask]]) -> None:
    ask = await serve("0.0.0.0")
    status, text = await ask("/metrics", "Bearer anything")
    assert status == 403
    assert "CHECKDAM_OPERATOR_METRICS_TOKEN_FILE" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_with_a_token_file_metrics_need_the_token_that_is_in_it_now(
    serve: Callable[..., Awaitable[Ask]], tmp_path: Path, host: str
) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    ask = await serve(host, str(file))
    assert (await ask("/metrics"))[0] == 401
    assert (await ask("/metrics", "Bearer wrong"))[0] == 401
    assert (await ask("/metrics", "Bearer sécret"))[0] == 401
    assert (await ask("/metrics", "Basic secret"))[0] == 401
    assert (await ask("/metrics", "Bearer secret"))[0] == 200
    file.write_text("changed")
    assert (await ask("/metrics", "Bearer secret"))[0] == 401
    assert (await ask("/metrics", "bearer changed"))[0] == 200
    assert (await ask("/healthz"))[0] == 200


async def test_an_empty_or_missing_token_file_lets_nobody_in(
    serve: Callable[..., Awaitable[Ask]], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.touch()
    ask = await serve("0.0.0.0", str(file))
    assert (await ask("/metrics", "Bearer "))[0] == 401
    file.unlink()
    status, text = await ask("/metrics", "Bearer secret")
    assert status == 503
    assert str(file) not in text
