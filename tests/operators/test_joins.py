"""Interval and window joins against a naive model, for every batching and restore."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from function_run import KEY_GROUPS, FunctionRun, Row
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.errors import PipelineError, UserCodeError, ValueTypeError
from checkdam.operators.assigners import Session, Sliding, Tumbling
from checkdam.operators.calls import CHUNK
from checkdam.operators.joins import IntervalJoinOperator, WindowJoinOperator
from checkdam.state.backends import BackendKind

KINDS: list[BackendKind] = ["hashmap", "rocksdb"]
LEFT, RIGHT = 0, 1


def pair(left: Any, right: Any) -> Any:
    return left, right


def interval(lower: int, upper: int, kind: BackendKind = "hashmap", **more: Any) -> FunctionRun:
    return FunctionRun(lambda: IntervalJoinOperator("op", lower, upper, pair, late_tag="late", **more), kind)


def window(assigner: Any, lateness: int = 0, kind: BackendKind = "hashmap", **more: Any) -> FunctionRun:
    return FunctionRun(lambda: WindowJoinOperator("op", assigner, pair, lateness, late_tag="late", **more), kind)


# What is fed: (port, rows) or a watermark. Values are unique, so that pairs can be told apart.
Step = tuple[int, list[Row]] | int


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = []
    number = 0
    mark = -40
    for _ in range(draw(st.integers(1, 12))):
        if draw(st.integers(0, 2)) == 0:
            mark += draw(st.integers(1, 15))
            steps.append(mark)
            continue
        batch: list[Row] = []
        for _ in range(draw(st.integers(1, 6))):
            batch.append((draw(st.integers(0, 1)), draw(st.integers(-30, 60)), number))
            number += 1
        steps.append((draw(st.integers(0, 1)), batch))
    return steps


def play(run: FunctionRun, steps: list[Step], draw: Any) -> Counter[Any]:
    for step in steps:
        if isinstance(step, int):
            run.watermark(step)
        else:
            run.feed(*step[1], port=step[0])
        if draw(st.integers(0, 3)) == 0:
            run.restore()
    run.watermark(MAX_TIME)
    assert not left_behind(run)
    run.close()
    return Counter(run.outputs)


def left_behind(run: FunctionRun) -> list[Any]:
    """What the join still keeps for keys 0 and 1, as far as can be seen from outside."""
    found: list[Any] = []
    for spec in run.operator.tables():  # type: ignore[attr-defined]
        if spec.kind == "map":
            found += [entry for key in (0, 1) for entry in run.backend.map_table(spec).items(key)]
        else:
            found += run.backend.table(spec).namespaces()
    return found


def interval_model(steps: list[Step], lower: int, upper: int) -> Counter[Any]:
    out: Counter[Any] = Counter()
    seen: list[tuple[int, Row]] = []
    mark = MIN_TIME
    for step in steps:
        if isinstance(step, int):
            mark = step
            continue
        port, rows = step
        for row in rows:
            key, time_ms, value = row
            assert time_ms is not None
            if time_ms < mark:
                out["late", value, time_ms] += 1
                continue
            for other_port, (other_key, other_ms, other) in seen:
                if other_port == port or other_key != key or other_ms is None:
                    continue
                distance = other_ms - time_ms if port == LEFT else time_ms - other_ms
                if lower <= distance <= upper:
                    joined = (value, other) if port == LEFT else (other, value)
                    out["", joined, max(time_ms, other_ms)] += 1
            seen.append((port, row))
    return out


@settings(max_examples=120, deadline=None)
@given(histories(), st.integers(-12, 12), st.integers(0, 20), st.data())
def test_an_interval_join_makes_the_models_pairs(steps: list[Step], lower: int, span: int, data: st.DataObject) -> None:
    assert play(interval(lower, lower + span), steps, data.draw) == interval_model(steps, lower, lower + span)


def window_model(steps: list[Step], assigner: Any, lateness: int) -> Counter[Any]:
    """Pairs per window, once each, made of records of which the later one came while the window was kept."""
    out: Counter[Any] = Counter()
    kept: list[tuple[int, Row, set[int]]] = []
    mark = MIN_TIME
    for step in steps:
        if isinstance(step, int):
            mark = step
            continue
        port, rows = step
        for row in rows:
            key, time_ms, value = row
            assert time_ms is not None
            starts = {
                start for start in assigner.window_starts(time_ms) if start + assigner.size_ms - 1 + lateness > mark
            }
            if not starts:
                out["late", value, time_ms] += 1
                continue
            for other_port, (other_key, _, other), other_starts in kept:
                if other_port == port or other_key != key:
                    continue
                for start in starts & other_starts:
                    joined = (value, other) if port == LEFT else (other, value)
                    out["", joined, start + assigner.size_ms - 1] += 1
            kept.append((port, row, starts))
    return out


assigners = st.one_of(
    st.builds(Tumbling, st.integers(1, 20)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5)).map(
        lambda drawn: Sliding(max(drawn[:2]), min(drawn[:2]), drawn[2] % min(drawn[:2]))
    ),
)


@settings(max_examples=120, deadline=None)
@given(histories(), assigners, st.sampled_from([0, 0, 5, 30]), st.data())
def test_a_window_join_makes_the_models_pairs(
    steps: list[Step], assigner: Any, lateness: int, data: st.DataObject
) -> None:
    assert play(window(assigner, lateness), steps, data.draw) == window_model(steps, assigner, lateness)


@pytest.mark.parametrize("kind", KINDS)
def test_joins_survive_a_restore_on_every_backend(kind: BackendKind) -> None:
    for run, at_ms in (
        (interval(-5, 5, kind, left_serde_type=str, right_serde_type=str), 12),
        (window(Tumbling(20), 0, kind, left_serde_type=str, right_serde_type=str), 19),
    ):
        run.feed(("a", 10, "left"), ("b", 10, "other"))
        run.feed(("a", 10, "same time"))
        run.restore()
        run.feed(("a", 12, "right"), ("c", 12, "nobody"), port=RIGHT)
        run.restore()
        run.watermark(MAX_TIME)
        assert run.timed() == Counter({(("left", "right"), at_ms): 1, (("same time", "right"), at_ms): 1})
        run.close()


def test_late_records_are_counted_and_dropped_where_nobody_wants_them() -> None:
    for make in (
        lambda: IntervalJoinOperator("op", -5, 5, pair),
        lambda: WindowJoinOperator("op", Tumbling(10), pair),
    ):
        run = FunctionRun(make)
        run.watermark(100)
        run.feed(("a", 50, "late"), ("a", 120, "in time"))
        run.feed(("a", 120, "partner"), ("a", 30, "late"), port=RIGHT)
        run.watermark(MAX_TIME)
        assert run.taken() == [("in time", "partner")]
        assert run.metrics.late_records == 2


def test_after_a_rescale_lateness_is_judged_by_the_key_groups_own_floor() -> None:
    for run in (interval(-5, 5), window(Tumbling(10))):
        ahead = run.backend.key_group("a")
        behind = next(key for key in "bcdefgh" if run.backend.key_group(key) != ahead)
        run.restore(floors={group: 100 if group == ahead else 20 for group in range(KEY_GROUPS)})
        run.feed(("a", 50, "late"), (behind, 50, "left"))
        run.feed(("a", 50, "late"), (behind, 51, "right"), port=RIGHT)
        run.watermark(60)
        run.feed(("a", 90, "late"), (behind, 90, "next"))
        run.watermark(MAX_TIME)
        assert run.taken() == [("left", "right")]
        assert run.taken("late") == ["late"] * 3


def test_a_window_that_fired_before_a_rescale_does_not_fire_again() -> None:
    run = window(Tumbling(10), lateness=100)
    run.feed(("a", 5, "left"))
    run.feed(("a", 5, "right"), port=RIGHT)
    run.watermark(9)
    assert run.taken() == [("left", "right")]
    group = run.backend.key_group("a")
    run.restore(floors={each: 9 if each == group else 0 for each in range(KEY_GROUPS)})
    run.watermark(8)
    run.watermark(50)
    assert run.taken() == []


def test_a_late_record_that_is_allowed_adds_its_own_pairs_only() -> None:
    run = window(Tumbling(10), lateness=20)
    run.feed(("a", 1, "l1"), ("a", 2, "l2"))
    run.feed(("a", 3, "r1"), port=RIGHT)
    run.watermark(10)
    assert sorted(run.taken()) == [("l1", "r1"), ("l2", "r1")]
    run.feed(("a", 4, "r2"), port=RIGHT)
    run.feed(("a", 5, "l3"))
    assert sorted(run.taken()) == [("l1", "r2"), ("l2", "r2"), ("l3", "r1"), ("l3", "r2")]
    run.watermark(29)
    run.feed(("a", 6, "l4"))
    assert run.taken("late") == ["l4"]


@pytest.mark.parametrize("make", [lambda: interval(0, 0), lambda: window(Tumbling(10))])
def test_a_product_of_many_records_comes_out_in_bounded_batches(make: Any) -> None:
    run = make()
    run.feed(*(("a", 5, number) for number in range(200)))
    run.feed(*(("a", 5, number) for number in range(100)), port=RIGHT)
    run.watermark(MAX_TIME)
    assert len(run.taken()) == 20_000
    assert max(run.sizes) <= CHUNK


def test_state_whose_partners_have_all_gone_by_is_removed() -> None:
    run = interval(-10, 10)
    for start in range(0, 10_000, 10):
        run.feed(*((start // 10 % 5, start + number, number) for number in range(10)))
        run.feed((0, start, 0), port=RIGHT)
        run.watermark(start)
    assert run.backend.size_hint() < 200


def test_an_error_in_the_join_function_names_the_pair() -> None:
    run = FunctionRun(lambda: IntervalJoinOperator("op", 0, 0, lambda left, right: left / right))
    run.feed(("a", 1, 6))
    with pytest.raises(UserCodeError, match=r"operator `op` failed on record \(6, 0\)"):
        run.feed(("a", 1, 0), port=RIGHT)


def test_wrong_arguments_and_streams_are_refused_by_name() -> None:
    with pytest.raises(
        PipelineError, match=r"the interval of join `op` must not end before it begins \(got 5 ms to 4 ms"
    ):
        IntervalJoinOperator("op", 5, 4, pair)
    with pytest.raises(PipelineError, match="window join `op` takes Tumbling or Sliding windows"):
        WindowJoinOperator("op", Session(5), pair)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="allowed lateness must be"):
        WindowJoinOperator("op", Tumbling(5), pair, -1)
    for run in (interval(0, 1), window(Tumbling(5))):
        with pytest.raises(PipelineError, match="operator `op` needs a keyed stream"):
            run.feed((None, 1, "x"))
        with pytest.raises(PipelineError, match="operator `op` works in event time"):
            run.feed(("a", None, "x"))


def test_tables_are_known_before_open_and_refuse_pickle_where_forbidden() -> None:
    join = WindowJoinOperator("op", Tumbling(5), pair, left_serde_type=int)
    assert [(spec.id, spec.serde.name) for spec in join.tables()] == [
        ("op/left", "msgpack:list[int]"),
        ("op/right", "pickle"),
    ]
    with pytest.raises(ValueTypeError, match="the left records of join `op`"):
        IntervalJoinOperator("op", 0, 1, pair, allow_pickle=False).tables()


def test_an_empty_batch_of_late_records_makes_no_output() -> None:
    run = interval(0, 1)
    run.watermark(10)
    assert [batch.tag for batch in run.operator.process(Batch([1], [5], ["a"]), 0)] == ["late"]
