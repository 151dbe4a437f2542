"""Pipelines of the tests of `checkdam run`; imported by the jobs' own processes."""

from __future__ import annotations

import random
import time
from typing import Any

import checkdam as cd


def squares(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Numbers by key, summed; `rate` and `count` say how long it takes."""
    source = cd.GeneratorSource(
        lambda index: index, count=args.get("count", 1000), splits=2, rate_per_second=args.get("rate"), value_type=int
    )
    (
        pipeline.source("numbers", source)
        .key_by(lambda number: number % 5)
        .sum(name="sums")
        .sink("out", cd.json_lines_sink(args["out"]))
    )


def records(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Numbers as they are."""
    source = cd.GeneratorSource(
        lambda index: index, count=args.get("count", 1000), splits=2, rate_per_second=args.get("rate"), value_type=int
    )
    pipeline.source("numbers", source).map(lambda n: n, name=args.get("name", "same"), returns=int).sink(
        "out", cd.json_lines_sink(args["out"])
    )


def with_new_state(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """`squares`, but the state under the same name is of another type."""
    source = cd.GeneratorSource(lambda index: index, count=1000, splits=2, value_type=int)
    (
        pipeline.source("numbers", source)
        .key_by(lambda number: number % 5)
        .mean(name="sums")
        .sink("out", cd.json_lines_sink(args["out"]))
    )


def fails_on_seven(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """A function of the user's raises."""
    source = cd.GeneratorSource(lambda index: index, count=100, value_type=int)
    pipeline.source("numbers", source).map(divide, name="ratio").sink("out", cd.json_lines_sink(args["out"]))


def divide(number: int) -> float:
    """Fails for 7."""
    return 1 / (number - 7)


def list_keys(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Keys that have no stable encoding."""
    source = cd.GeneratorSource(lambda index: index, count=100, value_type=int)
    pipeline.source("numbers", source).key_by(lambda n: None).count().sink("out", cd.json_lines_sink(args["out"]))


def parse_json(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """JSON lines, some of them broken."""
    source = cd.json_lines(args["path"], on_error=args["on_error"])
    stream = pipeline.source("input", source)
    stream.sink("out", cd.json_lines_sink(args["out"]))
    if args["on_error"] == "side":
        stream.side_output("parse-errors").map(lambda bad: {"text": str(bad.text)}, name="bad").sink(
            "bad-out", cd.json_lines_sink(args["out"] + "-bad")
        )


def printed(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Prints its records."""
    pipeline.from_items("items", ["one", "two"]).print("item ")


def watched(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """Lines of the files that come into a folder, for ever."""
    source = cd.text_files(args["folder"], watch="100ms")
    pipeline.source("lines", source).sink("out", cd.json_lines_sink(args["out"]))


def windows(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """How many numbers there are in each hundred, by event time."""
    source = cd.GeneratorSource(
        lambda index: index, count=args["count"], splits=2, rate_per_second=args.get("rate"), value_type=int
    )
    (
        pipeline.source("numbers", source, cd.monotonous(timestamp=lambda number: number))
        .key_by(lambda number: number % 5)
        .window(cd.Tumbling("100ms"))
        .count(name="hundreds")
        .map(lambda window: [window.key, window.start_ms, window.value], name="rows", returns=list[int])
        .sink("out", cd.json_lines_sink(args["out"]))
    )


class Profile(cd.ProcessFunction):
    """Keeps a kilobyte for each key."""

    content = cd.ValueState("content", bytes)

    def process(self, value: int, ctx: cd.ProcessContext) -> None:
        self.content.update(random.Random(value).randbytes(1000))


def profiles(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """A kilobyte for each of `keys`, written once; then, slowly and for ever, again for one key in a hundred."""
    keys = args["keys"]

    def number(index: int) -> int:
        if index >= keys:
            time.sleep(0.001)
        return index

    (
        pipeline.source("numbers", cd.GeneratorSource(number, splits=2, value_type=int))
        .key_by(lambda number: number if number < keys else number % (keys // 100))
        .process(Profile(), name="profiles", returns=int)
        .sink("out", cd.json_lines_sink(args["out"]))
    )
