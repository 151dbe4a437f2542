"""The head of a source stage: readers of splits, their watermarks, and what a snapshot must know of them.

It is not an `Operator`, since it has no input: the task loop asks it to `read` when nothing downstream is runnable, and
tells it about splits. The subtask's watermark is the minimum over the splits being read. Splits that nobody reads yet
may hold records of any time, so as long as a bounded source has some, the watermark stays where it is, unless the source
says that later splits are later in time.

AtMostOnce: a split is read only up to the position that was reserved durably beforehand, so that a restart can begin
behind everything that may have been handed to the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from checkdam.connectors.base import Source, Split, SplitReader
from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.clock import Clock
from checkdam.core.errors import PipelineError
from checkdam.operators.base import OperatorMetrics
from checkdam.operators.user import user_error
from checkdam.operators.watermarks import WatermarkGenerator, Watermarks, time_extractor

RESERVE_RECORDS_FIRST = 20_000
"""How many records the first reservation of a split covers; doubled whenever reading had to wait for the next one."""


class SourcePort(Protocol):
    """What a source asks of the coordinator."""

    def request_splits(self, source: str) -> None: ...

    def finished_splits(self, source: str, splits: list[str]) -> None: ...

    def reserve(self, source: str, positions: dict[str, Any]) -> None: ...


@dataclass
class _Active:
    """A split being read."""

    split: Split
    reader: SplitReader[Any]
    watermark: WatermarkGenerator
    last_record_ms: int
    reserved: Any = None
    reserve_asked: Any = None
    reserve_records: int = RESERVE_RECORDS_FIRST
    skipped_before: int = 0


class SourceOperator:
    """Reads the splits of one source in one subtask. Used by the task thread alone.

    Args:
        operator_id: The source's id.
        source: What is read.
        watermarks: How event time comes out of it; `None` for a stream without event time of its own.
        error_tag: The side output of records that cannot be parsed.
        clock: For idleness.
        metrics: The operator's counters.
        port: The way to the coordinator.
        at_most_once: Whether positions are reserved before they are read.
    """

    def __init__(
        self,
        operator_id: str,
        source: Source[Any],
        watermarks: Watermarks | None,
        clock: Clock,
        metrics: OperatorMetrics,
        port: SourcePort,
        at_most_once: bool = False,
    ) -> None:
        self.operator_id = operator_id
        self.watermark_ms = MIN_TIME
        self.stopped = False
        self._source = source
        self._strategy = watermarks
        self._extract = None if watermarks is None else time_extractor(watermarks.timestamp)
        self._clock = clock
        self._metrics = metrics
        self._port = port
        self._at_most_once = at_most_once
        self._active: list[_Active] = []
        self._turn = 0
        self._exhausted = False
        self._more = not source.bounded
        self._asked = False
        self._started = False
        self._assigned_once = False
        self._finished: list[str] = []
        self._not_before_ms = 0
        self._positions: dict[int, dict[str, Any]] = {}

    def restore(self, restored: list[Any], reserved: dict[str, Any]) -> None:
        """Open the splits of a snapshot; `reserved` overrides positions (AtMostOnce)."""
        for snapshot in restored:
            for split_id, payload, position, watermark_ms in snapshot["splits"]:
                self._open(Split(split_id, payload), reserved.get(split_id, position), watermark_ms)

    def start(self) -> None:
        """All workers are ready: reading may begin."""
        self._started = True
        self._ask()

    def assign(self, splits: list[tuple[str, Any, Any]], exhausted: bool, more: bool) -> None:
        """Splits (id, payload, position) to read; `exhausted`: the coordinator has no other; `more`: it may find some."""
        self._asked = False
        self._assigned_once = True
        self._exhausted, self._more = exhausted, more
        for split_id, payload, position in splits:
            self._open(Split(split_id, payload), position, MIN_TIME)
        self._ask()

    def reserved(self, positions: dict[str, Any]) -> None:
        """Reading up to these positions is allowed now."""
        for active in self._active:
            if active.split.id in positions:
                active.reserved = positions[active.split.id]
                active.reserve_asked = None
        self._not_before_ms = 0

    @property
    def ended(self) -> bool:
        """Nothing is left to read and nothing will come."""
        return self._started and self._exhausted and not self._more and not self._active

    @property
    def idle(self) -> bool:
        """Whether this subtask must not hold back the others' watermark."""
        if self._active:
            strategy = self._strategy
            if strategy is None or strategy.idle_after_ms is None:
                return False
            quiet_since = self._clock.monotonic_ms() - strategy.idle_after_ms
            return all(active.last_record_ms <= quiet_since for active in self._active)
        return self._assigned_once and self._more

    def wait_ms(self) -> int | None:
        """0 if reading now may give records; else in how many ms it may; `None` if only a message can change that."""
        if self.stopped or not self._started or not self._active:
            return None
        return max(0, self._not_before_ms - self._clock.monotonic_ms())

    def read(self, max_records: int) -> Iterator[Batch]:
        """Read on, in the first split or taking turns among those of a concurrent source: at most one batch, and side outputs."""
        for _ in range(len(self._active) if self._source.concurrent else 1):
            self._turn = (self._turn + 1) % len(self._active) if self._source.concurrent else 0
            active = self._active[self._turn]
            if self._at_most_once and not self._may_read(active):
                continue
            records = active.reader.read(max_records, active.reserved)
            self._metrics.skipped_records += active.reader.skipped() - active.skipped_before
            active.skipped_before = active.reader.skipped()
            for tag, value in active.reader.side_output():
                yield Batch([value], [max(self.watermark_ms, 0)], None, tag)
            if records is None:
                self._finish(active)
                return
            if records.values:
                yield self._timed(active, records.values, records.times, records.watermark_ms)
                return
            if self._strategy is not None and records.watermark_ms is not None:
                active.watermark.observe([], records.watermark_ms)
            if self._at_most_once:
                active.reserve_records *= 2 if active.reserve_asked is not None else 1
        waits = [active.reader.wait_hint_ms() for active in self._active]
        self._not_before_ms = self._clock.monotonic_ms() + min(waits, default=10)

    def advance(self) -> int:
        """The watermark that follows from what has been read."""
        if self.ended:
            self.watermark_ms = MAX_TIME
        elif self._strategy is not None and self._active and not self._holds():
            quiet_since = None
            if self._strategy.idle_after_ms is not None:
                quiet_since = self._clock.monotonic_ms() - self._strategy.idle_after_ms
            # Splits that were given out but not begun are later than the first where the source orders them in time.
            source = self._source
            one_by_one = source.splits_ordered_in_time and not source.concurrent
            counted = self._active[:1] if one_by_one else self._active
            live = [a.watermark.watermark_ms for a in counted if quiet_since is None or a.last_record_ms > quiet_since]
            if live:
                self.watermark_ms = max(self.watermark_ms, min(live))
        return self.watermark_ms

    def snapshot(self, checkpoint: int) -> Any:
        """Positions and watermarks of the splits being read."""
        splits = [(a.split.id, a.split.payload, a.reader.position(), a.watermark.watermark_ms) for a in self._active]
        self._positions[checkpoint] = {split_id: position for split_id, _, position, _ in splits}
        return {"splits": splits}

    def complete(self, checkpoint: int) -> Callable[[], None]:
        """A checkpoint has completed: the work of acknowledging its positions to the outside, for an I/O thread."""
        positions = self._positions.get(checkpoint, {})
        self._positions = {number: p for number, p in self._positions.items() if number > checkpoint}
        self._finished.clear()
        return lambda: self._source.checkpoint_complete(positions)

    def close(self) -> None:
        """Close all readers; never raises."""
        for active in self._active:
            try:
                active.reader.close()
            except Exception:
                pass
        self._active = []

    def _open(self, split: Split, position: Any, watermark_ms: int) -> None:
        generator = WatermarkGenerator(self._strategy or Watermarks(), watermark_ms)
        reader = self._source.open(split, position)
        self._active.append(_Active(split, reader, generator, self._clock.monotonic_ms()))
        self._not_before_ms = 0

    def _ask(self) -> None:
        wants = self._source.concurrent or not self._active
        if self._started and wants and not self._asked and not self._exhausted:
            self._asked = True
            self._port.request_splits(self.operator_id)

    def _finish(self, active: _Active) -> None:
        active.reader.close()
        self._active.remove(active)
        self._finished.append(active.split.id)
        self._port.finished_splits(self.operator_id, list(self._finished))
        if self._more and self._exhausted and not self._active:
            self._exhausted = False
        self._ask()

    def _holds(self) -> bool:
        return self._source.bounded and not self._source.splits_ordered_in_time and not self._exhausted

    def _may_read(self, active: _Active) -> bool:
        """Ask for the next reservation while half of the last is left; False if none was granted yet."""
        if active.reserve_asked is None:
            position = active.reader.position()
            base = position if active.reserved is None else active.reserved
            ahead = active.reader.reserve(base, active.reserve_records)
            active.reserve_asked = ahead
            self._port.reserve(self.operator_id, {active.split.id: ahead})
        return active.reserved is not None

    def _timed(self, active: _Active, values: list[Any], times: list[int] | None, source_watermark: int | None) -> Batch:
        self._metrics.records_out += len(values)
        active.last_record_ms = self._clock.monotonic_ms()
        if self._strategy is None:
            return Batch(values, times)
        if self._extract is not None:
            try:
                times = self._extract(values)
            except Exception as error:
                raise user_error(self.operator_id, values[0], error) from error
        if times is None:
            raise PipelineError(
                f"source `{self.operator_id}` has watermarks but its records carry no times; "
                "give the watermarks a `timestamp` (a field's name or a function)"
            )
        active.watermark.observe(times, source_watermark)
        return Batch(values, times)
