"""A cluster in memory that can be slow, frozen or broken."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from checkdam_operator.kube.errors import AlreadyExistsError, ConflictError, KubeError, NotFoundError
from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.protocol import Object, Objects


class FakeCluster:
    """Keeps objects by the rules that the tests of this folder depend on: names are unique, versions rise, patches hold for a version.

    Attributes:
        objects: What there is.
        requests: Verb, kind, name of each request that arrived.
        broken: Returns the error that a request is answered with, `None` for none. The request is not carried out.
        lost: Returns the error that the answer to a request is replaced by. The request is carried out.
        frozen: Requests wait until it is set; they are carried out then.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.broken: Callable[[str, Kind, str], KubeError | None] = lambda verb, kind, name: None
        self.lost: Callable[[str, Kind, str], KubeError | None] = lambda verb, kind, name: None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._version = 100

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        await self._arrive("get", kind, name)
        return self._answer("get", kind, name, self._found(kind, namespace, name))

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[Objects, str]:
        await self._arrive("list", kind, "")
        found = [
            copy.deepcopy(body)
            for (plural, where, _), body in self.objects.items()
            if plural == kind.plural and namespace in (None, where)
        ]
        return found, str(self._version)

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        await self._arrive("create", kind, name)
        if (kind.plural, namespace, name) in self.objects:
            raise AlreadyExistsError(409, "AlreadyExists", f"{kind.plural} {name} already exists")
        return self._answer("create", kind, name, self._store(kind, namespace, name, copy.deepcopy(body)))

    async def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, subresource: str = "") -> Object:
        raise NotImplementedError

    async def patch(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        await self._arrive("patch", kind, name)
        held = self._found(kind, namespace, name)
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != held["metadata"]["resourceVersion"]:
            raise ConflictError(409, "Conflict", f"{kind.plural} {name} has changed")
        return self._answer("patch", kind, name, self._store(kind, namespace, name, _merged(held, body)))

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "", grace_s: int | None = None) -> None:
        await self._arrive("delete", kind, name)
        self.objects.pop((kind.plural, namespace, name), None)
        self._version += 1

    async def _arrive(self, verb: str, kind: Kind, name: str) -> None:
        await self.flowing.wait()
        self.requests.append((verb, kind.plural, name))
        if (error := self.broken(verb, kind, name)) is not None:
            raise error

    def _answer(self, verb: str, kind: Kind, name: str, body: Object) -> Object:
        if (error := self.lost(verb, kind, name)) is not None:
            raise error
        return copy.deepcopy(body)

    def _found(self, kind: Kind, namespace: str, name: str) -> Object:
        try:
            return self.objects[kind.plural, namespace, name]
        except KeyError:
            raise NotFoundError(404, "NotFound", f"{kind.plural} {name} not found") from None

    def _store(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        self._version += 1
        metadata = {**body["metadata"], "name": name, "namespace": namespace, "resourceVersion": str(self._version)}
        self.objects[kind.plural, namespace, name] = {**body, "metadata": metadata}
        return self.objects[kind.plural, namespace, name]


def _merged(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
