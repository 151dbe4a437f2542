"""The coordinator's HTTP API, version 1: what the operator, the command line and people use.

Every route but `/healthz` needs the job's token, on loopback too, since every user of a machine can reach its loopback. Whoever collects
metrics may have a token that opens them and nothing else.
The Host header must be one that the coordinator is known by, or a web page could reach it through a name of its own that
resolves to loopback. Answers are JSON; errors are `{"error": …}`. `ROUTES` is the one list of what there is, from which
the routing and the OpenAPI document are made.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from checkdam.checkpoint.folders import SavepointFolder
from checkdam.coordinator.checkpoints import CheckpointRecord
from checkdam.coordinator.front import Front
from checkdam.coordinator.job import NotNowError
from checkdam.coordinator.metrics import METRICS_CONTENT_TYPE, render_metrics
from checkdam.coordinator.savepoints import SavepointRecord
from checkdam.coordinator.views import (
    AttemptView,
    DisposeAnswer,
    DisposeRequest,
    ErrorView,
    HealthView,
    JobView,
    OperatorView,
    RescaleAnswer,
    RescaleRequest,
    SavepointRequest,
    StopAnswer,
    StopRequest,
    TriggerAnswer,
    TriggerRequest,
    WorkerView,
)
from checkdam.core.errors import StorageError

_log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[["Api", web.Request], Awaitable[web.StreamResponse]]

_BODY_LIMIT_BYTES: Final = 65_536
_LONGEST_WAIT_MS: Final = 30_000
_LOOPBACK_NAMES: Final = frozenset({"localhost"})
_METRICS_PATH: Final = "/metrics"


@dataclass(frozen=True)
class Route:
    """One operation of the API.

    Attributes:
        method: GET or POST.
        path: With parameters in braces.
        summary: What it does.
        answer: Type of the body of a success; `str` for plain text.
        handler: Does it.
        request: Type of the request's body, `None` if it has none.
        query: Parameters of the query: name → what it is, all of them whole numbers that may be left out.
        status: Of a success.
        errors: status → when.
        open: Whether it needs no token.
    """

    method: str
    path: str
    summary: str
    answer: Any
    handler: Handler
    request: Any = None
    status: int = 200
    errors: tuple[tuple[int, str], ...] = ()
    open: bool = False
    query: tuple[tuple[str, str], ...] = ()


class Api:
    """Serves the API of a job.

    Args:
        front: What it speaks for.
        token: The bearer token.
        metrics_token: Another one, which opens the metrics alone; empty for none.
        allowed_hosts: Names and addresses, beside loopback, that the Host header may hold.
        openapi: The OpenAPI document.
    """

    def __init__(
        self, front: Front, token: bytes, metrics_token: bytes, allowed_hosts: Iterable[str], openapi: bytes
    ) -> None:
        self.front = front
        self.openapi = openapi
        self._token = token
        self._metrics_token = metrics_token
        self._allowed_hosts = _LOOPBACK_NAMES | {host.lower().strip("[]") for host in allowed_hosts}
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, with the port that was chosen if `port` is 0.

        Raises:
            OSError: The address cannot be used.
        """
        application = web.Application(middlewares=[self._guard], client_max_size=_BODY_LIMIT_BYTES)
        for route in ROUTES:
            application.router.add_route(route.method, route.path, self._bound(route))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound = self._runner.addresses[0]
        return str(bound[0]), int(bound[1])

    async def close(self) -> None:
        """Stop listening; requests under way get a moment."""
        self.front.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _bound(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await route.handler(self, request)

        return handle

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not self._known_host(request.headers.get(hdrs.HOST, "")):
            return _error(
                421, "the Host header must name this coordinator; add the name to `allowed_hosts` if it is right"
            )
        if not self._authorised(request.path, request.headers.get(hdrs.AUTHORIZATION, "")):
            answer = _error(401, "the request must carry the job's token: `Authorization: Bearer <token>`")
            answer.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
            return answer
        try:
            return await handler(request)
        except web.HTTPException as error:
            return _error(error.status, error.text or error.reason)
        except _BadRequestError as error:
            return _error(400, str(error))
        except NotNowError as error:
            return _error(409, str(error))
        except StorageError as error:
            return _error(503, str(error))
        except Exception:
            _log.exception("%s %s failed", request.method, request.path)
            return _error(500, "the coordinator failed to answer; its log says why")

    def _authorised(self, path: str, header: str) -> bool:
        if path in _OPEN_PATHS:
            return True
        scheme, _, given = header.partition(" ")
        # As bytes: compare_digest refuses text that is not ASCII.
        presented = given.strip().encode()
        if scheme.lower() != "bearer" or not presented:
            return False
        if path == _METRICS_PATH and hmac.compare_digest(presented, self._metrics_token):
            return True
        return hmac.compare_digest(presented, self._token)

    def _known_host(self, header: str) -> bool:
        name = _host_name(header)
        if name in self._allowed_hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


class _BadRequestError(Exception):
    """The request's body is not what it must be."""


def _host_name(header: str) -> str:
    """The name or address of a Host header, without port and brackets, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _error(status: int, text: str) -> web.Response:
    return _answer(ErrorView(text), status)


async def _body(request: web.Request, kind: type[T]) -> T:
    """The request's body; an absent one is an empty object."""
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise _BadRequestError(f"the body must be a {kind.__name__}: {error}") from error


def _number(request: web.Request, name: str) -> int:
    """A parameter of the query; 0 where it is left out."""
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdecimal()):
        raise _BadRequestError(f"`{name}` must be a whole number (got {text!r})")
    return int(text)


async def _healthz(api: Api, request: web.Request) -> web.Response:
    return _answer(HealthView())


async def _job(api: Api, request: web.Request) -> web.Response:
    wait_ms, version = _number(request, "waitMs"), _number(request, "version")
    return _answer(await api.front.changed(version, min(wait_ms, _LONGEST_WAIT_MS) / 1000))


async def _attempts(api: Api, request: web.Request) -> web.Response:
    return _answer(api.front.job.board.attempts() if api.front.job is not None else [])


async def _workers(api: Api, request: web.Request) -> web.Response:
    job = api.front.job
    return _answer(job.workers() if job is not None else [])


async def _operators(api: Api, request: web.Request) -> web.Response:
    return _answer(api.front.job.board.operators() if api.front.job is not None else [])


async def _checkpoints(api: Api, request: web.Request) -> web.Response:
    return _answer(list(api.front.job.tracker.history) if api.front.job is not None else [])


async def _checkpoint(api: Api, request: web.Request) -> web.Response:
    text, job = request.match_info["id"], api.front.job
    record = job.tracker.find(int(text)) if text.isdecimal() and job is not None else None
    if record is None:
        return _error(404, f"checkpoint {text} is not among the last ones of this epoch")
    return _answer(record)


async def _trigger(api: Api, request: web.Request) -> web.Response:
    wish = await _body(request, TriggerRequest)
    return _answer(api.front.asked().request_checkpoint(wish.after, full=wish.full), 202)


async def _savepoints(api: Api, request: web.Request) -> web.Response:
    return _answer(api.front.job.savepoints.all() if api.front.job is not None else [])


async def _savepoint(api: Api, request: web.Request) -> web.Response:
    wait_ms = _number(request, "waitMs")
    name, job = request.match_info["request"], api.front.job
    record = job.savepoints.find(name) if job is not None else None
    if job is None or record is None:
        return _error(404, f"no savepoint was asked for as {name!r} in this epoch")
    await job.savepoints.wait_ended(record, min(wait_ms, _LONGEST_WAIT_MS) / 1000)
    return _answer(record)


async def _take_savepoint(api: Api, request: web.Request) -> web.Response:
    wish = await _body(request, SavepointRequest)
    if wish.drain and not wish.stop:
        raise _BadRequestError("`drain` needs `stop`: a job whose event time has come to its end cannot go on")
    job = api.front.asked()
    return _answer(job.request_savepoint(wish.request, stop=wish.stop, drain=wish.drain), 202)


async def _dispose(api: Api, request: web.Request) -> web.Response:
    wish = await _body(request, DisposeRequest)
    job = api.front.asked()
    uri = wish.uri.rstrip("/")
    parent, _, folder = uri.rpartition("/")
    if parent != job.storage_uri or SavepointFolder.parse(folder) is None:
        raise _BadRequestError(f"`uri` must be of a savepoint below {job.storage_uri} (got {wish.uri!r})")
    await job.dispose(folder)
    return _answer(DisposeAnswer(uri))


async def _stop(api: Api, request: web.Request) -> web.Response:
    wish = await _body(request, StopRequest)
    if api.front.ended is None:
        api.front.asked().request_stop(checkpoint=wish.checkpoint)
    return _answer(StopAnswer(api.front.view().state), 202)


async def _rescale(api: Api, request: web.Request) -> web.Response:
    wish = await _body(request, RescaleRequest)
    job = api.front.asked()
    most = job.plan.job.spec.max_parallelism
    if not 1 <= wish.parallelism <= most:
        raise _BadRequestError(
            f"`parallelism` must be from 1 to `spec.maxParallelism`, which is {most} (got {wish.parallelism})"
        )
    return _answer(job.rescale(wish.parallelism), 202)


async def _metrics(api: Api, request: web.Request) -> web.Response:
    return web.Response(body=render_metrics(api.front), headers={hdrs.CONTENT_TYPE: METRICS_CONTENT_TYPE})


async def _openapi(api: Api, request: web.Request) -> web.Response:
    return web.Response(body=api.openapi, content_type="application/json")


ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/healthz", "Whether the coordinator's event loop answers.", HealthView, _healthz, open=True),
    Route(
        "GET",
        "/v1/job",
        "The job: state, epoch, attempt, workers, failures, last checkpoint, how it has ended.",
        JobView,
        _job,
        errors=((400, "`version` or `waitMs` is wrong."),),
        query=(
            ("version", "The version that is known: answer as soon as there is another one."),
            ("waitMs", "But answer after so long in any case, at most 30 s; at once where it is left out."),
        ),
    ),
    Route("GET", "/v1/attempts", "The latest attempts of this epoch, oldest first.", list[AttemptView], _attempts),
    Route("GET", "/v1/workers", "All workers, connected or not.", list[WorkerView], _workers),
    Route(
        "GET",
        "/v1/operators",
        "All operators: counters and watermarks over all workers.",
        list[OperatorView],
        _operators,
    ),
    Route("GET", "/v1/checkpoints", "The latest checkpoints, oldest first.", list[CheckpointRecord], _checkpoints),
    Route(
        "GET",
        "/v1/checkpoints/{id}",
        "One checkpoint.",
        CheckpointRecord,
        _checkpoint,
        errors=((404, "It is not among the latest ones."),),
    ),
    Route(
        "POST",
        "/v1/checkpoints",
        "Take a checkpoint newer than `after`, unless there is one already or one is in flight. Repeating the request is safe.",
        TriggerAnswer,
        _trigger,
        TriggerRequest,
        202,
        ((400, "The body is wrong."), (409, "The job is not running.")),
    ),
    Route(
        "GET",
        "/v1/savepoints",
        "The latest savepoints of this epoch, oldest first.",
        list[SavepointRecord],
        _savepoints,
    ),
    Route(
        "GET",
        "/v1/savepoints/{request}",
        "One savepoint, by the name under which it was asked for.",
        SavepointRecord,
        _savepoint,
        errors=((400, "`waitMs` is wrong."), (404, "None was asked for under that name in this epoch.")),
        query=(("waitMs", "Answer when it has ended, or after so long, at most 30 s."),),
    ),
    Route(
        "POST",
        "/v1/savepoints",
        "Take a savepoint, or stop the job with one. Repeating the request under the same name is safe.",
        SavepointRecord,
        _take_savepoint,
        SavepointRequest,
        202,
        (
            (400, "The body is wrong."),
            (409, "The job is not running, or its storage is memory://, or the name was used for another wish."),
        ),
    ),
    Route(
        "POST",
        "/v1/savepoints/dispose",
        "Delete a savepoint for good. Repeating the request is safe.",
        DisposeAnswer,
        _dispose,
        DisposeRequest,
        errors=(
            (400, "The body is wrong, or names no savepoint of this job."),
            (409, "The job still needs it, or has not begun."),
            (503, "Storage failed."),
        ),
    ),
    Route(
        "POST",
        "/v1/stop",
        "Stop the job, with a last checkpoint or at once. Repeating the request is safe.",
        StopAnswer,
        _stop,
        StopRequest,
        202,
        ((400, "The body is wrong."), (409, "The job has not begun.")),
    ),
    Route(
        "POST",
        "/v1/rescale",
        "Have the job go on with another number of workers, as soon as as many are connected. Repeating the request is safe.",
        RescaleAnswer,
        _rescale,
        RescaleRequest,
        202,
        (
            (400, "The body is wrong, or the number is not from 1 to `maxParallelism`."),
            (409, "The job has not begun, or has ended."),
        ),
    ),
    Route("GET", _METRICS_PATH, "Metrics in Prometheus' text format.", str, _metrics),
    Route("GET", "/v1/openapi.json", "This document.", dict[str, Any], _openapi),
)

_OPEN_PATHS: Final = frozenset(route.path for route in ROUTES if route.open)

__all__ = ["ROUTES", "Api", "Route"]
