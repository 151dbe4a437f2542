"""What a snapshot has of cells that change, move and go while they are being fetched for it."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import pytest
from state_backends import Workshop, content, delete, spec, store

from checkdam.state import rocksdb_capture
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.state.rocksdb_capture import ABSENT, Capture

KEYS = 3_000
SPEC = spec("t")


@pytest.fixture
def kind() -> str:
    return "rocksdb"


def test_a_cell_is_fetched_once_and_before_it_changes() -> None:
    cells = dict.fromkeys(range(10), 0)
    asked: list[int] = []

    def look_up(keys: list[int]) -> list[Any]:
        asked.extend(keys)
        return [cells.get(key, ABSENT) for key in keys]

    capture = Capture({*range(10), 77}, look_up)
    capture.before_change([3, 4, 99])
    cells[3] = 1
    capture.before_change([3])
    with capture.lock:
        capture.before_loss([(5, cells.pop(5)), (3, cells.pop(3)), (88, 8)])
    assert not capture.complete
    captured = capture.rest()
    assert dict(zip(captured.keys, captured.cells, strict=True)) == dict.fromkeys(range(10), 0)
    assert captured.gone == [77]
    assert sorted(asked) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 77]
    assert capture.complete


def test_a_settled_capture_needs_its_cells_no_more() -> None:
    cells = {"a": 1, "b": 2}
    capture = Capture({"a", "b"}, lambda keys: [cells[key] for key in keys])
    capture.settle()
    assert capture.complete
    cells.clear()
    captured = capture.rest()
    assert dict(zip(captured.keys, captured.cells, strict=True)) == {"a": 1, "b": 2}


def test_nothing_is_to_be_fetched_of_no_keys() -> None:
    assert Capture(set(), lambda keys: []).complete


def test_what_was_handed_out_before_a_snapshot_may_not_be_changed_after_it(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.table(SPEC)
    table.cells(0, ["a"])["a"] = 1
    table.changed(0, ["a"])
    backend.snapshot(workshop.new_folder()).finish()
    with pytest.raises(ValueError, match="`changed` must follow `cells`"):
        table.changed(0, ["a"])


def test_two_snapshots_that_are_written_late_have_what_there_was_when_each_was_taken(workshop: Workshop) -> None:
    backend = workshop.backend()
    table = backend.table(SPEC)
    store(table, {"a": 1, "b": 1})
    first = backend.snapshot(workshop.new_folder())
    store(table, {"a": 2})
    second = backend.snapshot(workshop.new_folder(), canonical=True)
    store(table, {"a": 3, "b": 3})
    assert content(workshop.restored(second.finish()).table(SPEC)) == {"a": 2, "b": 1}
    assert content(workshop.restored(first.finish()).table(SPEC)) == {"a": 1, "b": 1}


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_written_beside_all_kinds_of_changes_has_what_there_was(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(rocksdb_capture, "SLICE", 3)
    chooser = random.Random(seed)
    backend = workshop.backend()
    assert isinstance(backend, RocksDbBackend)
    table = backend.table(SPEC)
    truth = dict.fromkeys(range(KEYS), -1)
    store(table, truth)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(4):
            writer = backend.snapshot(workshop.new_folder())
            expected, done, files = dict(truth), threading.Event(), []

            def write(writer=writer, done=done, files=files) -> None:  # type: ignore[no-untyped-def]
                files.extend(writer.finish())
                done.set()

            thread = threading.Thread(target=write)
            thread.start()
            while not done.is_set():
                keys = chooser.sample(range(KEYS), 5)
                if chooser.random() < 0.3:
                    delete(table, keys)
                    for key in keys:
                        truth.pop(key, None)
                elif chooser.random() < 0.3:
                    table.give_up(1000, True)
                else:
                    changed = {key: chooser.randrange(1000) for key in keys}
                    store(table, changed)
                    truth |= changed
            thread.join()
            assert content(workshop.restored(files).table(SPEC)) == expected
    finally:
        sys.setswitchinterval(interval_s)
    assert content(table) == truth
