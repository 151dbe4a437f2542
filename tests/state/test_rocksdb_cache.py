"""The RocksDB backend when its caches are too small, piece by piece."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_backends import MAX_PARALLELISM, START_MS, Workshop, content, delete, spec, store

from checkdam.core.keys import key_group
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.state.rocksdb_cache import CacheBudget, Changes
from checkdam.state.rocksdb_maps import RocksDbMapTable
from checkdam.state.rocksdb_rows import RowMaker, after, pack_number, unpack_number
from checkdam.state.rocksdb_store import Store
from checkdam.state.rocksdb_timers import RocksDbTimers
from checkdam.state.rocksdb_values import RocksDbTable
from checkdam.state.sizes import EntrySize, approximate_bytes

EVERYTHING = 1 << 40
"""More bytes than any holder has."""


@pytest.fixture
def kind() -> str:
    return "rocksdb"


@pytest.fixture
def backend(workshop: Workshop) -> RocksDbBackend:
    made = workshop.backend()
    assert isinstance(made, RocksDbBackend)
    return made


def evict(part: RocksDbTable | RocksDbMapTable | RocksDbTimers, excess_bytes: int = EVERYTHING) -> None:
    part.give_up(excess_bytes, True)


def test_state_many_times_the_memory_is_kept_and_the_cache_stays_in_its_bound(tmp_path: Path) -> None:
    workshop = Workshop("rocksdb", tmp_path, memory_bytes=2 << 20)
    backend = workshop.backend()
    assert isinstance(backend, RocksDbBackend)
    table = backend.table(spec("t", str))
    expected: dict[str, str] = {}
    chooser = random.Random(1)
    for batch in range(60):
        keys = [f"key-{chooser.randrange(40_000)}" for _ in range(500)]
        cells = table.cells(0, keys)
        for key in keys:
            assert cells.get(key) == expected.get(key)
            cells[key] = expected[key] = f"{batch}-{'x' * 50}"
        table.changed(0, keys)
        assert table.held_bytes() < 4 << 20
    assert len(expected) > 20_000
    assert content(table) == expected
    assert content(workshop.reopened(backend).table(spec("t", str))) == expected
    workshop.close()


def test_a_cell_given_up_comes_back_and_a_deleted_one_does_not(backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {"a": 1, "b": 2, "c": 3})
    evict(table)
    assert table.held_bytes() == 0
    delete(table, ["a"])
    assert "a" not in table.cells(0, ["a"])
    evict(table)
    assert table.cells(0, ["a", "b"]).get("b") == 2
    assert "a" not in table.cells(0, ["a"])
    assert content(table) == {"b": 2, "c": 3}


def test_a_namespace_whose_last_stored_cell_was_deleted_is_not_listed(backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {"a": 1, "b": 1}, 7)
    evict(table)
    delete(table, ["a"], 7)
    evict(table)
    assert table.namespaces() == [7]
    delete(table, ["b"], 7)
    evict(table)
    assert table.namespaces() == []
    store(table, {"c": 1}, 7)
    assert content(table, 7) == {"c": 1}


@pytest.mark.parametrize("cells", [3, 2000])
def test_a_dropped_namespace_is_gone_from_the_database_too(backend: RocksDbBackend, cells: int) -> None:
    table = backend.table(spec("t"))
    for namespace in (0, 1):
        store(table, {f"k{index}": index for index in range(cells)}, namespace)
    evict(table)
    table.cells(0, ["k1"])
    table.drop(0)
    assert table.cells(0, ["k0", "k1"]) == {}
    assert table.namespaces() == [1]
    assert len(content(table, 1)) == cells


def test_what_another_table_needs_is_not_taken_out_of_the_operators_hands(backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {"old": 1})
    cells = table.cells(0, ["old"])
    cells["new"] = 2
    table.give_up(EVERYTHING, False)
    cells["newer"] = 3
    table.changed(0, ["new", "newer"])
    assert content(table) == {"old": 1, "new": 2, "newer": 3}


def test_changes_must_be_announced_before_the_table_is_asked_again(backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    table.cells(1, ["k"])["k"] = 1
    table.cells(2, ["k"])
    with pytest.raises(ValueError, match=r"`changed` must follow `cells` of the same namespace .*\(got 1, after 2\)"):
        table.changed(1, ["k"])


def test_a_scan_goes_on_while_other_namespaces_are_read(backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {index: index for index in range(10_000)}, 1)
    store(table, {index: -index for index in range(10)}, 2)
    seen: dict[Any, Any] = {}
    for portion in table.scan(1):
        seen.update(portion)
        evict(table)
        assert table.cells(2, [3])[3] == -3
    assert seen == {index: index for index in range(10_000)}


def test_a_data_file_is_hashed_once(
    workshop: Workshop, backend: RocksDbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = hashlib.file_digest

    def counting(file: Any, name: str) -> Any:
        hashed.append(Path(file.name).suffix)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    table = backend.table(spec("t"))
    store(table, {"k": 1})
    evict(table)
    first = {file.name: file for file in backend.snapshot(workshop.new_folder()).finish()}
    second = {file.name: file for file in backend.snapshot(workshop.new_folder()).finish()}
    data = [name for name in first if name.endswith(".sst")]
    assert hashed.count(".sst") == len(data) == 1
    assert first[data[0]].sha256 == second[data[0]].sha256


def test_expired_rows_are_removed_from_the_database(backend: RocksDbBackend, workshop: Workshop) -> None:
    table = backend.table(spec("t", ttl_ms=100))
    maps = backend.map_table(spec("m", kind="map", ttl_ms=100))
    store(table, {index: (index, START_MS) for index in range(50)})
    maps.put("k", 1, 1)
    evict(table)
    evict(maps)
    workshop.clock.advance(5_000)
    store(table, {50: (50, workshop.clock.now_ms())})
    evict(table)
    for _ in range(3):
        backend.maintain()
    assert [len(rows) for rows in table._column.portions(b"\0")] == [1]
    assert maps._column.first(b"") is None


def test_a_map_that_is_cached_in_part_shows_the_newest_of_both(backend: RocksDbBackend) -> None:
    maps = backend.map_table(spec("m", kind="map"))
    for number in range(4):
        maps.put("k", number, number)
    evict(maps)
    maps.put("k", 1, -1)
    maps.remove("k", 2)
    maps.put("k", 9, 9)
    assert maps.get("k", 2) is None
    assert maps.get("k", 3) == 3
    assert maps.items("k") == [(0, 0), (1, -1), (3, 3), (9, 9)]
    evict(maps)
    maps.remove("k", 0)
    maps.remove("other", 0)
    assert maps.items("k", 0, 2) == [(1, -1)]
    maps.clear("k")
    evict(maps)
    assert maps.items("k") == []


def test_a_key_that_was_given_up_can_be_cleared_unread(backend: RocksDbBackend) -> None:
    maps = backend.map_table(spec("m", kind="map"))
    maps.put("k", 1, 1)
    maps.put("l", 1, 1)
    evict(maps)
    maps.clear("k")
    maps.put("k", 2, 2)
    evict(maps)
    assert maps.items("k") == [(2, 2)]
    assert maps.items("l") == [(1, 1)]


def test_a_timer_deleted_and_registered_again_fires_after_a_restore(
    workshop: Workshop, backend: RocksDbBackend
) -> None:
    timers = backend.timers("op", "event")
    timers.register_many(10, ["a", "b"])
    evict(timers)
    assert timers.pop_due(9) == []
    assert timers.pop_due(10, 1)
    timers.register_many(10, ["a", "b"])
    timers.delete(10, "b")
    timers.register(10, "b")
    restored = workshop.reopened(backend).timers("op", "event")
    assert sorted(restored.pop_due(10)) == [(10, "a", 0), (10, "b", 0)]


def test_a_deleted_timer_is_not_read_back_when_the_horizon_moves_before_it(backend: RocksDbBackend) -> None:
    timers = backend.timers("op", "event")
    timers.register_many(10, ["a"])
    timers.register_many(20, ["a"])
    evict(timers)
    assert timers.pop_due(10) == [(10, "a", 0)]
    timers.delete(20, "a")
    timers.register(19, "a")
    evict(timers)
    assert timers.pop_due(30) == [(19, "a", 0)]


def test_a_timer_between_the_horizons_of_two_groups_stays_in_memory(backend: RocksDbBackend) -> None:
    timers = backend.timers("op", "event")
    early, late = (next(key for key in range(100) if key_group(key, MAX_PARALLELISM) == group) for group in (3, 4))
    timers.register(10, early)
    timers.register(30, late)
    evict(timers)
    timers.register(20, late)
    timers.register(20, early)
    assert timers.pop_due(40) == [(10, early, 0), (20, late, 0), (20, early, 0), (30, late, 0)]


timer_steps = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.integers(0, 12), st.integers(0, 30)),
        st.tuples(st.just("many"), st.integers(0, 12), st.integers(0, 30)),
        st.tuples(st.just("delete"), st.integers(0, 12), st.integers(0, 30)),
        st.tuples(st.just("pop"), st.integers(0, 12), st.integers(1, 6)),
        st.tuples(st.just("evict"), st.integers(0, 2000), st.just(0)),
    ),
    max_size=60,
)


@given(steps=timer_steps)
@settings(max_examples=150, deadline=None)
def test_timers_in_and_out_of_memory_are_one_set(timer_store: Store, steps: list[tuple[str, int, int]]) -> None:
    column = timer_store.column(f"timers-{len(timer_store._columns)}")
    timers = RocksDbTimers(column, RowMaker(MAX_PARALLELISM, range(MAX_PARALLELISM)), CacheBudget(EVERYTHING))
    truth: set[tuple[int, Any, int]] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("checkdam.state.rocksdb_timers.REFILL_ROWS", 2)
        patch.setattr("checkdam.state.rocksdb_timers._BUFFERED_CHANGES", 2)
        for step, number, key in [*steps, ("pop", 12, 10_000)]:
            if step == "register":
                timers.register(number, key)
                truth.add((number, key, 0))
            elif step == "many":
                timers.register_many(number, range(key))
                truth.update((number, each, 0) for each in range(key))
            elif step == "delete":
                timers.delete(number, key)
                truth.discard((number, key, 0))
            elif step == "evict":
                timers.give_up(number, False)
            else:
                popped = timers.pop_due(number, key)
                due = sorted(time_ms for time_ms, _, _ in truth if time_ms <= number)
                assert [time_ms for time_ms, _, _ in popped] == due[:key]
                assert len(popped) == len(set(popped))
                assert set(popped) <= truth
                truth -= set(popped)
    assert truth == set()


@pytest.fixture(scope="module")
def timer_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store(tmp_path_factory.mktemp("timers") / "db", 8 << 20)
    yield opened
    opened.close()


def test_many_timers_at_one_time_fire_in_portions(backend: RocksDbBackend) -> None:
    timers = backend.timers("op", "event")
    timers.register_many(10, range(3000))
    evict(timers)
    assert timers.held_bytes() == 0
    fired: set[Any] = set()
    while due := timers.pop_due(10, 100):
        assert len(due) <= 100
        fired.update(key for _, key, _ in due)
    assert fired == set(range(3000))
    assert timers.next_time() is None


def test_the_largest_holder_gives_way_first_and_others_follow() -> None:
    class Holding:
        def __init__(self, held: int) -> None:
            self.held = held
            self.asked: list[tuple[int, bool]] = []

        def held_bytes(self) -> int:
            return self.held

        def give_up(self, excess_bytes: int, asked_by_itself: bool) -> None:
            self.asked.append((excess_bytes, asked_by_itself))
            self.held -= min(excess_bytes, 60)

    budget = CacheBudget(100)
    small, large = Holding(50), Holding(80)
    for holder in (small, large):
        budget.join(holder)
    budget.make_room(small)
    assert (small.asked, large.asked) == ([], [(30, False)])
    small.held, large.held = 110, 120
    budget.make_room(small)
    assert (small.asked, large.asked[1:]) == ([(70, True)], [(130, False)])
    budget.make_room(small)
    assert (len(small.asked), large.asked[2:]) == (1, [(10, False)])


def test_changes_are_recent_until_a_snapshot_and_logged_from_then_on() -> None:
    changes = Changes()
    changes.recent.update(["a", "b", "c"])
    assert not changes.has_logged()
    assert changes.written(["b"]) == set()
    changes.begin_log()
    assert changes.recent == set()
    assert changes.has_logged()
    changes.recent.update(["a", "d"])
    assert sorted(changes) == ["a", "c", "d"]
    assert changes.fold(1) == 1
    assert sorted(changes) == ["a", "c", "d"]
    changes.begin_log()
    assert changes.written(["a", "d", "e"]) == {"a", "d"}
    assert list(changes) == ["c"]
    assert "a" not in changes


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=100, deadline=None)
def test_packed_numbers_sort_like_numbers(one: int, other: int) -> None:
    assert unpack_number(pack_number(one)) == one
    assert (pack_number(one) < pack_number(other)) == (one < other)


def test_after_is_the_end_of_a_prefix() -> None:
    assert after(b"\x00\x01") == b"\x00\x02"
    assert after(b"\x00\xff\xff") == b"\x01"


def test_sizes_are_about_right_and_bounded_in_effort() -> None:
    assert approximate_bytes("x" * 1000) > 1000
    assert 300_000 < approximate_bytes(list(range(10_000, 20_000))) < 500_000
    assert approximate_bytes({"a": [1, 2], "b": {"c": (1.0, None)}}) > 300
    assert approximate_bytes(Workshop) > 0
    size = EntrySize(100)
    size.sample("k", 1)
    assert 150 < size.bytes < 250
    for _ in range(100):
        size.sample("k" * 1000, 1)
    assert size.bytes > 1000
