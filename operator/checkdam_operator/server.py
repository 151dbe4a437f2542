"""The operator's HTTP server: whether it is alive, whether it is ready, and its metrics.

`/healthz` fails when only a new process can help, so that the kubelet starts one: the watch is dead, or jobs wait for workers that do not come back. It does not fail
because the API server is away, since starting again would not bring that back. `/readyz` says that all objects are known; both replicas are ready, whoever leads.
Neither tells more than a sentence. Metrics name the jobs of the cluster, so they need a token unless the server listens on loopback.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from aiohttp import hdrs, web

from checkdam_operator.metrics import METRICS_CONTENT_TYPE, OperatorMetrics

_log = logging.getLogger(__name__)

Check = Callable[[], str]
"""Returns what is wrong, in one sentence; empty if nothing is."""


class OperatorServer:
    """Serves health and metrics.

    Args:
        alive: Checks for `/healthz`.
        ready: Checks for `/readyz`.
        metrics: For `/metrics`.
        metrics_token_file: File with the token that `/metrics` needs; empty for none, which loopback alone allows.
    """

    def __init__(
        self, alive: Iterable[Check], ready: Iterable[Check], metrics: OperatorMetrics, metrics_token_file: str = ""
    ) -> None:
        self._alive = tuple(alive)
        self._ready = tuple(ready)
        self._metrics = metrics
        self._token_file = metrics_token_file
        self._on_loopback = False
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, with the port that was chosen if `port` is 0.

        Raises:
            OSError: The address cannot be used.
        """
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses
        self._on_loopback = all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for address in bound)
        return str(bound[0][0]), int(bound[0][1])

    async def close(self) -> None:
        """Stop listening; requests under way get a moment."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _verdict(self._alive)

    async def _readyz(self, request: web.Request) -> web.Response:
        return _verdict(self._ready)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request.headers.get(hdrs.AUTHORIZATION, ""))
        if refusal is not None:
            return refusal
        return web.Response(body=self._metrics.render(), headers={hdrs.CONTENT_TYPE: METRICS_CONTENT_TYPE})

    def _refusal(self, header: str) -> web.Response | None:
        if not self._token_file:
            if self._on_loopback:
                return None
            text = "metrics are served on loopback only, unless CHECKDAM_OPERATOR_METRICS_TOKEN_FILE names a file with a token\n"
            return web.Response(status=403, text=text)
        try:
            token = Path(self._token_file).read_bytes().strip()
        except OSError as error:
            _log.error("the token for metrics cannot be read: %s", error)
            return web.Response(status=503, text="the token for metrics cannot be read; the operator's log says why\n")
        scheme, _, given = header.partition(" ")
        # As bytes: compare_digest refuses text that is not ASCII. An empty file is no token that anybody may know.
        if token and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token):
            return None
        text = "the request must carry the token for metrics: `Authorization: Bearer <token>`\n"
        return web.Response(status=401, text=text, headers={hdrs.WWW_AUTHENTICATE: "Bearer"})


def _verdict(checks: Iterable[Check]) -> web.Response:
    problems = [problem for check in checks if (problem := check())]
    if not problems:
        return web.Response(text="ok\n")
    return web.Response(status=503, text="".join(f"{problem}\n" for problem in problems))
