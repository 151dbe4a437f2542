"""Whole pipelines: whatever is batched, checkpointed, aborted, crashed and rescaled how, committed output is that of a quiet
run.

What a kind of pipeline yields is compared as it is wherever that is determined. Of running updates only the last ones are,
and of processing time only that each record is in one window or batch; a kind's `facts` say what must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    SourceBatch,
    Split,
    SplitReader,
    Stream,
    Tumbling,
    ValueState,
    broadcast_lookup,
)
from checkdam.operators.watermarks import Watermarks, bounded_out_of_orderness
from checkdam.testing import PAUSE, CommittedCollectSink, Harness, ScriptedSource

JITTER_MS = 60
NONE_LATE = bounded_out_of_orderness(2 * JITTER_MS)
SOME_LATE = bounded_out_of_orderness(5)

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


class PerKeyBatches(ProcessFunction):
    """Gathers what comes of a key and reports it half a second of processing time later."""

    values = ListState("values", int)

    def process(self, value: Row, ctx: ProcessContext) -> Iterable[Any] | None:
        if not self.values.get():
            ctx.register_processing_timer(ctx.now_ms() + 500)
        self.values.add(value[2])
        return None

    def on_timer(self, time_ms: int, ctx: ProcessContext) -> Iterable[Any]:
        values = self.values.get()
        self.values.clear()
        return [(ctx.key, value) for value in values]


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


def with_late(stream: Stream) -> Stream:
    return stream.union(stream.side_output("late").map(lambda row: ("late", row)))


def multiset(values: list[Any]) -> Counter[str]:
    return Counter(map(repr, values))


def last_updates(values: list[Any]) -> Any:
    """The highest count of each key, of running counts that must never repeat one."""
    assert len(set(values)) == len(values)
    return {key: max(n for other, n in values if other == key) for key, _ in values}


def counts_by_key(values: list[Any]) -> Counter[int]:
    """How many records all windows of a key have together, where each window comes out once."""
    assert len({(result.key, result.start_ms) for result in values}) == len(values)
    return sum((Counter({result.key: result.value}) for result in values), Counter())


class InOrderSource(ScriptedSource):
    """Gives nothing at the first reading after a start, so that subtasks without splits can have ended before."""

    def open(self, split: Split, position: Any) -> SplitReader[Any]:
        return _SecondReading(super().open(split, position))


class _SecondReading(SplitReader[Any]):
    def __init__(self, reader: SplitReader[Any]) -> None:
        self._reader = reader
        self._asked = False

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[Any] | None:
        if not self._asked:
            self._asked = True
            return SourceBatch([], [])
        return self._reader.read(max_records, limit)

    def position(self) -> Any:
        return self._reader.position()


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline.

    Attributes:
        transform: Makes it out of two sources' streams of rows.
        facts: What must agree between two runs, of what the sink holds.
        watermarks: Of the sources.
        in_order: Which records are late must be determined: all come from one split, in batches of one, and when no other
            subtask holds the watermark back any more.
        prepared: The second stream, which nothing orders against the first, must have been read before.
        ends_late: What is due by processing time after the end of input must be waited for.
    """

    transform: Callable[[list[Stream]], Stream]
    facts: Callable[[list[Any]], Any] = multiset
    watermarks: Watermarks = NONE_LATE
    in_order: bool = False
    prepared: bool = False
    ends_late: bool = False


KINDS: dict[str, Kind] = {
    "stateless": Kind(stateless),
    "tumbling": Kind(window(lambda stream: stream.window(Tumbling(100)).sum(lambda row: row[2]))),
    "sliding": Kind(window(lambda stream: stream.window(Sliding(100, 30)).count())),
    "session": Kind(
        window(
            lambda stream: stream.window(Session(25)).apply(
                lambda key, start, end, rows: (key, start, end, sorted(rows))
            )
        )
    ),
    "two shuffles": Kind(
        window(
            lambda stream: (
                stream.window(Tumbling(50))
                .sum(lambda row: row[2])
                .key_by(lambda result: result.value % 3)
                .window(Tumbling(200))
                .count()
            )
        )
    ),
    "times in the middle": Kind(
        lambda streams: (
            keyed(streams[0].union(streams[1]).assign_timestamps(bounded_out_of_orderness("1h", lambda row: row[0])))
            .window(Tumbling(100))
            .count()
        )
    ),
    "late, tumbling": Kind(
        lambda streams: with_late(keyed(streams[0]).window(Tumbling(40), allowed_lateness=30).sum(lambda row: row[2])),
        watermarks=SOME_LATE,
        in_order=True,
    ),
    "late, sliding": Kind(
        lambda streams: with_late(keyed(streams[0]).window(Sliding(60, 20), allowed_lateness=30).count()),
        watermarks=SOME_LATE,
        in_order=True,
    ),
    "late, session": Kind(
        lambda streams: with_late(keyed(streams[0]).window(Session(12), allowed_lateness=40).count()),
        watermarks=SOME_LATE,
        in_order=True,
    ),
    "process": Kind(window(lambda stream: stream.process(PerKeyReport))),
    "idle": Kind(
        window(lambda stream: stream.process(PerKeyReport)),
        watermarks=NONE_LATE.with_idleness("500ms"),
    ),
    "interval join": Kind(lambda streams: keyed(streams[0]).interval_join(keyed(streams[1]), -30, 40, pair)),
    "window join": Kind(lambda streams: keyed(streams[0]).window_join(keyed(streams[1]), Tumbling(80), pair)),
    "broadcast": Kind(
        lambda streams: streams[0].broadcast_join(
            streams[1],
            broadcast_lookup(lambda row: row, lambda row, table: (row, sorted(other for other in table))),
        ),
        prepared=True,
    ),
    "running": Kind(window(lambda stream: stream.count()), facts=last_updates),
    "processing time": Kind(
        window(lambda stream: stream.window(Tumbling("1s"), processing_time=True).count()), facts=counts_by_key
    ),
    "processing timers": Kind(window(lambda stream: stream.process(PerKeyBatches)), ends_late=True),
    "async": Kind(
        lambda streams: (
            streams[0]
            .union(streams[1])
            .map_async(negated, concurrency=3, ordered=False)
            .key_by(lambda row: row[1])
            .window(Tumbling(100))
            .sum(lambda row: row[2])
        )
    ),
}


def scripts() -> st.SearchStrategy[list[list[tuple[int, int, int] | None]]]:
    """For each split: (jitter, key, value) of a record, or `None` for a pause."""
    record = st.tuples(st.integers(-JITTER_MS, JITTER_MS), st.integers(0, 4), st.integers(0, 9))
    return st.lists(st.lists(st.one_of(record, record, record, st.none()), max_size=25), min_size=1, max_size=3)


PARALLELISM = st.integers(1, 5)

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["run", "checkpoint", "uncommitted", "crash", "abort", "clock"])),
        st.tuples(st.sampled_from(["steps", "barriers", "barriers then crash"]), st.integers(0, 40)),
        st.tuples(st.sampled_from(["rescale", "crash and rescale", "uncommitted and rescale"]), PARALLELISM),
    ),
    max_size=10,
)


def builder(kind: Kind, sides: list[Any], *, pauses: bool) -> Callable[[Pipeline, dict[str, Any]], None]:
    def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
        streams = []
        for number, splits in enumerate(sides):
            values: list[list[Any]] = []
            times: list[list[int]] = []
            for script in [[item for split in splits for item in split]] if kind.in_order else splits:
                records = [item for item in script if item is not None]
                rows = iter([(n * 10 + jitter, key, v) for n, (jitter, key, v) in enumerate(records)])
                played = [PAUSE if item is None else next(rows) for item in script if pauses or item is not None]
                values.append([PAUSE, *played] if kind.prepared and number == 0 else played)
                times.append([n * 10 + jitter for n, (jitter, _, _) in enumerate(records)])
            if kind.prepared and number == 1:
                values = [[item for item in script if item is not PAUSE] for script in values]
            source = (InOrderSource if kind.in_order else ScriptedSource)(*values, times=times)
            streams.append(pipeline.source(f"source{number}", source, kind.watermarks))
        kind.transform(streams).sink("out", CommittedCollectSink("laws"))

    return build


def disturb(harness: Harness, action: tuple[Any, ...], kind: Kind) -> None:
    match action:
        case ("run",):
            harness.run()
        case ("checkpoint",):
            harness.checkpoint()
        case ("uncommitted",):
            harness.checkpoint(commit=False)
        case ("crash",):
            harness.crash()
        case ("clock",):
            harness.advance(1000)
        case ("abort",):
            harness.trigger()
            harness.abort()
        case ("steps", count):
            for _ in range(count):
                harness.step()
        case ("barriers" | "barriers then crash", count):
            harness.trigger()
            for _ in range(count):
                harness.step()
            if action[0] == "barriers":
                harness.abort()
            else:
                harness.crash()
        case ("rescale", parallelism):
            harness.rescale(parallelism)
        case ("crash and rescale", parallelism):
            harness.crash(parallelism=parallelism)
        case ("uncommitted and rescale", parallelism):
            harness.checkpoint(commit=False)
            harness.crash(parallelism=parallelism)
    if kind.in_order and ("crash" in action[0] or "rescale" in action[0]):
        harness.settle()


def ended(harness: Harness, kind: Kind) -> Any:
    """What a run to the end has yielded, as far as it is determined."""
    found = harness.finish()["laws"]
    if kind.ends_late:
        harness.advance(1000)
        harness.checkpoint()
        found = harness.collected()["laws"]
    return kind.facts(found)


def quiet_run(kind: Kind, sides: list[Any]) -> Any:
    settings = {"batch_records": 1} if kind.in_order else {}
    with Harness(builder(kind, sides, pauses=False), check_state=False, **settings) as harness:
        return ended(harness, kind)


@pytest.mark.parametrize("name", list(KINDS))
@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    sides=st.tuples(scripts(), scripts()),
    parallelism=PARALLELISM,
    batch_records=st.sampled_from([1, 3, 7, 4096]),
    credit_bytes=st.sampled_from([1, 300, 512 * 1024]),
    backend=st.sampled_from(["hashmap"] * 6 + ["rocksdb"]),
    actions=ACTIONS,
)
def test_committed_output_is_that_of_an_undisturbed_run(
    name: str,
    sides: tuple[Any, Any],
    parallelism: int,
    batch_records: int,
    credit_bytes: int,
    backend: Any,
    actions: list[tuple[Any, ...]],
) -> None:
    kind = KINDS[name]
    expected = quiet_run(kind, list(sides))

    with Harness(
        builder(kind, list(sides), pauses=True),
        parallelism=parallelism,
        max_parallelism=8,
        backend=backend,
        batch_records=1 if kind.in_order else batch_records,
        credit_bytes=credit_bytes,
    ) as harness:
        if kind.in_order:
            harness.settle()
        if kind.prepared:
            harness.run()
            harness.checkpoint()
        for action in actions:
            disturb(harness, action, kind)
        found = ended(harness, kind)

    assert found == expected
