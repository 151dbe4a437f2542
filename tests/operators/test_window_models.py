"""Windows and sessions against naive models that handle one record at a time."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_harness import OperatorRun, Row

from checkdam.core.batch import MAX_TIME, MIN_TIME
from checkdam.operators import panes, sessions
from checkdam.operators.aggregators import Aggregator, collect, combined, count, sum_of
from checkdam.operators.assigners import Sliding, Tumbling, WindowResult
from checkdam.operators.sessions import SessionWindowOperator
from checkdam.operators.windows import WindowOperator

Step = tuple[str, Any]
"""("batch", rows) | ("near", rows with times relative to the watermark) | ("watermark", ms) | ("restore", how far the watermark starts behind)"""


class WindowModel:
    """Keeps every record in every window that contains it."""

    def __init__(self, starts: Callable[[int], range], size_ms: int, lateness_ms: int) -> None:
        self.starts, self.size_ms, self.lateness_ms = starts, size_ms, lateness_ms
        self.watermark_ms = MIN_TIME
        self.windows: dict[tuple[Any, int], int] = {}
        self.late = 0

    def batch(self, rows: list[Row]) -> Counter[Any]:
        updated = set()
        for key, time, value in rows:
            kept = [s for s in self.starts(time) if s + self.size_ms - 1 + self.lateness_ms > self.watermark_ms]
            self.late += not kept
            for start in kept:
                self.windows[key, start] = self.windows.get((key, start), 0) + value
                if start + self.size_ms - 1 <= self.watermark_ms:
                    updated.add((key, start))
        return Counter(self.result(key, start) for key, start in updated)

    def watermark(self, watermark_ms: int) -> Counter[Any]:
        before, self.watermark_ms = self.watermark_ms, max(self.watermark_ms, watermark_ms)
        due = [(k, s) for k, s in self.windows if before < s + self.size_ms - 1 <= self.watermark_ms]
        fired = Counter(self.result(key, start) for key, start in due)
        for key, start in list(self.windows):
            if start + self.size_ms - 1 + self.lateness_ms <= self.watermark_ms:
                del self.windows[key, start]
        return fired

    def result(self, key: Any, start: int) -> tuple[WindowResult, int]:
        end = start + self.size_ms
        return WindowResult(key, start, end, self.windows[key, start]), end - 1


class SessionModel:
    """Keeps all records of each session, and finds its bounds anew every time."""

    def __init__(self, gap_ms: int, lateness_ms: int) -> None:
        self.gap_ms, self.lateness_ms = gap_ms, lateness_ms
        self.watermark_ms = MIN_TIME
        self.sessions: dict[Any, list[list[tuple[int, int]]]] = {}
        self.late = 0

    def batch(self, rows: list[Row]) -> Counter[Any]:
        changed: set[int] = set()
        for key, time, value in rows:
            known = self.sessions.setdefault(key, [])
            touched = [s for s in known if any(abs(time - other) <= self.gap_ms for other, _ in s)]
            if not touched and time + self.gap_ms - 1 + self.lateness_ms <= self.watermark_ms:
                self.late += 1
                continue
            merged = [record for session in touched for record in session] + [(time, value)]
            self.sessions[key] = [s for s in known if s not in touched] + [merged]
            changed.add(id(merged))
        everything = [(key, s) for key, known in self.sessions.items() for s in known]
        return Counter(
            self.result(key, s) for key, s in everything if id(s) in changed and self.last(s) <= self.watermark_ms
        )

    def watermark(self, watermark_ms: int) -> Counter[Any]:
        before, self.watermark_ms = self.watermark_ms, max(self.watermark_ms, watermark_ms)
        fired: Counter[Any] = Counter()
        for key, known in self.sessions.items():
            fired.update(self.result(key, s) for s in known if before < self.last(s) <= self.watermark_ms)
            known[:] = [s for s in known if self.last(s) + self.lateness_ms > self.watermark_ms]
        return fired

    def last(self, session: list[tuple[int, int]]) -> int:
        return max(time for time, _ in session) + self.gap_ms - 1

    def result(self, key: Any, session: list[tuple[int, int]]) -> tuple[WindowResult, int]:
        start, last = min(time for time, _ in session), self.last(session)
        return WindowResult(key, start, last + 1, sum(value for _, value in session)), last


def rows_between(low: int, high: int) -> st.SearchStrategy[list[Row]]:
    row = st.tuples(st.integers(0, 3), st.integers(low, high), st.integers(1, 5))
    return st.lists(row, min_size=1, max_size=12)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), rows_between(-20, 60)),
        st.tuples(st.just("batch"), rows_between(-20, 60).map(lambda rows: sorted(rows, key=lambda row: row[1]))),
        st.tuples(st.just("near"), st.integers(-20, 10).flatmap(lambda at: rows_between(at, at + 4))),
        st.tuples(st.just("watermark"), st.integers(-20, 80)),
        st.tuples(st.just("restore"), st.integers(0, 30)),
    ),
    max_size=14,
)


def check_against(model: WindowModel | SessionModel, run: OperatorRun, steps: list[Step]) -> None:
    for kind, what in [*steps, ("watermark", MAX_TIME)]:
        if kind in ("batch", "near"):
            if kind == "near" and model.watermark_ms > MIN_TIME:
                what = [(key, model.watermark_ms + time, value) for key, time, value in what]
            run.feed(what)
            assert run.taken() == model.batch(what)
        elif kind == "restore":
            run.restore()
            if model.watermark_ms > MIN_TIME:
                run.watermark(model.watermark_ms - what)
                assert not run.taken(), "what had fired has fired again"
        elif what > model.watermark_ms:
            run.watermark(what)
            assert run.taken() == model.watermark(what)
    assert run.metrics.late_records == len(run.late) == model.late
    assert run.operator._table.namespaces() == [], "state is left after the end"


ASSIGNERS = [
    Tumbling(10),
    Tumbling(7, offset=-3),
    Sliding(10, 5),
    Sliding(10, 4),
    Sliding(9, 2, offset=1),
    Sliding(3, 1),
]


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=str)
@given(steps=STEPS, lateness_ms=st.sampled_from([0, 0, 1, 6, 25]))
@settings(max_examples=40, deadline=None)
def test_windows_equal_a_model_of_single_records(
    assigner: Tumbling | Sliding, steps: list[Step], lateness_ms: int
) -> None:
    model = WindowModel(assigner.window_starts, assigner.size_ms, lateness_ms)
    run = OperatorRun(lambda: WindowOperator("w", assigner, sum_of(), lateness_ms, "late"))
    check_against(model, run, steps)


@given(
    steps=STEPS,
    gap_ms=st.integers(1, 15),
    lateness_ms=st.sampled_from([0, 0, 1, 6, 25]),
    part_records=st.sampled_from([0, 100]),
)
@settings(max_examples=200, deadline=None)
def test_sessions_equal_a_model_of_single_records(
    steps: list[Step], gap_ms: int, lateness_ms: int, part_records: int
) -> None:
    model = SessionModel(gap_ms, lateness_ms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_PART_RECORDS", part_records)
        run = OperatorRun(lambda: SessionWindowOperator("w", gap_ms, sum_of(), lateness_ms, "late"))
        check_against(model, run, steps)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(1, 5)), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 7), min_size=40, max_size=40),
    delay_ms=st.integers(0, 60),
    restores=st.sets(st.integers(0, 12), max_size=3),
    make=st.sampled_from(
        [
            lambda agg: WindowOperator("w", Tumbling(10), agg),
            lambda agg: WindowOperator("w", Sliding(12, 5), agg),
            lambda agg: SessionWindowOperator("w", 4, agg),
        ]
    ),
)
@settings(max_examples=120, deadline=None)
def test_every_batching_of_input_in_time_gives_the_same_output(
    rows: list[Row],
    cuts: list[int],
    delay_ms: int,
    restores: set[int],
    make: Callable[[Aggregator[Any, Any, Any]], Any],
) -> None:
    # Out of order by less than `delay_ms`, so that the watermark below makes nothing late.
    rows = [row for index, row in enumerate(rows) if row[1] >= max(r[1] for r in rows[: index + 1]) - delay_ms]
    aggregator = combined(n=count(), values=collect())

    def emit(key: Any, start: int, end: int, result: Any) -> Any:
        return key, start, end, result["n"], tuple(sorted(value for _, value in result["values"]))

    values = [(key, time, (index, value)) for index, (key, time, value) in enumerate(rows)]
    whole = OperatorRun(lambda: _emitting(make(aggregator), emit))
    whole.feed(values)
    whole.watermark(MAX_TIME)

    cut = OperatorRun(lambda: _emitting(make(aggregator), emit))
    begin = 0
    for number, length in enumerate(cuts):
        if portion := values[begin : begin + length]:
            cut.feed(portion)
            cut.watermark(max(time for _, time, _ in values[: begin + length]) - delay_ms - 1)
            if number in restores:
                cut.restore()
        begin += length
    cut.watermark(MAX_TIME)
    assert cut.taken() == whole.taken()
    assert cut.metrics.late_records == 0


def _emitting(operator: Any, emit: Any) -> Any:
    operator._emit_fn = emit
    return operator


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_windows_too_large_for_one_dictionary_give_the_same_output(steps: list[Step]) -> None:
    assigner = Sliding(10, 4)
    model = WindowModel(assigner.window_starts, assigner.size_ms, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panes, "_MERGED_KEYS", 1)
        check_against(model, OperatorRun(lambda: WindowOperator("w", assigner, sum_of(), 6, "late")), steps)


@given(steps=STEPS, lateness_ms=st.sampled_from([0, 6]), which=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_windows_on_rocksdb_equal_the_models(steps: list[Step], lateness_ms: int, which: int) -> None:
    model: WindowModel | SessionModel = SessionModel(8, lateness_ms)
    make: Callable[[], Any] = partial(SessionWindowOperator, "w", 8, sum_of(), lateness_ms, "late")
    if which:
        assigner = Sliding(10, 4) if which == 1 else Tumbling(7)
        model = WindowModel(assigner.window_starts, assigner.size_ms, lateness_ms)
        make = partial(WindowOperator, "w", assigner, sum_of(), lateness_ms, "late")
    with tempfile.TemporaryDirectory() as folder:
        run = OperatorRun(make, rocksdb_in=Path(folder))
        try:
            check_against(model, run, steps)
        finally:
            run.close()
