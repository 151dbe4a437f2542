"""The jobs of the fault runs, and what they must yield: imported by the jobs' processes and by the tests alike.

Records are numbers made by a generator, in event time out of order but never late. Everything that a job must yield is
computed here a second time, naively, from the same numbers.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Any

import checkdam as cd

KEYS = 17
STEP_MS = 10
DISORDER_MS = 400
SIZE_MS = 1_000
SLIDE_MS = 500
GAP_MS = 150
END_MS = 2**50
"""Later than every record."""


def time_of(index: int) -> int:
    """Event time: grows by a step per record, shaken by up to the disorder; with pauses, so that sessions end."""
    shaken = (index * 7_919) % DISORDER_MS
    return index * STEP_MS + (index // 500) * 3 * DISORDER_MS + shaken


def key_of(index: int) -> str:
    """The key of a record."""
    return f"k{(index * 31) % KEYS}"


class RunningTotals(cd.ProcessFunction):
    """Counts and sums in a process function with value, map and list state and an event-time timer every so often."""

    total = cd.ValueState("total", int)
    seen = cd.MapState("seen", int, int)
    recent = cd.ListState("recent", int)

    def process(self, value: int, ctx: Any) -> Any:
        self.total.update(self.total.get(0) + value)
        self.seen.put(value % 3, self.seen.get(value % 3, 0) + 1)
        self.recent.add(value)
        ctx.register_event_timer(ctx.time_ms // SIZE_MS * SIZE_MS + SIZE_MS + 2 * DISORDER_MS)

    def on_timer(self, time_ms: int, ctx: Any) -> Any:
        recent = sorted(self.recent.get())
        self.recent.clear()
        return [("batch", ctx.key, recent[0] if recent else -1, len(recent))] if recent else []


class History(cd.ProcessFunction):
    """Keeps something of every record, so that state grows, most of it never changes again, and all of it counts in the end."""

    kept = cd.MapState("kept", int, bytes)
    count = cd.ValueState("count", int)

    def process(self, value: int, ctx: Any) -> Any:
        self.kept.put(value, essence(value))
        self.count.update(self.count.get(0) + 1)
        ctx.register_event_timer(END_MS)
        return [(ctx.key, self.count.get(0))]

    def on_timer(self, time_ms: int, ctx: Any) -> Any:
        intact = [index for index, kept in self.kept.items() if kept == essence(index)]
        return [(ctx.key, len(intact), sum(intact))]


def essence(index: int) -> bytes:
    """Bytes that belong to a record and cannot be compressed."""
    return hashlib.shake_128(str(index).encode()).digest(120)


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """The pipeline that `args["windows"]` names, over `args["records"]` records in `args["splits"]` splits."""
    source = cd.GeneratorSource(
        lambda index: index,
        count=args["records"],
        splits=args["splits"],
        rate_per_second=args["rate"],
        timestamps=time_of,
        value_type=int,
    )
    sink = cd.json_lines_sink(args["out"])
    kind = args["windows"]
    if kind == "counts":
        # Without event time, records are folded across batches before the shuffle.
        pipeline.source("numbers", source).key_by(key_of).count(name="counts").map(list, name="rows").sink("out", sink)
        return
    numbers = pipeline.source("numbers", source, cd.bounded_out_of_orderness(2 * DISORDER_MS))
    if kind == "records":
        numbers.rebalance().map(lambda n: [n], name="wrap").sink("out", sink)
        return
    keyed = numbers.key_by(key_of)
    if kind == "process":
        keyed.process(RunningTotals, name="totals").map(list, name="rows").sink("out", sink)
        return
    if kind == "history":
        keyed.process(History, name="history").map(list, name="rows").sink("out", sink)
        return
    windows = {
        "tumbling": cd.Tumbling(SIZE_MS),
        "sliding": cd.Sliding(SIZE_MS, SLIDE_MS),
        "session": cd.Session(GAP_MS),
    }[kind]
    aggregate = cd.combined(n=cd.count(), total=cd.sum_of())
    keyed.window(windows).aggregate(aggregate, emit=row, name="window").sink("out", sink)


def row(key: str, start_ms: int, end_ms: int, result: dict[str, Any]) -> list[Any]:
    """A result as a row of JSON."""
    return [key, start_ms, end_ms, result["n"], result["total"]]


def expected(windows: str, records: int) -> Counter[tuple[Any, ...]]:
    """All rows that the job must yield, as a multiset."""
    if windows == "records":
        return Counter((index,) for index in range(records))
    if windows == "history":
        return _expected_history(records)
    groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    if windows == "session":
        members: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index in range(records):
            members[key_of(index)].append((time_of(index), index))
        for key, found in members.items():
            for start, end, inside in _sessions(sorted(found)):
                groups[key, start, end] = inside
    else:
        slide = SLIDE_MS if windows == "sliding" else SIZE_MS
        for index in range(records):
            last = time_of(index) // slide * slide
            for start in range(last - SIZE_MS + slide, last + 1, slide):
                groups[key_of(index), start, start + SIZE_MS].append(index)
    return Counter((*window, len(inside), sum(inside)) for window, inside in groups.items())


def _expected_history(records: int) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    members: dict[str, list[int]] = defaultdict(list)
    for index in range(records):
        members[key_of(index)].append(index)
        found[key_of(index), len(members[key_of(index)])] += 1
    found.update((key, len(inside), sum(inside)) for key, inside in members.items())
    return found


def _sessions(members: list[tuple[int, int]]) -> list[tuple[int, int, list[int]]]:
    """(start, end, records) of each session of one key, whose (time, record) pairs are sorted."""
    found: list[tuple[int, int, list[int]]] = []
    for time, index in members:
        if found and time < found[-1][1]:
            start, _, inside = found[-1]
            found[-1] = (start, time + GAP_MS, [*inside, index])
        else:
            found.append((time, time + GAP_MS, [index]))
    return found
