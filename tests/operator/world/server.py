"""The model of the API server: objects, versions, conflicts, owners and deletion, as far as the operator can tell.

Each change has the next resourceVersion and goes into one history, from which watches are shown at their own pace. All verbs take effect at once and as a whole; that
requests take time, fail or lose their answer is up to `ClusterClient` in `operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from checkdam_operator.kube.errors import AlreadyExistsError, ConflictError, ForbiddenError, NotFoundError
from checkdam_operator.kube.kinds import (
    CONFIG_MAP,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    SAVEPOINT,
    SECRET,
    SERVICE,
    STREAM_JOB,
    Kind,
)
from checkdam_operator.kube.protocol import Object
from checkdam_operator.times import iso
from world.loop import VirtualLoop

Key = tuple[str, str, str]
"""Kind, namespace, name."""

OWNED = (POD, SERVICE, CONFIG_MAP, SECRET, POD_DISRUPTION_BUDGET, NETWORK_POLICY)


@dataclass(frozen=True)
class Change:
    """One change: the object afterwards, or as it was when it was deleted."""

    kind: Kind
    body: Object
    deleted: bool = False


def copied(body: Any) -> Any:
    """A deep copy of JSON data."""
    return msgspec.json.decode(msgspec.json.encode(body))


class ApiServer:
    """Holds objects.

    Args:
        loop: For times, and for what happens by itself after a while.

    Attributes:
        history: All changes, in their order.
        watchers: Called after each change.
        quota_exhausted: Whether no further pod may be made.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.history: list[Change] = []
        self.watchers: list[Callable[[Change], None]] = []
        self.quota_exhausted = False
        self._loop = loop
        self._objects: dict[Key, Object] = {}
        self._kinds: dict[str, Kind] = {}
        self._version = 1000
        self._uids = 0

    @property
    def version(self) -> str:
        """The newest resourceVersion."""
        return str(self._version)

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, if there is one."""
        return self._objects.get((kind.kind, namespace, name))

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The object. Raises NotFoundError."""
        body = self.find(kind, namespace, name)
        if body is None:
            raise NotFoundError(404, "NotFound", f'{kind.plural} "{name}" not found')
        return body

    def all(self, kind: Kind, namespace: str | None = None, labels: str = "") -> list[Object]:
        """All objects of a kind that have these labels (`a=b,c`)."""
        wanted = [part.partition("=") for part in labels.split(",") if part]
        found = [
            body
            for (name, within, _), body in self._objects.items()
            if name == kind.kind and namespace in (None, within)
        ]

        def has(body: Object) -> bool:
            given = body["metadata"].get("labels") or {}
            return all(label in given and (not equals or given[label] == value) for label, equals, value in wanted)

        return [body for body in found if has(body)]

    def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Make an object. Raises AlreadyExistsError, ForbiddenError."""
        name = body["metadata"]["name"]
        key = (kind.kind, namespace, name)
        if key in self._objects:
            raise AlreadyExistsError(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
        if kind == POD and self.quota_exhausted:
            raise ForbiddenError(
                403, "Forbidden", f'pods "{name}" is forbidden: exceeded quota: pods, requested: pods=1'
            )
        self._uids += 1
        made = copied(body)
        made["apiVersion"], made["kind"] = kind.api_version, kind.kind
        made["metadata"] |= {
            "namespace": namespace,
            "uid": f"{kind.kind.lower()}-{self._uids:05d}",
            "generation": 1,
            "creationTimestamp": iso(self._loop.now_ms()),
        }
        if kind == SERVICE:
            made["spec"]["clusterIP"] = f"10.96.{self._uids // 250}.{self._uids % 250 + 1}"
        if kind == POD:
            made["status"] = {"phase": "Pending"}
        self._kinds[kind.kind] = kind
        stored = self._store(kind, made)
        owner = next(iter(made["metadata"].get("ownerReferences") or ()), None)
        if owner is not None and not self._is_alive(namespace, owner):
            self._loop.call_later(0.1, self._collect, owner["uid"])
        return stored

    def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, subresource: str = "") -> Object:
        """Make an object have these fields, whole. Raises NotFoundError, ConflictError."""
        found = self.find(kind, namespace, name)
        if found is None:
            if subresource:
                raise NotFoundError(404, "NotFound", f'{kind.plural} "{name}" not found')
            return self.create(kind, namespace, body)
        expected = body["metadata"].get("resourceVersion")
        if expected is not None and expected != found["metadata"]["resourceVersion"]:
            raise ConflictError(409, "Conflict", f'the object "{name}" has been modified')
        body = copied(body)
        if subresource == "status":
            changed = {**found, "status": body["status"]}
        else:
            spec = {**body["spec"], **({"clusterIP": found["spec"]["clusterIP"]} if kind == SERVICE else {})}
            changed = {**found, "spec": spec}
        return found if changed == found else self._store(kind, changed)

    def edit(self, kind: Kind, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Change the spec or the metadata of an object, as a user does."""
        changed = copied(self.get(kind, namespace, name))
        before = copied(changed)
        change(changed)
        if changed == before:
            return self.get(kind, namespace, name)
        if changed.get("spec") != before.get("spec"):
            changed["metadata"]["generation"] += 1
        return self._store(kind, changed)

    def set_status(self, kind: Kind, namespace: str, name: str, uid: str, status: Object) -> None:
        """Write a status as the kubelet does; without effect if the object is gone."""
        found = self.find(kind, namespace, name)
        if found is not None and found["metadata"]["uid"] == uid and found.get("status") != status:
            self._store(kind, {**found, "status": copied(status)})

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object; a pod on a node begins to end. Raises NotFoundError, ConflictError."""
        found = self.get(kind, namespace, name)
        if uid and found["metadata"]["uid"] != uid:
            raise ConflictError(409, "Conflict", f'the uid of "{name}" is another')
        if kind == POD and found["spec"].get("nodeName"):
            if "deletionTimestamp" not in found["metadata"]:
                self._store(kind, self._marked(found))
            return
        self.remove(kind, namespace, name)

    def delete_job(self, namespace: str, name: str, propagation: str) -> None:
        """Delete a StreamJob in the background, in the foreground, or leaving its objects behind as orphans."""
        found = self.get(STREAM_JOB, namespace, name)
        uid = found["metadata"]["uid"]
        if propagation == "Orphan":
            for kind, body in list(self._owned_by(uid)):
                metadata = {name: value for name, value in body["metadata"].items() if name != "ownerReferences"}
                self._store(kind, {**body, "metadata": metadata})
            self.remove(STREAM_JOB, namespace, name)
        elif propagation == "Foreground":
            self._store(STREAM_JOB, self._marked(found))
            self._loop.call_later(0.1, self._finish_foreground, namespace, name, uid)
        else:
            self.remove(STREAM_JOB, namespace, name)
            self._loop.call_later(0.1, self._collect, uid)

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Let an object go at once; without effect if it is gone."""
        found = self._objects.pop((kind.kind, namespace, name), None)
        if found is not None:
            self._tell(Change(kind, self._versioned(found), deleted=True))

    def _finish_foreground(self, namespace: str, name: str, uid: str) -> None:
        self._collect(uid)
        if any(self._owned_by(uid)):
            self._loop.call_later(0.5, self._finish_foreground, namespace, name, uid)
        else:
            self.remove(STREAM_JOB, namespace, name)

    def _collect(self, owner_uid: str) -> None:
        for kind, body in list(self._owned_by(owner_uid)):
            self.delete(kind, body["metadata"]["namespace"], body["metadata"]["name"])

    def _owned_by(self, uid: str) -> Iterator[tuple[Kind, Object]]:
        for (name, _, _), body in self._objects.items():
            if any(owner["uid"] == uid for owner in body["metadata"].get("ownerReferences") or ()):
                yield self._kinds[name], body

    def _is_alive(self, namespace: str, owner: Object) -> bool:
        found = self.find(STREAM_JOB, namespace, owner["name"])
        return found is not None and found["metadata"]["uid"] == owner["uid"]

    def _marked(self, body: Object) -> Object:
        metadata = {**body["metadata"], "deletionTimestamp": iso(self._loop.now_ms())}
        return {**body, "metadata": metadata}

    def _versioned(self, body: Object) -> Object:
        self._version += 1
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}

    def _store(self, kind: Kind, body: Object) -> Object:
        stored = self._versioned(body)
        self._objects[kind.kind, stored["metadata"]["namespace"], stored["metadata"]["name"]] = stored
        self._tell(Change(kind, stored))
        return stored

    def _tell(self, change: Change) -> None:
        self.history.append(change)
        for watcher in list(self.watchers):
            watcher(change)


__all__ = ["OWNED", "SAVEPOINT", "ApiServer", "Change", "copied"]
