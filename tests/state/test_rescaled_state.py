"""State written at one parallelism and restored at others, by either backend, in either format."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from state_backends import MAX_PARALLELISM, Backend, Workshop, content, delete, spec, store

from checkdam.core.clock import ManualClock
from checkdam.core.errors import CheckpointError, CorruptCheckpointError
from checkdam.core.keys import key_group, key_group_range
from checkdam.state import canonical
from checkdam.state.base import LocalFile, StoredSnapshot
from checkdam.state.forked import WrittenSnapshot
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.testing.snapshots import LocalSnapshot

TTL_MS = 1_000


@dataclass(frozen=True)
class Sensor:
    """Of a module that a converting process cannot import."""

    site: str
    number: int


KEYS: list[Any] = [
    "a",
    "b",
    "é" * 40,
    0,
    -1,
    2**70,
    2.5,
    b"b",
    ("a", 1),
    ("a", (2, "x")),
    Sensor("x", 1),
    *range(5, 25),
]
keys = st.sampled_from(KEYS)
namespaces = st.sampled_from([0, 1, -1, 10**12])
subkeys = st.one_of(st.integers(-5, 5), st.sampled_from(["s", ("s", 1), 2**65, Sensor("y", 2)]))

PLAIN = spec("plain")
PICKLED = spec("pickled", None)
AGING = spec("aging", ttl_ms=TTL_MS)
MAPS = spec("maps", str, "map")
AGING_MAPS = spec("aging-maps", None, "map", TTL_MS)

Step = tuple[Any, ...]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), namespaces, st.integers(0, 99)),
        st.tuples(st.just("put"), st.sampled_from([PLAIN, PICKLED, AGING]), namespaces, keys, st.integers(0, 99)),
        st.tuples(st.just("delete"), st.sampled_from([PLAIN, PICKLED, AGING]), namespaces, keys),
        st.tuples(st.just("drop"), st.sampled_from([PLAIN, PICKLED]), namespaces),
        st.tuples(st.just("map put"), st.sampled_from([MAPS, AGING_MAPS]), keys, subkeys, st.integers(0, 99)),
        st.tuples(st.just("map remove"), st.sampled_from([MAPS, AGING_MAPS]), keys, subkeys),
        st.tuples(st.just("map clear"), st.sampled_from([MAPS, AGING_MAPS]), keys),
        st.tuples(st.just("register"), st.integers(-3, 30), keys, namespaces),
        st.tuples(st.just("unregister"), st.integers(-3, 30), keys, namespaces),
        st.tuples(st.just("advance"), st.integers(1, 600)),
        st.tuples(st.just("maintain")),
        st.tuples(st.just("snapshot")),
    ),
    max_size=30,
)


class Job:
    """The keyed state of a stage, as one: every operation goes to the subtask that owns the key."""

    def __init__(self, backends: list[Backend], clock: ManualClock, new_folder: Callable[[], Path]) -> None:
        self.backends = backends
        self.clock = clock
        self.new_folder = new_folder
        for backend in backends:
            for table in (PLAIN, PICKLED, AGING):
                backend.table(table)
            for table in (MAPS, AGING_MAPS):
                backend.map_table(table)
            backend.timers("op", "event")

    def run(self, todo: list[Step]) -> None:
        for step, *args in todo:
            if step == "advance":
                self.clock.advance(*args)
            elif step == "maintain":
                self.clock.advance(10_000)
                for backend in self.backends:
                    backend.maintain()
            elif step == "snapshot":
                for backend in self.backends:
                    backend.snapshot(self.new_folder()).finish()
            elif step == "drop":
                for backend in self.backends:
                    backend.table(args[0]).drop(args[1])
            elif step == "fill":
                for key in KEYS:
                    for table in (PLAIN, PICKLED, AGING):
                        self._change_cell("put", table, args[0], key, args[1])
                    self._change_map("map put", MAPS, key, args[0], args[1])
                    self._owner(key).timers("op", "event").register(args[1], key, args[0])
            elif step in ("put", "delete"):
                self._change_cell(step, *args)
            elif step.startswith("map"):
                self._change_map(step, *args)
            else:
                timers = self._owner(args[1]).timers("op", "event")
                (timers.register if step == "register" else timers.delete)(*args)

    def _change_cell(self, step: str, table: Any, namespace: int, key: Any, number: int = 0) -> None:
        state = self._owner(key).table(table)
        if step == "delete":
            delete(state, [key], namespace)
        else:
            value = Sensor("value", number) if table is PICKLED else number
            store(state, {key: (value, self.clock.now_ms()) if table.ttl_ms else value}, namespace)

    def _change_map(self, step: str, table: Any, key: Any, subkey: Any = None, number: int = 0) -> None:
        state = self._owner(key).map_table(table)
        if step == "map put":
            state.put(key, subkey, str(number) if table is MAPS else {number})
        elif step == "map remove":
            state.remove(key, subkey)
        else:
            state.clear(key)

    def _owner(self, key: Any) -> Backend:
        group = key_group(key, MAX_PARALLELISM)
        (owner,) = [backend for backend in self.backends if group in backend.key_groups]
        return owner

    def content(self) -> dict[str, Any]:
        """All there is; timers are taken out."""
        found: dict[str, Any] = {}
        for table in (PLAIN, PICKLED, AGING):
            for backend in self.backends:
                for namespace in backend.table(table).namespaces():
                    for key, cell in content(backend.table(table), namespace).items():
                        assert key_group(key, MAX_PARALLELISM) in backend.key_groups
                        found[f"{table.name} {namespace} {key!r}"] = cell
        for table in (MAPS, AGING_MAPS):
            for key in KEYS:
                entries = self._owner(key).map_table(table).items(key)
                if entries:
                    found[f"{table.name} {key!r}"] = dict(entries)
        due = [timer for backend in self.backends for timer in backend.timers("op", "event").pop_due(2**62, 10_000)]
        assert len(set(due)) == len(due)
        return {**found, "timers": set(due)}


@contextmanager
def tiny_caches() -> Iterator[None]:
    names = {
        "rocksdb_values.EVICTION_ENTRIES": 2,
        "rocksdb_maps.EVICTION_ENTRIES": 2,
        "rocksdb_maps._ROOM_EVERY": 3,
        "rocksdb_maps.WHOLE_MAP_ENTRIES": 4,
        "rocksdb_timers._ROOM_EVERY": 3,
        "rocksdb_timers.REFILL_ROWS": 2,
        "rocksdb_timers._BUFFERED_CHANGES": 3,
        "rocksdb_restore._SORTED_BYTES": 500,
        "columns._FIRST_BLOCK_ROWS": 3,
    }
    with ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch(f"checkdam.state.{name}", value))
        yield


def convert_here(directory: Path, timeout_s: float) -> Any:
    """The conversion without a process, which would take longer than all the rest."""
    native = directory / canonical.NATIVE_FOLDER
    return WrittenSnapshot(directory, lambda: canonical.convert_native(native, directory))


def backends_of(workshop: Workshop, parallelism: int) -> list[Backend]:
    return [workshop.backend(key_group_range(MAX_PARALLELISM, parallelism, index)) for index in range(parallelism)]


def rescaled(job: Job, workshop: Workshop, parallelism: int, canonical: bool) -> Job:
    stored: list[StoredSnapshot] = []
    for backend in job.backends:
        files = backend.snapshot(workshop.new_folder(), canonical=canonical).finish()
        stored.append(LocalSnapshot(files, backend.key_groups))
        backend.close()
    backends = backends_of(workshop, parallelism)
    for backend in backends:
        overlapping = [each for each in stored if set(each.key_groups) & set(backend.key_groups)]
        backend.restore(overlapping)
    return Job(backends, job.clock, workshop.new_folder)


kinds = st.sampled_from(["hashmap", "rocksdb"])
parallelisms = st.integers(1, 5)


@given(
    todo=st.lists(steps, min_size=3, max_size=3),
    lives=st.lists(st.tuples(kinds, parallelisms, st.booleans()), min_size=3, max_size=3),
    tiny=st.booleans(),
)
@example(
    todo=[[("fill", 0, 5)], [("fill", 1, 6)], []],
    lives=[("rocksdb", 2, False), ("rocksdb", 1, False), ("rocksdb", 3, False)],
    tiny=True,
)
@example(  # What the first of two has clipped, and how, must not meet the rows of the second.
    todo=[[("fill", 0, 5)], [], []],
    lives=[("rocksdb", 1, False), ("rocksdb", 2, False), ("rocksdb", 1, False)],
    tiny=True,
)
@example(  # A log of several files, of which the older say what is not so any more.
    todo=[
        [("fill", 0, 5), ("fill", 1, 5), ("snapshot",), ("fill", 0, 6), ("drop", PLAIN, 1), ("snapshot",)],
        [("fill", 0, 7), ("snapshot",), ("delete", PLAIN, 0, "a"), ("snapshot",), ("fill", 1, 8)],
        [],
    ],
    lives=[("rocksdb", 2, False), ("rocksdb", 3, False), ("rocksdb", 1, False)],
    tiny=False,
)
@settings(max_examples=50, deadline=None)
def test_state_is_the_same_at_any_parallelism_and_in_any_backend(
    todo: list[list[Step]], lives: list[tuple[str, int, bool]], tiny: bool
) -> None:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    clock = ManualClock(1_000_000)
    workshops = {
        kind: Workshop(kind, folder, memory_bytes=4 << 10 if tiny else 8 << 20, clock=clock)
        for kind in ("hashmap", "rocksdb")
    }
    plain_clock = ManualClock(1_000_000)
    undisturbed_workshop = Workshop("hashmap", folder, clock=plain_clock)
    undisturbed = Job(backends_of(undisturbed_workshop, 1), plain_clock, undisturbed_workshop.new_folder)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        stack.enter_context(mock.patch.object(canonical, "start_converter", convert_here))
        if tiny:
            stack.enter_context(tiny_caches())
        for workshop in workshops.values():
            stack.callback(workshop.close)
        first = workshops[lives[0][0]]
        job = Job(backends_of(first, lives[0][1]), clock, first.new_folder)
        for life, (kind, _, as_savepoint) in enumerate(lives):
            job.run(todo[life])
            undisturbed.run(todo[life])
            if life + 1 < len(lives):
                next_kind, next_parallelism, _ = lives[life + 1]
                only_canonical = kind == "rocksdb" and next_kind == "hashmap"
                job = rescaled(job, workshops[next_kind], next_parallelism, as_savepoint or only_canonical)
        assert job.content() == undisturbed.content()


class CountedSnapshot(LocalSnapshot):
    """Remembers what was fetched."""

    def __init__(self, files: list[LocalFile], key_groups: range) -> None:
        super().__init__(files, key_groups)
        self.fetched: set[str] = set()

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        self.fetched.update(names)
        return super().fetch(set(names))


@pytest.fixture
def many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Workshop, list[LocalFile]]]:
    """A RocksDB snapshot with a data file for each key group: state of `plain` is {k0: 0, …, k199: 199}."""
    monkeypatch.setattr("checkdam.state.rocksdb_store._FILE_BYTES", 0)
    memory, workshop = Workshop("hashmap", tmp_path), Workshop("rocksdb", tmp_path)
    source = memory.backend()
    store(source.table(PLAIN), {f"k{number}": number for number in range(200)})
    backend = workshop.restored(source.snapshot(workshop.new_folder()).finish())
    backend.table(PLAIN)
    yield workshop, backend.snapshot(workshop.new_folder()).finish()
    workshop.close()


def expected(groups: range) -> dict[str, int]:
    return {f"k{number}": number for number in range(200) if key_group(f"k{number}", MAX_PARALLELISM) in groups}


def data_files(names: Iterable[str]) -> int:
    return sum(name.endswith(".sst") for name in names)


def test_data_files_without_owned_key_groups_are_neither_fetched_nor_missed(
    many_files: tuple[Workshop, list[LocalFile]],
) -> None:
    workshop, files = many_files
    assert data_files(file.name for file in files) == MAX_PARALLELISM
    groups = range(4, 9)
    snapshot = CountedSnapshot(files, range(MAX_PARALLELISM))
    backend = workshop.backend(groups)
    backend.restore([snapshot])
    assert content(backend.table(PLAIN)) == expected(groups)
    assert data_files(snapshot.fetched) == len(groups)
    # What it became is as whole as any other: it is changed, compacted, snapshotted and restored.
    store(backend.table(PLAIN), {"k0": 0} if "k0" in expected(groups) else {})
    assert isinstance(backend, RocksDbBackend)
    backend._store().column("table/op/plain").family.compact_range(None, None)
    again = workshop.backend(groups)
    again.restore([LocalSnapshot(backend.snapshot(workshop.new_folder()).finish(), groups)])
    assert content(again.table(PLAIN)) == expected(groups)


def test_data_files_of_several_databases_are_taken_over_as_they_are(
    many_files: tuple[Workshop, list[LocalFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, _ = many_files
    parts = []
    for groups in (range(6), range(6, 11), range(11, 16)):
        memory = Workshop("hashmap", workshop.folder).backend(groups)
        store(memory.table(PLAIN), expected(groups))
        source = workshop.backend(groups)
        source.restore([LocalSnapshot(memory.snapshot(workshop.new_folder()).finish(), groups)])
        source.table(PLAIN)
        parts.append(LocalSnapshot(source.snapshot(workshop.new_folder()).finish(), groups))
    monkeypatch.setattr("checkdam.state.rocksdb_restore._copy_rows", lambda *_: pytest.fail("rows were copied"))
    for owned in (range(4, 12), range(16)):
        backend = workshop.backend(owned)
        assert isinstance(backend, RocksDbBackend)
        backend.restore(parts)
        assert content(backend.table(PLAIN)) == expected(owned)
        backend._store().column("table/op/plain").family.compact_range(None, None)
        assert content(backend.table(PLAIN)) == expected(owned)


def test_a_database_of_an_unknown_kind_is_restored_with_all_its_files(
    many_files: tuple[Workshop, list[LocalFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop, files = many_files
    monkeypatch.setattr("checkdam.state.rocksdb_manifest._OTHER_NUMBERS", frozenset())
    snapshot = CountedSnapshot(files, range(MAX_PARALLELISM))
    backend = workshop.backend(range(4, 9))
    backend.restore([snapshot])
    assert content(backend.table(PLAIN)) == expected(range(4, 9))
    assert data_files(snapshot.fetched) == MAX_PARALLELISM


def test_a_damaged_manifest_and_a_missing_data_file_are_refused_by_name(
    many_files: tuple[Workshop, list[LocalFile]],
) -> None:
    workshop, files = many_files
    gone = next(file for file in files if file.name.endswith(".sst"))
    with pytest.raises(CorruptCheckpointError, match=f"the snapshot lacks {gone.name}, which its database consists of"):
        workshop.restored([file for file in files if file is not gone], range(4, 9))
    with pytest.raises(CorruptCheckpointError, match=r"the database of the snapshot is damaged"):
        workshop.restored([file for file in files if file is not gone])
    manifest = next(file for file in files if "MANIFEST" in file.name)
    manifest.path.write_bytes(manifest.path.read_bytes()[:-1])
    with pytest.raises(CorruptCheckpointError, match=r"the MANIFEST of the RocksDB database in .* is damaged"):
        workshop.restored(files, range(4, 9))


def test_what_was_restored_from_stays_as_it_was(many_files: tuple[Workshop, list[LocalFile]]) -> None:
    workshop, files = many_files
    before = {file.name: file.path.read_bytes() for file in files}
    backend = workshop.restored(files, range(4, 9))
    store(backend.table(PLAIN), dict.fromkeys(expected(range(4, 9)), -1))
    backend.snapshot(workshop.new_folder()).finish()
    assert {file.name: file.path.read_bytes() for file in files} == before


@pytest.mark.parametrize("kind", ["hashmap", "rocksdb"])
def test_snapshots_that_leave_key_groups_out_or_overlap_are_refused(kind: str, tmp_path: Path) -> None:
    workshop = Workshop(kind, tmp_path)
    stored = []
    for groups in (range(6), range(5, 10), range(10, 16)):
        backend = workshop.backend(groups)
        backend.table(PLAIN)
        stored.append(LocalSnapshot(backend.snapshot(workshop.new_folder()).finish(), groups))
    for snapshots, found in ((stored[::2], r"0\.\.5, 10\.\.15"), (stored, r"0\.\.5, 5\.\.9, 10\.\.15")):
        with pytest.raises(CheckpointError, match=rf"owns key groups 0\.\.15, of which .* have {found}"):
            workshop.backend().restore(snapshots)
    workshop.backend(range(7, 12)).restore(stored[1:])
    workshop.close()
