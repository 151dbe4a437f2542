"""Stateless operators: values, times, tags and bounded outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count as naturals
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from window_harness import OperatorRun

from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.errors import PipelineError, UserCodeError
from checkdam.operators.base import Operator
from checkdam.operators.stateless import (
    FilterOperator,
    FlatMapOperator,
    KeyByOperator,
    MapBatchOperator,
    MapOperator,
    SplitOperator,
    TimestampOperator,
)
from checkdam.operators.watermarks import bounded_out_of_orderness, from_source, monotonous


@dataclass
class Point:
    x: int


def run(operator: Operator, batch: Batch) -> list[Batch]:
    return list(operator.process(batch, 0))


def rows(batches: Iterable[Batch]) -> list[tuple[Any, Any]]:
    return [row for b in batches for row in zip(b.values, b.times or [None] * len(b), strict=True)]


def test_map_keeps_times_and_drops_keys_and_tag() -> None:
    (out,) = run(MapOperator("m", str), Batch([1, 2], [10, 20], ["a", "b"], "side"))
    assert (out.values, out.times, out.keys, out.tag) == (["1", "2"], [10, 20], None, "")


def test_filter_keeps_what_is_true_with_its_time() -> None:
    (out,) = run(FilterOperator("f", lambda v: v % 2), Batch([1, 2, 3], [10, 20, 30], ["a", "b", "c"]))
    assert (out.values, out.times, out.keys) == ([1, 3], [10, 30], None)
    assert run(FilterOperator("f", lambda v: False), Batch([1, 2])) == []
    assert run(FilterOperator("f", bool), Batch([1]))[0].times is None


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=30), st.sampled_from([list, tuple, iter, dict.fromkeys]))
def test_flat_map_repeats_the_time_of_the_record(parts: list[list[int]], kind: Any) -> None:
    batch = Batch(list(range(len(parts))), [10 * i for i in range(len(parts))])
    expanded = [list(kind(part)) for part in parts]
    out = rows(run(FlatMapOperator("f", lambda i: kind(parts[i])), batch))
    assert out == [(value, 10 * i) for i, part in enumerate(expanded) for value in part]
    untimed = run(FlatMapOperator("f", lambda i: kind(parts[i])), Batch(batch.values))
    assert all(b.times is None for b in untimed)


def test_flat_map_hands_out_what_it_has_before_it_reads_on() -> None:
    out = iter(FlatMapOperator("f", lambda v: naturals()).process(Batch([1], [7]), 0))
    for batch in islice(out, 3):
        assert len(batch) < 10_000
        assert set(batch.times or ()) == {7}
    many = FlatMapOperator("f", lambda v: [v] * 100).process(Batch(list(range(4096))), 0)
    assert max(map(len, many)) <= 100_000


def test_flat_map_of_something_that_is_no_iterable_names_the_record() -> None:
    with pytest.raises(UserCodeError, match="failed on record 5"):
        run(FlatMapOperator("f", lambda v: None), Batch([5]))  # type: ignore[arg-type,return-value]


def test_map_batch_keeps_times_where_the_length_stays() -> None:
    (out,) = run(MapBatchOperator("b", lambda values: [v + 1 for v in values]), Batch([1, 2], [10, 20]))
    assert (out.values, out.times) == ([2, 3], [10, 20])
    (out,) = run(MapBatchOperator("b", lambda values: (v + 1 for v in values)), Batch([1, 2], [10, 20]))
    assert out.values == [2, 3]


def test_map_batch_may_return_times_of_its_own() -> None:
    (out,) = run(MapBatchOperator("b", lambda values: ([sum(values)], [99])), Batch([1, 2], [10, 20]))
    assert (out.values, out.times) == ([3], [99])
    (out,) = run(MapBatchOperator("b", lambda values: [sum(values)]), Batch([1, 2]))
    assert (out.values, out.times) == ([3], None)
    assert run(MapBatchOperator("b", lambda values: ([], [])), Batch([1], [1])) == []


def test_map_batch_may_change_the_list_it_is_given() -> None:
    batch = Batch([3, 1, 2])
    run(MapBatchOperator("b", lambda values: values.sort() or values), batch)
    assert batch.values == [3, 1, 2]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1], r"as many values as times.*got 1 values for 2 times"),
        (None, r"got None"),
        ("ab", r"got 'ab'"),
        (([1], [2], [3]), r"a tuple of 3"),
        (([1], [2, 3]), r"got 1 values for 2 times"),
        (([1], ["now"]), r"ms since the epoch as int \(got 'now'\)"),
    ],
)
def test_map_batch_refuses_what_is_no_batch(returned: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        run(MapBatchOperator("b", lambda values: returned), Batch([1, 2], [10, 20]))


@pytest.mark.parametrize(
    "values",
    [[{"x": 1}, {"x": 2}], [Point(1), Point(2)], [{"x": 1}, Point(2)], []],
    ids=["dicts", "objects", "mixed", "none"],
)
def test_key_by_reads_a_named_field(values: list[Any]) -> None:
    (out,) = run(KeyByOperator("k", "x"), Batch(values, [0] * len(values)))
    assert out.keys == [1, 2][: len(values)]
    assert out.values is values


def test_key_by_takes_a_function_and_refuses_anything_else() -> None:
    (out,) = run(KeyByOperator("k", lambda v: v % 2), Batch([1, 2], None))
    assert out.keys == [1, 0]
    with pytest.raises(PipelineError, match=r"operator `k`: the field must be a name or a function .*got 7"):
        KeyByOperator("k", 7)  # type: ignore[arg-type]


def test_split_sends_records_by_tag() -> None:
    tags = {1: "odd", 2: None, 3: "odd", 4: ""}
    out = run(SplitOperator("s", lambda v: tags[v]), Batch([1, 2, 3, 4], [10, 20, 30, 40]))
    assert [(b.tag, b.values, b.times) for b in out] == [("", [2, 4], [20, 40]), ("odd", [1, 3], [10, 30])]
    (whole,) = run(SplitOperator("s", lambda v: "all"), Batch([1, 2]))
    assert (whole.tag, whole.values) == ("all", [1, 2])
    assert run(SplitOperator("s", lambda v: "all"), Batch([])) == []


def test_split_refuses_a_tag_that_is_no_name() -> None:
    with pytest.raises(PipelineError, match=r"operator `s`.*got 9 for record 2"):
        run(SplitOperator("s", lambda v: 9 if v == 2 else None), Batch([1, 2]))  # type: ignore[arg-type,return-value]


def test_timestamps_replace_times_and_watermark() -> None:
    subtask = OperatorRun(lambda: TimestampOperator("t", bounded_out_of_orderness(5, timestamp="at")))
    operator = subtask.operator
    assert operator.output_watermark(1_000) == MIN_TIME
    (out,) = run(operator, Batch([{"at": 30}, {"at": 20}], [1, 2]))
    assert out.times == [30, 20]
    assert subtask.wakes == 1, "nothing else makes the task loop ask for the new watermark"
    assert operator.output_watermark(1_000) == 24
    assert operator.output_watermark(MAX_TIME) == MAX_TIME
    run(operator, Batch([{"at": 3}]))
    assert subtask.wakes == 1
    subtask.restore()
    assert subtask.operator.output_watermark(MIN_TIME) == 24


def test_timestamps_take_datetimes() -> None:
    operator = OperatorRun(lambda: TimestampOperator("t", monotonous(lambda v: v))).operator
    (out,) = run(operator, Batch([datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]))
    assert out.times == [1_000]


def test_timestamps_can_leave_the_watermark_to_the_source() -> None:
    operator = OperatorRun(lambda: TimestampOperator("t", from_source(timestamp="at"))).operator
    run(operator, Batch([{"at": 30}]))
    assert operator.output_watermark(12) == 12


def test_a_record_without_a_time_is_named() -> None:
    operator = OperatorRun(lambda: TimestampOperator("t", monotonous(timestamp="at"))).operator
    with pytest.raises(UserCodeError, match=r"operator `t` failed on record {'no': 1}"):
        run(operator, Batch([{"at": 1}, {"no": 1}, {"at": 2}]))


def test_timestamps_refuse_a_strategy_that_cannot_work_there() -> None:
    with pytest.raises(PipelineError, match=r"operator `t`.*pass `timestamp=`"):
        TimestampOperator("t", monotonous())
    with pytest.raises(PipelineError, match="operator `t`: idleness"):
        TimestampOperator("t", monotonous("at").with_idleness("5s"))
