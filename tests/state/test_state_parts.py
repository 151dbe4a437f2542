"""The small parts that backends are built of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from state_backends import MAX_PARALLELISM, START_MS, Workshop, content, spec, store

from checkdam.core.clock import ManualClock
from checkdam.core.errors import CorruptCheckpointError
from checkdam.core.keys import decode_keys, key_group
from checkdam.state import submap
from checkdam.state.base import LocalFile
from checkdam.state.blocks import BLOCK_BYTES, BLOCK_ROWS, find_blocks
from checkdam.state.columns import (
    BlockSize,
    cut_runs,
    decode_deletions,
    decode_rows,
    decode_timers,
    encode_deletions,
    encode_rows,
    encode_runs,
    encode_timers,
    estimated_total,
)
from checkdam.state.submap import SubMap
from checkdam.state.timer_heap import TimerHeap
from checkdam.state.walks import PacedWalk

small_keys = st.one_of(st.integers(-50, 50), st.sampled_from(["a", "b", b"c", 2.5, ("t", 1)]))


@given(
    st.lists(st.tuples(st.booleans(), small_keys), max_size=80),
    st.one_of(st.none(), st.integers(-60, 60)),
    st.one_of(st.none(), st.integers(-60, 60)),
    st.integers(0, 4),
)
@settings(max_examples=200, deadline=None)
def test_a_sub_map_is_a_dictionary_with_order(
    steps: list[tuple[bool, object]], low: int | None, high: int | None, insertion_limit: int
) -> None:
    made, truth = SubMap(), dict[object, int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submap, "_INSERTION_LIMIT", insertion_limit)
        for number, (put, subkey) in enumerate(steps):
            if put:
                made.put(subkey, number)
                truth[subkey] = number
            else:
                assert made.remove(subkey) == (subkey in truth)
                truth.pop(subkey, None)
            if number % 3 == 0:
                assert dict(made.items()) == truth
        ints = sorted(key for key in truth if isinstance(key, int))
        assert [key for key, _ in made.items() if isinstance(key, int)] == ints
        if low is not None or high is not None:
            expected = [key for key in ints if (low is None or key >= low) and (high is None or key < high)]
            assert [key for key, _ in made.items(low, high)] == expected
        assert len(made) == len(truth)


timers = st.tuples(st.integers(-3, 12), st.integers(0, 5), st.integers(-1, 1))


@given(st.lists(st.tuples(st.sampled_from(["add", "many", "remove", "pop", "cut"]), timers), max_size=80))
@settings(max_examples=200, deadline=None)
def test_a_timer_heap_is_a_set_that_gives_its_earliest(steps: list[tuple[str, tuple[int, int, int]]]) -> None:
    heap, truth = TimerHeap(), set[tuple[int, int, int]]()
    for step, (time_ms, key, namespace) in steps:
        timer = (time_ms, key, namespace)
        if step == "add":
            assert heap.add(*timer) == (timer not in truth)
            truth.add(timer)
        elif step == "many":
            batch = [*range(key), *range(key)]
            new = {(time_ms, each, namespace) for each in batch} - truth
            assert sorted(heap.add_many(time_ms, batch, namespace)) == sorted(each for _, each, _ in new)
            truth |= new
        elif step == "remove":
            assert heap.remove(*timer) == (timer in truth)
            truth.discard(timer)
        elif step == "pop":
            popped = heap.pop(time_ms, key)
            due = sorted(each for each, _, _ in truth if each <= time_ms)
            assert [each for each, _, _ in popped] == due[:key]
            assert set(popped) <= truth
            truth -= set(popped)
        else:
            cut = heap.cut_to(key)
            truth -= set(cut)
            assert len(truth) <= key
            assert not cut or not truth or min(cut)[0] > max(truth)[0]
        assert len(heap) == len(truth)
        assert heap.next_time() == min((each for each, _, _ in truth), default=None)
    assert {(time_ms, key, namespace) for time_ms, namespace, keys in heap.slots() for key in keys} == truth


def test_deleted_timers_do_not_pile_up() -> None:
    heap = TimerHeap()
    for time_ms in range(10_000):
        heap.add(time_ms, "k", 0)
        heap.remove(time_ms, "k", 0)
    assert len(heap._heap) < 200


def test_rows_survive_their_columns_whatever_the_runs() -> None:
    table = spec("t", ttl_ms=10)
    runs = [
        (head, [f"{head}-{index}" for index in range(size)]) for head, size in [(1, 3), (2, BLOCK_ROWS + 5), (3, 1)]
    ]
    cells = {(head, key): (index, index * 2) for head, keys in runs for index, key in enumerate(keys)}
    found: dict[tuple[int, str], tuple[int, int]] = {}
    deleted: list[tuple[int, str]] = []
    size = BlockSize()
    size.rows = BLOCK_ROWS
    parts = list(cut_runs(runs, size))
    assert [sum(len(keys) for _, keys in part) for part in parts] == [BLOCK_ROWS, 9]
    for part in parts:
        block = encode_rows(part, [cells[head, key] for head, keys in part for key in keys], table, 0)
        found.update(((head, key), cell) for head, rows in decode_rows(block, table) for key, cell in rows)
        deleted += [(head, key) for head, keys in decode_deletions(encode_deletions(part)) for key in keys]
    assert found == cells
    assert deleted == list(cells)
    assert list(cut_runs([], size)) == []


def test_blocks_of_large_values_have_few_rows() -> None:
    keys = list(range(2000))
    blocks = list(encode_runs([(0, keys)], lambda _, part: [b"x" * 100_000] * len(part), spec("t", bytes), 0))
    rows = [len(decode_keys(block.keys)) for block in blocks]
    assert sum(rows) == len(keys)
    assert set(rows[1:-1]) == {BLOCK_BYTES // 100_006}
    (empty,) = encode_runs([(0, [])], lambda _, part: part, spec("t"), 0)
    assert decode_keys(empty.keys) == []


def test_timers_survive_their_columns() -> None:
    made = [(index - 5, ("k", index), -index) for index in range(BLOCK_ROWS + 1)]
    blocks = list(encode_timers(made))
    assert len(blocks) == 2
    assert [timer for block in blocks for timer in decode_timers(block)] == made


def test_one_key_group_can_be_read_by_its_range_of_bytes_alone(tmp_path: Path) -> None:
    workshop = Workshop("hashmap", tmp_path)
    backend = workshop.backend()
    cells = {f"k{index}": index for index in range(1000)}
    store(backend.table(spec("t")), cells)
    (file,) = [file for file in backend.snapshot(workshop.new_folder()).finish() if file.key_group_offsets]
    assert set(file.key_group_offsets) == {key_group(key, MAX_PARALLELISM) for key in cells}
    offset, length = file.key_group_offsets[5]
    part = tmp_path / "part"
    part.write_bytes(file.path.read_bytes()[offset : offset + length])
    keys = [key for stored in find_blocks(part, range(MAX_PARALLELISM)) for key in decode_keys(stored.open("t").keys)]
    assert sorted(keys) == sorted(key for key in cells if key_group(key, MAX_PARALLELISM) == 5)


def test_state_is_written_on_the_spot_when_the_kernel_refuses_to_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", refuse)
    workshop = Workshop("hashmap", tmp_path, fork_from_entries=0)
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    assert content(workshop.reopened(backend).table(spec("t"))) == {"k": 1}


def test_the_hashmap_keeps_no_empty_namespaces_and_no_expired_cells(tmp_path: Path) -> None:
    workshop = Workshop("hashmap", tmp_path)
    backend = workshop.backend()
    table, aging = backend.table(spec("t")), backend.table(spec("aging", ttl_ms=100))
    aging_maps = backend.map_table(spec("m", kind="map", ttl_ms=100))
    for namespace in range(1000):
        table.cells(namespace, ["k"])
        store(aging, {"k": (1, START_MS)}, namespace)
        aging_maps.put("k", namespace, 1)
    store(aging, dict.fromkeys(range(40000), (1, START_MS)), 5)
    aging_maps.put("l", 1, 1)
    workshop.clock.advance(20_000)
    store(aging, {"young": (1, START_MS + 20_000)}, 5)
    aging_maps.put("l", 2, 2)
    for _ in range(12):
        backend.maintain()
    assert backend.size_hint() == 2
    assert aging.namespaces() == [5]
    assert aging_maps.items("l") == [(2, 2)]


def test_a_walk_takes_one_step_at_a_time_and_pauses() -> None:
    clock = ManualClock(0)
    steps: list[int] = []

    def walk() -> object:
        for step in range(2):
            steps.append(step)
            yield

    paced = PacedWalk(clock, 5_000, walk)  # type: ignore[arg-type]
    for _ in range(9):
        paced.step()
    assert steps == [0, 1]
    clock.advance(4_999)
    paced.step()
    assert steps == [0, 1]
    clock.advance(1)
    paced.step()
    paced.step()
    assert steps == [0, 1, 0]


def test_totals_are_estimated_from_a_sample() -> None:
    assert estimated_total([]) == 0
    assert estimated_total([[1], [1, 2]]) == 3
    assert estimated_total([[1, 2]] * 5000) == 10_000


def test_missing_block_files_are_corrupt(tmp_path: Path) -> None:
    workshop = Workshop("hashmap", tmp_path)
    backend = workshop.backend()
    store(backend.table(spec("t")), {"k": 1})
    files = backend.snapshot(workshop.new_folder()).finish()
    moved = [LocalFile(file.name, tmp_path / "no", 0, "") if file.name.endswith("blocks") else file for file in files]
    with pytest.raises(CorruptCheckpointError, match="cannot read"):
        workshop.restored(moved)
