"""How one operator reaches the world: requests that take time, fail, lose their answers, and are the points at which an operator may be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from checkdam_operator.coordinators.client import Address, CoordinatorRefusedError, CoordinatorUnreachableError
from checkdam_operator.kube.errors import ConflictError, NotFoundError, UnavailableError
from checkdam_operator.kube.kinds import POD, Kind
from checkdam_operator.kube.protocol import Object, Objects
from world.coordinator import CoordinatorProcess

if TYPE_CHECKING:
    from world.operators import Operator
    from world.run import World

T = TypeVar("T")

API_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 2.0


class _Travels:
    """What both clients share: the way there and back."""

    def __init__(self, world: World, operator: Operator) -> None:
        self._world = world
        self._operator = operator

    async def _travel(self) -> None:
        """Half of a round trip, on which the operator may be killed."""
        await asyncio.sleep(self._world.chance.between(0.001, 0.03))
        await self._operator.may_die()


class ClusterClient(_Travels):
    """The six verbs (`checkdam_operator.kube.protocol.Cluster`) for one operator."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return await self._request(lambda: self._world.server.get(kind, namespace, name))

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[Objects, str]:
        def listed() -> tuple[Objects, str]:
            found = self._world.server.all(kind, namespace, labels)
            if fields:
                uid = fields.removeprefix("involvedObject.uid=")
                found = [body for body in found if body["involvedObject"]["uid"] == uid]
            return found, self._world.server.version

        return await self._request(listed)

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        made = await self._request(lambda: self._world.server.create(kind, namespace, body), writes=True)
        if kind == POD:
            self._world.rules.pod_made(made, self._operator.number)
        return made

    async def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, subresource: str = "") -> Object:
        def applied() -> Object:
            return self._world.server.apply(kind, namespace, name, body, subresource=subresource)

        return await self._request(applied, writes=True)

    async def patch(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        raise AssertionError("the reconciler does not patch")

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_s: int | None = None) -> None:
        def deleted() -> None:
            if kind == POD:
                self._world.rules.pod_deleted(namespace, name)
            self._world.server.delete(kind, namespace, name, uid=uid)

        try:
            await self._request(deleted, writes=True)
        except NotFoundError:
            pass
        except ConflictError:
            if not uid:
                raise

    async def _request(self, effect: Callable[[], T], *, writes: bool = False) -> T:
        weather = self._world.weather
        await self._travel()
        if self._world.api_down:
            await asyncio.sleep(API_TIMEOUT_S)
            raise UnavailableError(0, "Timeout", "no answer")
        if self._world.chance.happens(weather.refused):
            raise UnavailableError(503, "ServiceUnavailable", "try again")
        answer = effect()
        await self._travel()
        if writes and self._world.chance.happens(weather.lost_answers):
            raise UnavailableError(0, "Timeout", "no answer")
        return answer


class CoordinatorClient(_Travels):
    """Requests to coordinators (`checkdam_operator.coordinators.client.CoordinatorApi`) for one operator."""

    async def ask(self, address: Address, method: str, path: str, body: Any = None, *, wait_s: float = 0.0) -> Any:
        await self._travel()
        weather = self._world.weather
        if self._world.chance.happens(weather.unheard / 2):
            raise CoordinatorUnreachableError("the connection broke")
        life = self._world.nodes.at(address.host)
        process = life.process if life is not None else None
        if life is None or life.gone or self._world.nodes.is_lost(life.node):
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise CoordinatorUnreachableError("no route to host")
        if not isinstance(process, CoordinatorProcess) or not process.alive:
            raise CoordinatorUnreachableError("connection refused")
        answer = await self._answer(process, method, path, body)
        if process.frozen:
            await asyncio.sleep(ANSWER_TIMEOUT_S)
            raise CoordinatorUnreachableError("no answer")
        await self._travel()
        if self._world.chance.happens(weather.unheard / 2):
            raise CoordinatorUnreachableError("the connection broke")
        return answer

    async def _answer(self, process: CoordinatorProcess, method: str, path: str, body: Any) -> Any:
        url = urlsplit(path)
        query = {name: int(values[0]) for name, values in parse_qs(url.query).items()}
        wait_s = query.get("waitMs", 0) / 1000
        if (method, url.path) == ("GET", "/v1/job"):
            if process.view()["version"] == query.get("version"):
                await process.wait_for_change(wait_s)
            return process.view()
        if (method, url.path) == ("POST", "/v1/checkpoints"):
            return process.trigger(body["after"])
        if (method, url.path) == ("POST", "/v1/stop"):
            return process.stop()
        if (method, url.path) == ("POST", "/v1/rescale"):
            return process.rescale(body["parallelism"])
        if (method, url.path) == ("POST", "/v1/savepoints"):
            return process.savepoint(body["request"], stop=body["stop"])
        if (method, url.path) == ("POST", "/v1/savepoints/dispose"):
            return process.dispose(body["uri"])
        if method == "GET" and url.path.startswith("/v1/savepoints/"):
            return await process.savepoint_ended(unquote(url.path.removeprefix("/v1/savepoints/")), wait_s)
        raise CoordinatorRefusedError(404, f"no such route: {method} {path}")
