"""How the API server is reached: what a kubeconfig and the environment say together."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aiohttp import web

from checkdam_operator.kube.client import KubeClient
from checkdam_operator.kube.connection import load_configuration
from checkdam_operator.kube.kinds import POD


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "http://api.example:6443"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return file


async def test_a_proxy_of_the_environment_is_used(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.json_response({"metadata": {"name": "p"}})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    client = KubeClient(await load_configuration(str(kubeconfig)))
    try:
        await client.get(POD, "a", "p")
    finally:
        await client.close()
        await runner.cleanup()
    assert len(asked) == 1


async def test_a_proxy_is_not_used_where_the_environment_says_so(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "api.example")
    assert (await load_configuration(str(kubeconfig))).proxy is None
    monkeypatch.setenv("no_proxy", "else.example")
    assert (await load_configuration(str(kubeconfig))).proxy == "http://proxy.example:3128"
