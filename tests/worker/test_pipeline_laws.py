"""Whole pipelines: whatever is batched, checkpointed, aborted and crashed how, committed output is that of a quiet run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkdam import (
    KeyedStream,
    ListState,
    MapState,
    Pipeline,
    ProcessContext,
    ProcessFunction,
    ReducingState,
    Session,
    Sliding,
    Stream,
    Tumbling,
    ValueState,
)
from checkdam.operators.watermarks import bounded_out_of_orderness
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource

JITTER_MS = 60

Row = tuple[int, int, int]
"""(time, key, value)"""


class PerKeyReport(ProcessFunction):
    """Keeps every kind of state and reports a key each 200 ms of event time; what it says depends on no order."""

    total = ReducingState("total", int, lambda a, b: a + b)
    values = ListState("values", int)
    by_value = MapState("by_value", int, int)
    timer = ValueState("timer", int)

    def process(self, value: Row, ctx: ProcessContext) -> Iterable[Any] | None:
        time_ms, _, number = value
        self.total.add(number)
        self.values.add(number)
        self.by_value.put(number, self.by_value.get(number, 0) + 1)
        ctx.register_event_timer(-(-(time_ms + 1) // 200) * 200 + 10_000)
        return None

    def on_timer(self, time_ms: int, ctx: ProcessContext) -> Iterable[Any]:
        fired = self.timer.get(0) + 1
        self.timer.update(fired)
        counts = tuple(sorted(self.by_value.items()))
        yield ctx.key, time_ms, fired, self.total.get(), tuple(sorted(self.values.get())), counts


def stateless(streams: list[Stream]) -> Stream:
    split = (
        streams[0]
        .map(lambda row: (*row[:2], row[2] * 2))
        .filter(lambda row: row[2] % 3 != 0)
        .split(lambda row: "even" if row[1] % 2 == 0 else None)
    )
    even = split.side_output("even").flat_map(lambda row: [row, (*row, "copy")])
    return split.union(even.rebalance(), streams[1])


def keyed(stream: Stream) -> KeyedStream:
    return stream.key_by(lambda row: row[1])


def window(make: Callable[[KeyedStream], Stream]) -> Callable[[list[Stream]], Stream]:
    return lambda streams: make(keyed(streams[0].union(streams[1])))


async def negated(row: Row) -> Row:
    return row[0], row[1], -row[2]


def pair(left: Row, right: Row) -> tuple[Row, Row]:
    return left, right


PIPELINES: dict[str, Callable[[list[Stream]], Stream]] = {
    "stateless": stateless,
    "tumbling": window(lambda stream: stream.window(Tumbling(100)).sum(lambda row: row[2])),
    "sliding": window(lambda stream: stream.window(Sliding(100, 30)).count()),
    "session": window(
        lambda stream: stream.window(Session(25)).apply(lambda key, start, end, rows: (key, start, end, sorted(rows)))
    ),
    "two shuffles": window(
        lambda stream: (
            stream.window(Tumbling(50))
            .sum(lambda row: row[2])
            .key_by(lambda result: result.value % 3)
            .window(Tumbling(200))
            .count()
        )
    ),
    "process": window(lambda stream: stream.process(PerKeyReport)),
    "interval join": lambda streams: keyed(streams[0]).interval_join(keyed(streams[1]), -30, 40, pair),
    "window join": lambda streams: keyed(streams[0]).window_join(keyed(streams[1]), Tumbling(80), pair),
    "async": lambda streams: (
        streams[0]
        .union(streams[1])
        .map_async(negated, concurrency=3, ordered=False)
        .key_by(lambda row: row[1])
        .window(Tumbling(100))
        .sum(lambda row: row[2])
    ),
}


def scripts() -> st.SearchStrategy[list[list[tuple[int, int, int] | None]]]:
    """For each split: (jitter, key, value) of a record, or `None` for a pause."""
    record = st.tuples(st.integers(-JITTER_MS, JITTER_MS), st.integers(0, 4), st.integers(0, 9))
    return st.lists(st.lists(st.one_of(record, record, record, st.none()), max_size=25), min_size=1, max_size=3)


ACTIONS = st.lists(
    st.one_of(
        st.sampled_from(["run", "checkpoint", "uncommitted", "crash", "abort", "clock"]),
        st.tuples(st.sampled_from(["steps", "barriers", "barriers then crash"]), st.integers(0, 40)),
    ),
    max_size=9,
)


def builder(kind: str, sides: list[Any], *, pauses: bool) -> Callable[[Pipeline, dict[str, Any]], None]:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        streams = []
        for number, splits in enumerate(sides):
            values: list[list[Any]] = []
            times: list[list[int]] = []
            for script in splits:
                records = [item for item in script if item is not None]
                rows = iter([(n * 10 + jitter, key, v) for n, (jitter, key, v) in enumerate(records)])
                values.append([PAUSE if item is None else next(rows) for item in script if pauses or item is not None])
                times.append([n * 10 + jitter for n, (jitter, _, _) in enumerate(records)])
            source = ScriptedSource(*values, times=times)
            streams.append(pipeline.source(f"source{number}", source, bounded_out_of_orderness(2 * JITTER_MS)))
        PIPELINES[kind](streams).sink("out", CommittedCollectSink("laws"))

    return build


def disturb(harness: Harness, action: Any) -> None:
    name, count = action if isinstance(action, tuple) else (action, 0)
    if name == "run":
        harness.run()
    elif name == "checkpoint":
        harness.checkpoint()
    elif name == "uncommitted":
        harness.checkpoint(commit=False)
    elif name == "crash":
        harness.crash()
    elif name == "clock":
        harness.advance(1000)
    elif name == "steps":
        for _ in range(count):
            harness.step()
    else:
        harness.trigger()
        for _ in range(count):
            harness.step()
        if name == "barriers then crash":
            harness.crash()
        else:
            harness.abort()


def quiet_run(kind: str, sides: list[Any]) -> Counter[str]:
    with Harness(builder(kind, sides, pauses=False), check_state=False) as harness:
        return Counter(map(repr, harness.finish()["laws"]))


@pytest.mark.parametrize("kind", list(PIPELINES))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    sides=st.tuples(scripts(), scripts()),
    parallelism=st.integers(1, 3),
    batch_records=st.sampled_from([1, 3, 7, 4096]),
    credit_bytes=st.sampled_from([1, 300, 512 * 1024]),
    backend=st.sampled_from(["hashmap", "hashmap", "rocksdb"]),
    actions=ACTIONS,
)
def test_committed_output_is_that_of_an_undisturbed_run(
    kind: str,
    sides: tuple[Any, Any],
    parallelism: int,
    batch_records: int,
    credit_bytes: int,
    backend: Any,
    actions: list[Any],
) -> None:
    expected = quiet_run(kind, list(sides))

    with Harness(
        builder(kind, list(sides), pauses=True),
        parallelism=parallelism,
        max_parallelism=8,
        backend=backend,
        batch_records=batch_records,
        credit_bytes=credit_bytes,
    ) as harness:
        for action in actions:
            disturb(harness, action)
        found = Counter(map(repr, harness.finish()["laws"]))

    assert found == expected
