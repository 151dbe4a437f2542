"""Runs one operator with several inputs on a real backend, with a restore at any moment."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from checkdam.core.batch import MIN_TIME, Batch
from checkdam.core.clock import ManualClock
from checkdam.operators.base import Operator, OperatorContext, OperatorMetrics, WatermarkFloor
from checkdam.state.backends import BackendKind, make_backend
from checkdam.testing.snapshots import LocalSnapshot

KEY_GROUPS = 8

Row = tuple[Any, int | None, Any]
"""(key, time, value)"""


class FunctionRun:
    """An operator in a subtask that owns all key groups; `outputs` collects (tag, value, time) of what it yields."""

    def __init__(self, make: Callable[[], Operator], kind: BackendKind = "hashmap", now_ms: int = 0) -> None:
        self.make = make
        self.kind = kind
        self.clock = ManualClock(now_ms)
        self.metrics = OperatorMetrics()
        self.outputs: list[tuple[str, Any, int | None]] = []
        self.sizes: list[int] = []
        self.woken = threading.Event()
        self.watermark_ms = MIN_TIME
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.lives = 0
        self._open([], WatermarkFloor(), [])

    def feed(self, *rows: Row, port: int = 0) -> None:
        """One batch; keys and times are left out where the first row has `None`."""
        keys, times, values = map(list, zip(*rows, strict=True))
        batch = Batch(values, None if times[0] is None else times, None if keys[0] is None else keys)
        self.take(self.operator.process(batch, port))

    def watermark(self, watermark_ms: int) -> None:
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        self.take(self.operator.on_watermark(watermark_ms))

    def tick(self, now_ms: int) -> None:
        """Move processing time and fire what asked for it."""
        self.clock.advance_to(now_ms)
        due_ms = self.operator.next_processing_time()
        if due_ms is not None and due_ms <= now_ms:
            self.take(self.operator.on_processing_time(now_ms))

    def take(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            assert batch.times is None or len(batch.times) == len(batch.values)
            assert batch.keys is None
            self.backend.maintain()
            self.sizes.append(len(batch))
            times: list[Any] = batch.times or [None] * len(batch)
            self.outputs += [(batch.tag, *row) for row in zip(batch.values, times, strict=True)]

    def taken(self, tag: str = "") -> list[Any]:
        """The values that have come out on `tag` since the last call, in order."""
        found = [value for of, value, _ in self.outputs if of == tag]
        self.outputs = [output for output in self.outputs if output[0] != tag]
        return found

    def timed(self) -> Counter[Any]:
        """Everything that came out on the main output, (value, time) as a multiset."""
        return Counter((value, time_ms) for tag, value, time_ms in self.outputs if not tag)

    def restore(self, floors: dict[int, int] | None = None) -> None:
        """Snapshot the operator and go on with a new one that was restored from it."""
        own = self.operator.snapshot(1)
        with tempfile.TemporaryDirectory() as folder:
            files = self.backend.snapshot(Path(folder)).finish()
            if floors is None and self.watermark_ms > MIN_TIME:
                floors = dict.fromkeys(range(KEY_GROUPS), self.watermark_ms)
            self.close()
            self._open(files, WatermarkFloor(floors or {}), [] if own is None else [own])

    def close(self) -> None:
        self.operator.close()
        self.backend.close()

    def _open(self, files: list[Any], floor: WatermarkFloor, own: list[Any]) -> None:
        self.lives += 1
        directory = self.folder / str(self.lives)
        directory.mkdir()
        self.operator = self.make()
        self.backend = make_backend(self.kind, range(KEY_GROUPS), KEY_GROUPS, directory, self.clock, 64 << 20)
        if files:
            self.backend.restore([LocalSnapshot(files, range(KEY_GROUPS))])
        wake = self.woken.set
        self.operator.open(OperatorContext("op", 0, 1, self.backend, self.clock, self.metrics, "1.1", floor, wake), own)
