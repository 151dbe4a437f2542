"""The cache: objects never go back, deleted ones stay away, lists find what was missed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manual_time import ManualTime

from checkdam_operator.cache import TOMBSTONE_S, Index, ObjectCache, version_of
from checkdam_operator.kube.kinds import POD, SERVICE

BY_COLOUR = Index(POD, "colour", lambda body: body["metadata"].get("labels", {}).get("colour"))


def pod(name: str, version: int, namespace: str = "a", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": str(version), "labels": labels}}


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


@pytest.fixture
def cache(time: ManualTime) -> ObjectCache:
    return ObjectCache([BY_COLOUR], clock=time)


def version(cache: ObjectCache, name: str) -> str:
    found = cache.get(POD, "a", name)
    return found["metadata"]["resourceVersion"] if found else ""


def test_an_object_never_goes_back(cache: ObjectCache) -> None:
    assert cache.put(POD, pod("p", 10))
    assert not cache.put(POD, pod("p", 9))
    assert not cache.put(POD, pod("p", 10))
    assert cache.put(POD, pod("p", 11))
    assert version(cache, "p") == "11"


def test_versions_are_numbers_and_not_words(cache: ObjectCache) -> None:
    cache.put(POD, pod("p", 9))
    assert cache.put(POD, pod("p", 10))


def test_a_late_event_does_not_bring_a_deleted_object_back(cache: ObjectCache) -> None:
    cache.put(POD, pod("p", 10))
    assert cache.remove(POD, pod("p", 12))
    assert not cache.put(POD, pod("p", 11))
    assert cache.get(POD, "a", "p") is None
    assert cache.put(POD, pod("p", 13)), "one that was created again"


def test_a_delete_that_is_heard_of_before_the_object_counts(cache: ObjectCache) -> None:
    assert not cache.remove(POD, pod("p", 12))
    assert not cache.put(POD, pod("p", 11))


def test_a_late_delete_does_not_take_the_successor_of_the_same_name_away(cache: ObjectCache) -> None:
    cache.put(POD, pod("p", 20))
    assert not cache.remove(POD, pod("p", 15))
    assert version(cache, "p") == "20"


def test_tombstones_are_forgotten_in_the_end(cache: ObjectCache, time: ManualTime) -> None:
    cache.remove(POD, pod("p", 12))
    time.now += TOMBSTONE_S
    cache.remove(POD, pod("other", 13))
    assert cache.put(POD, pod("p", 11))


def test_kinds_and_namespaces_are_kept_apart(cache: ObjectCache) -> None:
    cache.put(POD, pod("x", 1))
    cache.put(SERVICE, pod("x", 2))
    cache.put(POD, pod("x", 3, namespace="b"))
    assert version(cache, "x") == "1"
    assert cache.count(POD) == 2
    assert cache.count(SERVICE) == 1
    assert len(cache.all(POD)) == 2


def test_an_index_finds_objects_by_what_they_are_now(cache: ObjectCache) -> None:
    cache.put(POD, pod("q", 1, colour="red"))
    cache.put(POD, pod("p", 2, colour="red"))
    cache.put(POD, pod("plain", 3))
    assert [found["metadata"]["name"] for found in cache.find(BY_COLOUR, "red")] == ["p", "q"]
    cache.put(POD, pod("p", 4, colour="blue"))
    cache.remove(POD, pod("q", 5))
    assert cache.find(BY_COLOUR, "red") == []
    assert list(cache.values(BY_COLOUR)) == ["blue"]


def test_a_list_shows_what_was_missed_and_what_is_gone(cache: ObjectCache) -> None:
    for name, number in (("same", 10), ("old", 11), ("gone", 12), ("newer", 30)):
        cache.put(POD, pod(name, number))
    changes = cache.take_list(POD, None, [pod("same", 10), pod("old", 19), pod("new", 18)], "20")
    assert [body["metadata"]["name"] for body in changes.news] == ["old", "new"]
    assert [body["metadata"]["name"] for body in changes.removed] == ["gone"]
    assert changes.newest == 19
    assert version(cache, "newer") == "30", "it was made after the list"
    assert not cache.put(POD, pod("gone", 20)), "an event from before the list is late"
    assert cache.put(POD, pod("gone", 21))


def test_a_list_of_one_namespace_says_nothing_of_others(cache: ObjectCache) -> None:
    cache.put(POD, pod("p", 10))
    cache.put(POD, pod("p", 11, namespace="b"))
    cache.take_list(POD, "b", [], "20")
    assert version(cache, "p") == "10"
    assert cache.get(POD, "b", "p") is None


def test_a_list_that_is_older_than_what_is_held_changes_nothing(cache: ObjectCache) -> None:
    cache.put(POD, pod("p", 10))
    changes = cache.take_list(POD, None, [pod("p", 5)], "6")
    assert (changes.news, changes.removed, changes.newest) == ([], [], 0)
    assert version(cache, "p") == "10"


def test_the_books_of_who_set_which_field_are_not_kept(cache: ObjectCache) -> None:
    body = pod("p", 1)
    body["metadata"]["managedFields"] = [{"manager": "somebody"}]
    cache.put(POD, body)
    assert "managedFields" not in cache.get(POD, "a", "p")["metadata"]  # type: ignore[index]
    assert "managedFields" in body["metadata"], "what was given stays as it is"


@given(st.permutations(range(1, 8)), st.integers(0, 7))
def test_whatever_the_order_of_events_the_last_state_remains(order: list[int], deleted_at: int) -> None:
    cache = ObjectCache(clock=ManualTime())
    for number in order:
        if number == deleted_at:
            cache.remove(POD, pod("p", number))
        else:
            cache.put(POD, pod("p", number))
    assert version(cache, "p") == ("" if deleted_at == 7 else "7")


def test_an_object_is_read_once_for_each_of_its_versions(cache: ObjectCache) -> None:
    read: list[str] = []

    def reader(body: dict[str, Any]) -> str:
        read.append(body["metadata"]["resourceVersion"])
        return read[-1]

    def said() -> list[str]:
        return [cache.read(POD, body, reader) for body in cache.all(POD)]

    cache.put(POD, pod("p", 10))
    assert said() == said() == ["10"]
    cache.put(POD, pod("p", 11))
    assert said() == said() == ["11"]
    cache.remove(POD, pod("p", 12))
    cache.put(POD, pod("p", 13))
    assert said() == ["13"]
    assert read == ["10", "11", "13"]


def test_an_object_that_is_held_no_more_is_read_as_it_was(cache: ObjectCache) -> None:
    cache.put(POD, pod("p", 10))
    [before] = cache.all(POD)
    cache.put(POD, pod("p", 11))
    assert cache.read(POD, before, version_of) == 10
    [now] = cache.all(POD)
    assert cache.read(POD, now, version_of) == 11
