"""Bytewax's programs: the same work as in `checkdam_jobs.py`, in the way Bytewax's documentation shows it.

Started by `python -m bytewax.testing -p 2 "bytewax_flows:word_count('DATA', 'STAMPS')"`: two processes of one worker, since
two workers in one process would share one interpreter lock. Records are parsed with msgspec, as in Checkdam's programs.
"""

# mypy: ignore-errors
# Checked by running it: Bytewax is installed in an environment of its own.

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windowing
import msgspec
from bytewax.connectors.files import DirSource
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream, Stream
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from suite.data import OUT_OF_ORDER_MS
from suite.stamps import OUT, READ, StampWriter

BATCH_LINES = 4096
WINDOW = timedelta(seconds=10)
LARGE_AMOUNT = 90


class Event(msgspec.Struct, gc=False):
    """A line of the data set `events`."""

    key: str
    time: int
    amount: int


def word_count(data: str, stamps: str) -> Dataflow:
    """Count words: a running count for each word that comes."""
    flow = Dataflow("word_count")
    words = op.flat_map("split", _lines(flow, data, stamps), str.split)
    keyed = op.key_on("word", words, lambda word: word)

    def add(before: int | None, word: str) -> tuple[int, int]:
        now = 1 if before is None else before + 1
        return now, now

    counts: KeyedStream[int] = op.stateful_map("counts", keyed, add)
    op.output("out", counts, _CountingSink(stamps))
    return flow


def final_word_count(data: str, stamps: str) -> Dataflow:
    """Count words by `count_final`, which counts each batch before it is shuffled and yields nothing before the input ends."""
    flow = Dataflow("final_word_count")
    words = op.flat_map("split", _lines(flow, data, stamps), str.split)
    counts = op.count_final("counts", words, lambda word: word)
    op.output("out", counts, _CountingSink(stamps))
    return flow


def windows(data: str, stamps: str) -> Dataflow:
    """Sum of the amounts per key in tumbling windows of event time that comes out of order."""
    flow = Dataflow("windows")
    keyed = op.key_on("key", _events(flow, data, stamps), lambda event: event.key)
    clock = windowing.EventClock(
        lambda event: datetime.fromtimestamp(event.time / 1000, UTC), timedelta(milliseconds=OUT_OF_ORDER_MS)
    )
    windower = windowing.TumblingWindower(WINDOW, datetime(2023, 1, 1, tzinfo=UTC))
    sums = windowing.fold_window(
        "sums",
        keyed,
        clock,
        windower,
        int,
        lambda total, event: total + event.amount,
        lambda a, b: a + b,
        ordered=False,
    )
    op.output("out", sums.down, _CountingSink(stamps))
    return flow


def keyed_process(data: str, stamps: str) -> Dataflow:
    """A filter and a keyed function with state, each a Python call for each record."""
    flow = Dataflow("keyed_process")
    kept = op.filter("kept", _events(flow, data, stamps), lambda event: event.amount > 0)
    keyed = op.key_on("key", kept, lambda event: event.key)

    def add(total: int | None, event: Event) -> tuple[int, Any]:
        total = (total or 0) + event.amount
        return total, (total,) if event.amount >= LARGE_AMOUNT else ()

    totals: KeyedStream[int] = op.stateful_flat_map("totals", keyed, add)
    op.output("out", totals, _CountingSink(stamps))
    return flow


def _lines(flow: Dataflow, data: str, stamps: str) -> Stream[str]:
    writer = StampWriter(stamps, READ)

    def count(lines: list[str]) -> list[str]:
        writer.add(len(lines))
        return lines

    lines = op.input("lines", flow, DirSource(Path(data), batch_size=BATCH_LINES))
    return op.flat_map_batch("count", lines, count)


def _events(flow: Dataflow, data: str, stamps: str) -> Stream[Event]:
    return op.map("parse", _lines(flow, data, stamps), msgspec.json.Decoder(Event).decode)


class _CountingSink(DynamicSink[Any]):
    def __init__(self, stamps: str) -> None:
        self._stamps = stamps

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        return _CountingPartition(self._stamps)


class _CountingPartition(StatelessSinkPartition[Any]):
    def __init__(self, stamps: str) -> None:
        self._writer = StampWriter(stamps, OUT)

    def write_batch(self, items: list[Any]) -> None:
        self._writer.add(len(items))
