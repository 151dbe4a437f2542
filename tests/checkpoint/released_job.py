"""The job whose checkpoints are kept from release to release (`released/`): a bit of everything that a checkpoint can hold.

What is stored refers to this module and its classes by name, and to its operators and states by theirs. So nothing here may
change that would keep a job from being restored; a later release that wants more adds a job beside this one.

The source stands still at a gate, the number that a file holds, so that a checkpoint is taken at a known moment. The job's
output depends on nothing but the input: where it was stopped, with which parallelism and backend it ran makes no difference.
"""

from __future__ import annotations

import enum
import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict

import msgspec

import checkdam as cd

GATE = 60
"""Where the source stands still when the checkpoints are taken."""

END = 100
"""How many records each of the two splits has."""

FAR_FUTURE_MS = 4_102_444_800_000
"""When the timers in processing time are due: 2100-01-01."""

TTL = "876000h"

BLOB = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(640))
"""Makes one data file of RocksDB too large to be inlined; it is written once, so that checkpoints share the file."""


class Side(enum.Enum):
    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True)
class Place:
    name: str
    floor: int = 0


@dataclass
class Order:
    """A record."""

    number: int
    side: Side
    amount: float

    @property
    def key(self) -> Any:
        return KEYS[self.number % len(KEYS)]


KEYS = ["text", 7, -1.5, b"bytes", ("tuple", 2), Side.LEFT, Place("here", 3), 2**80]
"""A key of each kind."""


class Line(msgspec.Struct):
    text: str
    order: Order | None = None


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Reading(TypedDict):
    sensor: str
    value: float


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


class Opaque:
    """Of undeclared type, so that it is pickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


class Numbers(cd.Source[Order]):
    """Two endless lists of orders, read at the same time, up to the gate.

    Args:
        gate: A file with the number of the first order that must wait.
    """

    concurrent = True
    value_type = Order

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def splits(self, parallelism: int) -> list[cd.Split]:
        return [cd.Split(side.value, {"side": side.value}) for side in Side]

    def open(self, split: cd.Split, position: Any) -> cd.SplitReader[Order]:
        return NumbersReader(self.gate, Side(split.payload["side"]), position or 0)


class NumbersReader(cd.SplitReader[Order]):
    def __init__(self, gate: Path, side: Side, position: int) -> None:
        self.gate = gate
        self.side = side
        self.at = position

    def read(self, max_records: int, limit: Any = None) -> cd.SourceBatch[Order] | None:
        if self.at >= END:
            return None
        stop = min(self.at + max_records, END, int(self.gate.read_text()))
        numbers = range(self.at, max(stop, self.at))
        self.at = max(stop, self.at)
        return cd.SourceBatch(
            [Order(number, self.side, number / 2) for number in numbers], [number * 1000 for number in numbers]
        )

    def position(self) -> Any:
        return self.at


class Everything(cd.ProcessFunction):
    """Keeps state of each kind, and says what it has at the end of event time."""

    last = cd.ValueState("last", Order)
    lines = cd.ListState("lines", Line)
    points = cd.MapState("points", int, Point)
    readings = cd.MapState("readings", str, Reading, ttl=TTL)
    tree = cd.ValueState("tree", Tree | None)
    total = cd.ReducingState("total", float, lambda a, b: a + b)
    mean = cd.AggregatingState("mean", cd.mean_of("amount"))
    opaque = cd.ValueState("opaque", ttl=TTL)
    sides = cd.ValueState("sides", dict[Side, frozenset[int]])
    blob = cd.ValueState("blob", bytes)

    def process(self, order: Order, ctx: cd.ProcessContext) -> Iterable[Any]:
        number = order.number
        latest = self.last.get()
        if latest is None or (latest.number, latest.side.value) < (number, order.side.value):
            self.last.update(order)
        self.lines.update(sorted([*self.lines.get(), Line(f"n{number}", order)], key=repr)[-3:])
        self.points.put(number, Point(number, order.amount))
        self.readings.put(order.side.value, {"sensor": order.side.value, "value": order.amount})
        self.tree.update(Tree(max(number, (self.tree.get() or Tree(0)).value), [Tree(1)]))
        self.total.add(order.amount)
        self.mean.add(order)
        self.opaque.update(Opaque(max(number, self.opaque.get(Opaque(0)).number)))
        sides = self.sides.get({})
        self.sides.update({**sides, order.side: sides.get(order.side, frozenset()) | {number}})
        if number == 0:
            self.blob.update(BLOB)
        ctx.register_event_timer(number // 10 * 10_000 + 45_000)
        ctx.register_event_timer(10_000_000)
        ctx.register_processing_timer(FAR_FUTURE_MS)
        return ()

    def on_timer(self, time_ms: int, ctx: cd.ProcessContext) -> Iterable[Any]:
        if time_ms != 10_000_000:
            return [("timer", ctx.key, time_ms)]
        sides = {side.value: sorted(numbers) for side, numbers in sorted(self.sides.get({}).items(), key=repr)}
        return [
            ("all", ctx.key, self.last.get(), self.lines.get(), sorted(self.points.items())),
            ("more", ctx.key, sorted(self.readings.items()), self.tree.get(), self.total.get(), self.mean.get()),
            ("last", ctx.key, self.opaque.get(Opaque(-1)).number, sides, zlib.crc32(self.blob.get(b""))),
        ]


class Named(cd.BroadcastFunction):
    """Gives orders names out of a broadcast table; those before the gate may have come before the table, and get none."""

    key_type, value_type = int, Line

    def process(self, order: Order, ctx: cd.BroadcastContext) -> Iterable[Any]:
        return [] if order.number < GATE else [(order.number, order.side, ctx.broadcast_state.get(order.number % 5))]

    def process_broadcast(self, value: int, ctx: cd.BroadcastContext) -> Iterable[Any]:
        ctx.broadcast_state.put(value, Line(f"name {value}"))
        return ()


class LineSink(cd.Sink[Any]):
    """A two-phase sink whose committables are the output itself: to commit is to write a file, once.

    Args:
        folder: Where files are written.
    """

    two_phase: ClassVar[bool] = True

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def open(self, context: cd.SinkContext) -> cd.SinkWriter[Any]:
        return LineWriter(f"{context.operator_id}-{context.subtask}-{context.attempt}")

    def commit(self, committables: list[Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, lines in committables:
            (self.folder / name).write_text("".join(f"{line}\n" for line in lines))


class LineWriter(cd.TwoPhaseWriter[Any]):
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.prepared = 0
        self.lines: list[str] = []

    def write(self, values: list[Any], times: list[int] | None) -> None:
        self.lines += map(repr, values)

    def prepare(self, checkpoint: int) -> list[Any]:
        if not self.lines:
            return []
        self.prepared += 1
        lines, self.lines = self.lines, []
        return [[f"{self.prefix}-{self.prepared}", lines]]


def is_left(order: Order) -> bool:
    return order.side is Side.LEFT


def is_right(order: Order) -> bool:
    return order.side is Side.RIGHT


def number_of(order: Order) -> int:
    return order.number


def key_of(order: Order) -> Any:
    return order.key


def pair(left: Order, right: Order) -> Any:
    return ("pair", left.number, right.number)


def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """orders → each kind of operator that keeps something → a two-phase sink.

    Args:
        pipeline: To be filled.
        args: `gate`: the gate's file; `out`: the sinks' folder.
    """
    orders = pipeline.source("orders", Numbers(args["gate"]), cd.monotonous())
    names = pipeline.from_items("names", list(range(5)))
    keyed = orders.key_by(key_of)
    outputs = {
        "everything": keyed.process(Everything, name="everything"),
        "hourly": keyed.window(cd.Tumbling("25s")).aggregate(
            cd.combined(n=cd.count(), total=cd.sum_of("amount", float), most=cd.max_of("number", int)), name="windows"
        ),
        "sliding": keyed.window(cd.Sliding("30s", "10s"), allowed_lateness="5s").count(name="sliding"),
        "sessions": orders.filter(is_left).key_by(key_of).window(cd.Session("9s")).count(name="sessions"),
        "pairs": (
            orders.filter(is_left)
            .key_by(number_of)
            .interval_join(orders.filter(is_right).key_by(number_of), 0, "2s", pair, name="pairs")
        ),
        "joined": (
            orders.filter(is_left)
            .key_by(key_of)
            .window_join(orders.filter(is_right).key_by(key_of), cd.Tumbling("20s"), pair, name="joined")
        ),
        "named": orders.broadcast_join(names, Named, name="named"),
    }
    for name, stream in outputs.items():
        stream.sink(f"out-{name}", LineSink(args["out"]))
