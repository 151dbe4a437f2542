"""Aggregators: batches, partial accumulators and single values all give the same."""

from __future__ import annotations

import copy
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_harness import OperatorRun

from checkdam.core.batch import Batch
from checkdam.core.errors import PipelineError, ValueTypeError
from checkdam.core.serde import serde_for
from checkdam.operators.aggregate import AggregateOperator, CombineOperator
from checkdam.operators.aggregators import (
    MISSING,
    Aggregator,
    collect,
    combined,
    count,
    max_of,
    mean_of,
    min_of,
    reducing,
    sum_of,
)


class Distinct(Aggregator[int, frozenset[int], int]):
    """An own aggregator, with nothing but what the base class asks for."""

    acc_type = frozenset[int]

    def create(self) -> frozenset[int]:
        return frozenset()

    def add(self, acc: frozenset[int], value: int) -> frozenset[int]:
        return acc | {value}

    def merge(self, a: frozenset[int], b: frozenset[int]) -> frozenset[int]:
        return a | b

    def result(self, acc: frozenset[int]) -> int:
        return len(acc)


def last(a: int, b: int) -> int:
    return b


CASES: dict[str, tuple[Aggregator[Any, Any, Any], Any]] = {
    "count": (count(), len),
    "sum": (sum_of(value_type=int), sum),
    "min": (min_of(value_type=int), min),
    "max": (max_of(value_type=int), max),
    "mean": (mean_of(value_type=int), lambda values: sum(values) / len(values)),
    "collect": (collect(value_type=int), list),
    "reducing": (reducing(last, int), lambda values: values[-1]),
    "own": (Distinct(), lambda values: len(set(values))),
    "function": (sum_of(lambda v: 2 * v), lambda values: 2 * sum(values)),
    "combined": (
        combined(n=count(), low=min_of(), own=Distinct()),
        lambda values: {"n": len(values), "low": min(values), "own": len(set(values))},
    ),
    "nested": (
        combined(all=combined(items=collect(), mean=mean_of())),
        lambda values: {"all": {"items": list(values), "mean": sum(values) / len(values)}},
    ),
}
ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1, max_size=30)
each_aggregator = pytest.mark.parametrize(("aggregator", "true"), list(CASES.values()), ids=list(CASES))


def expected(rows: list[tuple[int, int]], true: Any) -> dict[int, Any]:
    by_key: dict[int, list[int]] = defaultdict(list)
    for key, value in rows:
        by_key[key].append(value)
    return {key: true(values) for key, values in by_key.items()}


def results(aggregator: Aggregator[Any, Any, Any], cells: dict[int, Any]) -> dict[int, Any]:
    batched = dict(zip(cells, aggregator.results(list(cells.values())), strict=True))
    assert batched == {key: aggregator.result(acc) for key, acc in cells.items()}
    return batched


@each_aggregator
@given(rows=ROWS, cut=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_batches_partials_and_single_values_give_the_same(
    aggregator: Aggregator[Any, Any, Any], true: Any, rows: list[tuple[int, int]], cut: int
) -> None:
    keys, values = map(list, zip(*rows, strict=True))
    folded: dict[int, Any] = {}
    aggregator.fold(folded, keys[:cut], values[:cut])
    aggregator.fold(folded, keys[cut:], values[cut:])
    assert results(aggregator, folded) == expected(rows, true)

    one_by_one: dict[int, Any] = {}
    for key, value in rows:
        one_by_one[key] = aggregator.add(one_by_one.get(key, aggregator.create()), value)
    assert results(aggregator, one_by_one) == expected(rows, true)

    first: dict[int, Any] = {}
    second: dict[int, Any] = {}
    aggregator.fold(first, keys[:cut], values[:cut])
    aggregator.fold(second, keys[cut:], values[cut:])
    before = copy.deepcopy((first, second))
    absorbed: dict[int, Any] = {}
    # Both at once: an accumulator that came into the dictionary in this call is merged in the same call.
    aggregator.absorb(absorbed, [*first, *second], [*first.values(), *second.values()])
    assert results(aggregator, absorbed) == expected(rows, true)
    merged = {key: aggregator.merge(first.get(key, aggregator.create()), acc) for key, acc in second.items()}
    assert results(aggregator, first | merged) == expected(rows, true)
    assert (first, second) == before, "partial accumulators were changed"


@each_aggregator
def test_accumulators_survive_being_stored(aggregator: Aggregator[Any, Any, Any], true: Any) -> None:
    cells: dict[str, Any] = {}
    aggregator.fold(cells, ["a", "b", "a"], [1, 2, 3])
    serde = serde_for(aggregator.acc_type, "test")
    accs = list(cells.values())
    assert serde.decode_many(serde.encode_many(accs)) == accs


def test_a_result_is_not_changed_by_later_values() -> None:
    aggregator = collect()
    acc = aggregator.add(aggregator.create(), 1)
    result = aggregator.result(acc)
    aggregator.add(acc, 2)
    assert result == [1]


def test_integers_are_summed_exactly_and_booleans_count() -> None:
    cells: dict[str, Any] = {}
    sum_of().fold(cells, ["a", "a", "b", "d"], [2**70, 1, True, Decimal("0.1")])
    assert cells == {"a": 2**70 + 1, "b": 1, "d": Decimal("0.1")}
    assert type(cells["b"]) is int


def test_nothing_yet_has_a_result() -> None:
    for aggregator in (min_of(), max_of(), reducing(last), mean_of()):
        assert aggregator.result(aggregator.create()) is None
    assert min_of().merge(MISSING, 1) == min_of().merge(1, MISSING) == 1
    assert count().result(count().create()) == sum_of().result(sum_of().create()) == 0


def test_fields_are_read_by_name_and_function() -> None:
    cells: dict[str, Any] = {}
    combined(total=sum_of("x"), top=max_of(lambda v: -v["x"])).fold(cells, ["a", "a"], [{"x": 2}, {"x": 5}])
    assert cells == {"a": (7, -2)}


def test_what_is_no_aggregator_is_refused_by_name() -> None:
    with pytest.raises(PipelineError, match=r"`combined\(n=…\)` must be an aggregator .*got 3"):
        combined(n=3)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="at least one"):
        combined()
    with pytest.raises(PipelineError, match=r"`reducing\(fn\)`.*got 3"):
        reducing(3)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match=r"`sum`: the field must be .*got 3"):
        sum_of(3)  # type: ignore[arg-type]


def test_combined_has_a_declared_type_when_all_its_parts_have() -> None:
    assert combined(n=count(), s=sum_of(value_type=float)).acc_type == tuple[int, float]
    assert combined(n=count(), s=sum_of()).acc_type is None


def test_an_undeclared_accumulator_is_refused_where_pickle_is_forbidden() -> None:
    with pytest.raises(ValueTypeError, match="the aggregate of operator `op`"):
        AggregateOperator("op", sum_of(), allow_pickle=False)
    AggregateOperator("op", sum_of(value_type=int), allow_pickle=False)


def test_a_running_aggregate_yields_each_key_once_per_batch_at_its_last_time() -> None:
    run = OperatorRun(lambda: AggregateOperator("op", sum_of()))
    run.feed([("a", 10, 1), ("b", 20, 2), ("a", 15, 3)])
    assert run.outputs == [(("a", 4), 15), (("b", 2), 20)]
    run.outputs.clear()
    run.restore()
    run.feed([("a", 30, 5)])
    assert run.outputs == [(("a", 9), 30)]


def test_a_running_aggregate_needs_no_event_time() -> None:
    run = OperatorRun(lambda: AggregateOperator("op", reducing(max)))
    run.feed([("a", 0, 1), ("a", 0, 7), ("b", 0, 2)], timed=False)
    assert run.outputs == [(("a", 7), None), (("b", 2), None)]


def test_a_running_aggregate_forgets_keys_after_their_time_to_live() -> None:
    run = OperatorRun(lambda: AggregateOperator("op", count(), ttl_ms=100))
    run.feed([("a", 0, None), ("b", 0, None)])
    run.clock.advance(60)
    run.feed([("a", 0, None)])
    run.clock.advance(60)
    run.restore()
    run.outputs.clear()
    run.feed([("a", 0, None), ("b", 0, None)])
    assert run.outputs == [(("a", 3), 0), (("b", 1), 0)]


@each_aggregator
@given(batches=st.lists(ROWS, min_size=1, max_size=4), restore=st.booleans())
@settings(max_examples=15, deadline=None)
def test_combining_before_the_shuffle_changes_no_result(
    aggregator: Aggregator[Any, Any, Any], true: Any, batches: list[list[tuple[int, int]]], restore: bool
) -> None:
    combine = CombineOperator("c", aggregator)
    run = OperatorRun(lambda: AggregateOperator("op", aggregator, partial_input=True))
    for rows in batches:
        keys, values = map(list, zip(*rows, strict=True))
        (partials,) = combine.process(Batch(values, list(range(len(rows))), keys), 0)
        assert partials.keys == list(dict.fromkeys(keys))
        assert partials.times == list(dict(zip(keys, range(len(rows)), strict=True)).values())
        run.take(run.operator.process(partials, 0))
        if restore:
            run.restore()
    latest = {value[0]: value[1] for value, _ in run.outputs}
    assert latest == expected([row for rows in batches for row in rows], true)


def test_keyed_operators_refuse_a_stream_without_keys() -> None:
    for operator in (CombineOperator("op", count()), OperatorRun(lambda: AggregateOperator("op", count())).operator):
        with pytest.raises(PipelineError, match="operator `op` needs a keyed stream"):
            list(operator.process(Batch([1]), 0))


def test_tables_are_known_before_the_operator_is_opened() -> None:
    (spec,) = AggregateOperator("op", count()).tables()
    assert (spec.id, spec.serde.name, spec.ttl_ms) == ("op/aggregate", "msgpack:int", 0)
