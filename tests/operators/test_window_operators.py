"""Windows and sessions: late records, processing time, restores, errors, and bounded output."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from window_harness import KEY_GROUPS, OperatorRun

from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.errors import PipelineError, UserCodeError
from checkdam.core.keys import key_group
from checkdam.operators.aggregators import collect, count, sum_of
from checkdam.operators.assigners import Panes, Session, Sliding, Tumbling, WindowResult
from checkdam.operators.progress import EventProgress
from checkdam.operators.sessions import SessionWindowOperator
from checkdam.operators.windows import WindowOperator


def values(run: OperatorRun) -> set[Any]:
    found = {(w.key, w.start_ms, w.value) for w, _ in run.outputs}
    run.outputs.clear()
    return found


def test_durations_are_taken_in_every_form() -> None:
    assert Tumbling("1h") == Tumbling(timedelta(hours=1)) == Tumbling(3_600_000)
    assert (Sliding("1m", "10s").slide_ms, Session("30s").gap_ms) == (10_000, 30_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tumbling("an hour"), r"`Tumbling\(size=…\)` must be a duration such as .*got 'an hour'"),
        (lambda: Tumbling(0), r"`Tumbling\(size=…\)` must be at least 1 ms \(got 0\)"),
        (lambda: Tumbling(1.5), r"`Tumbling\(size=…\)` must be a timedelta.*got 1.5"),  # type: ignore[arg-type]
        (lambda: Tumbling(True), r"got True"),
        (lambda: Tumbling(10, offset=10), r"`Tumbling\(offset=…\)` must be shorter than the 10 ms"),
        (lambda: Sliding(10, 20), r"`Sliding\(slide=…\)` must be at most the size.*slide 20 and size 10"),
        (lambda: Sliding(10, "x"), r"`Sliding\(slide=…\)` must be a duration"),
        (lambda: Session(-1), r"`Session\(gap=…\)` must be at least 1 ms"),
        (lambda: WindowOperator("w", Session(5), count()), r"operator `w`: windows must be .*Session"),  # type: ignore[arg-type]
        (lambda: WindowOperator("w", Tumbling(5), count(), -1), r"operator `w`: allowed lateness must be .*got -1"),
        (lambda: WindowOperator("w", Tumbling(5), count(), 1, processing_time=True), r"operator `w`: nothing is late"),
        (lambda: SessionWindowOperator("w", 0, count()), r"operator `w`: the gap .*got 0"),
    ],
)
def test_what_is_no_window_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        make()


@given(
    size=st.integers(1, 30),
    slide=st.integers(1, 30),
    offset=st.integers(-29, 29),
    time=st.integers(-200, 200),
    watermark=st.integers(-200, 200),
    lateness=st.integers(0, 20),
)
def test_panes_agree_with_windows(size: int, slide: int, offset: int, time: int, watermark: int, lateness: int) -> None:
    slide = min(slide, size)
    assigner = Sliding(size, slide, offset % slide)
    starts = [s for s in range(time - size + 1, time + 1) if (s - offset) % slide == 0]
    assert list(assigner.window_starts(time)) == starts
    panes = Panes.of(assigner)
    pane = panes.start_of(time)
    assert panes.starts([time]) == [pane]
    assert pane <= time < panes.end_of(pane)
    assert {panes.start_of(t) for t in range(pane, panes.end_of(pane))} == {pane}
    assert list(panes.ends(pane)) == [s + size for s in starts]
    assert all(pane in panes.of_window(start) for start in starts)
    assert sum(panes.end_of(p) - p for p in panes.of_window(starts[0])) == size
    gone = all(start + size - 1 + lateness <= watermark for start in starts)
    assert (time < panes.late_before(watermark, lateness)) == gone


def test_a_tumbling_window_is_one_range() -> None:
    assert list(Tumbling(10, offset=-3).window_starts(7)) == [7]
    assert list(Tumbling(10, offset=-3).window_starts(6)) == [-3]


def test_late_records_are_counted_and_go_to_their_side_output() -> None:
    for make in (
        lambda: WindowOperator("w", Tumbling(10), count(), late_tag="late"),
        lambda: SessionWindowOperator("w", 10, count(), late_tag="late"),
    ):
        run = OperatorRun(make)
        run.watermark(100)
        run.feed([("a", 5, "old"), ("a", 105, "new")])
        assert (run.late, run.metrics.late_records) == ([("old", 5)], 1)
        run.watermark(MAX_TIME)
        assert len(run.outputs) == 1


def test_late_records_without_a_side_output_are_only_counted() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Tumbling(10), count()))
    run.watermark(100)
    run.feed([("a", 5, "old")])
    assert (run.late, run.outputs, run.metrics.late_records) == ([], [], 1)


def test_a_window_is_updated_once_per_key_and_batch_while_it_is_kept() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Sliding(10, 5), sum_of(), 10))
    run.feed([("a", 1, 1), ("b", 6, 1)])
    run.watermark(9)
    values(run)
    run.feed([("a", 2, 2), ("a", 7, 4), ("a", 3, 8)])
    assert values(run) == {("a", -5, 11), ("a", 0, 15)}
    run.watermark(14)
    assert values(run) == {("a", 5, 4), ("b", 5, 1)}


def test_a_fired_session_is_yielded_again_when_it_changes() -> None:
    run = OperatorRun(lambda: SessionWindowOperator("w", 10, sum_of(), 100))
    run.feed([("a", 0, 1)])
    run.watermark(20)
    assert run.outputs == [(WindowResult("a", 0, 10, 1), 9)]
    run.outputs.clear()
    run.restore()
    run.watermark(20)
    run.feed([("a", 5, 2)])
    assert run.outputs == [(WindowResult("a", 0, 15, 3), 14)]
    run.outputs.clear()
    run.feed([("a", 15, 4)])
    assert run.outputs == [], "it ends after the watermark now"
    run.watermark(24)
    assert run.outputs == [(WindowResult("a", 0, 25, 7), 24)]


def test_a_record_joins_the_sessions_on_both_sides() -> None:
    run = OperatorRun(lambda: SessionWindowOperator("w", 10, collect()))
    run.feed([("a", 0, "x"), ("a", 40, "z"), ("a", 20, "y")])
    run.feed([("a", 10, "xy"), ("a", 30, "yz")])
    run.watermark(MAX_TIME)
    assert [(w.start_ms, w.end_ms, sorted(w.value)) for w, _ in run.outputs] == [(0, 50, ["x", "xy", "y", "yz", "z"])]


def test_a_growing_session_costs_one_timer_per_gap() -> None:
    run = OperatorRun(lambda: SessionWindowOperator("w", 10, count()))
    registered: list[int] = []
    timers = run.operator._timers
    register = timers.register
    timers.register = lambda time_ms, key, namespace=0: (registered.append(time_ms), register(time_ms, key, namespace))
    for time in range(0, 100, 2):
        run.feed([("a", time, None)])
        run.watermark(time)
    run.watermark(MAX_TIME)
    assert len(registered) < 15
    assert run.outputs == [(WindowResult("a", 0, 108, 50), 107)]


def test_windows_do_not_fire_again_for_key_groups_that_were_further_before_a_rescale() -> None:
    keys = range(20)
    ahead = {group for group in range(KEY_GROUPS) if group % 2}
    floors = {group: 100 if group in ahead else 9 for group in range(KEY_GROUPS)}
    rows = [(key, 15, 1) for key in keys]
    run = OperatorRun(lambda: WindowOperator("w", Tumbling(10), count(), 200, "late"))
    run.feed(rows)
    run.watermark(9)
    run.restore(floors)
    further = {key for key in keys if key_group(key, KEY_GROUPS) in ahead}
    assert 0 < len(further) < 20
    run.feed(rows)
    assert values(run) == {(key, 10, 2) for key in further}, "updates of what has fired there"
    run.watermark(50)
    assert values(run) == {(key, 10, 2) for key in keys if key not in further}
    run.feed([(key, 16, 1) for key in keys])
    assert values(run) == {(key, 10, 3) for key in keys}


def test_lateness_is_judged_by_the_key_groups_own_progress_after_a_rescale() -> None:
    floors = {group: 100 if group % 2 else MIN_TIME for group in range(KEY_GROUPS)}
    late = {key for key in range(20) if key_group(key, KEY_GROUPS) % 2}
    for make in (
        lambda: WindowOperator("w", Tumbling(10), count(), late_tag="late"),
        lambda: SessionWindowOperator("w", 10, count(), late_tag="late"),
    ):
        run = OperatorRun(make)
        run.restore(floors)
        run.feed([(key, 50, key) for key in range(20)])
        assert {value for value, _ in run.late} == late
        run.watermark(MAX_TIME)
        assert {w.key for w, _ in run.outputs} == set(range(20)) - late


def test_groups_without_a_floor_have_none() -> None:
    progress = EventProgress(range(4), {1: 50}, lambda key: key)
    assert (progress.low_ms, progress.high_ms) == (MIN_TIME, 50)
    assert [progress.of(key) for key in range(3)] == [MIN_TIME, 50, MIN_TIME]
    progress.advance(40)
    assert progress.by_range() == [(0, 1, 40), (1, 2, 50), (2, 4, 40)]
    progress.advance(60)
    progress.advance(10)
    assert (progress.low_ms, progress.high_ms, progress.by_range()) == (60, 60, [(0, 4, 60)])
    assert progress.floor_reached(51) is None


def test_processing_time_windows_go_by_the_clock() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Tumbling(10), count(), processing_time=True), now_ms=103)
    run.feed([("a", 0, None), ("b", 0, None)], timed=False)
    run.watermark(MAX_TIME)
    assert run.operator.next_processing_time() == 110
    run.tick(109)
    assert not run.outputs
    run.feed([("a", 0, None)], timed=False)
    run.restore()
    run.tick(110)
    assert run.taken() == Counter([(WindowResult("a", 100, 110, 2), 109), (WindowResult("b", 100, 110, 1), 109)])
    assert run.operator.next_processing_time() is None
    assert run.backend.size_hint() == 0


def test_sliding_processing_time_windows_fire_once_across_a_restore() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Sliding(30, 10), count(), processing_time=True), now_ms=105)
    run.feed([("a", 0, None)])
    run.tick(110)
    assert values(run) == {("a", 80, 1)}
    run.restore()
    run.restore()
    run.tick(110)
    assert values(run) == set()
    run.feed([("a", 0, None)])
    run.tick(200)
    assert values(run) == {("a", 90, 2), ("a", 100, 2), ("a", 110, 1)}


def test_processing_time_windows_that_are_open_at_the_end_fire() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Tumbling("1h"), count(), processing_time=True), now_ms=5)
    run.feed([("a", 0, None)])
    run.watermark(MAX_TIME)
    run.take(run.operator.on_end())
    assert values(run) == {("a", 0, 1)}


def test_a_window_function_makes_the_output() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Tumbling(10), count(), emit_fn=lambda *row: row))
    run.feed([("a", 12, None)])
    run.watermark(MAX_TIME)
    assert run.outputs == [(("a", 10, 20, 1), 19)]


def test_a_window_function_that_fails_names_the_key() -> None:
    run = OperatorRun(lambda: WindowOperator("w", Tumbling(10), count(), emit_fn=lambda *row: 1 // 0))
    run.feed([("the key", 12, None)])
    with pytest.raises(UserCodeError, match="operator `w` failed on record 'the key'"):
        run.watermark(MAX_TIME)


@pytest.mark.parametrize(
    "make", [lambda: WindowOperator("w", Tumbling(10), count()), lambda: SessionWindowOperator("w", 10, count())]
)
def test_event_time_windows_need_event_times_and_keys(make: Any) -> None:
    operator = OperatorRun(make).operator
    with pytest.raises(PipelineError, match="operator `w` works in event time, but its records have no times"):
        list(operator.process(Batch([1], None, ["a"]), 0))
    with pytest.raises(PipelineError, match="operator `w` needs a keyed stream"):
        list(operator.process(Batch([1], [1]), 0))
    assert list(operator.process(Batch([], [], []), 0)) == []


@pytest.mark.parametrize("assigner", [Tumbling(10), Sliding(10, 5)], ids=str)
def test_a_window_of_many_keys_comes_out_in_portions(assigner: Any) -> None:
    run = OperatorRun(lambda: WindowOperator("w", assigner, count()))
    for start in range(0, 100_000, 10_000):
        run.feed([(key, 5 * (key % 2), None) for key in range(start, start + 10_000)])
    sizes = [len(batch) for batch in run.operator.on_watermark(9)]
    assert sum(sizes) >= 100_000
    assert max(sizes) <= 10_000


def test_tables_are_known_before_the_operators_are_opened() -> None:
    (panes,) = WindowOperator("w", Tumbling(10), count()).tables()
    (sessions,) = SessionWindowOperator("s", 10, count()).tables()
    assert (panes.id, panes.serde.name) == ("w/panes", "msgpack:int")
    assert sessions.id == "s/sessions"
    assert sessions.serde.decode(sessions.serde.encode(((1, 2, True, 3),))) == ((1, 2, True, 3),)
