"""One watermark fires very many windows into a channel of 64 KiB; prints how much memory that took. Run by a test.

The memory of the process before the watermark holds the whole state; what comes on top is what firing costs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from checkdam import FunctionSink, Pipeline, Source, SourceBatch, Split, SplitReader, Tumbling
from checkdam.operators.watermarks import from_source
from checkdam.testing import Harness

WINDOWS = int(sys.argv[1])
BATCH = 4096


class Numbers(Source[int]):
    """One record for each key at time 0; then, when the test says so, a watermark."""

    def __init__(self) -> None:
        self.bounded = False
        self.go = False

    def splits(self, parallelism: int) -> list[Split]:
        return [Split("all")]

    def open(self, split: Split, position: Any) -> SplitReader[int]:
        return _Reader(self)


class _Reader(SplitReader[int]):
    def __init__(self, source: Numbers) -> None:
        self._source = source
        self._next = 0

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[int]:
        stop = min(self._next + max_records, WINDOWS + 1 if self._source.go else WINDOWS)
        values = list(range(self._next, stop))
        self._next = stop
        # The last record brings the watermark.
        last = stop > WINDOWS
        return SourceBatch(values, [2_000 if value == WINDOWS else 0 for value in values], 1_500 if last else None)

    def position(self) -> int:
        return self._next


source = Numbers()
fired = fired_at_trigger = 0


def arrived(values: list[Any]) -> None:
    global fired
    fired += len(values)


def build(pipeline: Pipeline, args: dict[str, Any]) -> None:
    (
        pipeline.source("numbers", source, from_source())
        .key_by(lambda value: value)
        .window(Tumbling(1000))
        .count(name="windows")
        .rebalance()
        .sink("out", FunctionSink(arrived, whole_batches=True))
    )


def rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def high_water_bytes() -> int:
    """The highest resident memory of this program; `ru_maxrss` would count that of the process that started it as well."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def firing(harness: Harness) -> Iterator[int]:
    """Steps until nothing is to be done; yields the memory now and then."""
    global fired_at_trigger
    steps = 0
    while harness.step():
        steps += 1
        if fired and not fired_at_trigger:
            fired_at_trigger = fired
            harness.trigger()
        if steps % 50 == 0:
            yield rss_bytes()
    yield rss_bytes()


def main() -> None:
    with Harness(build, parallelism=2, credit_bytes=64 * 1024, batch_records=BATCH, check_state=False) as harness:
        harness.run()
        before = rss_bytes()
        assert fired == 0
        source.go = True
        harness.clock.advance(10)
        peak = max(firing(harness))
        manifest = harness.complete()
        print(
            json.dumps(
                {
                    "windows": fired,
                    "fired_at_trigger": fired_at_trigger,
                    "before_bytes": before,
                    "peak_bytes": max(peak, high_water_bytes()),
                    "checkpoint": manifest.id,
                }
            )
        )


main()
