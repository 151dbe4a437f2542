"""Classes that the tests of keys and values use: at the top level of a module, so that they can be found by name."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec

T = TypeVar("T")


class Carrier(enum.Enum):
    UNITED = "UA"
    DELTA = "DL"
    AMERICAN = "AA"
    US = "AA"  # noqa: PIE796 -- an alias of AMERICAN


class Direction(enum.Enum):
    UNITED = "UA"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Colour(enum.StrEnum):
    RED = "red"


class Shade(str, enum.Enum):  # noqa: UP042 -- a mixin is what it is about
    RED = "red"


class Size(int, enum.Enum):
    SMALL = 1


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Loose(enum.Enum):
    """An Enum that equals strings."""

    A = "a"

    def __eq__(self, other: object) -> bool:
        return other == self.value or self is other

    def __hash__(self) -> int:
        return hash(self.value)


class Mixed(enum.Enum):
    NUMBER = 1
    TEXT = "1"


class Folded(str):
    """A str that compares without case."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


class Name(str):
    """A str that is equal to the same plain str."""


class Route(NamedTuple):
    origin: str
    destination: str


@dataclass(frozen=True)
class Place:
    code: str
    gate: int = 0


@dataclass(frozen=True)
class OtherPlace:
    code: str
    gate: int = 0


@dataclass(frozen=True)
class SubPlace(Place):
    terminal: str = ""


@dataclass(frozen=True, slots=True)
class Leg:
    start: Place
    end: Place
    note: str = field(default="", compare=False)
    marks: list[int] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Doubled:
    """A dataclass whose constructor changes what it is given."""

    value: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", self.value * 2)


@dataclass
class Mutable:
    code: str


@dataclass(frozen=True)
class OwnEquality:
    code: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnEquality) and self.code.lower() == other.code.lower()

    def __hash__(self) -> int:
        return hash(self.code.lower())


@dataclass(frozen=True)
class Forgetful:
    code: str
    note: str = field(compare=False)


@dataclass(frozen=True)
class Holder:
    content: Any


@dataclass
class Trade:
    symbol: str
    price: float
    amount: int = 1


@dataclass
class BlockTrade(Trade):
    block: str = ""


class Quote(msgspec.Struct):
    symbol: str
    bid: float | None = None
    carrier: Carrier = Carrier.DELTA


class BlockQuote(Quote):
    block: str = ""


class Reading(TypedDict):
    sensor: str
    value: NotRequired[float]


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Loosely:
    payload: dict[str, Any]


class Custom:
    """A class of which only pickle can make anything."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


class Stubborn:
    """A class that refuses to be pickled, and to be shown."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not me")

    def __repr__(self) -> str:
        raise RuntimeError("nor this")
