"""Errors in users' functions name the operator, the record and the user's own frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from checkdam.core.batch import Batch
from checkdam.core.errors import KeyTypeError, UserCodeError
from checkdam.core.names import shown
from checkdam.operators.aggregate import CombineOperator
from checkdam.operators.aggregators import Aggregator, combined, count, mean_of, min_of, reducing, sum_of
from checkdam.operators.stateless import FilterOperator, FlatMapOperator, KeyByOperator, MapBatchOperator, MapOperator
from checkdam.operators.user import Records, call_many, user_error, user_traceback


def fail_on_three(value: Any) -> Any:
    if value == 3:
        raise ValueError("three is not allowed")
    return [value]


def test_the_failing_record_is_named_wherever_it_stands() -> None:
    for position in range(5):
        values = [0] * 5
        values[position] = 3
        with pytest.raises(UserCodeError, match="operator `parse` failed on record 3"):
            call_many("parse", fail_on_three, values)


def test_the_traceback_holds_the_users_frames_alone() -> None:
    with pytest.raises(UserCodeError) as caught:
        call_many("parse", fail_on_three, [1, 2, 3])
    text = caught.value.user_traceback
    assert "fail_on_three" in text
    assert "ValueError: three is not allowed" in text
    assert "user.py" not in text
    assert isinstance(caught.value.__cause__, ValueError)


def test_frames_of_other_libraries_stay() -> None:
    with pytest.raises(UserCodeError) as caught:
        call_many("parse", json.loads, ["{"])
    assert "json" in caught.value.user_traceback


def test_the_causes_of_an_error_are_shown_too() -> None:
    def wrap(value: Any) -> Any:
        try:
            return fail_on_three(value)
        except ValueError as error:
            raise RuntimeError("cannot wrap") from error

    with pytest.raises(UserCodeError) as caught:
        call_many("parse", wrap, [3])
    assert "three is not allowed" in caught.value.user_traceback
    assert "RuntimeError: cannot wrap" in caught.value.user_traceback


def test_an_escaped_stop_iteration_does_not_swallow_records() -> None:
    def stop(value: int) -> int:
        return next(iter(())) if value == 2 else value

    with pytest.raises(UserCodeError, match="failed on record 2") as caught:
        call_many("next", stop, [1, 2, 3])
    assert "StopIteration" in str(caught.value)


def test_long_and_broken_reprs_are_cut() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert len(shown("x" * 1000)) == 200
    assert "Broken" in shown(Broken())


def test_an_error_that_names_its_record_is_not_wrapped_again() -> None:
    inner = user_error("inner", 1, ValueError("x"))
    assert user_error("outer", 2, inner) is inner


def test_a_group_of_errors_is_shown_whole() -> None:
    assert "first" in user_traceback(ExceptionGroup("several", [ValueError("first"), ValueError("second")]))


def test_records_know_how_far_they_were_read() -> None:
    records = Records([10, 20, 30])
    assert records.current() == [10, 20, 30]
    for value in records:
        assert records.current() == value
    assert Records([]).current() == []


@pytest.mark.parametrize("make", [MapOperator, FilterOperator, FlatMapOperator, KeyByOperator])
def test_every_operator_names_itself_and_the_record(make: Callable[..., Any]) -> None:
    with pytest.raises(UserCodeError, match="operator `op` failed on record 3"):
        list(make("op", fail_on_three).process(Batch([1, 2, 3, 4], [0, 0, 0, 0]), 0))


def test_an_error_inside_a_generator_names_the_record_that_it_was_made_for() -> None:
    def expand(value: int) -> Any:
        yield from fail_on_three(value)

    with pytest.raises(UserCodeError, match="failed on record 3"):
        list(FlatMapOperator("op", expand).process(Batch([1, 3, 4]), 0))


def test_a_failing_batch_function_shows_the_batch() -> None:
    with pytest.raises(UserCodeError, match=r"failed on record \[1, 2\]"):
        list(MapBatchOperator("op", lambda values: values[5]).process(Batch([1, 2]), 0))


class Own(Aggregator[int, int, int]):
    def create(self) -> int:
        return 0

    def add(self, acc: int, value: int) -> int:
        return acc + int(fail_on_three(value)[0])


@pytest.mark.parametrize(
    "aggregator",
    [
        Own(),
        reducing(lambda a, b: fail_on_three(b)),
        sum_of(lambda value: fail_on_three(value)[0]),
        min_of(lambda value: fail_on_three(value)[0]),
        combined(n=count(), mean=mean_of(lambda value: fail_on_three(value)[0])),
    ],
)
def test_an_aggregator_that_fails_names_the_record(aggregator: Aggregator[Any, Any, Any]) -> None:
    batch = Batch([1, 2, 3, 4], None, ["a", "a", "a", "b"])
    with pytest.raises(UserCodeError, match="operator `sums` failed on record 3"):
        list(CombineOperator("sums", aggregator).process(batch, 0))


def test_a_value_that_cannot_be_added_names_the_record() -> None:
    batch = Batch([{"x": 1}, {"x": None}, {"x": 2}], None, ["a", "a", "a"])
    with pytest.raises(UserCodeError, match=r"failed on record {'x': None}"):
        list(CombineOperator("sums", sum_of("x")).process(batch, 0))


def test_a_missing_field_names_the_record() -> None:
    with pytest.raises(UserCodeError, match=r"failed on record {'y': 1}") as caught:
        list(KeyByOperator("by", "x").process(Batch([{"x": 1}, {"y": 1}]), 0))
    assert "KeyError: 'x'" in str(caught.value)


@pytest.mark.parametrize("key", [[1], {"a": 1}])
def test_a_key_that_is_not_hashable_is_told_in_our_words(key: Any) -> None:
    operator = CombineOperator("combine", count())
    with pytest.raises(KeyTypeError, match=f"got {type(key).__name__}"):
        operator.process(Batch([1, 2], [0, 0], ["a", key]), 0)


def test_a_type_error_of_the_user_is_not_taken_for_one_of_the_keys() -> None:
    operator = CombineOperator("combine", sum_of(lambda value: value + "x"))
    with pytest.raises(UserCodeError, match="operator `combine` failed on record 1"):
        operator.process(Batch([1], [0], ["a"]), 0)
