"""State that is changed in place without a word is found; everything that is announced is not cried about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from checkdam import (
    AggregatingState,
    Aggregator,
    ListState,
    MapState,
    Pipeline,
    ProcessContext,
    ProcessFunction,
    ReducingState,
    Session,
    Tumbling,
    ValueState,
    collect,
    mean_of,
)
from checkdam.operators.watermarks import monotonous
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource, UnannouncedChangeError

BACKENDS = pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])


def run(function: Any, backend: Any, *, check_state: bool = True) -> list[Any]:
    """Three records of each of two keys, with pauses and checkpoints between them."""

    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        source = ScriptedSource(["a", "b", PAUSE, "a", "b", PAUSE, "a", "b"])
        stream = pipeline.source("source", source).key_by(lambda value: value)
        stream.process(function, name="remember").sink("out", CommittedCollectSink("checked"))

    with Harness(build, backend=backend, check_state=check_state) as harness:
        harness.run()
        harness.checkpoint()
        harness.run()
        return harness.finish()["checked"]


class ValueInPlace(ProcessFunction):
    state = ValueState("items", list)

    def process(self, value: str, ctx: ProcessContext) -> None:
        items = self.state.get()
        if items is None:
            self.state.update([value])
        else:
            items.append(value)


class ValueInPlaceTtl(ValueInPlace):
    state = ValueState("items", list, ttl="1h")


class ValueAfterUpdate(ProcessFunction):
    state = ValueState("items", list)

    def __init__(self) -> None:
        self.kept: dict[str, list[str]] = {}

    def process(self, value: str, ctx: ProcessContext) -> None:
        if value in self.kept:
            self.kept[value].append("later")
        else:
            self.kept[value] = [value]
            self.state.update(self.kept[value])


class MapInPlace(ProcessFunction):
    state = MapState("by_name", str, list)

    def process(self, value: str, ctx: ProcessContext) -> None:
        items = self.state.get("items")
        if items is None:
            self.state.put("items", [value])
        else:
            items.append(value)


class MapItemsInPlace(ProcessFunction):
    state = MapState("by_name", str, list, ttl="1h")

    def process(self, value: str, ctx: ProcessContext) -> None:
        if "items" not in self.state:
            self.state.put("items", [value])
        for _, items in self.state.items():
            items.append(value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            ValueInPlace,
            r"state `items` of operator `remember` was changed in place for key '[ab]' without `update\(\)`",
        ),
        (ValueInPlaceTtl, "state `items` of operator `remember`"),
        (ValueAfterUpdate, "state `items` of operator `remember`"),
        (MapInPlace, r"state `by_name` .* sub-key 'items' without `put\(\)`"),
        (MapItemsInPlace, "state `by_name`"),
    ],
)
def test_a_change_in_place_is_found_and_named(function: Any, words: str) -> None:
    with pytest.raises(UnannouncedChangeError, match=words):
        run(function, "hashmap")


def test_the_check_can_be_switched_off() -> None:
    assert run(ValueInPlace, "hashmap", check_state=False) == []


class Words(Aggregator[str, list[str], list[str]]):
    """Changes its accumulator in place, as aggregators may."""

    acc_type = list

    def create(self) -> list[str]:
        return []

    def add(self, acc: list[str], value: str) -> list[str]:
        acc.append(value)
        return acc

    def result(self, acc: list[str]) -> list[str]:
        return list(acc)

    def merge(self, left: list[str], right: list[str]) -> list[str]:
        return left + right


class EveryKind(ProcessFunction):
    value = ValueState("value", list)
    untyped = ValueState("untyped")
    expiring = ValueState("expiring", set, ttl="1h")
    items = ListState("items", str)
    expiring_items = ListState("expiring_items", str, ttl="1h")
    entries = MapState("entries", str, list)
    expiring_entries = MapState("expiring_entries", str, dict, ttl="1h")
    total = ReducingState("total", int, lambda a, b: a + b)
    words = AggregatingState("words", Words())
    mean = AggregatingState("mean", mean_of(), ttl="1h")

    def process(self, value: str, ctx: ProcessContext) -> Iterable[Any]:
        items = self.value.get([])
        items.append(value)
        self.value.update(items)
        untyped = self.untyped.get({"same": value, "again": value, "nan": float("nan")})
        untyped["count"] = untyped.get("count", 0) + 1
        self.untyped.update(untyped)
        self.expiring.update(self.expiring.get(set()) | {value, value * 2, value * 3})
        for state in (self.items, self.expiring_items):
            state.add(value)
            state.get().append("a copy of our own")
        entry = self.entries.get("x", [])
        entry.append(value)
        self.entries.put("x", entry)
        for name, counts in [*self.expiring_entries.items(), (value, {})]:
            counts[value] = counts.get(value, 0) + 1
            self.expiring_entries.put(name, counts)
        self.total.add(1)
        self.words.add(value)
        self.mean.add(len(self.items.get()))
        if self.total.get() == 3:
            yield ctx.key, len(self.value.get()), untyped["count"], self.words.get(), self.mean.get()
            self.words.clear()
            self.entries.clear()
            self.value.clear()


@BACKENDS
def test_no_kind_of_state_that_is_used_rightly_is_complained_about(backend: Any) -> None:
    assert sorted(run(EveryKind, backend)) == [("a", 3, 3, ["a"] * 3, 2.0), ("b", 3, 3, ["b"] * 3, 2.0)]


@BACKENDS
def test_windows_that_collect_and_joins_are_not_complained_about(backend: Any) -> None:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        sources = [
            pipeline.source(
                name, ScriptedSource([1, 2, PAUSE, 3, PAUSE, 4], times=[[1, 5, 12, 40]]), monotonous()
            ).key_by(lambda value: value % 2)
            for name in ("left", "right")
        ]
        tumbling = sources[0].window(Tumbling(10)).aggregate(collect())
        sessions = sources[0].window(Session(15)).aggregate(collect())
        joined = sources[0].interval_join(sources[1], -20, 20, lambda left, right: (left, right))
        in_window = sources[0].window_join(sources[1], Tumbling(20), lambda left, right: (left, right))
        tumbling.union(sessions, joined, in_window).sink("out", CommittedCollectSink("checked"))

    with Harness(build, backend=backend, parallelism=2) as harness:
        harness.run()
        harness.checkpoint()
        harness.run()
        harness.checkpoint()
        assert len(harness.finish()["checked"]) > 10
