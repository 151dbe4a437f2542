"""Timers that fire while others are registered and deleted, against taking them one by one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.operators import timer_order
from checkdam.operators.timer_order import OrderedTimers


class SetTimers:
    """`Timers` in the simplest way."""

    def __init__(self) -> None:
        self.held: set[tuple[int, Any, int]] = set()

    def register(self, time_ms: int, key: Any, namespace: int = 0) -> None:
        self.held.add((time_ms, key, namespace))

    def register_many(self, time_ms: int, keys: Iterable[Any], namespace: int = 0) -> None:
        self.held |= {(time_ms, key, namespace) for key in keys}

    def delete(self, time_ms: int, key: Any, namespace: int = 0) -> None:
        self.held.discard((time_ms, key, namespace))

    def next_time(self) -> int | None:
        return min((timer[0] for timer in self.held), default=None)

    def pop_due(self, up_to_ms: int, limit: int = 4096) -> list[tuple[int, Any, int]]:
        due = heapq.nsmallest(limit, (timer for timer in self.held if timer[0] <= up_to_ms))
        self.held -= set(due)
        return due


Action = tuple[bool, int]
"""(register or delete, time), done for the key of the timer that fires."""

times = st.integers(0, 12)
keys = st.integers(0, 2)
scripts = st.dictionaries(st.tuples(times, keys), st.lists(st.tuples(st.booleans(), times), max_size=3), max_size=8)


def fire_one_by_one(held: set[tuple[int, int]], script: dict[tuple[int, int], list[Action]], up_to: int) -> list[Any]:
    """The model: take the earliest timer, do what it does; ties of time in any order. Scripts run once."""
    fired = []
    todo = dict(script)
    while due := [timer for timer in held if timer[0] <= up_to]:
        timer = min(due)
        held.discard(timer)
        fired.append(timer)
        for register, time_ms in todo.pop(timer, []):
            (held.add if register else held.discard)((time_ms, timer[1]))
    return fired


@settings(max_examples=300, deadline=None)
@given(st.sets(st.tuples(times, keys)), scripts, st.integers(1, 5), times)
def test_timers_fire_as_if_they_were_taken_one_by_one(
    first: set[tuple[int, int]], script: dict[tuple[int, int], list[Action]], portion: int, up_to: int
) -> None:
    model = fire_one_by_one(set(first), script, up_to)
    backend = SetTimers()
    timers = OrderedTimers(backend)
    for time_ms, key in first:
        timers.register(time_ms, key)
    fired: list[tuple[int, int]] = []
    todo = dict(script)
    whole, timer_order.PORTION = timer_order.PORTION, portion  # type: ignore[misc]
    try:
        while timers.begin(up_to):
            while (timer := timers.take()) is not None:
                fired.append(timer)
                for register, time_ms in todo.pop(timer, []):
                    (timers.register if register else timers.delete)(time_ms, timer[1])
    finally:
        timer_order.PORTION = whole  # type: ignore[misc]
    assert all(
        [timer for timer in fired if timer[1] == key] == [timer for timer in model if timer[1] == key]
        for key in range(3)
    )
    at_least = {(time_ms, key, 0) for time_ms, key in fire_rest(first, script, up_to)}
    assert backend.held == at_least


def fire_rest(first: set[tuple[int, int]], script: dict[tuple[int, int], list[Action]], up_to: int) -> Any:
    held = set(first)
    fire_one_by_one(held, script, up_to)
    return held


def test_timers_of_different_keys_fire_in_the_order_of_time() -> None:
    timers = OrderedTimers(SetTimers())
    for time_ms in (5, 1, 9, 3):
        timers.register(time_ms, f"key{time_ms}")
    assert timers.begin(9) == {"key5", "key1", "key9", "key3"}
    fired = []
    while (timer := timers.take()) is not None:
        fired.append(timer)
        if timer[0] == 1:
            timers.register(4, timer[1])
            timers.register(20, timer[1])
    assert [time_ms for time_ms, _ in fired] == [1, 3, 4, 5, 9]
    assert timers.begin(9) == set()
    assert timers.next_time() == 20
