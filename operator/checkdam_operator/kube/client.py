"""The six verbs on a real API server, over the Kubernetes client's transport.

Only its `ApiClient` is used, for connections, TLS and credentials. What it offers above that is not: typed models cost three times the CPU time and memory, and
its dynamic client keeps discovery in a predictable file and patches with a type that custom resources refuse.

Reads are tried again a few times, since they change nothing. A write is sent once: whether to send it again is decided by the next look at the job, from
what has become of it. Every request has a timeout; those of writes start after the limiter has let them through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException

from checkdam_operator.kube.errors import (
    ConflictError,
    ExpiredError,
    NotFoundError,
    UnavailableError,
    error_of,
)
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.limiter import WriteLimiter
from checkdam_operator.kube.protocol import FIELD_MANAGER, Object, Objects
from checkdam_operator.metrics import API_REQUESTS, API_SECONDS, API_WRITE_WAIT, OperatorMetrics

PAGE: Final = 500
"""Objects in one page of a list: about 2 MB of pods, which are parsed in some 25 ms. (To parse in a thread would not help: no parser lets go of the
interpreter meanwhile.)"""

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_LONGEST_RETRY_AFTER_S: Final = 5.0
_SHOWN_BYTES: Final = 200

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Request:
    verb: str
    method: str
    kind: Kind
    path: str
    query: Query = ()
    body: Any = None
    content_type: str = _JSON


class KubeClient:
    """A real cluster; see `Cluster` for what the verbs promise.

    Args:
        configuration: How to reach the API server.
        metrics: Counts requests.
        limiter: Holds writes back; `None` for no limit.
        before_write: Called at the last moment before a write is sent; it raises, or ends the process, if this one must not write any more.
        timeout_s: Of one request.
        read_retry_s: Waits between attempts of a read; empty for one attempt.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        metrics: OperatorMetrics | None = None,
        limiter: WriteLimiter | None = None,
        before_write: Callable[[], None] = lambda: None,
        timeout_s: float = 15.0,
        read_retry_s: Sequence[float] = (0.2, 1.0),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = ApiClient(configuration)
        self._api.user_agent = FIELD_MANAGER
        self._metrics = metrics or OperatorMetrics()
        self._limiter = limiter
        self._before_write = before_write
        self._timeout_s = timeout_s
        self._read_retry_s = tuple(read_retry_s)
        self._sleep = sleep

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._read(_Request("get", "GET", kind, kind.path(namespace, name)))

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[Objects, str]:
        selectors = [(name, text) for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text]
        try:
            return await self._pages(kind, namespace, selectors, PAGE)
        except ExpiredError:
            # Its pages took longer than the API server keeps what they are of: one page does not.
            return await self._pages(kind, namespace, selectors, None)

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        # Strict: a field that does not exist is most likely a mistake in a pod template, of which its author is to hear.
        query = (("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"))
        return await self._write(_Request("create", "POST", kind, kind.path(namespace), query, _named(kind, body)))

    async def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, subresource: str = "") -> Object:
        path = kind.path(namespace, name, subresource)
        query = (("fieldManager", FIELD_MANAGER), ("force", "true"))
        return await self._write(_Request("apply", "PATCH", kind, path, query, _named(kind, body, name), _APPLY))

    async def patch(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        query = (("fieldManager", FIELD_MANAGER),)
        return await self._write(_Request("patch", "PATCH", kind, kind.path(namespace, name), query, body, _MERGE))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_s: int | None = None) -> None:
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            await self._write(_Request("delete", "DELETE", kind, kind.path(namespace, name), (), options))
        except NotFoundError:
            pass
        except ConflictError:
            if not uid:
                raise

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server tells clients that it has this kind, which it does a moment after it begins to serve it."""
        try:
            answer = await self._read(_Request("discover", "GET", kind, kind.group_path))
        except NotFoundError:
            return False
        return any(resource.get("name") == kind.plural for resource in answer.get("resources") or ())

    async def _pages(
        self, kind: Kind, namespace: str | None, selectors: Query, limit: int | None
    ) -> tuple[Objects, str]:
        items: Objects = []
        further = ""
        while True:
            query = [*selectors]
            if limit is not None:
                query.append(("limit", str(limit)))
            if further:
                query.append(("continue", further))
            answer = await self._read(_Request("list", "GET", kind, kind.path(namespace), query))
            # Items of a list do not say what they are, those of a watch do.
            items += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in answer.get("items") or ()]
            metadata = answer.get("metadata") or {}
            further = metadata.get("continue") or ""
            if not further:
                return items, str(metadata.get("resourceVersion", ""))

    async def _read(self, request: _Request) -> Object:
        for wait_s in self._read_retry_s:
            try:
                return await self._send(request)
            except UnavailableError as error:
                await self._sleep(max(wait_s, min(error.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S)))
        return await self._send(request)

    async def _write(self, request: _Request) -> Object:
        if self._limiter is not None:
            self._metrics.observe(API_WRITE_WAIT, await self._limiter.acquire())
        self._before_write()
        return await self._send(request)

    async def _send(self, request: _Request) -> Object:
        started = time.monotonic()
        code = "0"
        try:
            status, headers, text = await self._exchange(request)
            code = str(status)
        except (aiohttp.ClientError, TimeoutError, OSError, ConfigException) as error:
            reason = "Timeout" if isinstance(error, TimeoutError) else type(error).__name__
            what = f"no answer within {self._timeout_s:g} s" if reason == "Timeout" else f"cannot reach it: {error}"
            raise UnavailableError(0, reason, f"{request.verb} {request.path} of the API server: {what}") from error
        finally:
            self._metrics.count(API_REQUESTS, request.verb, request.kind.plural, code)
            self._metrics.observe(API_SECONDS, time.monotonic() - started, request.verb)
        try:
            answer = msgspec.json.decode(text)
        except msgspec.DecodeError:
            # A proxy in between answers in words of its own.
            answer = text[:_SHOWN_BYTES].decode(errors="replace").strip()
        if status >= 400:
            raise error_of(status, answer, headers.get("Retry-After", ""))
        if not isinstance(answer, dict):
            raise UnavailableError(status, "NoObject", f"{request.verb} {request.path}: no object but {answer!r}")
        return answer

    async def _exchange(self, request: _Request) -> tuple[int, Any, bytes]:
        # The body is not given here, where it would be searched for models: it is plain already.
        method, url, headers, _, _ = await self._api.param_serialize(
            request.method,
            request.path,
            query_params=list(request.query),
            header_params={"Accept": _JSON, "Content-Type": request.content_type},
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        response = await self._api.call_api(method, url, headers, request.body, _request_timeout=timeout)
        return response.status, response.headers, await response.read()


def _named(kind: Kind, body: Object, name: str = "") -> Object:
    """The object with what it is, and with its name."""
    metadata = {**body.get("metadata", {})}
    if name:
        metadata["name"] = name
    return {**body, "apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
