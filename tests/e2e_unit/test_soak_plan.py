"""The plan of a soak: the same for the same seed, with pauses within their bounds, and every kind of strike in its turn."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soak_plan import LONGEST_PAUSE_S, SHORTEST_PAUSE_S, PlannedStrike, planned_strikes

KINDS = ("kill", "delete", "cut", "scale")


def first(count: int, seed: int, kinds: tuple[str, ...] = KINDS) -> list[PlannedStrike]:
    return list(islice(planned_strikes(seed, kinds), count))


@given(st.integers(0, 2**32))
def test_a_seed_stands_for_one_plan(seed: int) -> None:
    assert first(20, seed) == first(20, seed)


def test_another_seed_stands_for_another_plan() -> None:
    plans = [first(8, seed) for seed in range(10)]
    assert len({tuple(strike.kind for strike in plan) for plan in plans}) > 1
    assert len({plan[0].pause_s for plan in plans}) == 10


@given(st.integers(), st.integers(1, 9))
def test_every_kind_comes_once_before_any_comes_again(seed: int, number: int) -> None:
    kinds = tuple(map(str, range(number)))
    struck = [strike.kind for strike in first(3 * number, seed, kinds)]
    for start in range(0, 3 * number, number):
        assert sorted(struck[start : start + number]) == sorted(kinds)


@given(st.integers())
def test_pauses_keep_their_bounds(seed: int) -> None:
    assert all(SHORTEST_PAUSE_S <= strike.pause_s <= LONGEST_PAUSE_S for strike in first(50, seed))


def test_what_is_left_to_chance_within_a_strike_differs_from_one_to_the_next() -> None:
    seeds = [strike.seed for strike in first(50, 1)]
    assert len(set(seeds)) == len(seeds)


def test_without_kinds_there_is_nothing_to_plan() -> None:
    with pytest.raises(ValueError, match="kinds"):
        first(1, 1, ())
