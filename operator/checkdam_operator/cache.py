"""What the API server is known to hold: the objects that the watch, the lists and the answers to our own writes have shown.

Three sources tell of the same objects and overtake one another, so an object never goes back: what is older than what is held is ignored, and a deleted
object leaves a tombstone behind, so that a late event does not bring it back. The resourceVersion orders all of them; it is one rising number for all
objects of a kind. The answer to a create is to be put in at once: a decision must not be taken without the pod that the decision before it made.

The cache knows nothing of jobs; `Index` tells it by what its objects are looked up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from checkdam_operator.kube.kinds import Kind
from checkdam_operator.kube.protocol import Object

Key = tuple[str, str]
"""Namespace and name."""

T = TypeVar("T")

TOMBSTONE_S: Final = 900.0
"""How long a deleted object is remembered: longer than any event or list is late (a watch goes on after outages of minutes; lists are made every few)."""


@dataclass(frozen=True)
class Index:
    """By what objects of a kind are looked up.

    Attributes:
        kind: Of which kind.
        name: Names the index; one of a kind.
        value: What an object is found by; `None` for one that is not to be found.
    """

    kind: Kind
    name: str
    value: Callable[[Object], Hashable | None] = field(compare=False)


@dataclass(frozen=True)
class ListChanges:
    """What a list has shown that the cache did not know.

    Attributes:
        news: Objects that are new or newer.
        removed: Objects, as they were held, that are there no more.
        newest: The highest resourceVersion in `news`; 0 if there are none.
    """

    news: list[Object]
    removed: list[Object]
    newest: int


@dataclass
class _Shelf:
    """The objects of one kind."""

    held: dict[Key, Object] = field(default_factory=dict)
    read: dict[Key, Any] = field(default_factory=dict)
    tombs: dict[Key, tuple[int, float]] = field(default_factory=dict)


class ObjectCache:
    """The objects of several kinds, by key and by index.

    Objects that it hands out are shared: nobody may change them.

    Args:
        indexes: By what objects are looked up.
        clock: Monotonic seconds.
    """

    def __init__(self, indexes: Iterable[Index] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shelves: defaultdict[Kind, _Shelf] = defaultdict(_Shelf)
        self._indexes: dict[Index, dict[Hashable, set[Key]]] = {index: {} for index in indexes}

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, if it is held."""
        return self._shelf(kind).held.get((namespace, name))

    def all(self, kind: Kind) -> list[Object]:
        """All objects of a kind, in no order."""
        return list(self._shelf(kind).held.values())

    def find(self, index: Index, value: Hashable) -> list[Object]:
        """The objects that an index finds by a value, ordered by name."""
        held = self._shelf(index.kind).held
        return [held[key] for key in sorted(self._indexes[index].get(value, ()))]

    def read(self, kind: Kind, body: Object, reader: Callable[[Object], T]) -> T:
        """What an object says; an object that is held is read once for as long as it stays the same.

        Args:
            kind: Of what kind.
            body: An object that `get`, `all` or `find` has handed out.
            reader: Reads it; always the same one for a kind.
        """
        shelf, key = self._shelf(kind), key_of(body)
        if shelf.held.get(key) is not body:
            return reader(body)
        if key not in shelf.read:
            shelf.read[key] = reader(body)
        said: T = shelf.read[key]
        return said

    def values(self, index: Index) -> Iterator[Hashable]:
        """All values by which an index finds something."""
        yield from list(self._indexes[index])

    def count(self, kind: Kind) -> int:
        """How many objects of a kind are held."""
        return len(self._shelf(kind).held)

    def put(self, kind: Kind, body: Object) -> bool:
        """Take an object in; tells whether it is news."""
        key, version = key_of(body), version_of(body)
        shelf = self._shelf(kind)
        held = shelf.held.get(key)
        if version:
            if held is not None and version <= version_of(held):
                return False
            tomb = shelf.tombs.get(key)
            if tomb is not None and version <= tomb[0]:
                return False
        shelf.tombs.pop(key, None)
        self._unindex(kind, key, held)
        slim = _without_managed_fields(body)
        shelf.held[key] = slim
        shelf.read.pop(key, None)
        for index, found in self._indexes.items():
            if index.kind == kind and (value := index.value(slim)) is not None:
                found.setdefault(value, set()).add(key)
        return True

    def remove(self, kind: Kind, body: Object) -> bool:
        """Let an object go that was deleted; tells whether it was held.

        Args:
            kind: Of what kind.
            body: Its last state; the resourceVersion is that of the deletion.
        """
        return self._bury(kind, key_of(body), version_of(body))

    def take_list(
        self, kind: Kind, namespace: str | None, items: Iterable[Object], resource_version: str
    ) -> ListChanges:
        """Take in all objects that there are as of one moment, and let go of those that are there no more.

        An object that is held and not listed is gone, unless it is newer than the list.

        Args:
            kind: Of what kind.
            namespace: What the list covers; `None` for all namespaces.
            items: All of them.
            resource_version: The moment.
        """
        listed: set[Key] = set()
        news: list[Object] = []
        for body in items:
            listed.add(key_of(body))
            if self.put(kind, body):
                news.append(body)
        moment = int(resource_version) if resource_version.isdigit() else 0
        shelf = self._shelf(kind)
        gone = [
            (key, body)
            for key, body in shelf.held.items()
            if key not in listed and namespace in (None, key[0]) and 0 < version_of(body) <= moment
        ]
        for key, _ in gone:
            self._bury(kind, key, moment)
        newest = max((version_of(body) for body in news), default=0)
        return ListChanges(news, [body for _, body in gone], newest)

    def _shelf(self, kind: Kind) -> _Shelf:
        return self._shelves[kind]

    def _bury(self, kind: Kind, key: Key, version: int) -> bool:
        shelf = self._shelf(kind)
        held = shelf.held.get(key)
        if held is not None and version and version < version_of(held):
            return False  # A successor of the same name is held already.
        earlier = shelf.tombs.pop(key, (0, 0.0))[0]
        now = self._clock()
        # They are in the order of their ends: the newest is always put last.
        while shelf.tombs and (oldest := next(iter(shelf.tombs))) and shelf.tombs[oldest][1] <= now:
            del shelf.tombs[oldest]
        shelf.tombs[key] = (max(version, earlier), now + TOMBSTONE_S)
        self._unindex(kind, key, held)
        shelf.read.pop(key, None)
        return shelf.held.pop(key, None) is not None

    def _unindex(self, kind: Kind, key: Key, held: Object | None) -> None:
        if held is None:
            return
        for index, found in self._indexes.items():
            value = index.value(held) if index.kind == kind else None
            if value in found:
                found[value].discard(key)
                if not found[value]:
                    del found[value]


def key_of(body: Object) -> Key:
    """Namespace and name of an object."""
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(body: Object) -> int:
    """The resourceVersion of an object as the number that it is; 0 if it has none."""
    text = str(body["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def _without_managed_fields(body: Object) -> Object:
    """The object without the API server's books of who set which field: often half of it, and of no use here."""
    metadata: dict[str, Any] = body["metadata"]
    if "managedFields" not in metadata:
        return body
    return {**body, "metadata": {name: value for name, value in metadata.items() if name != "managedFields"}}
