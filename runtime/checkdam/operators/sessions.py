"""Session windows: per key, records less than a gap apart belong together.

State is one cell per key with its live sessions, usually one, as (start, end, fired, accumulator), in order of time and
never touching each other. `fired` tells that the session's results have gone downstream as they are; any change takes
it back.

A key needs a timer no later than the next thing that happens to each of its sessions, and an early one does no harm: a
session that grows keeps its timer, and when that comes due a new one is set at the session's real end. So a session
costs one timer per gap, not one per record.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import compress
from types import GenericAlias
from typing import Any

from checkdam.core.batch import Batch
from checkdam.core.errors import PipelineError
from checkdam.core.serde import serde_for
from checkdam.operators.aggregate import fold_batch, keys_of, times_of
from checkdam.operators.aggregators import Aggregator
from checkdam.operators.base import Operator, OperatorContext
from checkdam.operators.firing import WindowFunction, check_lateness, split_late, window_batch
from checkdam.operators.progress import EventProgress
from checkdam.operators.user import Records, user_error
from checkdam.state.base import TableSpec

_Session = tuple[int, int, bool, Any]
"""(start, end, fired, accumulator)"""

_Sessions = tuple[_Session, ...]

_PART_RECORDS = 64
"""A batch longer than a gap is cut into parts only if these hold about so many records or more."""


class SessionWindowOperator(Operator):
    """An aggregate per key and session, in event time.

    A session starts at its first record and ends `gap_ms` after its last; records exactly `gap_ms` apart share one. It
    fires when the watermark reaches `end - 1`, yields its result at that time, and is kept until `end - 1 + allowed
    lateness`. A change to a session that has fired yields it anew: at once, or, if it then ends later than the watermark,
    when that is reached. A record is late when it touches no session that is kept and would be one that is not.

    Args:
        operator_id: The operator's id.
        gap_ms: The silence that ends a session; at least 1 ms.
        aggregator: What is computed; its `merge` joins sessions that a record connects.
        allowed_lateness_ms: How long after its end a session still takes records.
        late_tag: The side output for late records; empty: they are dropped. Counted in either case.
        emit_fn: Makes the output of a key and session; default `WindowResult`.
        allow_pickle: Whether accumulators of undeclared type may be pickled.

    Raises:
        PipelineError: The gap is less than 1 ms or lateness is negative.
        ValueTypeError: Accumulators would need pickle, which is forbidden.
    """

    def __init__(
        self,
        operator_id: str,
        gap_ms: int,
        aggregator: Aggregator[Any, Any, Any],
        allowed_lateness_ms: int = 0,
        late_tag: str = "",
        emit_fn: WindowFunction | None = None,
        allow_pickle: bool = True,
    ) -> None:
        if gap_ms < 1:
            raise PipelineError(f"operator `{operator_id}`: the gap of sessions must be at least 1 ms (got {gap_ms})")
        check_lateness(operator_id, allowed_lateness_ms)
        serde = serde_for(_cell_type(aggregator.acc_type), f"the sessions of operator `{operator_id}`", allow_pickle)
        self._id = operator_id
        self._gap_ms = gap_ms
        self._aggregator = aggregator
        self._lateness_ms = allowed_lateness_ms
        self._late_tag = late_tag
        self._emit_fn = emit_fn
        self._spec = TableSpec(operator_id, "sessions", serde)

    def tables(self) -> list[TableSpec]:
        """The tables that the operator keeps; known before `open`."""
        return [self._spec]

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        backend = context.backend
        self._table = backend.table(self._spec)
        self._timers = backend.timers(self._id, "event")
        self._metrics = context.metrics
        self._progress = EventProgress(backend.key_groups, context.floor.by_group, backend.key_group)

    def process(self, batch: Batch, port: int) -> Iterator[Batch]:
        if not batch.values:
            return
        keys, times = keys_of(batch, self._id), times_of(batch, self._id)
        distinct = set(keys)
        cells: dict[Any, _Sessions] = self._table.cells(0, distinct)
        late = None
        unsettled: set[Any] = set()
        parts = [] if self._kept_until(min(times) + self._gap_ms) <= self._progress.high_ms else self._cut(batch, times)
        for part in parts:
            self._fold_part(cells, part, unsettled)
        if not parts:
            in_time = self._fold_records(cells, batch, unsettled)
            _, late = split_late(batch, in_time, self._late_tag, self._metrics)
        results = self._settle(cells, unsettled)
        self._table.changed(0, distinct)
        if late is not None:
            yield late
        if results is not None:
            yield results

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        self._progress.advance(watermark_ms)
        next_ms = self._timers.next_time()
        return () if next_ms is None or next_ms > watermark_ms else self._fire_due(watermark_ms)

    def _fire_due(self, watermark_ms: int) -> Iterator[Batch]:
        while due := self._timers.pop_due(watermark_ms):
            keys = {key for _, key, _ in due}
            cells: dict[Any, _Sessions] = self._table.cells(0, keys)
            results = self._settle(cells, keys)
            self._table.changed(0, keys)
            if results is not None:
                yield results

    def _cut(self, batch: Batch, times: list[int]) -> list[Batch]:
        """The batch in parts of at most one gap each; none where these would be too many or out of order."""
        span_ms = max(times) - min(times)
        if span_ms <= self._gap_ms:
            return [batch]
        if span_ms // self._gap_ms * _PART_RECORDS > len(batch) or sorted(times) != times:
            return []
        parts = []
        begin = 0
        while begin < len(times):
            end = bisect_right(times, times[begin] + self._gap_ms, begin)
            parts.append(batch.slice(begin, end))
            begin = end
        return parts

    def _fold_part(self, cells: dict[Any, _Sessions], part: Batch, unsettled: set[Any]) -> None:
        """Add records within one gap, none of them late, at a cost per key rather than per record.

        All records of a key touch each other. Where they touch the key's only session, or where the key has none, they
        are folded as a whole; records of other keys go one by one. The keys to settle are added to `unsettled`.
        """
        keys, times, values = keys_of(part, self._id), times_of(part, self._id), part.values
        gap_ms = self._gap_ms
        first, last = _first_and_last(keys, times)
        accs: dict[Any, Any] = {}
        others: set[Any] = set()
        for key, last_ms in last.items():
            sessions = cells.get(key)
            if not sessions:
                unsettled.add(key)
                continue
            start, end, fired, acc = sessions[0]
            if len(sessions) > 1 or start > last_ms + gap_ms or first[key] > end:
                others.add(key)
                continue
            accs[key] = acc
            if fired:
                unsettled.add(key)
        if others:
            chosen = [key in others for key in keys]
            self._fold_records(cells, part.take(list(compress(range(len(part)), chosen))), unsettled)
            keys = [key for key in keys if key not in others]
            values = [value for value, other in zip(values, chosen, strict=True) if not other]
        fold_batch(self._id, self._aggregator.fold, accs, keys, values)
        for key, acc in accs.items():
            first_ms, end_ms = first[key], last[key] + gap_ms
            sessions = cells.get(key)
            if sessions:
                start, end, _, _ = sessions[0]
                if start < first_ms:
                    first_ms = start
                if end > end_ms:
                    end_ms = end
            cells[key] = ((first_ms, end_ms, False, acc),)

    def _fold_records(self, cells: dict[Any, _Sessions], batch: Batch, unsettled: set[Any]) -> list[bool]:
        """Add records one by one.

        Returns:
            For each record whether it was in time; the keys to settle are added to `unsettled`.
        """
        records = Records(batch.values)
        keys, times = keys_of(batch, self._id), times_of(batch, self._id)
        add, gap_ms = self._aggregator.add, self._gap_ms
        in_time = []
        try:
            for key, time, value in zip(keys, times, records, strict=True):
                sessions = cells.get(key)
                if sessions:
                    start, end, fired, acc = sessions[-1]
                    if start <= time <= end:
                        # The usual case: it can touch no session but the last, and prolongs it.
                        session = (start, end if end > time + gap_ms else time + gap_ms, False, add(acc, value))
                        cells[key] = (*sessions[:-1], session)
                        if fired:
                            unsettled.add(key)
                        in_time.append(True)
                        continue
                in_time.append(self._fold_record(cells, key, time, value, unsettled))
        except Exception as error:
            raise user_error(self._id, records.current(), error) from error
        return in_time

    def _fold_record(self, cells: dict[Any, _Sessions], key: Any, time: int, value: Any, unsettled: set[Any]) -> bool:
        """Add a record wherever it belongs; `False` if it is late."""
        start, end = time, time + self._gap_ms
        sessions = cells.get(key, ())
        touched = [session for session in sessions if session[0] <= end and start <= session[1]]
        aggregator = self._aggregator
        if not touched:
            kept_until = self._kept_until(end)
            if kept_until <= self._progress.high_ms and kept_until <= self._progress.of(key):
                return False
            unsettled.add(key)
            acc = aggregator.add(aggregator.create(), value)
        else:
            acc = touched[0][3]
            for session in touched[1:]:
                acc = aggregator.merge(acc, session[3])
            acc = aggregator.add(acc, value)
            start, end = min(start, touched[0][0]), max(end, touched[-1][1])
            if any(session[2] for session in touched):
                unsettled.add(key)
        # Sessions that do not touch the record lie wholly before or wholly after what it became part of.
        before = tuple(session for session in sessions if session[1] < start)
        after = tuple(session for session in sessions if session[0] > end)
        cells[key] = (*before, (start, end, False, acc), *after)
        return True

    def _settle(self, cells: dict[Any, _Sessions], keys: Iterable[Any]) -> Batch | None:
        """Fire what is due of `keys`, forget what is no longer kept, and set timers for the rest."""
        fired: list[tuple[Any, int, int, Any]] = []
        low_ms, uniform = self._progress.low_ms, self._progress.low_ms == self._progress.high_ms
        for key in keys:
            reached_ms = low_ms if uniform else self._progress.of(key)
            kept: list[_Session] = []
            for session in cells.get(key, ()):
                start, end, done, acc = session
                if not done and end - 1 <= reached_ms:
                    fired.append((key, start, end, acc))
                    session = (start, end, True, acc)
                if self._kept_until(end) > reached_ms:
                    kept.append(session)
                    self._timers.register(self._kept_until(end) if session[2] else end - 1, key)
            if kept:
                cells[key] = tuple(kept)
            else:
                cells.pop(key, None)
        return self._results(fired) if fired else None

    def _results(self, fired: list[tuple[Any, int, int, Any]]) -> Batch:
        keys, starts, ends, accs = map(list, zip(*fired, strict=True))
        times = [end - 1 for end in ends]
        return window_batch(self._id, self._aggregator, self._emit_fn, keys, (starts, ends), accs, times)

    def _kept_until(self, end: int) -> int:
        """The watermark at which a session that ends at `end` is forgotten."""
        return end - 1 + self._lateness_ms


def _cell_type(acc_type: Any) -> Any:
    """`tuple[_Session, ...]` with the accumulators' declared type; undeclared if they are."""
    if acc_type is None:
        return None
    return GenericAlias(tuple, (GenericAlias(tuple, (int, int, bool, acc_type)), ...))


def _first_and_last(keys: list[Any], times: list[int]) -> tuple[dict[Any, int], dict[Any, int]]:
    """The least and the greatest time of each key."""
    if sorted(times) == times:
        return dict(zip(reversed(keys), reversed(times), strict=True)), dict(zip(keys, times, strict=True))
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for key, time in zip(keys, times, strict=True):
        if key not in last:
            first[key] = last[key] = time
        elif time > last[key]:
            last[key] = time
        elif time < first[key]:
            first[key] = time
    return first, last
