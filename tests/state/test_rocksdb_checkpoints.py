"""Checkpoints of an open database: what they hold, and what happens when it changes beside them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from checkdam.state.rocksdb_checkpoint import make_checkpoint
from checkdam.state.rocksdb_store import Store

MEMORY_BYTES = 16 << 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "db", MEMORY_BYTES)
    for name in ("table/a", "table/b"):
        made.column(name).write([(b"\0\0row-%04d" % number, name.encode()) for number in range(1000)])
    return made


def rows(path: Path, column: str = "table/a") -> dict[bytes, bytes]:
    opened = Store(path, MEMORY_BYTES)
    try:
        return {row: value for portion in opened.column(column).portions(b"\0\0") for row, value in portion}
    finally:
        opened.close()


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def by_rocksdb(path: Path) -> None:
    raise AssertionError("RocksDB's own way was not to be taken")


def test_a_checkpoint_holds_what_was_written_before_and_nothing_later(store: Store, tmp_path: Path) -> None:
    made = store.start_checkpoint(tmp_path / "checkpoint")
    store.column("table/a").write([(b"\0\0row-0001", b"later"), (b"\0\0row-0002", None)])
    made.result(10)
    store.close()
    assert rows(tmp_path / "checkpoint") == {b"\0\0row-%04d" % number: b"table/a" for number in range(1000)}
    assert rows(tmp_path / "db")[b"\0\0row-0001"] == b"later"


def test_it_is_the_data_files_by_links_and_the_log_of_them_and_no_more(store: Store, tmp_path: Path) -> None:
    store.start_checkpoint(tmp_path / "checkpoint").result(10)
    suffixes = sorted(name.partition("-")[0].partition(".")[2] or name for name in names(tmp_path / "checkpoint"))
    assert [suffix.partition("-")[0] for suffix in suffixes] == ["CURRENT", "MANIFEST", "sst", "sst"]
    data = [file for file in (tmp_path / "checkpoint").iterdir() if file.suffix == ".sst"]
    assert all(file.stat().st_nlink == 2 for file in data)
    store.close()


def test_whoever_wants_to_change_the_database_waits_for_its_checkpoint(store: Store, tmp_path: Path) -> None:
    begun, go_on, written = threading.Event(), threading.Event(), threading.Event()

    def hold() -> set[str]:
        begun.set()
        assert go_on.wait(10)
        return set()

    store._live_files = hold  # type: ignore[method-assign]
    checkpoint = store.start_checkpoint(tmp_path / "checkpoint")
    assert begun.wait(10)
    assert not checkpoint.done()
    assert store.column("table/a").get(b"\0\0row-0001") == b"table/a", "reading goes on"

    def write() -> None:
        store.column("table/a").write([(b"\0\0row-0001", b"changed")])
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not written.wait(0.05)
    go_on.set()
    assert written.wait(10)
    writer.join()
    store.close()
    assert rows(tmp_path / "checkpoint")[b"\0\0row-0001"] == b"table/a"


def test_a_file_that_a_compaction_deletes_on_the_way_makes_it_begin_again(store: Store, tmp_path: Path) -> None:
    store.start_checkpoint(tmp_path / "first").result(10)
    tries = []

    def live_files() -> set[str]:
        live = store._live_files()
        tries.append(live)
        if len(tries) == 1:
            # What a compaction does between the look at the list and the links.
            for column in ("table/a", "table/b"):
                store.column(column).family.compact_range(None, None)
            for name in live:
                (tmp_path / "db" / name).unlink(missing_ok=True)
        return live

    for column in ("table/a", "table/b"):
        store.column(column).write([(b"\0\0row-0001", b"new")])
    flush = [store.column(column).family.flush for column in ("table/a", "table/b")]
    make_checkpoint(tmp_path / "db", tmp_path / "second", flush=flush, live_files=live_files, by_rocksdb=by_rocksdb)
    assert len(tries) == 2
    store.close()
    assert rows(tmp_path / "second")[b"\0\0row-0001"] == b"new"
    assert len(rows(tmp_path / "second", "table/b")) == 1000


def test_where_rocksdb_lists_other_files_its_own_way_is_taken(store: Store, tmp_path: Path) -> None:
    taken: list[Path] = []

    def own_way(path: Path) -> None:
        assert not path.exists()
        taken.append(path)

    make_checkpoint(
        tmp_path / "db", tmp_path / "checkpoint", flush=[], live_files=lambda: {"000999.sst"}, by_rocksdb=own_way
    )
    assert taken == [tmp_path / "checkpoint"]
    store._checkpoint_by_rocksdb(tmp_path / "checkpoint")
    store.close()
    assert len(rows(tmp_path / "checkpoint")) == 1000


def test_a_checkpoint_that_cannot_be_made_says_so_and_the_database_goes_on(store: Store, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FileExistsError):
        store.start_checkpoint(tmp_path / "taken").result(10)
    store.column("table/a").write([(b"\0\0row-0001", b"changed")])
    assert store.column("table/a").get(b"\0\0row-0001") == b"changed"
    store.close()
