"""Both backends against plain dictionaries: any sequence of operations, snapshots and restores gives the same."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from state_backends import START_MS, Workshop, content, spec

from checkdam.state.base import SnapshotWriter

KEYS = ["a", "b", "é" * 40, 0, 1, -1, 2**70, 2.5, b"b", ("a", 1), ("a", (2, "x"))]
keys = st.sampled_from(KEYS)
namespaces = st.sampled_from([0, 1, -1, 10**12])
subkeys = st.one_of(st.integers(-20, 20), st.sampled_from(["s", ("s", 1), 2**65]))
times = st.one_of(st.integers(-5, 30), st.just(2**62))
TTL_MS = 50


class Model:
    """The truth, in dictionaries; cells of tables with a TTL as (value, updated_ms)."""

    def __init__(self) -> None:
        self.cells: dict[int, dict[Any, int]] = {}
        self.aging: dict[Any, tuple[int, int]] = {}
        self.maps: dict[Any, dict[Any, int]] = {}
        self.aging_maps: dict[Any, dict[Any, tuple[int, int]]] = {}
        self.timers: set[tuple[int, Any, int]] = set()

    def live(self, now_ms: int) -> dict[Any, tuple[int, int]]:
        return {key: cell for key, cell in self.aging.items() if cell[1] + TTL_MS > now_ms}


class BackendMachine(RuleBasedStateMachine):
    kind = ""
    memory_bytes = 8 << 20
    fork_from_entries = 20_000
    tiny: ClassVar[dict[str, int]] = {
        "rocksdb_capture.SLICE": 2,
        "rocksdb_values.EVICTION_ENTRIES": 2,
        "rocksdb_maps.EVICTION_ENTRIES": 2,
        "rocksdb_maps._ROOM_EVERY": 3,
        "rocksdb_maps.WHOLE_MAP_ENTRIES": 4,
        "rocksdb_timers._ROOM_EVERY": 3,
        "rocksdb_timers.REFILL_ROWS": 2,
        "rocksdb_timers._BUFFERED_CHANGES": 3,
    }

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            mock.patch(f"checkdam.state.{name}", value)
            for name, value in (self.tiny.items() if self.memory_bytes < 1 << 20 else ())
        ]
        for patch in self.patches:
            patch.start()
        # In memory where that is possible: databases are opened and closed hundreds of times here.
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.workshop = Workshop(self.kind, self.folder, self.fork_from_entries, self.memory_bytes)
        self.model = Model()
        self.begun: tuple[SnapshotWriter, Model] | None = None
        self.backend = self.workshop.backend()
        self.open()

    def open(self) -> None:
        self.table = self.backend.table(spec("t"))
        self.aging = self.backend.table(spec("aging", ttl_ms=TTL_MS))
        self.maps = self.backend.map_table(spec("m", kind="map"))
        self.aging_maps = self.backend.map_table(spec("aging-m", kind="map", ttl_ms=TTL_MS))
        self.timers = self.backend.timers("op", "event")

    def teardown(self) -> None:
        if self.begun is not None:
            self.begun[0].finish()
        self.workshop.close()
        shutil.rmtree(self.folder)
        for patch in self.patches:
            patch.stop()

    @rule(namespace=namespaces, batch=st.dictionaries(keys, st.one_of(st.none(), st.integers(0, 99)), max_size=8))
    def update_cells(self, namespace: int, batch: dict[Any, int | None]) -> None:
        cells = self.table.cells(namespace, list(batch))
        truth = self.model.cells.setdefault(namespace, {})
        for key, value in batch.items():
            assert cells.get(key) == truth.get(key)
            if value is None:
                cells.pop(key, None)
                truth.pop(key, None)
            else:
                cells[key] = truth[key] = value
        self.table.changed(namespace, list(batch))

    @rule(namespace=namespaces)
    def drop(self, namespace: int) -> None:
        self.table.drop(namespace)
        self.model.cells.pop(namespace, None)

    @rule(namespace=namespaces)
    def scan(self, namespace: int) -> None:
        assert content(self.table, namespace) == self.model.cells.get(namespace, {})

    @rule(batch=st.dictionaries(keys, st.integers(0, 99), max_size=5))
    def update_aging_cells(self, batch: dict[Any, int]) -> None:
        now_ms = self.workshop.clock.now_ms()
        cells = self.aging.cells(0, list(batch))
        live = self.model.live(now_ms)
        for key, value in batch.items():
            assert cells.get(key) == live.get(key)
            cells[key] = self.model.aging[key] = (value, now_ms)
        self.aging.changed(0, list(batch))

    @rule(by_ms=st.integers(1, 40))
    def advance(self, by_ms: int) -> None:
        self.workshop.clock.advance(by_ms)

    @rule()
    def maintain(self) -> None:
        # Far enough for the next walk, and for settling, to begin; nothing that was visible may change by that.
        self.workshop.clock.advance(10_000)
        self.backend.maintain()
        self.backend.maintain()

    @rule(key=keys, subkey=subkeys, value=st.integers(0, 99))
    def put(self, key: Any, subkey: Any, value: int) -> None:
        self.maps.put(key, subkey, value)
        self.model.maps.setdefault(key, {})[subkey] = value
        self.aging_maps.put(key, subkey, value)
        self.model.aging_maps.setdefault(key, {})[subkey] = (value, self.workshop.clock.now_ms())

    @rule(key=keys, subkey=subkeys)
    def remove_and_get(self, key: Any, subkey: Any) -> None:
        assert self.maps.get(key, subkey, "none") == self.model.maps.get(key, {}).get(subkey, "none")
        self.maps.remove(key, subkey)
        self.model.maps.get(key, {}).pop(subkey, None)
        assert self.maps.get(key, subkey) is None

    @rule(key=keys)
    def clear(self, key: Any) -> None:
        self.maps.clear(key)
        self.model.maps.pop(key, None)

    @rule(key=keys, low=st.one_of(st.none(), st.integers(-20, 20)), high=st.one_of(st.none(), st.integers(-20, 20)))
    def items(self, key: Any, low: int | None, high: int | None) -> None:
        found = self.maps.items(key, low, high)
        truth = self.model.maps.get(key, {})
        if low is None and high is None:
            assert dict(found) == truth
        ints = sorted(
            (subkey, value)
            for subkey, value in truth.items()
            if isinstance(subkey, int) and (low is None or subkey >= low) and (high is None or subkey < high)
        )
        assert [item for item in found if isinstance(item[0], int)] == ints

    @rule(key=keys)
    def aging_items(self, key: Any) -> None:
        now_ms = self.workshop.clock.now_ms()
        truth = self.model.aging_maps.get(key, {})
        assert dict(self.aging_maps.items(key)) == {
            subkey: value for subkey, (value, updated_ms) in truth.items() if updated_ms + TTL_MS > now_ms
        }

    @rule(time_ms=times, batch=st.lists(keys, max_size=5), namespace=namespaces)
    def register(self, time_ms: int, batch: list[Any], namespace: int) -> None:
        self.timers.register_many(time_ms, batch, namespace)
        for key in batch[:1]:
            self.timers.register(time_ms + 1, key, namespace)
            self.model.timers.add((time_ms + 1, key, namespace))
        self.model.timers.update((time_ms, key, namespace) for key in batch)

    @rule(time_ms=times, key=keys, namespace=namespaces)
    def delete_timer(self, time_ms: int, key: Any, namespace: int) -> None:
        self.timers.delete(time_ms, key, namespace)
        self.model.timers.discard((time_ms, key, namespace))

    @rule(up_to_ms=times, limit=st.integers(1, 7))
    def pop_timers(self, up_to_ms: int, limit: int) -> None:
        popped = self.timers.pop_due(up_to_ms, limit)
        due = sorted(time_ms for time_ms, _, _ in self.model.timers if time_ms <= up_to_ms)
        assert [time_ms for time_ms, _, _ in popped] == due[:limit]
        assert len(set(popped)) == len(popped)
        assert set(popped) <= self.model.timers
        self.model.timers -= set(popped)

    @precondition(lambda self: self.begun is None)
    @rule()
    def begin_snapshot(self) -> None:
        self.backend.prepare()
        self.begun = self.backend.snapshot(self.workshop.new_folder()), copy.deepcopy(self.model)

    @precondition(lambda self: self.begun is not None)
    @rule()
    def finish_snapshot_and_restore(self) -> None:
        """Whatever has happened since it was begun."""
        assert self.begun is not None
        writer, self.model = self.begun
        files = writer.finish()
        self.begun = None
        self.backend.close()
        self.backend = self.workshop.restored(files)
        self.open()

    @precondition(lambda self: self.fork_from_entries and self.begun is None)
    @rule()
    def snapshot_and_go_on(self) -> None:
        writer = self.backend.snapshot(self.workshop.new_folder())
        writer.finish()

    @invariant()
    def namespaces_are_those_with_cells(self) -> None:
        assert self.table.namespaces() == sorted(namespace for namespace, cells in self.model.cells.items() if cells)

    @invariant()
    def next_time_is_a_lower_bound(self) -> None:
        next_ms = self.timers.next_time()
        if self.model.timers:
            assert next_ms is not None
            assert next_ms <= min(time_ms for time_ms, _, _ in self.model.timers)


class HashMapMachine(BackendMachine):
    kind = "hashmap"


class RocksDbMachine(BackendMachine):
    kind = "rocksdb"


class TinyRocksDbMachine(BackendMachine):
    """So little memory that all is given up again and again."""

    kind = "rocksdb"
    memory_bytes = 4 << 10


class ForkingMachine(BackendMachine):
    kind = "hashmap"
    fork_from_entries = 0


class ForkingRocksDbMachine(BackendMachine):
    kind = "rocksdb"
    fork_from_entries = 0
    memory_bytes = 4 << 10


MANY = settings(max_examples=45, stateful_step_count=40, deadline=None)
FEW = settings(max_examples=15, stateful_step_count=30, deadline=None)

TestHashMap = HashMapMachine.TestCase
TestHashMap.settings = MANY
TestRocksDb = RocksDbMachine.TestCase
TestRocksDb.settings = MANY
TestTinyRocksDb = TinyRocksDbMachine.TestCase
TestTinyRocksDb.settings = MANY
TestForkingHashMap = ForkingMachine.TestCase
TestForkingHashMap.settings = FEW
TestForkingRocksDb = ForkingRocksDbMachine.TestCase
TestForkingRocksDb.settings = FEW

assert START_MS > TTL_MS
