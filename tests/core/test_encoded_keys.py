"""Lists of keys taken apart into single encoded keys, and put together again, without their classes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.keys import decode_keys, encode_key, encode_keys, join_keys, split_keys
from checkdam.core.serde import is_joined, serde_for


@dataclass(frozen=True)
class Place:
    name: str
    number: int


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


scalars = st.one_of(st.integers(), st.text(), st.binary(), st.floats(allow_nan=False), st.booleans())
rich = st.one_of(
    scalars,
    st.tuples(scalars, scalars),
    st.builds(Place, st.text(), st.integers()),
    st.sampled_from(Colour),
    st.tuples(st.sampled_from(Colour), scalars),
)


@given(st.one_of(st.lists(scalars), st.lists(st.tuples(scalars, scalars)), st.lists(rich)))
@settings(max_examples=150, deadline=None)
def test_lists_of_keys_and_of_encoded_keys_are_the_same(keys: list[Any]) -> None:
    encoded = list(map(encode_key, keys))
    assert split_keys(encode_keys(keys)) == encoded
    assert split_keys(join_keys(encoded)) == encoded
    assert decode_keys(join_keys(encoded)) == keys


def test_keys_of_classes_that_are_gone_are_taken_apart_and_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [Place("x", 1), Colour.RED, Place("x", 1)]
    listed, encoded = encode_keys(keys), list(map(encode_key, keys))
    monkeypatch.setattr("checkdam.core.key_encoding.find_class", lambda *_: pytest.fail("a class was looked for"))
    assert split_keys(listed) == encoded
    assert join_keys(encoded) == listed


def test_values_of_declared_types_are_joined_and_pickled_ones_are_not() -> None:
    declared, undeclared = serde_for(dict[str, int], "values"), serde_for(None, "values")
    values = [{"a": 1}, {}, {"b": 2}]
    assert (is_joined(declared.name), is_joined(undeclared.name)) == (True, False)
    assert declared.encode_many(values) == b"\x93" + b"".join(map(declared.encode, values))
