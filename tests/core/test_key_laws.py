"""Keys: the laws, over arbitrary keys."""

from __future__ import annotations

import struct
from typing import Any

import core_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.keys import (
    KeyGroups,
    decode_key,
    decode_keys,
    encode_key,
    encode_keys,
    key_group,
    key_group_range,
    owner_of,
)

BOUNDARY_INTS = st.sampled_from(
    [sign * 2**power + step for sign in (1, -1) for power in (0, 8, 53, 63, 64, 80) for step in (-1, 0, 1)]
)
INTS = st.integers() | BOUNDARY_INTS | st.integers(-(2**70), 2**70)
SCALARS: st.SearchStrategy[Any] = (
    INTS
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.floats(allow_nan=False, width=16)
    | st.text(st.characters())
    | st.text("ab\0", max_size=2)
    | st.binary(max_size=3)
    | st.sampled_from([*samples.Carrier, *samples.Direction, *samples.Level, *samples.Colour, *samples.Shade])
)


def nested(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(keys, max_size=3).map(tuple)
        | st.builds(samples.Route, keys, keys)
        | st.builds(samples.Holder, keys)
        | st.builds(samples.Place, keys, keys)
        | st.builds(samples.OtherPlace, keys, keys)
        | st.builds(samples.Leg, keys, keys, st.text())
    )


KEYS = st.recursive(SCALARS, nested, max_leaves=6)
FEW_KEYS = st.recursive(
    st.sampled_from([0, 1, True, 1.0, -0.0, 0.5, "", "1", b"", b"1", samples.Level.LOW, samples.Carrier.DELTA]),
    nested,
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(st.tuples(KEYS, KEYS) | st.tuples(FEW_KEYS, FEW_KEYS))
def test_keys_are_equal_if_and_only_if_their_bytes_are(pair: tuple[Any, Any]) -> None:
    left, right = pair
    assert (left == right) == (encode_key(left) == encode_key(right))
    if left == right:
        assert key_group(left, 32768) == key_group(right, 32768)


@settings(max_examples=300, deadline=None)
@given(KEYS)
def test_a_key_comes_back_equal_and_with_the_same_bytes(key: Any) -> None:
    encoded = encode_key(key)
    decoded = decode_key(memoryview(encoded))
    assert decoded == key
    assert encode_key(decoded) == encoded
    assert hash(decoded) == hash(key)


@settings(max_examples=300, deadline=None)
@given(INTS, INTS)
def test_ints_of_any_size_sort_by_their_bytes(left: int, right: int) -> None:
    assert (left < right) == (encode_key(left) < encode_key(right))


@settings(max_examples=100, deadline=None)
@given(st.lists(KEYS, max_size=8) | st.lists(st.tuples(SCALARS, SCALARS), max_size=8))
def test_any_list_of_keys_comes_back_equal(keys: list[Any]) -> None:
    assert decode_keys(encode_keys(keys)) == keys


@settings(max_examples=100, deadline=None)
@given(st.lists(KEYS, max_size=30), st.integers(1, 32768), st.integers(1, 8))
def test_remembered_groups_are_the_computed_ones(keys: list[Any], max_parallelism: int, capacity: int) -> None:
    groups = KeyGroups(max_parallelism, capacity)
    assert list(map(groups.__getitem__, keys)) == [key_group(key, max_parallelism) for key in keys]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300).flatmap(lambda groups: st.tuples(st.just(groups), st.integers(1, groups))))
def test_every_group_has_exactly_one_owner_and_shares_differ_by_at_most_one(sizes: tuple[int, int]) -> None:
    max_parallelism, parallelism = sizes
    ranges = [key_group_range(max_parallelism, parallelism, index) for index in range(parallelism)]
    assert [group for owned in ranges for group in owned] == list(range(max_parallelism))
    assert all(
        owner_of(group, max_parallelism, parallelism) == index for index, owned in enumerate(ranges) for group in owned
    )
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_similar_keys_spread_over_all_groups() -> None:
    for keys in (
        [f"user-{number}" for number in range(12800)],
        list(range(12800)),
        [struct.pack("<I", n * 4096) for n in range(12800)],
    ):
        counts = [0] * 128
        for group in map(KeyGroups(128).__getitem__, keys):
            counts[group] += 1
        assert min(counts) > 50
        assert max(counts) < 160
