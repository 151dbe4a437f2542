"""The log of changes: what snapshots of the RocksDB backend share, and when it is begun anew."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from state_backends import MAX_PARALLELISM, Workshop, content, delete, spec, store

from checkdam.core.errors import CheckpointError
from checkdam.state import rocksdb_log
from checkdam.state.base import LocalFile
from checkdam.state.blocks import find_blocks
from checkdam.state.canonical import canonical_blocks
from checkdam.state.columns import decode_rows
from checkdam.state.forked import ChildSnapshot, WrittenSnapshot
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.state.rocksdb_snapshot import RocksDbSnapshot
from checkdam.testing.snapshots import LocalSnapshot

EVERYTHING = 1 << 40


@pytest.fixture
def kind() -> str:
    return "rocksdb"


@pytest.fixture
def backend(workshop: Workshop) -> RocksDbBackend:
    made = workshop.backend()
    assert isinstance(made, RocksDbBackend)
    return made


def snapshot(workshop: Workshop, backend: RocksDbBackend) -> list[LocalFile]:
    return backend.snapshot(workshop.new_folder()).finish()


def log_of(files: list[LocalFile]) -> list[LocalFile]:
    return sorted((file for file in files if file.name.startswith("changes-")), key=lambda file: file.name)


def test_a_snapshot_adds_to_the_log_what_has_changed_and_shares_the_rest(
    workshop: Workshop, backend: RocksDbBackend
) -> None:
    table = backend.table(spec("t"))
    store(table, {index: index for index in range(5_000)})
    (first,) = log_of(snapshot(workshop, backend))
    store(table, {0: -1})
    shared, added = log_of(snapshot(workshop, backend))
    assert (shared.name, shared.sha256) == (first.name, first.sha256)
    assert shared.reusable
    assert added.reusable
    assert added.size_bytes * 20 < first.size_bytes
    third = snapshot(workshop, backend)
    assert [file.sha256 for file in log_of(third)] == [shared.sha256, added.sha256]
    assert content(workshop.restored(third).table(spec("t"))) == {0: -1} | {index: index for index in range(1, 5_000)}


@pytest.mark.parametrize("then", ["given up", "dropped", "deleted", "scanned"])
def test_what_the_log_says_is_void_once_the_database_knows_better(
    workshop: Workshop, backend: RocksDbBackend, tmp_path: Path, then: str
) -> None:
    table = backend.table(spec("t"))
    store(table, {"k": 1, "other": 1}, 7)
    store(table, {"k": 1})
    snapshot(workshop, backend)
    expected = {"k": 2, "other": 1}
    if then == "dropped":
        table.drop(7)
        expected = {}
    elif then == "deleted":
        delete(table, ["k"], 7)
        table.give_up(EVERYTHING, True)
        expected = {"other": 1}
    else:
        table.cells(7, ["k"])["k"] = 2
        table.changed(7, ["k"])
        table.give_up(EVERYTHING, True)
        if then == "scanned":
            assert content(table, 7) == expected
    files = snapshot(workshop, backend)
    assert len(log_of(files)) == 2
    restored = workshop.restored(files).table(spec("t"))
    assert content(restored, 7) == expected
    assert content(restored) == {"k": 1}
    record, path = canonical_blocks(LocalSnapshot(files, range(MAX_PARALLELISM)), tmp_path / "converted")
    assert path is not None
    assert record.log == []
    read: dict[int, dict[Any, int]] = defaultdict(dict)
    for stored in find_blocks(path, range(MAX_PARALLELISM)):
        for namespace, rows in decode_rows(stored.open("t"), spec("t")):
            read[namespace].update(rows)
    assert (read[7], read[0]) == (expected, {"k": 1})


def test_the_log_goes_on_only_from_what_was_written_to_its_end(workshop: Workshop, backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {"a": 1})
    snapshot(workshop, backend)
    store(table, {"b": 2})
    lost = backend.snapshot(workshop.new_folder())
    lost.cancel()
    with pytest.raises(CheckpointError, match="cancelled"):
        lost.finish()
    store(table, {"c": 3})
    unfinished = backend.snapshot(workshop.new_folder())
    store(table, {"d": 4})
    files = snapshot(workshop, backend)
    unfinished.finish()
    assert len(log_of(files)) == 1
    assert content(workshop.restored(files).table(spec("t"))) == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert content(workshop.reopened(backend).table(spec("t"))) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_a_savepoint_takes_nothing_out_of_the_log(workshop: Workshop, backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {"a": 1})
    snapshot(workshop, backend)
    store(table, {"b": 2})
    backend.snapshot(workshop.new_folder(), canonical=True).finish()
    files = snapshot(workshop, backend)
    assert len(log_of(files)) == 2
    assert content(workshop.restored(files).table(spec("t"))) == {"a": 1, "b": 2}


def test_a_long_log_is_begun_anew_and_its_files_are_deleted(
    workshop: Workshop, backend: RocksDbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocksdb_log, "LOG_FILES", 3)
    table = backend.table(spec("t"))
    lengths = []
    for number in range(7):
        store(table, {number: number})
        lengths.append(len(log_of(snapshot(workshop, backend))))
    assert lengths == [1, 2, 3, 1, 2, 3, 1]
    assert len(list((backend._directory / "log").iterdir())) == 1
    assert content(workshop.reopened(backend).table(spec("t"))) == {number: number for number in range(7)}


def test_a_log_never_has_many_times_the_rows_that_its_first_file_had(
    workshop: Workshop, backend: RocksDbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocksdb_log, "_FREE_ROWS", 0)
    table = backend.table(spec("t"))
    sizes = []
    for number in range(6):
        store(table, dict.fromkeys(range(100), number))
        sizes.append(len(log_of(snapshot(workshop, backend))))
    assert sizes == [1, 2, 3, 4, 1, 2]


def test_a_subtask_takes_of_a_log_what_it_owns(workshop: Workshop, backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    keys = [f"k{index}" for index in range(200)]
    for number in range(3):
        store(table, dict.fromkeys(keys[: 200 - 50 * number], number))
        files = snapshot(workshop, backend)
    found: dict[str, int] = {}
    for groups in (range(5), range(5, MAX_PARALLELISM)):
        part = content(workshop.restored(files, groups).table(spec("t")))
        assert not found.keys() & part.keys()
        found.update(part)
    assert found == {key: 2 if index < 100 else 1 if index < 150 else 0 for index, key in enumerate(keys)}


def test_a_log_that_lacks_a_file_restores_nothing(workshop: Workshop, backend: RocksDbBackend) -> None:
    table = backend.table(spec("t"))
    store(table, {"a": 1})
    snapshot(workshop, backend)
    store(table, {"b": 2})
    files = snapshot(workshop, backend)
    lost = [file for file in files if file is not log_of(files)[0]]
    with pytest.raises(CheckpointError, match=r"lacks changes-\d+\.blocks"):
        workshop.restored(lost)


@pytest.mark.parametrize(
    ("declared", "value", "forked"),
    [(int, 1, False), (tuple[int, str | None], (1, None), False), (list[int], [1], True), (None, {2}, True)],
)
def test_values_that_cannot_change_in_place_are_frozen_without_a_fork(
    tmp_path: Path, declared: Any, value: Any, forked: bool
) -> None:
    workshop = Workshop("rocksdb", tmp_path, fork_from_entries=5)
    backend = workshop.backend()
    table = backend.table(spec("t", declared))
    store(table, dict.fromkeys(range(40), value))
    writer = backend.snapshot(workshop.new_folder())
    store(table, {0: 2 if declared is int else value})
    delete(table, [1])
    assert isinstance(writer, RocksDbSnapshot)
    assert isinstance(writer._changes, ChildSnapshot if forked else WrittenSnapshot)
    restored = workshop.restored(writer.finish())
    assert content(restored.table(spec("t", declared))) == dict.fromkeys(range(40), value)
    workshop.close()


def test_a_log_that_cannot_be_written_fails_the_checkpoint_and_the_next_has_all(
    workshop: Workshop, backend: RocksDbBackend
) -> None:
    table = backend.table(spec("t"))
    store(table, {"a": 1})
    folder = workshop.new_folder()
    writer = backend.snapshot(folder)
    (folder / "changes-000001.blocks").mkdir()
    with pytest.raises(CheckpointError, match="cannot write the snapshot"):
        writer.finish()
    store(table, {"b": 2})
    assert content(workshop.reopened(backend).table(spec("t"))) == {"a": 1, "b": 2}
