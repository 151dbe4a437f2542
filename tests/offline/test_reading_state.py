"""What is read of a checkpoint is what the pipeline had stored, whichever backend wrote it."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from offline_kit import (
    Everything,
    Level,
    Opaque,
    Reading,
    Sensor,
    aggregates,
    everything,
    key_of,
    on_disk,
    taken,
    time_of,
)

import checkdam as cd
from checkdam.checkpoint.manifest import SubtaskSnapshot
from checkdam.core.clock import ManualClock
from checkdam.core.errors import CheckpointError, KeyTypeError, ValueTypeError
from checkdam.core.keys import key_group, owner_of
from checkdam.offline import OwnRow, Savepoint, SplitRow, StateInfo, TimerRow, open_savepoint
from checkdam.state.blocks import ANY_GROUP, Block, StoredBlock
from checkdam.testing import PAUSE, Harness, ScriptedSource

RECORDS = [(f"key-{number % 7}", number) for number in range(60)]
BY_KEY = {f"key-{rest}": [number for number in range(60) if number % 7 == rest] for rest in range(7)}

backends = pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])


def opened(uri: str, build: Any = everything) -> Savepoint:
    """A savepoint with the types of a pipeline."""
    return open_savepoint(uri, pipeline=build, args={"source": ScriptedSource([])})


def values(savepoint: Savepoint, state: str, operator: str = "all-kinds") -> dict[Any, Any]:
    """Key → value of a state without sub-keys."""
    rows = list(savepoint.read(operator, state))
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row.value for row in rows}


@backends
@pytest.mark.parametrize("parallelism", [1, 3])
def test_every_kind_of_state_reads_back_as_it_was(backend: Any, parallelism: int, tmp_path: Path) -> None:
    savepoint = opened(taken(everything, RECORDS, tmp_path, backend=backend, parallelism=parallelism))

    assert values(savepoint, "latest") == {key: Reading(float(numbers[-1])) for key, numbers in BY_KEY.items()}
    assert values(savepoint, "all") == BY_KEY
    assert values(savepoint, "total") == {key: sum(numbers) for key, numbers in BY_KEY.items()}
    assert values(savepoint, "mean") == {key: (sum(numbers), len(numbers)) for key, numbers in BY_KEY.items()}
    assert values(savepoint, "opaque") == {key: Opaque([numbers[-1]]) for key, numbers in BY_KEY.items()}
    entries = {
        (key, parity): max(number for number in numbers if number % 2 == rest)
        for key, numbers in BY_KEY.items()
        for rest, parity in enumerate(("even", "odd"))
    }
    for state in ("by-parity", "recent-by-parity"):
        assert {(row.key, row.subkey): row.value for row in savepoint.read("all-kinds", state)} == entries
    timers = {
        (timer.domain, timer.key, timer.time_ms): timer.key_group == key_group(timer.key, 128)
        for timer in savepoint.timers("all-kinds")
    }
    assert timers == {
        (domain, key, base_ms + number): True
        for domain, base_ms in (("event", 1_000_000), ("processing", 2_000_000))
        for key, number in RECORDS
    }


@backends
def test_rows_come_in_the_order_of_key_groups_with_the_time_of_their_update_where_that_counts(
    backend: Any, tmp_path: Path
) -> None:
    savepoint = opened(taken(everything, RECORDS, tmp_path, backend=backend, parallelism=2))

    rows = list(savepoint.read("all-kinds", "recent"))

    groups = [row.key_group for row in rows]
    assert groups == sorted(key_group(key, 128) for key in BY_KEY)
    assert {row.updated_ms for row in rows} == {10}  # the harness lets 10 ms pass
    assert {row.updated_ms for row in savepoint.read("all-kinds", "total")} == {None}


@backends
def test_what_has_expired_by_the_checkpoint_is_not_shown(backend: Any, tmp_path: Path) -> None:
    clock = ManualClock()
    source = ScriptedSource([("old", 1), PAUSE, ("new", 2)], ends=False)
    with Harness(everything, args={"source": source}, backend=backend, clock=clock) as harness:
        harness.run()
        harness.advance(10_000)
        harness.run()
        savepoint = opened(on_disk(harness.checkpoint(), tmp_path))

    for state in ("recent", "recent-by-parity"):
        assert {row.key for row in savepoint.read("all-kinds", state)} == {"new"}
    assert {row.key for row in savepoint.read("all-kinds", "total")} == {"old", "new"}


@backends
def test_windows_sessions_and_running_aggregates_show_their_accumulators(backend: Any, tmp_path: Path) -> None:
    records = [("a", 5), ("b", 7), ("a", 120), ("b", 130), ("a", 160)]
    savepoint = open_savepoint(taken(aggregates, records, tmp_path, backend=backend))

    assert values(savepoint, "aggregate", "counts") == {"a": 3, "b": 2}
    panes = {(row.key, row.window_start_ms): row.value for row in savepoint.read("per-100")}
    assert panes == {("a", 100): 2, ("b", 100): 1}
    assert values(savepoint, "sessions", "visits") == {"a": [[120, 210, False, 2]], "b": [[130, 180, False, 1]]}


def test_the_contents_name_every_operator_with_its_states(tmp_path: Path) -> None:
    savepoint = open_savepoint(taken(everything, RECORDS, tmp_path))

    found = {operator.name: operator for operator in savepoint.operators()}

    assert list(found) == ["in", "key_by-1", "all-kinds", "out"]
    assert found["in"].splits
    states = {info.name: info for info in found["all-kinds"].states}
    assert states.keys() == {state.name for state in Everything.declared_states.values()}
    assert states["recent-by-parity"] == StateInfo("recent-by-parity", "map", "msgpack:int", 10_000)
    assert states["latest"].type == "msgpack:offline_kit.Reading"
    assert found["all-kinds"].timers == ("event", "processing")
    assert (found["all-kinds"].own, found["key_by-1"].states) == (True, ())


def test_without_the_pipeline_classes_come_out_as_dictionaries(tmp_path: Path) -> None:
    savepoint = open_savepoint(taken(everything, RECORDS, tmp_path))

    latest = values(savepoint, "latest")
    typed = {row.key: row.value for row in savepoint.read("all-kinds", "latest", types=Reading)}

    assert latest["key-1"] == {"value": 57.0, "unit": "C"}
    assert typed["key-1"] == Reading(57.0)


def test_pickled_objects_are_read_only_with_the_code_at_hand(tmp_path: Path) -> None:
    uri = taken(everything, RECORDS, tmp_path)

    with pytest.raises(ValueTypeError, match=r"`opaque` .* class `offline_kit.Opaque`.*--entrypoint"):
        list(open_savepoint(uri).read("all-kinds", "opaque"))
    trusted = list(open_savepoint(uri).read("all-kinds", "opaque", types=Opaque, keys=["key-1"]))
    assert [row.value for row in trusted] == [Opaque([57])]


@backends
def test_keys_of_own_classes_come_back_as_such(backend: Any, tmp_path: Path) -> None:
    keys = [Level.LOW, Sensor("north", 7), ("a", 1), b"\x00", 2.5, 10**30]
    records = [(key, number) for number, key in enumerate(keys)]
    savepoint = open_savepoint(taken(everything, records, tmp_path, backend=backend))

    assert values(savepoint, "total") == {key: number for number, key in enumerate(keys)}
    assert [row.value for row in savepoint.read("all-kinds", "total", keys=[Sensor("north", 7)])] == [1]


def test_a_key_of_a_class_that_is_gone_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("module_of_keys")
    gone: Any = make_dataclass("Gone", [("number", int)], frozen=True)
    gone.__module__ = module.__name__
    vars(module)["Gone"] = gone
    monkeypatch.setitem(sys.modules, module.__name__, module)
    uri = taken(everything, [(gone(1), 1)], tmp_path)
    monkeypatch.delitem(sys.modules, module.__name__)

    with pytest.raises(KeyTypeError, match=r"all-kinds/total: .*module_of_keys\.Gone.*--entrypoint"):
        list(open_savepoint(uri).read("all-kinds", "total"))


def opened_blocks(monkeypatch: pytest.MonkeyPatch) -> list[StoredBlock]:
    """The blocks that are opened from now on."""
    blocks: list[StoredBlock] = []
    open_block = StoredBlock.open

    def open_and_note(block: StoredBlock, where: str) -> Block:
        blocks.append(block)
        return open_block(block, where)

    monkeypatch.setattr(StoredBlock, "open", open_and_note)
    return blocks


@backends
def test_reading_one_key_opens_the_blocks_of_its_key_group_alone(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savepoint = open_savepoint(taken(everything, RECORDS, tmp_path, backend=backend, parallelism=2))
    subtasks: list[int] = []
    take_parts = savepoint.opened

    def take_and_note(snapshot: SubtaskSnapshot, groups: Any) -> Any:
        subtasks.append(snapshot.subtask)
        return take_parts(snapshot, groups)

    monkeypatch.setattr(savepoint, "opened", take_and_note)
    blocks = opened_blocks(monkeypatch)

    found = list(savepoint.read("all-kinds", "total", keys=["key-3"]))

    group = key_group("key-3", 128)
    assert [(row.key, row.value) for row in found] == [("key-3", sum(BY_KEY["key-3"]))]
    assert subtasks == [owner_of(group, 128, 2)]
    of_any_group = {ANY_GROUP} if backend == "rocksdb" else set()
    assert {block.group for block in blocks} == {group} | of_any_group


def test_reading_takes_no_more_blocks_than_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savepoint = open_savepoint(taken(everything, RECORDS, tmp_path))
    blocks = opened_blocks(monkeypatch)

    rows = savepoint.read("all-kinds", "total")
    next(rows)

    assert len(blocks) == 1


def test_a_source_shows_how_far_each_split_was_read(tmp_path: Path) -> None:
    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        stream = pipeline.source("in", args["source"], cd.monotonous(timestamp=time_of))
        stream.key_by(key_of).count(name="counts").sink("out", cd.CollectSink("splits"))

    source = ScriptedSource([("a", 1), ("a", 2), PAUSE, ("a", 3)], [("b", 9)])
    with Harness(build, args={"source": source}) as harness:
        harness.run()
        savepoint = open_savepoint(on_disk(harness.checkpoint(), tmp_path))

    assert savepoint.splits("in") == [
        SplitRow(split="0", progress="reading", position=2, watermark_ms=1, payload=0),
        SplitRow(split="1", progress="finished"),
    ]


def test_broadcast_state_is_a_dictionary_for_each_subtask(tmp_path: Path) -> None:
    class Rates(cd.BroadcastFunction):
        key_type, value_type = str, Reading

        def process(self, value: Any, ctx: cd.BroadcastContext) -> Any:
            return None

        def process_broadcast(self, value: Any, ctx: cd.BroadcastContext) -> Any:
            ctx.broadcast_state.put(value[0], Reading(value[1]))

    def build(pipeline: cd.Pipeline, args: dict[str, Any]) -> None:
        rates = pipeline.source("rates", args["rates"])
        stream = pipeline.source("in", args["source"])
        stream.broadcast_join(rates, Rates, name="rated").sink("out", cd.CollectSink("rated"))

    args = {"source": ScriptedSource([], ends=False), "rates": ScriptedSource([("x", 1.5), ("y", 2.5)], ends=False)}
    with Harness(build, args=args, parallelism=2) as harness:
        harness.run()
        uri = on_disk(harness.checkpoint(), tmp_path)

    typed = open_savepoint(uri, pipeline=build, args=args).own_state("rated")
    untyped = open_savepoint(uri).own_state("rated")

    table = {"x": Reading(1.5), "y": Reading(2.5)}
    assert typed == [OwnRow(subtask=0, value=table), OwnRow(subtask=1, value=table)]
    assert untyped[0].value["y"] == {"value": 2.5, "unit": "C"}


def test_a_wrong_name_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    savepoint = open_savepoint(taken(everything, RECORDS, tmp_path))

    with pytest.raises(CheckpointError, match=r"no operator `all`; it has: `in`, `key_by-1`, `all-kinds`, `out`"):
        savepoint.read("all")
    with pytest.raises(CheckpointError, match=r"has no state `sum` .*`latest`, `all`, `total`"):
        savepoint.read("all-kinds", "sum")
    with pytest.raises(CheckpointError, match=r"several states .* name one of: `latest`"):
        savepoint.read("all-kinds")
    with pytest.raises(CheckpointError, match=r"`in` \(source\) has no keyed state .* it has: splits"):
        savepoint.read("in")
    with pytest.raises(CheckpointError, match=r"for one key write \['key-1'\]"):
        savepoint.read("all-kinds", "total", keys="key-1")
    with pytest.raises(CheckpointError, match=r"no timers .* it has: none"):
        savepoint.timers("in")
    with pytest.raises(CheckpointError, match=r"`out` is no source .* its sources are: `in`"):
        savepoint.splits("out")


def test_timers_can_be_read_of_one_domain_and_one_key(tmp_path: Path) -> None:
    savepoint = open_savepoint(taken(everything, [("a", 1), ("b", 2)], tmp_path))

    assert list(savepoint.timers("all-kinds", "processing", keys=["b"])) == [
        TimerRow(key="b", time_ms=2_000_002, domain="processing", key_group=key_group("b", 128))
    ]
