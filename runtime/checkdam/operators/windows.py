"""Tumbling and sliding windows over keyed streams.

State is one table whose namespaces are panes (see `assigners`), so a batch is folded into its pane's dictionary and a
fired pane is dropped as a whole. What is due when is known per pane, not per key: a small heap, rebuilt from the table's
namespaces on restore, holds for each pane the next time at which one of its windows ends or its state is dropped.

Event time: a window `[start, end)` fires when the watermark reaches `end - 1`, yields its results at that time, and is
kept until the watermark reaches `end - 1 + allowed lateness`. A record for a window that has fired and is kept yields
updated results of just its batch's keys. A record all of whose windows are gone is late.

Processing time: the same, with the time of arrival in place of the record's time. At the end of all inputs what is open
fires, so that a bounded input loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import compress, repeat
from typing import Any

from checkdam.core.batch import MAX_TIME, Batch
from checkdam.core.errors import PipelineError
from checkdam.core.serde import serde_for
from checkdam.operators.aggregate import fold_batch, keys_of, times_of
from checkdam.operators.aggregators import Aggregator
from checkdam.operators.assigners import Panes, Sliding, Tumbling
from checkdam.operators.base import Operator, OperatorContext, Redistribution
from checkdam.operators.firing import LateGate, WindowFunction, check_lateness, window_batch
from checkdam.operators.panes import merged_cells, split_by_pane, window_portions
from checkdam.operators.progress import EventProgress
from checkdam.state.base import TableSpec


class WindowOperator(Operator):
    """An aggregate per key and tumbling or sliding window.

    Args:
        operator_id: The operator's id.
        assigner: The windows.
        aggregator: What is computed.
        allowed_lateness_ms: How long after its end a window still takes records; event time only.
        late_tag: The side output for late records; empty: they are dropped. Counted in either case. In processing
            time nothing is late.
        emit_fn: Makes the output of a key and window; default `WindowResult`.
        processing_time: Whether windows are of processing time instead of event time.
        allow_pickle: Whether accumulators of undeclared type may be pickled.

    Raises:
        PipelineError: Lateness is negative, or asked for in processing time, or the assigner is of another kind.
        ValueTypeError: Accumulators would need pickle, which is forbidden.
    """

    redistribution = Redistribution.UNION

    def __init__(
        self,
        operator_id: str,
        assigner: Tumbling | Sliding,
        aggregator: Aggregator[Any, Any, Any],
        allowed_lateness_ms: int = 0,
        late_tag: str = "",
        emit_fn: WindowFunction | None = None,
        processing_time: bool = False,
        allow_pickle: bool = True,
    ) -> None:
        if not isinstance(assigner, Tumbling | Sliding):
            raise PipelineError(f"operator `{operator_id}`: windows must be `Tumbling` or `Sliding` (got {assigner!r})")
        check_lateness(operator_id, allowed_lateness_ms)
        if processing_time and allowed_lateness_ms:
            raise PipelineError(
                f"operator `{operator_id}`: nothing is late in processing time: leave allowed lateness out"
                f" (got {allowed_lateness_ms} ms)"
            )
        serde = serde_for(aggregator.acc_type, f"the windows of operator `{operator_id}`", allow_pickle)
        self._id = operator_id
        self._panes = Panes.of(assigner)
        self._aggregator = aggregator
        self._lateness_ms = allowed_lateness_ms
        self._late_tag = late_tag
        self._emit_fn = emit_fn
        self._processing_time = processing_time
        self._spec = TableSpec(operator_id, "panes", serde)
        self._live: set[int] = set()
        self._events: list[tuple[int, int]] = []
        """Heap of (time, pane): each live pane once, at its next firing or at its removal."""

    @property
    def panes(self) -> Panes:
        """The panes whose starts are the table's namespaces."""
        return self._panes

    def tables(self) -> list[TableSpec]:
        """The tables that the operator keeps; known before `open`."""
        return [self._spec]

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        backend = context.backend
        floors = _processing_floors(restored) if self._processing_time else context.floor.by_group
        self._table = backend.table(self._spec)
        self._clock = context.clock
        self._progress = EventProgress(backend.key_groups, floors, backend.key_group)
        panes, lateness_ms = self._panes, self._lateness_ms
        self._gate = LateGate(
            self._progress, lambda mark_ms: panes.late_before(mark_ms, lateness_ms), self._late_tag, context.metrics
        )
        self._live = set(self._table.namespaces())
        self._events = [(self._next_event(pane, self._progress.low_ms), pane) for pane in self._live]
        heapify(self._events)

    def snapshot(self, checkpoint: int) -> Any:
        if not self._processing_time:
            return None
        return self._progress.by_range()

    def process(self, batch: Batch, port: int) -> Iterator[Batch]:
        if not batch.values:
            return
        keys_of(batch, self._id)
        if self._processing_time:
            arrival_ms = max(self._clock.now_ms(), self._progress.high_ms + 1)
            batch = Batch(batch.values, [arrival_ms] * len(batch), batch.keys)
        else:
            times_of(batch, self._id)
            batch, late = self._gate.split(batch)
            if late is not None:
                yield late
        if batch.values:
            yield from self._add(batch)

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        return () if self._processing_time else self._advance(watermark_ms)

    def next_processing_time(self) -> int | None:
        return self._events[0][0] + 1 if self._processing_time and self._events else None

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        # As with watermarks: at time t everything with a time ≤ t - 1 has come.
        return self._advance(now_ms - 1) if self._processing_time else ()

    def on_end(self) -> Iterable[Batch]:
        return self._fire_due(MAX_TIME) if self._processing_time else ()

    def _add(self, batch: Batch) -> Iterator[Batch]:
        """Fold a batch without late records into its panes, and update the windows that have fired."""
        parts = split_by_pane(self._panes, times_of(batch, self._id), keys_of(batch, self._id), batch.values)
        fired: dict[int, set[Any]] = {}
        for pane, keys, values in parts:
            distinct = set(keys)
            cells = self._table.cells(pane, distinct)
            fold_batch(self._id, self._aggregator.fold, cells, keys, values)
            self._table.changed(pane, distinct)
            if pane not in self._live:
                self._live.add(pane)
                heappush(self._events, (self._next_event(pane, self._progress.low_ms), pane))
            if self._lateness_ms and self._panes.first_end(pane) - 1 <= self._progress.high_ms:
                self._note_fired(fired, pane, distinct)
        for end in sorted(fired):
            yield from self._update(end, fired[end])

    def _note_fired(self, fired: dict[int, set[Any]], pane: int, keys: set[Any]) -> None:
        """Note the windows of `pane` that have fired and are kept, with the keys of which that is true."""
        low_ms, high_ms = self._progress.low_ms, self._progress.high_ms
        for end in self._panes.ends(pane):
            if end - 1 > high_ms:
                break
            if low_ms < high_ms:
                reached = self._progress.of
                found = {key for key in keys if end - 1 <= reached(key) < end - 1 + self._lateness_ms}
            else:
                found = keys if high_ms < end - 1 + self._lateness_ms else set()
            if found:
                fired[end] = fired.get(end, set()) | found

    def _update(self, end: int, keys: Collection[Any]) -> Iterator[Batch]:
        panes = self._live_panes(end)
        merged = merged_cells(self._table, self._aggregator, panes, keys)
        yield self._results(end, list(merged), list(merged.values()))

    def _advance(self, time_ms: int) -> Iterable[Batch]:
        self._progress.advance(time_ms)
        if not self._events or self._events[0][0] > time_ms:
            return ()
        return self._fire_due(time_ms)

    def _fire_due(self, time_ms: int) -> Iterator[Batch]:
        """Fire windows and drop panes up to `time_ms`, in order of time."""
        events = self._events
        while events and events[0][0] <= time_ms:
            event_ms = events[0][0]
            due = []
            while events and events[0][0] == event_ms:
                due.append(heappop(events)[1])
            # All live panes of a window come due at its end together; the others are due to be dropped.
            firing = sorted(pane for pane in due if event_ms < self._panes.last_end(pane))
            if firing:
                yield from self._fire(event_ms + 1, firing)
            for pane in due:
                if event_ms >= self._removal(pane):
                    self._table.drop(pane)
                    self._live.discard(pane)
                else:
                    heappush(events, (self._next_event(pane, event_ms), pane))

    def _fire(self, end: int, panes: list[int]) -> Iterator[Batch]:
        fired_before = self._progress.floor_reached(end - 1)
        for keys, accs in window_portions(self._table, self._aggregator, panes):
            if fired_before is not None:
                fresh = [not fired_before(key) for key in keys]
                keys, accs = list(compress(keys, fresh)), list(compress(accs, fresh))
            if keys:
                yield self._results(end, keys, accs)

    def _results(self, end: int, keys: list[Any], accs: list[Any]) -> Batch:
        bounds = repeat(end - self._panes.size_ms), repeat(end)
        return window_batch(self._id, self._aggregator, self._emit_fn, keys, bounds, accs, [end - 1] * len(keys))

    def _next_event(self, pane: int, after_ms: int) -> int:
        """When the pane's next window after `after_ms` fires, or else when the pane is dropped."""
        first, slide = self._panes.first_end(pane) - 1, self._panes.slide_ms
        fire = first if first > after_ms else first + ((after_ms - first) // slide + 1) * slide
        return fire if fire < self._panes.last_end(pane) else self._removal(pane)

    def _removal(self, pane: int) -> int:
        """When the last window of the pane is no longer kept."""
        return self._panes.last_end(pane) - 1 + self._lateness_ms

    def _live_panes(self, end: int) -> list[int]:
        return [pane for pane in self._panes.of_window(end - self._panes.size_ms) if pane in self._live]


def _processing_floors(restored: list[Any]) -> dict[int, int]:
    """The processing time up to which each key group had fired, of all former subtasks."""
    return {group: fired_ms for ranges in restored for start, stop, fired_ms in ranges for group in range(start, stop)}
