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
import time

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


def rows_in(folder: Path) -> list[tuple[str, int, int]]:
    """All rows in committed files."""
    files = sorted(folder.glob("*.jsonl"))
    return [tuple(json.loads(line)) for file in files for line in file.read_text().splitlines()]


def problems(rows: list[tuple[str, int, int]], records: int | None = None) -> list[str]:
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
