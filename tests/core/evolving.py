"""Pairs of versions of types, as they are before and after a change of code; and values of any type that has a schema."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Annotated, Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import msgspec

import checkdam

T = TypeVar("T")


@dataclass
class Order:
    number: int
    amount: float
    note: str = ""


@dataclass
class OrderWithTax:
    number: int
    amount: float
    tax: float = 0.0


@dataclass
class OrderWithCustomer:
    number: int
    amount: float
    customer: str


@checkdam.formerly("evolving.Order", fields={"total": "amount", "remark": ("note", "comment")})
@dataclass(slots=True)
class Purchase:
    number: int
    total: float
    remark: str = ""


@checkdam.formerly("evolving.Order")
class OrderStruct(msgspec.Struct):
    number: int
    amount: float


class Sparse(msgspec.Struct, omit_defaults=True):
    count: int = 1
    names: list[str] = msgspec.field(default_factory=list)


@checkdam.formerly("evolving.Sparse")
class SparseWithOtherDefault(msgspec.Struct, omit_defaults=True):
    count: int = 2
    names: list[str] = msgspec.field(default_factory=list)


@checkdam.formerly("evolving.Sparse")
class NoDefault(msgspec.Struct):
    count: int
    names: list[str] = msgspec.field(default_factory=list)


@checkdam.formerly("evolving.Order", "evolving.Row", "evolving.Tagged")
class Strict(msgspec.Struct, forbid_unknown_fields=True):
    number: int


@checkdam.formerly("evolving.Order")
class Row(msgspec.Struct, array_like=True):
    number: int
    amount: float


@checkdam.formerly("evolving.Row")
class RowInOtherOrder(msgspec.Struct, array_like=True):
    amount: float
    number: int


@checkdam.formerly("evolving.Row", fields={"price": "amount"})
class RenamedRow(msgspec.Struct, array_like=True):
    number: int
    price: float
    more: int = 0


@checkdam.formerly("evolving.Row")
class TaggedRow(msgspec.Struct, array_like=True, tag="row"):
    number: int
    amount: float


class Bounded(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0)]
    names: list[Annotated[str, msgspec.Meta(max_length=9)] | None] = []


@checkdam.formerly("evolving.Bounded")
class Narrower(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0, le=9)]
    names: list[Annotated[str, msgspec.Meta(max_length=3)] | None] = []


@checkdam.formerly("evolving.Bounded")
class Unbounded(msgspec.Struct):
    count: int
    names: list[str | None] = []


@checkdam.formerly("evolving.Unbounded")
class BoundedAgain(Bounded):
    """A Bounded under the name that an Unbounded had."""


class Tagged(msgspec.Struct, tag=True):
    number: int


@checkdam.formerly("evolving.Tagged")
class TaggedOtherwise(msgspec.Struct, tag=True):
    number: int


@checkdam.formerly("evolving.Tagged", fields={"id": "number"})
class TaggedAsBefore(msgspec.Struct, tag="Tagged"):
    id: int


class Shape(msgspec.Struct, tag="shape"):
    number: int


class Side(enum.Enum):
    BUY = "b"
    SELL = "s"


@checkdam.formerly("evolving.Side")
class SideWithoutSell(enum.Enum):
    PURCHASE = "b"


@checkdam.formerly("evolving.Side")
class LenientSide(enum.Enum):
    BUY = "b"

    @classmethod
    def _missing_(cls, value: object) -> LenientSide:
        return cls.BUY


class Route(NamedTuple):
    origin: str
    destination: str


@checkdam.formerly("evolving.Route")
class RouteWithStops(NamedTuple):
    origin: str
    destination: str
    stops: int = 0


@checkdam.formerly("evolving.Route")
class Start(NamedTuple):
    origin: str


class Reading(TypedDict):
    sensor: str
    value: NotRequired[float]


@checkdam.formerly("evolving.Reading", fields={"device": "sensor"})
class Measurement(TypedDict):
    device: str
    value: NotRequired[float]


@checkdam.formerly("evolving.Reading")
class WholeReading(TypedDict):
    sensor: str
    value: float


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


@checkdam.formerly("evolving.Tree", fields={"weight": "value", "branches": "children"})
@dataclass
class Branch:
    weight: float
    branches: list[Branch] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    content: T


@checkdam.formerly("evolving.Box")
@dataclass
class Crate(Generic[T]):
    content: T
    label: str = ""


@dataclass
class Nested(Generic[T]):
    inner: Box[list[T]]


@dataclass
class Everything:
    """One of each kind, for the golden description."""

    order: Order
    sides: dict[Side, tuple[int, ...]]
    where: Route | None
    readings: list[Reading]
    pair: tuple[str, float]
    tags: frozenset[str]
    box: Box[Box[int]]
    sparse: Sparse
    bounded: Bounded
    purchase: Purchase
    shape: Tagged | Shape | None = None
