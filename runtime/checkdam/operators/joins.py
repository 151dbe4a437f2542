"""Joins of two keyed streams in event time: by interval and by window.

Both buffer the records of both sides in keyed state, until the watermark says that no partner can come any more, and
call the user's function for each pair. A pair is made when the later of its two records arrives, or, in a window join,
when the window fires; so the pairs do not depend on how records are batched or how the sides take turns.

An interval join stores a record under its time and finds partners by a range of times. A window join stores it in its
pane (`assigners.Panes`), however many windows overlap there.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.errors import PipelineError
from checkdam.core.serde import serde_for
from checkdam.operators.aggregate import keys_of, times_of
from checkdam.operators.aggregators import collect
from checkdam.operators.assigners import Panes, Sliding, Tumbling
from checkdam.operators.base import Operator, OperatorContext
from checkdam.operators.calls import BREATH, CHUNK
from checkdam.operators.firing import LateGate, check_lateness
from checkdam.operators.functions import list_of
from checkdam.operators.panes import PanePart, merged_cells, split_by_pane, window_portions
from checkdam.operators.progress import EventProgress
from checkdam.operators.user import user_error
from checkdam.state.base import Key, MapTable, TableSpec

JoinFunction = Callable[[Any, Any], Any]
"""(left record, right record) → output."""

Pair = tuple[Any, Any, int]
"""Left record, right record, time of the output."""

LEFT: Final = 0
RIGHT: Final = 1

_TIMERS_PER_SPAN: Final = 8
"""How often, within the span of an interval join, a key is rid of what is past: each time costs a timer."""


class IntervalJoinOperator(Operator):
    """Joins records of equal keys whose times are close: left.time + lower ≤ right.time ≤ left.time + upper.

    Port 0 takes the left stream, port 1 the right one, both keyed by the same key. Every pair of records that were not
    late makes one output, with the later of their times. A record is late when its time is below the watermark.

    Args:
        operator_id: The operator's id.
        lower_ms: How much later than the left record the right one is at least; may be negative.
        upper_ms: How much later it is at most.
        fn: Makes an output of a pair.
        left_serde_type: The declared type of left records; `None` for undeclared.
        right_serde_type: The declared type of right records.
        late_tag: The side output of late records; empty to drop them. They are counted in any case.
        allow_pickle: Whether records of undeclared type may be pickled.

    Raises:
        PipelineError: `lower_ms` is above `upper_ms`.
    """

    def __init__(
        self,
        operator_id: str,
        lower_ms: int,
        upper_ms: int,
        fn: JoinFunction,
        left_serde_type: Any = None,
        right_serde_type: Any = None,
        late_tag: str = "",
        allow_pickle: bool = True,
    ) -> None:
        if lower_ms > upper_ms:
            raise PipelineError(
                f"the interval of join `{operator_id}` must not end before it begins (got {lower_ms} ms to {upper_ms} ms)"
            )
        self.operator_id = operator_id
        self._fn = fn
        self._types = (left_serde_type, right_serde_type)
        self._late_tag = late_tag
        self._allow_pickle = allow_pickle
        # By port: where a record's partners lie relative to it.
        self._partners = ((lower_ms, upper_ms), (-upper_ms, -lower_ms))
        self._step_ms = max(1, (upper_ms - lower_ms) // _TIMERS_PER_SPAN)

    def tables(self) -> list[TableSpec]:
        """The buffers of both sides; usable before `open`."""
        return _side_tables(self.operator_id, self._types, "map", self._allow_pickle)

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        left, right = (context.backend.map_table(spec) for spec in self.tables())
        self._buffers: tuple[MapTable, MapTable] = (left, right)
        self._timers = context.backend.timers(self.operator_id, "event")
        self._progress = EventProgress(context.backend.key_groups, context.floor.by_group, context.backend.key_group)
        self._gate = LateGate(self._progress, lambda watermark_ms: watermark_ms, self._late_tag, context.metrics)

    def process(self, batch: Batch, port: int) -> Iterator[Batch]:
        keys_of(batch, self.operator_id)
        times_of(batch, self.operator_id)
        batch, late = self._gate.split(batch)
        if late is not None:
            yield late
        yield from _joined(self.operator_id, self._fn, self._pairs(batch, port))

    def on_watermark(self, watermark_ms: int) -> Iterator[Batch]:
        self._progress.advance(watermark_ms)
        while due := self._timers.pop_due(watermark_ms):
            expired = {(key, port) for _, key, port in due}
            for port, buffer in enumerate(self._buffers):
                buffer.load({key for key, side in expired if side == port})
            for key, port in expired:
                buffer = self._buffers[port]
                # No record below the watermark is taken any more, so what reaches no further than it has no partner.
                for time_ms, _ in buffer.items(key, high=_clamped(watermark_ms - self._partners[port][1])):
                    buffer.remove(key, time_ms)
            yield BREATH

    def _pairs(self, batch: Batch, port: int) -> Iterator[Pair]:
        """Store the records of a batch and find the partners that are there already."""
        arrived: dict[Key, list[tuple[int, Any]]] = defaultdict(list)
        for key, time_ms, value in zip(batch.keys or (), batch.times or (), batch.values, strict=True):
            arrived[key].append((time_ms, value))
        for buffer in self._buffers:
            buffer.load(arrived.keys())
        self._store(arrived, port)
        from_ms, to_ms = self._partners[port]
        for key, records in arrived.items():
            earliest, latest = min(map(_time_of, records)), max(map(_time_of, records))
            found = self._buffers[1 - port].items(key, _clamped(earliest + from_ms), _clamped(latest + to_ms + 1))
            if not found:
                continue
            times = [time_ms for time_ms, _ in found]
            for time_ms, value in records:
                first, last = bisect_left(times, time_ms + from_ms), bisect_right(times, time_ms + to_ms)
                for other_ms, partners in found[first:last]:
                    at_ms = max(time_ms, other_ms)
                    for partner in partners:
                        yield (value, partner, at_ms) if port == LEFT else (partner, value, at_ms)

    def _store(self, arrived: dict[Key, list[tuple[int, Any]]], port: int) -> None:
        buffer, reach_ms, step_ms = self._buffers[port], self._partners[port][1], self._step_ms
        cleanups: dict[int, set[Key]] = defaultdict(set)
        reached_ms = self._progress.low_ms
        for key, records in arrived.items():
            for time_ms, value in records:
                if time_ms + reach_ms < reached_ms:
                    continue  # every partner that is still to come would be late
                stored = buffer.get(key, time_ms)
                if stored is None:
                    stored = []
                stored.append(value)
                buffer.put(key, time_ms, stored)
                # Rounded up, so that a key has few timers; what stays a little longer can join nothing.
                cleanups[-(-(time_ms + reach_ms + 1) // step_ms) * step_ms].add(key)
        for cleanup_ms, keys in cleanups.items():
            self._timers.register_many(_clamped(cleanup_ms), keys, port)


class WindowJoinOperator(Operator):
    """Joins records of equal keys that lie in the same window: every left record with every right one.

    Port 0 takes the left stream, port 1 the right one. The pairs of a window come out when it fires, with the time
    `end - 1`; a record that comes later, within the allowed lateness, adds the pairs that it makes at once. So each pair
    comes out once for every window that it shares. Later records are late.

    Args:
        operator_id: The operator's id.
        assigner: Tumbling or Sliding.
        fn: Makes an output of a pair.
        allowed_lateness_ms: How long after its firing a window still takes records.
        left_serde_type: The declared type of left records; `None` for undeclared.
        right_serde_type: The declared type of right records.
        late_tag: The side output of late records; empty to drop them. They are counted in any case.
        allow_pickle: Whether records of undeclared type may be pickled.

    Raises:
        PipelineError: Another assigner, or a negative lateness.
    """

    def __init__(
        self,
        operator_id: str,
        assigner: Tumbling | Sliding,
        fn: JoinFunction,
        allowed_lateness_ms: int = 0,
        left_serde_type: Any = None,
        right_serde_type: Any = None,
        late_tag: str = "",
        allow_pickle: bool = True,
    ) -> None:
        if not isinstance(assigner, Tumbling | Sliding):
            raise PipelineError(
                f"window join `{operator_id}` takes Tumbling or Sliding windows (got {assigner!r}); "
                "to join records that are close in time use an interval join"
            )
        check_lateness(operator_id, allowed_lateness_ms)
        self.operator_id = operator_id
        self._fn = fn
        self._types = (left_serde_type, right_serde_type)
        self._late_tag = late_tag
        self._allow_pickle = allow_pickle
        self._lateness_ms = allowed_lateness_ms
        self._panes = Panes.of(assigner)
        self._rows = collect()
        self._live: set[int] = set()
        self._ends: list[int] = []
        self._scheduled: set[int] = set()
        self._drops: list[tuple[int, int]] = []

    @property
    def panes(self) -> Panes:
        """The panes whose starts are the tables' namespaces."""
        return self._panes

    def tables(self) -> list[TableSpec]:
        """The records of both sides, by pane; usable before `open`."""
        return _side_tables(self.operator_id, self._types, "value", self._allow_pickle)

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        left, right = (context.backend.table(spec) for spec in self.tables())
        self._tables = (left, right)
        panes, lateness_ms = self._panes, self._lateness_ms
        self._progress = EventProgress(context.backend.key_groups, context.floor.by_group, context.backend.key_group)
        self._gate = LateGate(
            self._progress, lambda mark_ms: panes.late_before(mark_ms, lateness_ms), self._late_tag, context.metrics
        )
        for pane in {*left.namespaces(), *right.namespaces()}:
            self._add_pane(pane)

    def process(self, batch: Batch, port: int) -> Iterator[Batch]:
        keys_of(batch, self.operator_id)
        times_of(batch, self.operator_id)
        batch, late = self._gate.split(batch)
        if late is not None:
            yield late
        if not batch.values:
            return
        parts = split_by_pane(self._panes, batch.times or [], batch.keys or [], batch.values)
        for pane, keys, values in parts:
            distinct = set(keys)
            self._rows.fold(self._tables[port].cells(pane, distinct), keys, values)
            self._tables[port].changed(pane, distinct)
            if pane not in self._live:
                self._add_pane(pane)
        if self._lateness_ms:
            for part in parts:
                yield from _joined(self.operator_id, self._fn, self._pairs_after_firing(part, port))

    def on_watermark(self, watermark_ms: int) -> Iterator[Batch]:
        while self._ends and self._ends[0] - 1 <= watermark_ms:
            end = heapq.heappop(self._ends)
            self._scheduled.discard(end)
            yield from self._fire(end)
        self._progress.advance(watermark_ms)
        while self._drops and self._drops[0][0] <= watermark_ms:
            _, pane = heapq.heappop(self._drops)
            self._live.discard(pane)
            for table in self._tables:
                table.drop(pane)

    def _add_pane(self, pane: int) -> None:
        self._live.add(pane)
        heapq.heappush(self._drops, (self._panes.last_end(pane) - 1 + self._lateness_ms, pane))
        for end in self._panes.ends(pane):
            if end - 1 > self._progress.low_ms and end not in self._scheduled:
                self._scheduled.add(end)
                heapq.heappush(self._ends, end)

    def _fire(self, end: int) -> Iterator[Batch]:
        """All pairs of a window, for keys whose windows had not fired before a restore."""
        panes = self._live_panes(end)
        reached = self._progress.floor_reached(end - 1)
        for keys, rows in window_portions(self._tables[LEFT], self._rows, panes):
            lefts = {key: row for key, row in zip(keys, rows, strict=True) if reached is None or not reached(key)}
            rights = merged_cells(self._tables[RIGHT], self._rows, panes, lefts.keys())
            pairs = (
                (left, right, end - 1) for key, partners in rights.items() for left in lefts[key] for right in partners
            )
            yield from _joined(self.operator_id, self._fn, pairs)
            yield BREATH

    def _pairs_after_firing(self, part: PanePart, port: int) -> Iterator[Pair]:
        """The pairs that new records make in windows that have fired already but are still kept."""
        pane, keys, values = part
        reached = self._progress.of
        for end in self._panes.ends(pane):
            fired = {key for key in set(keys) if end - 1 <= reached(key) < end - 1 + self._lateness_ms}
            if not fired:
                continue
            partners = merged_cells(self._tables[1 - port], self._rows, self._live_panes(end), fired)
            for key, value in zip(keys, values, strict=True):
                for partner in partners.get(key, ()):
                    yield (value, partner, end - 1) if port == LEFT else (partner, value, end - 1)

    def _live_panes(self, end: int) -> list[int]:
        return [pane for pane in self._panes.of_window(end - self._panes.size_ms) if pane in self._live]


def _joined(operator_id: str, fn: JoinFunction, pairs: Iterable[Pair]) -> Iterator[Batch]:
    """What `fn` makes of each pair, in batches of bounded size.

    Raises:
        UserCodeError: `fn` raised; the record in it is the pair.
    """
    values: list[Any] = []
    times: list[int] = []
    for left, right, time_ms in pairs:
        try:
            values.append(fn(left, right))
        except Exception as error:
            raise user_error(operator_id, (left, right), error) from error
        times.append(time_ms)
        if len(values) >= CHUNK:
            yield Batch(values, times)
            values, times = [], []
    if values:
        yield Batch(values, times)


def _side_tables(operator_id: str, types: tuple[Any, Any], kind: str, allow_pickle: bool) -> list[TableSpec]:
    specs = []
    for name, declared in zip(("left", "right"), types, strict=True):
        serde = serde_for(list_of(declared), f"the {name} records of join `{operator_id}`", allow_pickle)
        specs.append(TableSpec(operator_id, name, serde, kind))
    return specs


def _time_of(record: tuple[int, Any]) -> int:
    return record[0]


def _clamped(time_ms: int) -> int:
    return min(max(time_ms, MIN_TIME), MAX_TIME)
