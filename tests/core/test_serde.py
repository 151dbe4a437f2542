"""Values: declared types travel as MessagePack without loss, all others by pickle, and nothing is changed in silence."""

from __future__ import annotations

import datetime as dt
import math
import sys
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import ModuleType, NoneType
from typing import Annotated, Any, Literal, NewType, Optional, TypeVar

import core_samples as samples
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.errors import ValueTypeError
from checkdam.core.serde import serde_for

WHERE = "the output of operator `parse`"
Symbol = NewType("Symbol", str)

DECLARED: list[tuple[Any, str, list[Any]]] = [
    (int, "int", [1, -5, 2**63]),
    (float, "float", [1.5, math.inf, 3]),
    (str, "str", ["a", "", "zürich"]),
    (bool, "bool", [True, False]),
    (bytes, "bytes", [b"", b"\x00\xff"]),
    (NoneType, "None", [None, None]),
    (list[int], "list[int]", [[1, 2], []]),
    (tuple[str, int], "tuple[str, int]", [("a", 1)]),
    (tuple[int, ...], "tuple[int, ...]", [(1, 2, 3), ()]),
    (tuple[()], "tuple[()]", [()]),
    (dict[str, list[tuple[int, float]]], "dict[str, list[tuple[int, float]]]", [{"a": [(1, 2.5)]}]),
    (dict[tuple[str, int], int], "dict[tuple[str, int], int]", [{("a", 1): 2}]),
    (set[str], "set[str]", [{"a"}, set()]),
    (frozenset[int], "frozenset[int]", [frozenset({1})]),
    (int | None, "int | None", [1, None]),
    (Optional[str], "str | None", ["a", None]),  # noqa: UP045 -- people write it
    (int | str | list[int], "int | str | list[int]", [1, "a", [2]]),
    (Literal["a", 1, None], "Literal['a', 1, None]", ["a", 1, None]),
    (Annotated[int, "a count"], "int", [1]),
    (Symbol, "str", ["a"]),
    (
        dt.datetime,
        "datetime.datetime",
        [dt.datetime.fromisoformat("2013-01-01T05:15:00.000007"), dt.datetime(2013, 1, 1, tzinfo=dt.UTC)],
    ),
    (dt.date, "datetime.date", [dt.date(2013, 1, 1)]),
    (dt.timedelta, "datetime.timedelta", [dt.timedelta(days=-1, microseconds=7)]),
    (Decimal, "decimal.Decimal", [Decimal("1.10")]),
    (uuid.UUID, "uuid.UUID", [uuid.UUID(int=5)]),
    (samples.Carrier, "core_samples.Carrier", [samples.Carrier.DELTA]),
    (samples.Level, "core_samples.Level", [samples.Level.HIGH]),
    (samples.Trade, "core_samples.Trade", [samples.Trade("A", 1.5)]),
    (samples.Leg, "core_samples.Leg", [samples.Leg(samples.Place("A"), samples.Place("B", 2), "n", [1])]),
    (samples.Quote, "core_samples.Quote", [samples.Quote("A", 1.5, samples.Carrier.UNITED), samples.Quote("B")]),
    (samples.Reading, "core_samples.Reading", [{"sensor": "s", "value": 1.5}, {"sensor": "t"}]),
    (samples.Route, "core_samples.Route", [samples.Route("JFK", "SFO")]),
    (samples.Node, "core_samples.Node", [samples.Node(1, [samples.Node(2)])]),
    (samples.Box[int], "core_samples.Box[int]", [samples.Box(1)]),
    (list[samples.Trade] | None, "list[core_samples.Trade] | None", [[samples.Trade("A", 1.5)], None]),
]

PICKLED: list[tuple[Any, list[Any]]] = [
    (None, [1, "a", None, 2.5, b"x", True]),
    (None, [2**70, -(2**70)]),
    (None, ["\ud800"]),
    (Any, [("a", 1), [1, (2,)], {"a": {1}}]),
    (object, [samples.Custom(1)]),
    (samples.Custom, [samples.Custom(1)]),
    (samples.Loosely, [samples.Loosely({"a": (1, {2})})]),
    (dict, [{"a": (1,)}]),
    (dict[str, Any], [{"a": (1,)}]),
    (Sequence[int], [(1,), [2]]),
    (OrderedDict[str, int], [OrderedDict(a=1)]),
    (samples.Mixed, [samples.Mixed.NUMBER, samples.Mixed.TEXT]),
    (samples.Permission, [samples.Permission.READ | samples.Permission.WRITE]),
    (str | dt.date, ["a", dt.date(2013, 1, 1)]),  # msgspec cannot tell the two apart
    (samples.Box[TypeVar("T")], [samples.Box(1)]),  # type: ignore[misc]
    (Literal[True], [True]),
]


def both_ways(serde: Any, values: list[Any]) -> list[list[Any]]:
    """The values after each way of encoding and decoding them."""
    many = serde.encode_many(values)
    return [
        serde.decode_many(many),
        serde.decode_many(memoryview(many)),
        [serde.decode(serde.encode(value)) for value in values],
        [serde.decode(memoryview(serde.encode(value))) for value in values],
    ]


@pytest.mark.parametrize(("declared", "text", "values"), DECLARED, ids=[text for _, text, _ in DECLARED])
def test_values_of_a_declared_type_come_back_equal_and_need_no_pickle(
    declared: Any, text: str, values: list[Any]
) -> None:
    serde = serde_for(declared, WHERE, allow_pickle=False)
    assert serde.name == f"msgpack:{text}"
    for back in both_ways(serde, values):
        assert back == values
        if declared is not float:
            assert [type(value) for value in back] == [type(value) for value in values]
    assert serde.decode_many(serde.encode_many([])) == []


@pytest.mark.parametrize(("declared", "values"), PICKLED, ids=[str(declared) for declared, _ in PICKLED])
def test_what_message_pack_would_change_or_cannot_carry_is_pickled(declared: Any, values: list[Any]) -> None:
    serde = serde_for(declared, WHERE)
    assert serde.name == "pickle"
    for back in both_ways(serde, values):
        assert back == values
        assert [type(value) for value in back] == [type(value) for value in values]


@pytest.mark.parametrize(("declared", "values"), PICKLED, ids=[str(declared) for declared, _ in PICKLED])
def test_a_type_that_needs_pickle_is_refused_where_pickle_is_forbidden(declared: Any, values: list[Any]) -> None:
    with pytest.raises(ValueTypeError, match=r"^the output of operator `parse` must .*`allowPickle` is false \(got "):
        serde_for(declared, WHERE, allow_pickle=False)


def test_the_refusal_of_pickle_says_what_in_the_type_needs_it() -> None:
    with pytest.raises(ValueTypeError) as raised:
        serde_for(list[samples.Loosely], WHERE, allow_pickle=False)
    assert str(raised.value) == (
        "the output of operator `parse` must be of a type that needs no pickle, because `allowPickle` is false "
        "(got `list[core_samples.Loosely]`): `typing.Any` does not say what is in it"
    )
    with pytest.raises(ValueTypeError, match=r"`core_samples\.Custom` is no dataclass, msgspec Struct, TypedDict"):
        serde_for(dict[str, samples.Custom], WHERE, allow_pickle=False)


def test_an_undeclared_batch_of_scalars_is_not_pickled() -> None:
    serde = serde_for(None, WHERE)
    assert len(serde.encode_many([1, 2, 3])) == 5
    assert msgspec.msgpack.decode(serde.encode_many(["a", None])[1:]) == ["a", None]


@pytest.mark.parametrize(
    ("declared", "value", "got"),
    [
        (int, "1", "'1' of type str"),
        (int, 1.5, "1.5 of type float"),
        (int, True, "True of type bool"),
        (str, samples.Name("a"), "'a' of type core_samples.Name"),
        (tuple[str, int], ["a", 1], "of type list"),
        (tuple[str, str], samples.Route("a", "b"), "of type core_samples.Route"),
        (dict[str, int], Counter("a"), "of type collections.Counter"),
        (samples.Trade, samples.BlockTrade("A", 1.5, 1, "b"), "of type core_samples.BlockTrade"),
        (samples.Trade, {"symbol": "A", "price": 1.5}, "of type dict"),
        (samples.Quote, samples.BlockQuote("A"), "of type core_samples.BlockQuote"),
        (samples.Trade | None, samples.BlockTrade("A", 1.5), "of type core_samples.BlockTrade"),
        (dt.date, dt.datetime(2013, 1, 1, tzinfo=dt.UTC), "of type datetime.datetime"),
    ],
)
def test_a_value_of_another_exact_type_is_refused_and_not_cut_down(declared: Any, value: Any, got: str) -> None:
    serde = serde_for(declared, WHERE)
    for encode, argument in ((serde.encode_many, [value]), (serde.encode, value)):
        with pytest.raises(ValueTypeError) as raised:
            encode(argument)
        assert str(raised.value).startswith(f"{WHERE} must be {serde.name.removeprefix('msgpack:')} (got ")
        assert got in str(raised.value)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (tuple[str, int], ("a", 1.5)),
        (tuple[str, int], ("a",)),
        (list[int], [1, "a"]),
        (list[int], [object()]),
        (dict[str, int], {1: 1}),
        (samples.Trade, samples.Trade("A", "dear")),  # type: ignore[arg-type]
        (samples.Box[samples.Trade], samples.Box(samples.BlockTrade("A", 1.5, 1, "b"))),
        (samples.Box[list[int]], samples.Box((1, 2))),
        (samples.Doubled, samples.Doubled(3)),
        (int, 2**64),
        (str, "\ud800"),
    ],
)
def test_a_value_that_would_come_back_as_something_else_is_found_in_the_first_batch(declared: Any, value: Any) -> None:
    with pytest.raises(ValueTypeError, match=f"^{WHERE} must be "):
        serde_for(declared, WHERE).encode_many([value])
    with pytest.raises(ValueTypeError, match=f"^{WHERE} must be "):
        serde_for(declared, WHERE).encode(value)


def test_what_cannot_be_compared_is_not_mistaken_for_a_change() -> None:
    serde = serde_for(list[float], WHERE)
    assert math.isnan(serde.decode_many(serde.encode_many([[1.0], [math.nan]]))[1][0])


def test_bytes_of_another_type_are_refused_when_they_are_read() -> None:
    for declared in (int, None):
        serde = serde_for(declared, WHERE)
        for data in (b"", b"\x00garbage", serde_for(str, WHERE).encode("abc")[:2]):
            with pytest.raises(ValueTypeError, match=f"^{WHERE} "):
                serde.decode(data)
            with pytest.raises(ValueTypeError, match=f"^{WHERE} "):
                serde.decode_many(data)
    with pytest.raises(
        ValueTypeError, match=r"must be int \(got something else: Expected `int`, got `str` - at `\$\[1\]`\)"
    ):
        serde_for(int, WHERE).decode_many(serde_for(int | str, WHERE).encode_many([1, "a"]))


def test_classes_that_other_processes_cannot_import_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Local:
        value: int

    program = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    started: Any = type("Started", (), {"__module__": "__main__"})
    program.Started = started  # type: ignore[attr-defined]

    for declared, problem in (
        (Local, "defined inside a function"),
        (started, "`__main__.Started` is defined in the program"),
    ):
        for within in (declared, list[declared], dict[str, declared] | None):  # type: ignore[valid-type]
            with pytest.raises(
                ValueTypeError, match=f"{WHERE} must be of a type that every process can import: .*{problem}"
            ):
                serde_for(within, WHERE)

    pickled = serde_for(None, WHERE)
    for value in (started(), [(started(),)], started):
        with pytest.raises(ValueTypeError, match=r"`__main__\.Started` is defined in the program that was started"):
            pickled.encode_many([1, value])
        with pytest.raises(ValueTypeError, match=r"`__main__\.Started` is defined in the program that was started"):
            pickled.encode(value)
    with pytest.raises(ValueTypeError, match="Local"):
        pickled.encode_many([1, Local(1)])
    assert pickled.decode_many(pickled.encode_many([("the text __main__",)])) == [("the text __main__",)]


def test_a_value_that_cannot_be_pickled_is_named() -> None:
    serde = serde_for(None, WHERE)
    with pytest.raises(ValueTypeError, match=r"must be of types that pickle can carry \(got <function .*lambda"):
        serde.encode_many([(1,), lambda: 1])
    with pytest.raises(ValueTypeError, match=r"got <a core_samples.Stubborn whose repr fails>: RuntimeError: not me"):
        serde.encode(samples.Stubborn())


def test_a_pickled_value_of_a_class_that_is_gone_is_refused_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    serde = serde_for(None, WHERE)
    data = serde.encode_many([samples.Custom(1)])
    monkeypatch.delattr(samples, "Custom")
    with pytest.raises(ValueTypeError, match=r"cannot be read back \(AttributeError: .*Custom"):
        serde.decode_many(data)


def test_declared_classes_may_gain_fields_with_defaults_and_lose_fields() -> None:
    @dataclass
    class Before:
        kept: int
        removed: str

    @dataclass
    class After:
        kept: int
        added: list[int] = field(default_factory=list)

    class StructAfter(msgspec.Struct):
        kept: int
        added: str = "new"

    for cls in (Before, After, StructAfter):
        cls.__qualname__ = cls.__name__  # as if it were at the top level
    data = serde_for(Before, WHERE).encode_many([Before(1, "x")])
    assert serde_for(After, WHERE).decode_many(data) == [After(1, [])]
    assert serde_for(StructAfter, WHERE).decode_many(data) == [StructAfter(1, "new")]


def test_shared_and_mutable_values_are_copied() -> None:
    shared = [1]
    for declared in (list[int], None):
        serde = serde_for(declared, WHERE)
        data = serde.encode_many([shared, shared])
        shared.append(2)
        assert serde.decode_many(data) == [shared[:-1], shared[:-1]]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@settings(max_examples=100, deadline=None)
@given(st.lists(SCALARS) | st.lists(VALUES))
def test_any_undeclared_values_come_back_as_they_were(values: list[Any]) -> None:
    for back in both_ways(serde_for(None, WHERE), values):
        assert repr(back) == repr(values)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            samples.Quote,
            st.text(st.characters(codec="utf-8")),
            st.none() | st.floats(allow_nan=False),
            st.sampled_from(samples.Carrier),
        )
    )
)
def test_any_declared_values_come_back_as_they_were(values: list[samples.Quote]) -> None:
    for back in both_ways(serde_for(samples.Quote, WHERE, allow_pickle=False), values):
        assert back == values
