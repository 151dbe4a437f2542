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
from typing import Any, Final, Protocol

from checkdam.connectors.base import Source, SourceBatch, Split, SplitReader
from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.clock import Clock
from checkdam.core.errors import PipelineError
from checkdam.operators.base import OperatorMetrics
from checkdam.operators.user import extract_times
from checkdam.operators.watermarks import WatermarkGenerator, Watermarks, time_extractor

RESERVE_RECORDS_FIRST: Final = 20_000
"""How many records the first reservation of a split covers."""

RESERVE_RECORDS_MOST: Final = 1 << 24

RESERVE_FOR_MS: Final = 1_000
"""A reservation that was used up faster makes the next ones four times as long."""

RESERVE_ANEW_AFTER_MS: Final = 5_000
"""A split without records for so long, though it may be read, gives back what it has reserved ahead."""


class SourcePort(Protocol):
    """What a source asks of the coordinator."""

    def request_splits(self, source: str) -> None:
        """This subtask would take more splits of `source`."""
        ...

    def finished_splits(self, source: str, splits: list[str]) -> None:
        """All splits that this subtask has read to their end and that no checkpoint is known to say so of."""
        ...

    def reserve(self, source: str, positions: dict[str, Any]) -> None:
        """AtMostOnce: ask for leave to read splits up to these positions, by id; the answer comes to the source."""
        ...


@dataclass
class _Active:
    """A split being read.

    Attributes:
        last_record_ms: When it gave its last record, on the monotonic clock.
        limit: AtMostOnce: the reserved position up to which it is read now.
        next_limit: The one after it, reserved ahead.
        asked: Whether a reservation is under way.
        entered_ms: When reading up to `limit` began, on the monotonic clock.
        begun: Whether it gave records since it was opened, or before.
        fresh: Whether it gave records since reservations last began at its position.
    """

    split: Split
    reader: SplitReader[Any]
    watermark: WatermarkGenerator
    last_record_ms: int
    begun: bool = False
    limit: Any = None
    next_limit: Any = None
    asked: bool = False
    entered_ms: int = 0
    fresh: bool = False
    reserve_records: int = RESERVE_RECORDS_FIRST
    skipped_before: int = 0


class SourceOperator:
    """Reads the splits of one source in one subtask. Used by the task thread alone.

    Args:
        operator_id: The source's id.
        source: What is read.
        watermarks: How event time comes out of it; `None` for a stream without event time of its own.
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
        self._finished_before: dict[int, int] = {}
        self._start_ms = MIN_TIME

    def restore(self, restored: list[Any], reserved: dict[str, Any]) -> None:
        """Open the splits of a snapshot; `reserved` overrides positions (AtMostOnce)."""
        self._start_ms = max((snapshot.get("start_ms", MIN_TIME) for snapshot in restored), default=MIN_TIME)
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
                active.asked = False
                if active.limit is None:
                    active.limit, active.entered_ms = positions[active.split.id], self._clock.monotonic_ms()
                else:
                    active.next_limit = positions[active.split.id]
        self._not_before_ms = 0

    @property
    def ended(self) -> bool:
        """Nothing is left to read and nothing will come."""
        return self._started and self._exhausted and not self._more and not self._active

    @property
    def idle(self) -> bool:
        """Whether this subtask must not hold back the others' watermark."""
        if self._active:
            return all(map(self._quiet, self._active))
        return self._assigned_once and self._more

    def idle_in_ms(self) -> int | None:
        """In how many ms the next split becomes idle if nothing comes; `None` if time alone changes nothing."""
        strategy = self._strategy
        if strategy is None or strategy.idle_after_ms is None:
            return None
        now_ms = self._clock.monotonic_ms()
        waits = [active.last_record_ms + strategy.idle_after_ms - now_ms for active in self._active]
        return min((wait for wait in waits if wait > 0), default=None)

    def wait_ms(self) -> int | None:
        """0 if reading now may give records; else in how many ms it may; `None` if only a message can change that."""
        if self.stopped or not self._started or not self._active:
            return None
        return max(0, self._not_before_ms - self._clock.monotonic_ms())

    def read(self, max_records: int) -> Iterator[Batch]:
        """Read on, in the first split or taking turns among those of a concurrent source: at most one batch, and side outputs."""
        for _ in self._active[: None if self._source.concurrent else 1]:
            self._turn = (self._turn + 1) % len(self._active) if self._source.concurrent else 0
            active = self._active[self._turn]
            records = (
                self._read_reserved(active, max_records) if self._at_most_once else active.reader.read(max_records)
            )
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
        waits = [active.reader.wait_hint_ms() for active in self._active]
        self._not_before_ms = self._clock.monotonic_ms() + min(waits, default=10)

    def advance(self) -> int:
        """The watermark that follows from what has been read."""
        if self.ended:
            self.watermark_ms = MAX_TIME
        elif self._strategy is not None and self._active and not self._holds():
            # Of ordered splits only the first is being read; after a rescale others may have been begun by other subtasks.
            counted = [a for a in self._active if not self._ordered or a is self._active[0] or a.begun]
            marks = [active.watermark.watermark_ms for active in counted if not self._quiet(active)]
            if self._ordered and (len(self._active) > 1 or not self._exhausted):
                marks.append(self._start_ms)
            if marks:
                self.watermark_ms = max(self.watermark_ms, min(marks))
        return self.watermark_ms

    def snapshot(self, checkpoint: int) -> Any:
        """Positions and watermarks of the splits being read."""
        splits = [(a.split.id, a.split.payload, a.reader.position(), a.watermark.watermark_ms) for a in self._active]
        self._finished_before[checkpoint] = len(self._finished)
        self._positions[checkpoint] = {split_id: position for split_id, _, position, _ in splits}
        return {"splits": splits, "start_ms": self._start_ms}

    def complete(self, checkpoint: int) -> Callable[[], None]:
        """A checkpoint has completed: the work of acknowledging its positions to the outside, for an I/O thread."""
        positions = self._positions.get(checkpoint, {})
        self._positions = {number: p for number, p in self._positions.items() if number > checkpoint}
        held = self._finished_before.get(checkpoint, 0)
        del self._finished[:held]
        self._finished_before = {n: count - held for n, count in self._finished_before.items() if n > checkpoint}
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
        begun = watermark_ms > MIN_TIME
        self._active.append(_Active(split, reader, generator, self._clock.monotonic_ms(), begun))
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

    @property
    def _ordered(self) -> bool:
        """Whether splits are read one after another in the order of time: then unread ones begin after the last one did."""
        return self._source.splits_ordered_in_time and not self._source.concurrent

    def _quiet(self, active: _Active) -> bool:
        """Whether a split that is being read gave nothing for so long that it counts as idle."""
        if self._strategy is None or self._strategy.idle_after_ms is None:
            return False
        if not self._source.concurrent and active is not self._active[0]:
            return False
        return active.last_record_ms <= self._clock.monotonic_ms() - self._strategy.idle_after_ms

    def _read_reserved(self, active: _Active, max_records: int) -> SourceBatch[Any] | None:
        """Read up to the granted reservations: the one that is being used up, and the one that was asked for ahead.

        So two reservations at most are lost in a crash, however slowly records come.
        """
        if active.limit is None:
            self._reserve(active, active.reader.position())
            return SourceBatch([])
        if active.next_limit is None:
            self._reserve(active, active.limit)
        records = active.reader.read(max_records, active.limit)
        if records is not None and not records.values and active.next_limit is not None:
            # Either nothing is there, or the limit was reached: only then is there something behind it.
            records = active.reader.read(max_records, active.next_limit)
            if records is not None and records.values:
                self._enter_next(active)
            elif records is not None:
                self._give_back(active)
        if records is not None and records.values:
            active.fresh = True
        return records

    def _reserve(self, active: _Active, after: Any) -> None:
        if not active.asked:
            active.asked = True
            position = active.reader.reserve(after, active.reserve_records)
            self._port.reserve(self.operator_id, {active.split.id: position})

    def _enter_next(self, active: _Active) -> None:
        now_ms = self._clock.monotonic_ms()
        if now_ms - active.entered_ms < RESERVE_FOR_MS:
            active.reserve_records = min(active.reserve_records * 4, RESERVE_RECORDS_MOST)
        active.limit, active.next_limit, active.entered_ms = active.next_limit, None, now_ms
        self._reserve(active, active.limit)

    def _give_back(self, active: _Active) -> None:
        """After a while without records, let reservations begin at the position again.

        They reach less far then, or further: a record that is longer than a reservation ends behind all that were granted.
        Nothing is read until the new one is durable, so none is ever behind what was read.
        """
        if active.fresh and self._clock.monotonic_ms() - active.last_record_ms >= RESERVE_ANEW_AFTER_MS:
            active.fresh = False
            active.limit = active.next_limit = None
            self._reserve(active, active.reader.position())

    def _timed(
        self, active: _Active, values: list[Any], times: list[int] | None, source_watermark: int | None
    ) -> Batch:
        self._metrics.records_out += len(values)
        active.last_record_ms = self._clock.monotonic_ms()
        if self._strategy is None:
            return Batch(values, times)
        if self._extract is not None:
            times = extract_times(self.operator_id, self._extract, values)
        if times is None:
            raise PipelineError(
                f"source `{self.operator_id}` has watermarks but its records carry no times; "
                "give the watermarks a `timestamp` (a field's name or a function)"
            )
        if not active.begun:
            active.begun = True
            self._note_start(times[0], source_watermark)
        active.watermark.observe(times, source_watermark)
        return Batch(values, times)

    def _note_start(self, first_ms: int, source_watermark: int | None) -> None:
        """What no record of the split that begins is earlier than, by its first record and the strategy."""
        delay_ms = self._strategy.delay_ms if self._strategy is not None else 0
        start_ms = source_watermark if delay_ms is None else first_ms - delay_ms - 1
        if start_ms is not None:
            self._start_ms = max(self._start_ms, start_ms)
