"""Checkdam's programs: one entrypoint for each benchmark.

`args` are `data` (a data set's folder) and `stamps` (the file that progress is written to). Nothing here is tuned for the
benchmark: it is what a user would write, with a batch counter behind the source and one in the sink.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import msgspec
from suite.data import OUT_OF_ORDER_MS
from suite.stamps import OUT, READ, StampWriter

import checkdam as cd

WINDOW = "10s"
LARGE_AMOUNT = 90


class Event(msgspec.Struct, gc=False):
    """A line of the data set `events`."""

    key: str
    time: int
    amount: int


def word_count(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Count words: `key → running count`."""
    (
        pipeline.source("lines", cd.text_files(args["data"]))
        .map_batch(_counted(args["stamps"]), returns=str)
        .flat_map(str.split, returns=str)
        .key_by(lambda word: word)
        .count(name="counts")
        .sink("out", _counting_sink(args["stamps"]))
    )


def windows(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Sum of the amounts per key in tumbling windows of event time that comes out of order."""
    watermarks = cd.bounded_out_of_orderness(OUT_OF_ORDER_MS, timestamp="time")
    (
        pipeline.source("events", _events(args), watermarks)
        .map_batch(_counted(args["stamps"]), returns=Event)
        .key_by("key")
        .window(cd.Tumbling(WINDOW))
        .sum("amount", name="sums")
        .sink("out", _counting_sink(args["stamps"]))
    )


class Totals(cd.ProcessFunction):
    """The running total per key, told at each large amount."""

    total = cd.ValueState("total", int)

    def process(self, value: Event, ctx: cd.ProcessContext) -> Any:
        total = self.total.get(0) + value.amount
        self.total.update(total)
        return ((value.key, total),) if value.amount >= LARGE_AMOUNT else ()


def keyed_process(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """A filter and a keyed process function, each a Python call for each record."""
    (
        pipeline.source("events", _events(args))
        .map_batch(_counted(args["stamps"]), returns=Event)
        .filter(lambda event: event.amount > 0)
        .key_by("key")
        .process(Totals, name="totals", returns=tuple[str, int])
        .sink("out", _counting_sink(args["stamps"]))
    )


def steady_counts(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Counts of `keys` keys, made up at `rate` records a second without end: for pauses and recovery."""
    keys = int(args["keys"])

    def numbers(start: int, stop: int) -> list[int]:
        # A prime far from any multiple of the number of keys: all keys come, in no order.
        return [number * 7_368_787 % keys for number in range(start, stop)]

    (
        pipeline.source(
            "numbers",
            cd.GeneratorSource(batch_fn=numbers, splits=args["workers"], rate_per_second=args["rate"], value_type=int),
        )
        .key_by(lambda number: number)
        .count(name="counts")
        .sink("out", _counting_sink(args["stamps"]))
    )


def latency(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """`rate` records a second, each with the time at which it was made, through a shuffle to a sink that reads the clock."""

    def made(index: int) -> tuple[int, float]:
        return index % 10_000, time.time()

    delays = _Delays(args["stamps"])
    (
        pipeline.source(
            "times",
            cd.GeneratorSource(
                made, splits=args["workers"], rate_per_second=args["rate"], value_type=tuple[int, float]
            ),
        )
        .key_by(lambda record: record[0])
        .process(Forward, name="forward", returns=tuple[int, float])
        .sink("out", cd.FunctionSink(delays.take, whole_batches=True))
    )


def kept_bytes(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """`keys` keys of a kibibyte each, then reads and changes of them all over, until the job is stopped."""
    keys = int(args["keys"])

    def numbers(start: int, stop: int) -> list[int]:
        return [number if number < keys else number * 7_368_787 % keys for number in range(start, stop)]

    (
        pipeline.source("numbers", cd.GeneratorSource(batch_fn=numbers, splits=1, value_type=int))
        .key_by(lambda number: number)
        .process(Keep(), name="keep", returns=int)
        .sink("out", _counting_sink(args["stamps"]))
    )


class Keep(cd.ProcessFunction):
    """Keeps bytes that do not compress under each key."""

    held = cd.ValueState("held", bytes)

    def process(self, value: int, ctx: cd.ProcessContext) -> Any:
        before = self.held.get(b"")
        self.held.update(random.randbytes(1024))
        return () if not before else (value,)


class Forward(cd.ProcessFunction):
    """Counts per key and hands each record on."""

    seen = cd.ValueState("seen", int)

    def process(self, value: tuple[int, float], ctx: cd.ProcessContext) -> Any:
        self.seen.update(self.seen.get(0) + 1)
        return (value,)


class _Delays:
    """Writes how long each record took, in ms, one line for each batch."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    def take(self, records: list[tuple[int, float]]) -> None:
        """Records have reached the sink."""
        now_s = time.time()
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._file, (" ".join([f"{(now_s - made_s) * 1000:.1f}" for _, made_s in records]) + "\n").encode())


def _events(args: dict[str, Any]) -> cd.FileSource:
    # One split a file: ranges of a file would be read side by side, far apart in event time.
    return cd.json_lines(args["data"], type=Event, split_bytes=1 << 40)


def _counted(path: str) -> Any:
    stamps = StampWriter(path, READ)

    def count(records: list[Any]) -> list[Any]:
        stamps.add(len(records))
        return records

    return count


def _counting_sink(path: str) -> cd.FunctionSink[Any]:
    stamps = StampWriter(path, OUT)
    return cd.FunctionSink(lambda results: stamps.add(len(results)), whole_batches=True)
