"""Types change while their values are stored: what may change is read, and everything else is named."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pickle
import sys
import types
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NewType

import evolving as ev
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import checkdam
from checkdam.core.errors import PipelineError, ValueTypeError
from checkdam.core.evolution import differences
from checkdam.core.formerly import former_fields
from checkdam.core.schema import PICKLED, Schema, describe
from checkdam.core.serde import MsgpackSerde, serde_for

GOLDEN = Path(__file__).with_name("golden_schema.json")
WHERE = "state `s` of operator `o`"

READABLE: list[tuple[Any, Any, Any, Any]] = [
    (int, int, 1, 1),
    (int, float, 3, 3.0),
    (int, int | None, 1, 1),
    (int, str | float, 1, 1.0),
    (bytes, bytearray, b"x", bytearray(b"x")),
    (int | None, float | None, None, None),
    (list[int], tuple[int, ...], [1, 2], (1, 2)),
    (tuple[int, ...], list[float], (1, 2), [1.0, 2.0]),
    (set[int], frozenset[int], {1}, frozenset({1})),
    (tuple[str, int], tuple[str, float], ("a", 1), ("a", 1.0)),
    (Literal["a", "b"], Literal["c", "b", "a"], "a", "a"),
    (Literal["a", 1], str | int, 1, 1),
    (ev.Side, str, ev.Side.BUY, "b"),
    (ev.Side, ev.LenientSide, ev.Side.SELL, ev.LenientSide.BUY),
    (ev.Order, ev.Order, ev.Order(1, 2.0), ev.Order(1, 2.0)),
    (ev.Order, ev.Purchase, ev.Order(1, 2.0, "n"), ev.Purchase(1, 2.0, "n")),
    (ev.Order, ev.OrderStruct, ev.Order(1, 2.0), ev.OrderStruct(1, 2.0)),
    (list[ev.Order] | None, list[ev.Purchase] | None, [ev.Order(1, 2.0)], [ev.Purchase(1, 2.0)]),
    (dict[str, ev.Order], dict[str, ev.Purchase], {"number": ev.Order(1, 2.0)}, {"number": ev.Purchase(1, 2.0)}),
    (tuple[ev.Order, str], tuple[ev.Purchase, str], (ev.Order(1, 2.0), "amount"), (ev.Purchase(1, 2.0), "amount")),
    (ev.Sparse, ev.Sparse, ev.Sparse(), ev.Sparse()),
    (ev.Row, ev.RenamedRow, ev.Row(1, 2.0), ev.RenamedRow(1, 2.0)),
    (ev.Bounded, ev.Bounded, ev.Bounded(1, ["a", None]), ev.Bounded(1, ["a", None])),
    (ev.Bounded, ev.Unbounded, ev.Bounded(1, ["a", None]), ev.Unbounded(1, ["a", None])),
    (ev.Tagged, ev.TaggedAsBefore, ev.Tagged(5), ev.TaggedAsBefore(5)),
    (ev.Tagged | ev.Shape, ev.Shape | ev.TaggedAsBefore, ev.Tagged(5), ev.TaggedAsBefore(5)),
    (ev.Tagged | ev.Shape, ev.Shape | ev.TaggedAsBefore, ev.Shape(5), ev.Shape(5)),
    (ev.Route, ev.RouteWithStops, ev.Route("a", "b"), ev.RouteWithStops("a", "b")),
    (ev.Reading, ev.Measurement, {"sensor": "s"}, {"device": "s"}),
    (ev.Tree, ev.Branch, ev.Tree(1, [ev.Tree(2)]), ev.Branch(1.0, [ev.Branch(2.0)])),
    (ev.Box[int], ev.Crate[float], ev.Box(1), ev.Crate(1.0)),
    (dict[tuple[str, int], ev.Order], dict[tuple[str, int], ev.Purchase], {("a", 1): ev.Order(1, 2.0)}, None),
]

REFUSED: list[tuple[Any, Any, str]] = [
    (int, str, "the value is `str` now but was `int`"),
    (float, int, "the value is `int` now but was `float`"),
    (bool, int, "the value is `int` now but was `bool`"),
    (int | None, int, "the value is `int` now but was `None`"),
    (int | str, float | None, "the value is `float | None` now but was `str`"),
    (str, ev.Side, "the value is `evolving.Side` now but was `str`"),
    (Literal["a", "b"], Literal["a"], "the value is `Literal['a']` now but was `Literal['b']`"),
    (dt.datetime, dt.date, "the value is `datetime.date` now but was `datetime.datetime`"),
    (list[int], set[int], "the value is `set[int]` now but was `list[int]`"),
    (list[int], list[str], "an item of the value is `str` now but was `int`"),
    (dict[str, int], dict[int, int], "a key of the value is `int` now but was `str`"),
    (dict[str, int], dict[str, str], "a value of the value is `str` now but was `int`"),
    (tuple[int, int], tuple[int], "the value is `tuple[int]` now but was `tuple[int, int]`"),
    (tuple[int, int], tuple[int, str], "item 1 of the value is `str` now but was `int`"),
    (dict[str, int], ev.Order, "the value is `evolving.Order` now but was `dict[str, int]`"),
    (
        ev.Order,
        ev.OrderWithTax,
        "the value is `evolving.OrderWithTax` now but was `evolving.Order`; if that is the same class under a new name, "
        'decorate it with `@checkdam.formerly("evolving.Order")`',
    ),
    (ev.Sparse, ev.SparseWithOtherDefault, "`evolving.SparseWithOtherDefault.count` has the default 2 now, but values"),
    (
        ev.Sparse,
        ev.NoDefault,
        "`evolving.NoDefault.count` has no default any more, but values may have been stored without",
    ),
    (
        ev.Order,
        ev.Strict,
        "`evolving.Strict` refuses values with fields that it has not, but stored ones have amount, note",
    ),
    (ev.Order, ev.Row, "`evolving.Row` stores its fields by position now but stored them by name"),
    (ev.Row, ev.RowInOtherOrder, "`evolving.RowInOtherOrder.amount` stands where `number` was, and fields of"),
    (
        ev.Tagged,
        ev.TaggedOtherwise,
        "is told from others by type = 'TaggedOtherwise' now but by type = 'Tagged' before",
    ),
    (
        ev.Side,
        ev.SideWithoutSell,
        "`evolving.SideWithoutSell` has no member with the value 's' any more: keep the member",
    ),
    (
        ev.Route,
        ev.Start,
        "`evolving.Start` refuses values with fields that it has not, but stored ones have destination",
    ),
    (
        ev.Reading,
        ev.WholeReading,
        "`evolving.WholeReading.value` has no default any more, but values may have been stored",
    ),
    (ev.Tree, list[ev.Tree], "the value is `list[evolving.Tree]` now but was `evolving.Tree`"),
    (ev.Side, ev.Order, "the value is `evolving.Order` now but was `evolving.Side`"),
    (ev.Row, ev.TaggedRow, "`evolving.TaggedRow` is told from others by type = 'row' now but by nothing before"),
    (ev.Bounded, ev.Narrower, "`evolving.Narrower.count` must fulfil le=9 now, which stored values need not"),
    (ev.Bounded, ev.Narrower, "an item of `evolving.Narrower.names` must fulfil max_length=3 now, which stored values"),
    (ev.Unbounded, ev.BoundedAgain, "`evolving.BoundedAgain.count` must fulfil ge=0 now, which stored values need not"),
]


@pytest.mark.parametrize(("before", "now", "stored", "read"), READABLE, ids=str)
def test_what_may_change_is_read_from_stored_values(before: Any, now: Any, stored: Any, read: Any) -> None:
    assert differences(describe(before), describe(now)) == []
    old, new = serde_for(before, WHERE), serde_for(now, WHERE)
    decoded = new.decode(old.encode(stored))
    assert new.decode_many(memoryview(old.encode_many([stored, stored]))) == [decoded, decoded]
    if read is not None:
        assert decoded == read


@pytest.mark.parametrize(("before", "now", "reason"), REFUSED, ids=str)
def test_every_other_change_is_named(before: Any, now: Any, reason: str) -> None:
    found = differences(describe(before), describe(now))
    assert any(reason in each for each in found)


def test_a_new_field_without_a_default_is_named_with_both_remedies() -> None:
    renamed = checkdam.formerly("evolving.Order")(ev.OrderWithCustomer)
    assert differences(describe(ev.Order), describe(renamed)) == [
        "`evolving.OrderWithCustomer.customer` is new and has no default, which stored values need: give it one, or, if it "
        'was only renamed, say from what with `@checkdam.formerly(fields={"customer": …})`'
    ]


def test_pickled_values_stay_pickled_and_declared_ones_declared() -> None:
    assert differences(PICKLED, PICKLED) == []
    assert "leave it undeclared" in differences(PICKLED, describe(int))[0]
    assert "declare the type again" in differences(describe(int), PICKLED)[0]


def test_the_description_of_a_type_is_pinned() -> None:
    described = msgspec.json.format(msgspec.json.encode(describe(ev.Everything)), indent=1) + b"\n"
    assert described.decode() == GOLDEN.read_text()
    assert msgspec.json.decode(described, type=Schema) == describe(ev.Everything)


def test_a_generic_class_within_a_generic_class_is_described() -> None:
    assert list(describe(ev.Nested[int]).classes) == ["evolving.Nested[int]", "evolving.Box[list[int]]"]
    assert serde_for(ev.Nested[int], WHERE).schema == describe(ev.Nested[int])


def test_a_default_that_is_another_one_in_every_process_is_no_part_of_the_description() -> None:
    first, second = (dataclasses.make_dataclass("Stamped", [("at", float, default)]) for default in (1.0, 2.0))
    assert describe(first) == describe(second)


def test_types_that_mean_the_same_have_one_description() -> None:
    assert describe(NewType("Symbol", str)) == describe(str)
    assert describe(None) == describe(types.NoneType)


def test_both_names_of_a_field_are_read_for_as_long_as_the_class_knows_them() -> None:
    serde = serde_for(ev.Purchase, WHERE)
    for stored in ({"number": 1, "amount": 2.0, "comment": "x"}, {"number": 1, "total": 2.0, "remark": "x"}):
        assert serde.decode(msgspec.msgpack.encode(stored)) == ev.Purchase(1, 2.0, "x")
    both = {"number": 1, "amount": 9.0, "total": 2.0}
    assert serde.decode(msgspec.msgpack.encode(both)).total == 2.0
    with pytest.raises(ValueTypeError, match="total"):
        serde.decode(msgspec.msgpack.encode({"number": 1}))


def test_a_subclass_inherits_former_names_of_fields_but_not_of_the_class() -> None:
    cls = dataclasses.make_dataclass("Resale", [("profit", float, 0.0)], bases=(ev.Purchase,))
    schema = describe(cls).classes["types.Resale"]
    assert schema.fields["total"].formerly == ["amount"]
    assert schema.formerly == []


@pytest.mark.parametrize(
    ("names", "fields", "words"),
    [
        (("Order",), {}, "names of classes with their module.*'Order'"),
        (("a.b c",), {}, "names of classes with their module"),
        ((), {"sum": "amount"}, "names the field 'sum', which it has not"),
        ((), {"amount": "number"}, "old name 'number' to one field, but another one"),
        ((), {"amount": "x", "number": "x"}, "old name 'x' to one field, but another one"),
    ],
)
def test_former_names_that_cannot_be_are_refused(names: tuple[str, ...], fields: dict[str, str], words: str) -> None:
    cls = dataclasses.make_dataclass("Order", [("number", int), ("amount", float)])
    with pytest.raises(PipelineError, match=words):
        checkdam.formerly(*names, fields=fields)(cls)


def test_all_former_names_stand_in_one_place() -> None:
    with pytest.raises(PipelineError, match=r"stands twice at `evolving.Purchase`; give all names to one"):
        checkdam.formerly("evolving.Sale")(ev.Purchase)


def test_a_pickled_object_finds_its_class_by_a_former_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = types.ModuleType("before_the_move"), types.ModuleType("after_the_move")
    cls = type("Thing", (), {"__module__": "before_the_move"})
    before.Thing = cls  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "before_the_move", before)
    serde = serde_for(None, WHERE)
    stored = serde.encode(cls())
    monkeypatch.delitem(sys.modules, "before_the_move")
    with pytest.raises(ValueTypeError, match="No module named 'before_the_move'"):
        serde.decode(stored)
    moved = checkdam.formerly("before_the_move.Thing")(type("Item", (), {"__module__": "after_the_move"}))
    now.Item = moved  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "after_the_move", now)
    assert type(serde.decode(stored)) is moved
    assert type(pickle.loads(serde.encode(moved())[1:])) is moved


# The law: what `differences` has nothing against is read, whatever the value

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=5),
    bytes: st.binary(max_size=5),
    bool: st.booleans(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    dt.date: st.dates(),
    type(None): st.none(),
}


@st.composite
def declared_types(draw: st.DrawFn, depth: int = 2) -> Any:
    """A type without classes."""
    kind = (
        draw(st.sampled_from(["scalar", "scalar", "list", "tuple", "pair", "dict", "optional"])) if depth else "scalar"
    )
    if kind == "scalar":
        return draw(st.sampled_from(list(SCALARS)))
    inner = draw(declared_types(depth=depth - 1))
    if kind == "list":
        return list[inner]
    if kind == "tuple":
        return tuple[inner, ...]
    if kind == "pair":
        return tuple[inner, draw(declared_types(depth=depth - 1))]
    return dict[str, inner] if kind == "dict" else inner | None


def values_of(declared: Any) -> st.SearchStrategy[Any]:
    origin, arguments = getattr(declared, "__origin__", None), getattr(declared, "__args__", ())
    if declared in SCALARS:
        return SCALARS[declared]
    if isinstance(declared, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), values_of(arguments[1]), max_size=3)
    if arguments[-1] is Ellipsis:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    return st.tuples(*map(values_of, arguments))


def make_version(chosen: dict[str, tuple[Any, bool]]) -> Any:
    """A dataclass of fields that are required, or have a default."""
    fields: list[Any] = [
        (name, declared) if required else (name, declared, dataclasses.field(default=None))
        for name, (declared, required) in sorted(chosen.items(), key=lambda item: not item[1][1])
    ]
    return dataclasses.make_dataclass("Version", fields)


@st.composite
def versions(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two versions of a class: fields of any type, some of them with a default, some known by a former name."""
    names = ["a", "b", "c", "d"]
    before_fields = draw(
        st.dictionaries(st.sampled_from(names), st.tuples(declared_types(), st.booleans()), min_size=1)
    )
    now_fields = draw(st.dictionaries(st.sampled_from(names), st.tuples(declared_types(), st.booleans())))
    now_fields |= {name: (declared, True) for name, (declared, _) in before_fields.items() if draw(st.booleans())}
    now = make_version(now_fields)
    free = [name for name in before_fields if name not in now_fields]
    new = [name for name in now_fields if name not in before_fields]
    if free and new and draw(st.booleans()):
        checkdam.formerly(fields={new[0]: free[0]})(now)
    return make_version(before_fields), now


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_is_not_refused_can_be_read(data: st.DataObject) -> None:
    before, now = data.draw(versions())
    if differences(describe(before), describe(now)):
        return
    values = {each.name: data.draw(values_of(each.type)) for each in dataclasses.fields(before)}
    read = MsgpackSerde(now, WHERE).decode(msgspec.msgpack.encode(before(**values)))
    former = former_fields(now)
    for each in dataclasses.fields(now):
        source = each.name if each.name in values else former.get(each.name, ("",))[0]
        expected = msgspec.convert(values[source], each.type) if source in values else each.default
        assert getattr(read, each.name) == expected
