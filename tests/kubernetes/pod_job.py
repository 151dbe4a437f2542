"""The job that tests on Kubernetes run, as text for a ConfigMap, and what it must have written.

It counts numbers per key at a steady rate and writes each key's running count with the number that raised it, so that anything lost or
doubled shows, wherever the job is cut off.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

KEYS = 10

MODULE = f"""
import checkdam as cd


class Count(cd.ProcessFunction):
    count = cd.ValueState("count", int)

    def process(self, value: int, ctx):
        self.count.update(self.count.get(0) + 1)
        return [(ctx.key, self.count.get(0), value)]


def build(pipeline, args):
    numbers = cd.GeneratorSource(lambda index: index, count=args.get("records"), splits=4, rate_per_second=args.get("rate", 500))
    (
        pipeline.source("numbers", numbers)
        .key_by(lambda number: f"k{{number % {KEYS}}}", name="by_key")
        .process(Count(), name="count")
        .sink("out", cd.json_lines_sink(args["out"]))
    )
"""


LISTS_MODULE = "import hashlib" + MODULE.replace(
    """    count = cd.ValueState("count", int)

    def process(self, value: int, ctx):
        self.count.update(self.count.get(0) + 1)
        return [(ctx.key, self.count.get(0), value)]
""",
    """    seen = cd.ListState("seen", str)

    def process(self, value: int, ctx):
        self.seen.add(hashlib.shake_128(str(value).encode()).hexdigest(100))
        return [(ctx.key, len(self.seen.get()), value)]
""",
)
"""The same job, which counts by keeping a list of something about all numbers of a key: thousands of small entries, which every restore must bring back."""

HELD_SINK = """

from pathlib import Path


class HeldSink(cd.Sink):
    # Its output cannot be committed while there is a certain file.
    two_phase = True

    def __init__(self, hold):
        self.hold = hold

    def open(self, context):
        return HeldWriter()

    def commit(self, committables):
        if Path(self.hold).exists():
            raise RuntimeError("the output is held")


class HeldWriter(cd.TwoPhaseWriter):
    def __init__(self):
        self.values = 0

    def write(self, values, times):
        self.values += len(values)

    def prepare(self, checkpoint):
        prepared, self.values = [self.values], 0
        return prepared


def build_with_held(pipeline, args):
    build(pipeline, args)
    few = cd.GeneratorSource(lambda index: index, splits=1, rate_per_second=20)
    pipeline.source("few", few).sink("held", HeldSink(args["hold"]))
"""
"""Follows `MODULE`: another entrypoint, with a second sink."""

Row = tuple[str, int, int]


def rows_in(folder: Path) -> list[Row]:
    """All rows in committed files."""
    files = sorted(folder.glob("*.jsonl"))
    return [tuple(json.loads(line)) for file in files for line in file.read_text().splitlines()]


def problems(rows: list[Row], records: int | None = None) -> list[str]:
    """What is wrong with the rows: each key's counts must be 1, 2, 3 … once each, of numbers of that key, once each.

    Args:
        rows: In any order.
        records: How many the source had in all; `None` if it was cut off.
    """
    found: list[str] = []
    counts: dict[str, list[int]] = defaultdict(list)
    numbers: list[int] = []
    for key, count, number in rows:
        counts[key].append(count)
        numbers.append(number)
        if key != f"k{number % KEYS}":
            found.append(f"number {number} counted for {key}")
    for key, seen in sorted(counts.items()):
        if sorted(seen) != list(range(1, len(seen) + 1)):
            found.append(f"{key}: {len(seen)} rows with {len(set(seen))} different counts, the highest {max(seen)}")
    if len(set(numbers)) != len(numbers):
        found.append(f"{len(numbers) - len(set(numbers))} numbers twice")
    if records is not None and sorted(numbers) != list(range(records)):
        found.append(f"{len(numbers)} of {records} numbers")
    return found
