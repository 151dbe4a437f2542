"""Numbers at a steady rate, counted by key, into files: that there is a file says that the job has done its work until then.

With `state_bytes` each key holds a part of as much state, which is written once and does not compress; what changes is the count alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import checkdam as cd

KEYS = 10_000


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """The pipeline. Args: `out` (folder for files), `rate` (numbers a second), `state_bytes` (of all keys together)."""
    numbers = cd.GeneratorSource(_same, splits=6, rate_per_second=args["rate"], value_type=int)
    (
        pipeline.source("numbers", numbers)
        .key_by(lambda number: number % KEYS)
        .process(Counted(args.get("state_bytes", 0) // KEYS), name="counted")
        .sink("files", cd.json_lines_sink(args["out"]))
    )


def _same(number: int) -> int:
    return number


class Counted(cd.ProcessFunction):
    """Counts the numbers of a key; keeps so many bytes for each."""

    count = cd.ValueState("count", int)
    held = cd.ValueState("held", bytes)

    def __init__(self, held_bytes: int) -> None:
        self._held_bytes = held_bytes

    def process(self, value: int, ctx: cd.ProcessContext) -> Iterator[int]:
        count = self.count.get(0)
        if not count and self._held_bytes:
            self.held.update(random.Random(value).randbytes(self._held_bytes))
        self.count.update(count + 1)
        yield value
