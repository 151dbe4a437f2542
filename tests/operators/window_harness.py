"""Runs one operator on a real state backend, with restores at any moment."""

from __future__ import annotations

import tempfile
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

Row = tuple[Any, int, Any]
"""(key, time, value)"""


class OperatorRun:
    """An operator in a subtask that owns all key groups; `outputs` and `late` collect what it yields.

    State is kept by the hashmap backend, or by RocksDB in the folder `rocksdb_in`.
    """

    def __init__(self, make: Callable[[], Operator], now_ms: int = 0, rocksdb_in: Path | None = None) -> None:
        self.make = make
        self.rocksdb_in = rocksdb_in
        self.lives = 0
        self.clock = ManualClock(now_ms)
        self.metrics = OperatorMetrics()
        self.outputs: list[tuple[Any, int | None]] = []
        self.late: list[tuple[Any, int | None]] = []
        self.batches = 0
        self.wakes = 0
        self.watermark_ms = MIN_TIME
        self._open([], WatermarkFloor(), [])

    def feed(self, rows: Iterable[Row], timed: bool = True) -> None:
        keys, times, values = map(list, zip(*rows, strict=True))
        self.take(self.operator.process(Batch(values, times if timed else None, keys), 0))

    def watermark(self, watermark_ms: int) -> None:
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        self.take(self.operator.on_watermark(watermark_ms))

    def tick(self, now_ms: int) -> None:
        """Move processing time and fire what asked for it."""
        self.clock.advance_to(now_ms)
        while (wanted := self.operator.next_processing_time()) is not None and wanted <= now_ms:
            self.take(self.operator.on_processing_time(now_ms))

    def restore(self, floors: dict[int, int] | None = None) -> None:
        """Snapshot the operator and go on with a new one that was restored from it."""
        own = self.operator.snapshot(1)
        with tempfile.TemporaryDirectory() as snapshot_folder:
            files = self.backend.snapshot(Path(snapshot_folder)).finish()
            if floors is None and self.watermark_ms > MIN_TIME:
                floors = dict.fromkeys(range(KEY_GROUPS), self.watermark_ms)
            self.close()
            self._open(files, WatermarkFloor(floors or {}), [] if own is None else [own])

    def take(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            assert batch.values, "an empty batch"
            assert batch.times is None or len(batch.times) == len(batch.values)
            self.batches += 1
            times: Iterable[int | None] = [None] * len(batch) if batch.times is None else batch.times
            rows = zip(batch.values, times, strict=True)
            (self.late if batch.tag == "late" else self.outputs).extend(rows)

    def taken(self) -> Counter[Any]:
        """The outputs since the last call, as a multiset."""
        found = Counter(self.outputs)
        self.outputs.clear()
        return found

    def close(self) -> None:
        self.operator.close()
        self.backend.close()

    def _wake(self) -> None:
        self.wakes += 1

    def _open(self, files: list[Any], floor: WatermarkFloor, own: list[Any]) -> None:
        self.operator = self.make()
        self.lives += 1
        folder = (self.rocksdb_in or Path("unused")) / str(self.lives)
        kind: BackendKind = "hashmap"
        if self.rocksdb_in is not None:
            folder.mkdir()
            kind = "rocksdb"
        self.backend = make_backend(kind, range(KEY_GROUPS), KEY_GROUPS, folder, self.clock, 4 << 20)
        if files:
            self.backend.restore([LocalSnapshot(files, range(KEY_GROUPS))])
        context = OperatorContext("w", 0, 1, self.backend, self.clock, self.metrics, "1.1", floor, self._wake)
        self.operator.open(context, own)
