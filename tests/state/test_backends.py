"""What both backends promise, case by case."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from state_backends import MAX_PARALLELISM, START_MS, Workshop, content, delete, spec, store

from checkdam.core.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError
from checkdam.core.keys import key_group
from checkdam.state.backends import make_backend
from checkdam.state.base import LocalFile


@dataclass(frozen=True)
class Sensor:
    site: str
    number: int


KEYS: list[Any] = ["a", b"a", 1, 2.5, -3, ("a", 1), Sensor("x", 1), 2**80, ""]


def test_every_kind_of_key_keeps_its_cell_over_a_snapshot(workshop: Workshop) -> None:
    backend = workshop.backend()
    cells = {key: index for index, key in enumerate(KEYS)}
    store(backend.table(spec("t")), cells)
    restored = workshop.reopened(backend).table(spec("t"))
    assert {key: restored.cells(0, KEYS)[key] for key in KEYS} == cells
    assert content(restored) == cells


def test_equal_keys_of_different_types_are_one_key(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.table(spec("t"))
    store(table, {1: 5})
    assert table.cells(0, [True])[1.0] == 5
    restored = workshop.reopened(backend).table(spec("t"))
    assert restored.cells(0, [1.0]).get(True) == 5


def test_namespaces_are_apart_and_listed_only_while_they_hold_cells(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.table(spec("t"))
    for namespace in (5, -7, 0):
        store(table, {"k": namespace}, namespace)
    table.cells(99, ["k"])
    assert table.namespaces() == [-7, 0, 5]
    delete(table, ["k"], 0)
    table.drop(5)
    table.drop(12345)
    assert table.namespaces() == [-7]
    restored = workshop.reopened(backend).table(spec("t"))
    assert restored.namespaces() == [-7]
    assert content(restored, -7) == {"k": -7}
    assert content(restored, 5) == {}


def test_a_key_deleted_after_a_restore_stays_deleted_after_the_next(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {"a": 1, "b": 2})
    backend = workshop.reopened(backend)
    delete(backend.table(spec("t")), ["a"])
    backend = workshop.reopened(backend)
    assert content(backend.table(spec("t"))) == {"b": 2}
    assert "a" not in backend.table(spec("t")).cells(0, ["a", "b"])


def test_a_value_changed_while_the_snapshot_is_written_is_in_it_as_it_was(kind: str, tmp_path: Path) -> None:
    workshop = Workshop(kind, tmp_path, fork_from_entries=0)
    backend = workshop.backend()
    table = backend.table(spec("t"))
    maps = backend.map_table(spec("m", kind="map"))
    timers = backend.timers("op", "event")
    old = {f"key-{index}": index for index in range(5000)}
    store(table, old)
    maps.put("k", 1, 1)
    timers.register(10, "k")
    writer = backend.snapshot(workshop.new_folder())
    store(table, dict.fromkeys(old, -1))
    store(table, {"new": 1}, 3)
    maps.put("k", 1, 2)
    maps.put("k", 2, 2)
    timers.delete(10, "k")
    restored = workshop.restored(writer.finish())
    assert content(restored.table(spec("t"))) == old
    assert restored.table(spec("t")).namespaces() == [0]
    assert restored.map_table(spec("m", kind="map")).items("k") == [(1, 1)]
    assert restored.timers("op", "event").pop_due(10) == [(10, "k", 0)]
    workshop.close()


@pytest.mark.parametrize("fork_from_entries", [0, 20_000])
def test_an_object_changed_in_place_after_the_snapshot_is_in_it_as_it_was(
    kind: str, tmp_path: Path, fork_from_entries: int
) -> None:
    workshop = Workshop(kind, tmp_path, fork_from_entries=fork_from_entries)
    backend = workshop.backend()
    table = backend.table(spec("t", list[int]))
    shared = [1, 2]
    store(table, {"k": shared})
    writer = backend.snapshot(workshop.new_folder())
    shared.append(3)
    assert content(workshop.restored(writer.finish()).table(spec("t", list[int]))) == {"k": [1, 2]}
    workshop.close()


def test_map_entries_come_in_the_order_of_int_subkeys_and_by_range(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.map_table(spec("m", str, "map"))
    for subkey in (5, -2, 300, 0, 2**70, -(2**70)):
        table.put("k", subkey, str(subkey))
    table.put("other", 1, "1")
    ordered = [-(2**70), -2, 0, 5, 300, 2**70]
    for state in (table, workshop.reopened(backend).map_table(spec("m", str, "map"))):
        state.load(["k", "other", "absent"])
        assert [subkey for subkey, _ in state.items("k")] == ordered
        assert state.items("k", low=0) == [(n, str(n)) for n in ordered[2:]]
        assert state.items("k", low=-2, high=300) == [(n, str(n)) for n in (-2, 0, 5)]
        assert state.items("k", high=-2) == [(-(2**70), str(-(2**70)))]
        assert state.items("absent") == []
        state.put("k", 4, "4")
        state.remove("k", 300)
        assert [subkey for subkey, _ in state.items("k", 0, 1000)] == [0, 4, 5]


def test_map_subkeys_of_mixed_types_are_kept_and_ranges_see_ints_only(workshop: Workshop) -> None:
    table = workshop.backend().map_table(spec("m", kind="map"))
    for value, subkey in enumerate([("b", 1), "b", 7, b"b", 2.5, "a"]):
        table.put("k", subkey, value)
    assert [subkey for subkey, _ in table.items("k")] == [7, 2.5, "a", "b", b"b", ("b", 1)]
    assert table.items("k", 0, 100) == [(7, 2)]
    assert table.get("k", "b") == 1
    assert table.get("k", "z", "default") == "default"
    table.remove("k", "b")
    table.remove("k", "never")
    assert table.get("k", "b") is None
    table.clear("k")
    assert table.items("k") == []


def test_a_map_too_large_to_be_cached_whole_is_read_by_range(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.map_table(spec("m", kind="map"))
    for number in range(3000):
        table.put("k", number, number)
    backend = workshop.reopened(backend)
    table = backend.map_table(spec("m", kind="map"))
    assert table.items("k", 2998) == [(2998, 2998), (2999, 2999)]
    table.put("k", 5000, 1)
    table.put("k", 1, -1)
    table.remove("k", 0)
    table.remove("k", 2)
    assert table.items("k", 0, 5) == [(1, -1), (3, 3), (4, 4)]
    assert table.get("k", 2) is None
    assert table.get("k", 3) == 3
    assert len(table.items("k")) == 2999
    table.clear("k")
    assert table.items("k") == []
    table.put("k", 3, 33)
    assert workshop.reopened(backend).map_table(spec("m", kind="map")).items("k") == [(3, 33)]


def test_expired_cells_are_invisible_at_once_and_judged_by_the_time_of_the_restore(workshop: Workshop) -> None:
    backend = workshop.backend()
    ttl = spec("t", ttl_ms=100)
    table, maps = backend.table(ttl), backend.map_table(spec("m", kind="map", ttl_ms=100))
    store(table, {"old": (1, START_MS)})
    maps.put("k", "old", 1)
    workshop.clock.advance(60)
    store(table, {"young": (2, START_MS + 60)})
    maps.put("k", "young", 2)
    workshop.clock.advance(39)
    assert content(table) == {"old": (1, START_MS), "young": (2, START_MS + 60)}
    writer = backend.snapshot(workshop.new_folder())
    workshop.clock.advance(1)
    for state in (backend, workshop.restored(writer.finish())):
        assert content(state.table(ttl)) == {"young": (2, START_MS + 60)}
        assert "old" not in state.table(ttl).cells(0, ["old", "young"])
        assert state.map_table(spec("m", kind="map", ttl_ms=100)).get("k", "old") is None
        assert state.map_table(spec("m", kind="map", ttl_ms=100)).items("k") == [("young", 2)]


def test_maintenance_removes_expired_cells(workshop: Workshop) -> None:
    backend = workshop.backend()
    ttl, maps = spec("t", ttl_ms=100), spec("m", kind="map", ttl_ms=100)
    store(backend.table(ttl), {key: (key, START_MS) for key in range(500)})
    for number in range(500):
        backend.map_table(maps).put("k", number, number)
    backend = workshop.reopened(backend)
    backend.table(ttl)
    backend.map_table(maps)
    assert backend.size_hint() >= 1000
    workshop.clock.advance(10_000)
    for _ in range(20):
        backend.maintain()
        workshop.clock.advance(1000)
    workshop.clock.advance(-workshop.clock.now_ms() + START_MS)
    backend = workshop.reopened(backend)
    if workshop.kind == "hashmap":  # RocksDB's cache keeps what it holds until it needs the room.
        assert content(backend.table(ttl)) == {}
        assert backend.map_table(maps).items("k") == []


def test_a_ttl_can_be_switched_on_and_off_between_snapshot_and_restore(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    backend.map_table(spec("m", kind="map")).put("k", "s", 1)
    workshop.clock.advance(50)
    backend = workshop.reopened(backend)
    assert content(backend.table(spec("t", ttl_ms=100))) == {"k": (1, START_MS + 50)}
    assert backend.map_table(spec("m", kind="map", ttl_ms=100)).get("k", "s") == 1
    backend = workshop.reopened(backend)
    assert content(backend.table(spec("t"))) == {"k": 1}
    assert backend.map_table(spec("m", kind="map")).items("k") == [("s", 1)]


def test_timers_come_earliest_first_in_portions_and_once(workshop: Workshop) -> None:
    timers = workshop.backend().timers("op", "event")
    assert timers.next_time() is None
    timers.register_many(30, [f"k{index}" for index in range(10)], 7)
    timers.register_many(30, ["k3", "k10"], 7)
    timers.register(20, "a")
    timers.register(20, "a")
    timers.register(20, "a", -1)
    timers.register(-5, ("t", 1))
    timers.delete(30, "k0", 7)
    timers.delete(31, "k1", 7)
    assert timers.next_time() == -5
    assert timers.pop_due(-6) == []
    assert timers.pop_due(25, limit=2)[0] == (-5, ("t", 1), 0)
    assert len(timers.pop_due(25)) == 1
    assert timers.pop_due(29) == []
    assert len(timers.pop_due(30, limit=4)) == 4
    rest = timers.pop_due(2**62)
    assert len(rest) == 6
    assert {time for time, _, _ in rest} == {30}
    assert timers.next_time() is None


def test_timers_are_apart_by_operator_and_domain_and_survive_a_restore(workshop: Workshop) -> None:
    backend = workshop.backend()
    backend.timers("a", "event").register_many(10, ["k", 1])
    backend.timers("a", "processing").register(11, "k", 3)
    backend.timers("b", "event").register(12, "k")
    for _ in range(2):
        backend = workshop.reopened(backend)
        assert sorted(backend.unclaimed_tables()) == ["a/event timers", "a/processing timers", "b/event timers"]
        backend.timers("a", "event").delete(10, 1)
        backend.timers("a", "processing")
        backend.timers("b", "event").register(9, "k")
    assert backend.timers("a", "event").pop_due(100) == [(10, "k", 0)]
    assert backend.timers("a", "processing").pop_due(100) == [(11, "k", 3)]
    assert backend.timers("b", "event").pop_due(100) == [(9, "k", 0), (12, "k", 0)]


def test_another_kind_or_encoding_of_state_is_refused_by_name(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    backend = workshop.reopened(backend)
    with pytest.raises(IncompatibleCheckpointError, match=r"operator `op`.*state `t`.*`msgpack:int`.*`pickle`"):
        backend.table(spec("t", None))
    with pytest.raises(IncompatibleCheckpointError, match=r"value of .*map of"):
        backend.map_table(spec("t", kind="map"))
    assert content(backend.table(spec("t"))) == {"k": 1}


def test_state_that_nobody_asks_for_is_named_and_forgotten_by_the_next_snapshot(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("kept")), {"k": 1})
    store(backend.table(spec("gone")), {"k": 1})
    backend.timers("gone", "event").register(1, "k")
    backend = workshop.reopened(backend)
    backend.table(spec("kept"))
    assert backend.unclaimed_tables() == ["op/gone", "gone/event timers"]
    backend = workshop.reopened(backend)
    assert backend.unclaimed_tables() == ["op/kept"]
    assert content(backend.table(spec("gone"))) == {}


def test_a_table_is_one_however_often_it_is_asked_for(workshop: Workshop) -> None:
    backend = workshop.backend()
    assert backend.table(spec("t")) is backend.table(spec("t"))
    assert backend.map_table(spec("m", kind="map")) is backend.map_table(spec("m", kind="map"))
    with pytest.raises(ValueError, match="declared twice"):
        backend.table(spec("t", str))
    with pytest.raises(ValueError, match="declared twice"):
        backend.map_table(spec("t", kind="map"))
    with pytest.raises(ValueError, match="`kind` of table `op/m` must be 'value'"):
        backend.table(spec("m", kind="map"))


def test_a_subtask_restores_its_part_of_a_wider_snapshot_and_refuses_a_narrower_one(workshop: Workshop) -> None:
    backend = workshop.backend()
    cells = {f"k{index}": index for index in range(100)}
    store(backend.table(spec("t")), cells)
    for key in cells:
        backend.timers("op", "event").register(5, key)
        backend.map_table(spec("m", kind="map")).put(key, 1, 1)
    files = backend.snapshot(workshop.new_folder()).finish()
    half = range(4, 9)
    mine = {key for key in cells if key_group(key, MAX_PARALLELISM) in half}
    part = workshop.restored(files, half)
    assert set(content(part.table(spec("t")))) == mine
    assert {key for _, key, _ in part.timers("op", "event").pop_due(5, 1000)} == mine
    maps = part.map_table(spec("m", kind="map"))
    assert {key for key in cells if maps.items(key)} == mine
    narrow = part.snapshot(workshop.new_folder()).finish()
    with pytest.raises(CheckpointError, match=r"owns key groups 0..15, of which the checkpoint's snapshots have 4..8"):
        workshop.restored(narrow)


def test_state_of_a_key_group_that_is_not_owned_fails_the_snapshot(workshop: Workshop) -> None:
    backend = workshop.backend(range(1))
    store(backend.table(spec("t")), {f"k{index}": index for index in range(50)})
    with pytest.raises(CheckpointError, match=r"this subtask owns 0\.\.0"):
        backend.snapshot(workshop.new_folder()).finish()


def test_a_snapshot_of_nothing_restores_to_nothing(workshop: Workshop) -> None:
    backend = workshop.backend()
    backend.prepare()
    backend = workshop.reopened(backend)
    assert backend.unclaimed_tables() == []
    assert backend.table(spec("t")).namespaces() == []
    assert backend.size_hint() == 0


def test_every_file_of_a_snapshot_is_described_as_it_is(workshop: Workshop) -> None:
    import hashlib

    backend = workshop.backend()
    store(backend.table(spec("t")), {f"k{index}": index for index in range(200)})
    folder = workshop.new_folder()
    files = backend.snapshot(folder).finish()
    assert {str(file.path.relative_to(folder)) for file in files} == {file.name for file in files}
    assert {file.path for file in files} == {path for path in folder.rglob("*") if path.is_file()}
    for file in files:
        data = file.path.read_bytes()
        assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    if workshop.kind == "rocksdb":  # where only what is not in the log of changes is written key group by key group
        backend.map_table(spec("m", kind="map")).put("k", 1, 1)
        files = backend.snapshot(workshop.new_folder()).finish()
    (blocks,) = [file for file in files if file.key_group_offsets]
    spans = sorted(blocks.key_group_offsets.values())
    assert spans[0][0] == 0
    assert [start + length for start, length in spans] == [start for start, _ in spans[1:]] + [blocks.size_bytes]


def test_cancel_leaves_nothing_behind_before_and_after_finish(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    early, late = workshop.new_folder(), workshop.new_folder()
    writer = backend.snapshot(early)
    writer.cancel()
    with pytest.raises(CheckpointError):
        writer.finish()
    writer = backend.snapshot(late)
    writer.finish()
    writer.cancel()
    assert list(early.iterdir()) == list(late.iterdir()) == []


def test_an_unwritable_folder_fails_the_snapshot_and_not_the_task(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.table(spec("t"))
    store(table, {"k": 1})
    writer = backend.snapshot(workshop.folder / "absent" / "folder")
    with pytest.raises(CheckpointError, match="cannot write the snapshot"):
        writer.finish()
    store(table, {"l": 2})
    assert content(workshop.reopened(backend).table(spec("t"))) == {"k": 1, "l": 2}


def test_a_value_of_the_wrong_type_fails_the_snapshot_with_its_name(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": "text"})
    with pytest.raises(CheckpointError, match="state `t`"):
        backend.snapshot(workshop.new_folder()).finish()


def test_snapshots_of_another_release_or_number_of_key_groups_are_refused(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    files = backend.snapshot(workshop.new_folder()).finish()
    record = next(file.path for file in files if file.name == "state.json")
    text = record.read_text()
    record.write_text(text.replace('"max_parallelism": 16', '"max_parallelism": 32'))
    with pytest.raises(IncompatibleCheckpointError, match="set `maxParallelism` to 32"):
        workshop.restored(files)
    record.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(IncompatibleCheckpointError, match="upgrade Checkdam"):
        workshop.restored(files)
    record.write_text("{")
    with pytest.raises(CorruptCheckpointError, match=r"is not a snapshot's `state.json`"):
        workshop.restored(files)
    with pytest.raises(CorruptCheckpointError, match=r"has no `state.json`"):
        workshop.restored([])


def test_damaged_blocks_are_reported_as_such(workshop: Workshop) -> None:
    backend = workshop.backend()
    store(backend.table(spec("t")), {f"k{index}": index for index in range(200)})
    files = backend.snapshot(workshop.new_folder()).finish()
    (blocks,) = [file for file in files if file.name.endswith(".blocks")]
    data = blocks.path.read_bytes()
    blocks.path.write_bytes(data[:-3])
    with pytest.raises(CorruptCheckpointError, match="ends in the middle of a block"):
        workshop.restored(files)
    blocks.path.write_bytes(data[:12] + b"\0\0\0\0" + data[16:])
    with pytest.raises(CorruptCheckpointError, match="a block of op/t cannot be read"):
        workshop.restored(files).table(spec("t"))


def test_rocksdbs_own_snapshots_are_refused_by_the_hashmap_backend(tmp_path: Path) -> None:
    workshop, other = Workshop("rocksdb", tmp_path), Workshop("hashmap", tmp_path)
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    files = backend.snapshot(workshop.new_folder()).finish()
    with pytest.raises(IncompatibleCheckpointError, match=r"set `stateBackend.type` to rocksdb, or .* a savepoint"):
        other.restored(files)
    workshop.close()


def test_closing_cancels_a_snapshot_that_is_being_written(kind: str, tmp_path: Path) -> None:
    workshop = Workshop(kind, tmp_path, fork_from_entries=0)
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    open_before = len(os.listdir("/proc/self/fd")) if kind == "hashmap" else None
    writer = backend.snapshot(workshop.new_folder())
    backend.close()
    with pytest.raises(CheckpointError, match="cancelled"):
        writer.finish()
    if open_before is not None:
        assert len(os.listdir("/proc/self/fd")) == open_before


def test_make_backend_knows_its_kinds(tmp_path: Path) -> None:
    workshop = Workshop("hashmap", tmp_path)
    for name in ("hashmap", "rocksdb"):
        folder = workshop.new_folder()
        backend = make_backend(name, range(4), 16, folder, workshop.clock, 1 << 20)
        assert backend.key_groups == range(4)
        assert backend.key_group("k") == key_group("k", 16)
        backend.close()
    with pytest.raises(ValueError, match="must be hashmap or rocksdb"):
        make_backend("disk", range(4), 16, tmp_path, workshop.clock, 1)  # type: ignore[arg-type]


def test_a_missing_file_of_the_database_is_reported(tmp_path: Path) -> None:
    workshop = Workshop("rocksdb", tmp_path)
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    files = backend.snapshot(workshop.new_folder()).finish()
    gone = LocalFile("db/000099.sst", tmp_path / "nowhere.sst", 1, "")
    with pytest.raises(CorruptCheckpointError, match=r"cannot restore .*nowhere.sst"):
        workshop.restored([*files, gone])
    without = [file for file in files if not file.name.startswith("db/")]
    with pytest.raises(CorruptCheckpointError, match="lacks table/op/t"):
        workshop.restored(without)
    workshop.close()
