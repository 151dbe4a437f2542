"""What the tests of offline state share: pipelines with every kind of state, and checkpoints of them on disk."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkdam as cd
from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.testing import Harness, ScriptedSource


class Level(enum.Enum):
    """A type of keys that only the job's code has."""

    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Sensor:
    """Another one."""

    plant: str
    number: int


@dataclass
class Reading:
    """A type of values that MessagePack carries."""

    value: float
    unit: str = "C"


class Opaque:
    """A type of values that only pickle carries."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.content == self.content

    __hash__ = None  # type: ignore[assignment]


class Everything(cd.ProcessFunction):
    """Keeps each record, a number with a key, in a state of each kind."""

    latest = cd.ValueState("latest", Reading)
    all = cd.ListState("all", int)
    by_parity = cd.MapState("by-parity", str, int)
    total = cd.ReducingState("total", int, lambda a, b: a + b)
    mean = cd.AggregatingState("mean", cd.mean_of())
    opaque = cd.ValueState("opaque")
    recent = cd.ValueState("recent", int, ttl="10s")
    recent_by_parity = cd.MapState("recent-by-parity", str, int, ttl="10s")

    def process(self, record: tuple[Any, int], ctx: cd.ProcessContext) -> Iterator[Any]:
        number = record[1]
        parity = "odd" if number % 2 else "even"
        self.latest.update(Reading(float(number)))
        self.all.add(number)
        self.by_parity.put(parity, number)
        self.total.add(number)
        self.mean.add(number)
        self.opaque.update(Opaque([number]))
        self.recent.update(number)
        self.recent_by_parity.put(parity, number)
        ctx.register_event_timer(1_000_000 + number)
        ctx.register_processing_timer(2_000_000 + number)
        yield number


def everything(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """`Everything`, over records (key, number) at time number."""
    (
        pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of))
        .key_by(key_of)
        .process(Everything, name="all-kinds", returns=int)
        .sink("out", cd.CollectSink("everything"))
    )


def aggregates(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
    """A running count, and tumbling and session windows with counts, over records (key, number) at time number."""
    keyed = pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of)).key_by(key_of)
    keyed.count(name="counts").sink("counts-out", cd.CollectSink("counts"))
    keyed.window(cd.Tumbling(100)).count(name="per-100").sink("windows-out", cd.CollectSink("windows"))
    keyed.window(cd.Session(50)).count(name="visits").sink("visits-out", cd.CollectSink("visits"))


def key_of(record: tuple[Any, int]) -> Any:
    """A record's key."""
    return record[0]


def time_of(record: tuple[Any, int]) -> int:
    """A record's event time."""
    return record[1]


def on_disk(manifest: CheckpointManifest, folder: Path, name: str = "taken") -> str:
    """A harness's checkpoint as files; returns its uri. The harness keeps its files inside the manifest."""
    store = CheckpointStore(FileStorage(folder))
    store.write_manifest(name, manifest)
    return (folder / name).as_uri()


def taken(build: Any, records: list[Any], folder: Path, **options: Any) -> str:
    """Run a pipeline over `records` in a harness, without letting its input end, and take a checkpoint; returns its uri."""
    with Harness(build, args={"source": ScriptedSource(records, ends=False)}, **options) as harness:
        harness.run()
        return on_disk(harness.checkpoint(), folder)
