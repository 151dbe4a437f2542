"""Keys: what is allowed, what equals what, and where they go."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import core_samples as samples
import pytest

from checkdam.core.errors import KeyTypeError
from checkdam.core.keys import (
    KeyGroups,
    check_key_types,
    decode_key,
    decode_keys,
    encode_key,
    encode_keys,
    key_group,
    key_group_range,
    key_hash,
    owner_of,
)

GOLDEN_FILE = Path(__file__).with_name("golden_keys.json")

GOLDEN_KEYS: dict[str, Any] = {
    "0": 0,
    "1": 1,
    "True": True,
    "1.0": 1.0,
    "-0.0": -0.0,
    "-1": -1,
    "255": 255,
    "256": 256,
    "2**63-1": 2**63 - 1,
    "2**63": 2**63,
    "2**64": 2**64,
    "2**200+1": 2**200 + 1,
    "-2**63": -(2**63),
    "-2**63-1": -(2**63) - 1,
    "-2**200": -(2**200),
    "1e300": 1e300,
    "0.5": 0.5,
    "-1.25": -1.25,
    "5e-324": 5e-324,
    "inf": math.inf,
    "-inf": -math.inf,
    "''": "",
    "'a'": "a",
    "'1'": "1",
    "'zürich'": "zürich",
    "'😀'": "😀",
    "lone surrogate": "\ud800",
    "'x'*300": "x" * 300,
    "b''": b"",
    "b'a'": b"a",
    "b'\\x00\\xff'": b"\x00\xff",
    "()": (),
    "('a',)": ("a",),
    "('a', 1)": ("a", 1),
    "(('a',), 1)": (("a",), 1),
    "('a', ('b', (2.5,)))": ("a", ("b", (2.5,))),
    "('x'*300, 1)": ("x" * 300, 1),
    "Route('JFK', 'SFO')": samples.Route("JFK", "SFO"),
    "Level.HIGH": samples.Level.HIGH,
    "Colour.RED": samples.Colour.RED,
    "Carrier.DELTA": samples.Carrier.DELTA,
    "Carrier.US": samples.Carrier.US,
    "Place('JFK', 3)": samples.Place("JFK", 3),
    "Leg(Place('JFK'), Place('SFO'))": samples.Leg(samples.Place("JFK"), samples.Place("SFO"), "a note"),
}

REFUSED: list[Any] = [
    None,
    Decimal(1),
    1 + 0j,
    [1],
    {1},
    {"a": 1},
    bytearray(b"a"),
    object(),
    samples.Folded("a"),
    samples.Permission.READ,
    samples.Loose.A,
    samples.Mutable("a"),
    samples.OwnEquality("a"),
    samples.Forgetful("a", "b"),
    samples.Holder([1]),
    (1, None),
    ("a", ("b", Decimal(1))),
]


@pytest.mark.parametrize("label", GOLDEN_KEYS)
def test_encoding_hash_and_group_of_a_key_stay_as_they_are_for_ever(label: str) -> None:
    key, golden = GOLDEN_KEYS[label], json.loads(GOLDEN_FILE.read_text())[label]
    encoded = encode_key(key)
    assert {"bytes": encoded.hex(), "hash": key_hash(encoded), "group_of_128": key_group(key, 128)} == golden
    assert decode_key(bytes.fromhex(golden["bytes"])) == key


def test_the_hash_is_crc_32_mixed_by_murmur3() -> None:
    assert key_hash(b"") == 0
    assert key_hash(b"123456789") == 0xE8781FA3  # fmix32(0xCBF43926)


@pytest.mark.parametrize("key", REFUSED, ids=lambda key: type(key).__name__)
def test_a_key_without_a_stable_encoding_is_refused_by_the_name_of_its_type(key: Any) -> None:
    with pytest.raises(KeyTypeError, match=r"a key must be a str, bytes, int, .*\(got [\w.]+\): "):
        encode_key(key)


def test_the_refusal_names_the_type_the_allowed_ones_and_the_remedy() -> None:
    with pytest.raises(KeyTypeError) as raised:
        encode_key(("a", Decimal("1.5")))
    assert str(raised.value) == (
        "a key must be a str, bytes, int, float or bool, an Enum member, a tuple of these, or an instance of a frozen "
        "dataclass of these (got decimal.Decimal): convert the key, for instance with str(), or use a tuple of its parts"
    )


@pytest.mark.parametrize("key", [math.nan, ("a", math.nan), samples.Holder(math.nan)])
def test_nan_is_refused_wherever_it_is(key: Any) -> None:
    with pytest.raises(KeyTypeError, match="NaN"):
        encode_key(key)


def test_a_class_that_other_processes_cannot_find_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Local:
        value: int

    with pytest.raises(KeyTypeError, match="defined inside a function; move it to the top level"):
        encode_key(Local(1))

    program = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    started: Any = dataclass(frozen=True)(
        type("Started", (), {"__annotations__": {"v": int}, "__module__": "__main__"})
    )
    program.Started = started  # type: ignore[attr-defined]
    with pytest.raises(KeyTypeError, match="defined in the program that was started"):
        encode_key(started(1))

    hidden: Any = dataclass(frozen=True)(
        type("Place", (), {"__annotations__": {"v": int}, "__module__": "core_samples"})
    )
    with pytest.raises(KeyTypeError, match="cannot find the class by its name `core_samples:Place`"):
        encode_key(hidden(1))


def test_subclasses_that_compare_like_their_base_are_the_plain_value() -> None:
    assert encode_key(samples.Name("a")) == encode_key("a")
    assert encode_key(samples.Route("a", "b")) == encode_key(("a", "b"))
    assert encode_key(samples.Level.LOW) == encode_key(samples.Size.SMALL) == encode_key(True) == encode_key(1.0)
    assert encode_key(samples.Shade.RED) == encode_key(samples.Colour.RED) == encode_key("red")
    assert type(decode_key(encode_key(samples.Route("a", "b")))) is tuple


def test_enums_and_dataclasses_are_told_apart_by_class() -> None:
    assert encode_key(samples.Carrier.UNITED) != encode_key(samples.Direction.UNITED)
    assert encode_key(samples.Carrier.AMERICAN) == encode_key(samples.Carrier.US)
    assert encode_key(samples.Place("a")) != encode_key(samples.OtherPlace("a"))
    assert encode_key(samples.Place("a")) != encode_key(samples.SubPlace("a"))
    assert encode_key(samples.Place("a", 0)) != encode_key(("a", 0))


def test_fields_that_do_not_compare_take_no_part_and_come_back_as_their_defaults() -> None:
    place = samples.Place("JFK")
    noted, plain = samples.Leg(place, place, "late", [1]), samples.Leg(place, place)
    assert encode_key(noted) == encode_key(plain)
    decoded = decode_key(encode_key(noted))
    assert decoded == noted
    assert (decoded.note, decoded.marks) == ("", [])


def test_a_dataclass_key_comes_back_without_its_constructor_changing_it() -> None:
    assert decode_key(encode_key(samples.Doubled(4))) == samples.Doubled(4)


def test_a_key_of_a_class_that_is_gone_or_changed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("short_lived")
    monkeypatch.setitem(sys.modules, "short_lived", module)

    def define(fields: dict[str, type]) -> Any:
        namespace = {"__annotations__": fields, "__module__": "short_lived"}
        module.Point = dataclass(frozen=True)(type("Point", (), namespace))  # type: ignore[attr-defined]
        return module.Point

    encoded = encode_key(define({"x": int, "y": int})(1, 2))
    gone = encode_key(define({"x": int, "y": int})(1, 2)).replace(b"Point", b"Pixel")
    with pytest.raises(KeyTypeError, match=r"no class `short_lived\.Pixel`.*moved or renamed"):
        decode_key(gone)
    with pytest.raises(KeyTypeError, match="it is no Enum member now"):
        decode_key(encode_key(samples.Carrier.DELTA).replace(b"DELTA", b"DALTA"))

    from checkdam.core import key_encoding

    define({"y": int, "x": int})
    key_encoding._class_named.cache_clear()  # as a new process would begin
    with pytest.raises(KeyTypeError, match="compared fields have changed"):
        decode_key(encoded)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xffabc", b"\x11\x01", b"\x14\xff", b"\x12\0\0\0\5a", b"\x16\x05ab", b"\x16\x00"]
)
def test_bytes_that_are_no_key_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an encoded key"):
        decode_key(data)


def test_key_groups_remember_keys_and_are_emptied_when_full() -> None:
    groups = KeyGroups(128, capacity=3)
    keys = ["a", 1, ("a", 1), samples.Place("JFK"), "b", 1.0]
    expected = [key_group(key, 128) for key in keys]
    assert list(map(groups.__getitem__, keys)) == expected
    assert len(groups) <= 3


@pytest.mark.parametrize("key", [None, math.nan])
def test_key_groups_refuse_what_cannot_be_a_key_in_the_same_words(key: Any) -> None:
    groups = KeyGroups(128)
    with pytest.raises(KeyTypeError, match="a key must"):
        groups[key]


def test_key_types_of_a_batch_are_plain_rich_or_refused() -> None:
    assert check_key_types([])
    assert check_key_types(["a", 1, 1.5, True, b"x"])
    assert not check_key_types(["a", ("a",)])
    assert not check_key_types([samples.Level.LOW])
    with pytest.raises(KeyTypeError, match=r"got decimal\.Decimal"):
        check_key_types([1, Decimal(1)])


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["a", 1, 2.5, True, b"x", 2**64 - 1, -(2**63)],
        [2**64, 1],
        ["\ud800", "a"],
        [("a", 1), ("a", 2), ()],
        [("a", 2**64)],
        [("a", ("b",)), "c", ("a", ("b",))],
        [samples.Place("JFK"), samples.Carrier.DELTA, samples.Place("JFK")],
        [samples.Route("a", "b")],
    ],
    ids=str,
)
def test_a_list_of_keys_comes_back_equal(keys: list[Any]) -> None:
    data = encode_keys(keys)
    assert decode_keys(data) == keys
    assert decode_keys(memoryview(data)) == keys


def test_a_list_with_a_refused_key_is_refused() -> None:
    for keys in ([None], [("a", None)], [("a", (1, [2]))], [samples.Holder([1])]):
        with pytest.raises(KeyTypeError):
            encode_keys(keys)


@pytest.mark.parametrize("data", [b"", b"\x07", b"\x00\xc1", b"\x02\x91\x01"])
def test_bytes_that_are_no_list_of_keys_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_keys(data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: key_group_range(0, 1, 0), "`max_parallelism` must be in 1..32768 \\(got 0\\)"),
        (lambda: key_group_range(32769, 1, 0), "`max_parallelism`"),
        (lambda: key_group_range(4, 5, 0), "`parallelism` must be in 1..4"),
        (lambda: key_group_range(4, 2, 2), "`index` must be in 0..1"),
        (lambda: owner_of(4, 4, 2), "`key_group` must be in 0..3"),
        (lambda: KeyGroups(0), "`max_parallelism`"),
        (lambda: KeyGroups(1, capacity=0), "`capacity`"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
