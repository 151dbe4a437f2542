"""What the tests of state share: making backends of both kinds, snapshots and restores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkdam.core.clock import Clock, ManualClock
from checkdam.core.serde import serde_for
from checkdam.state.base import LocalFile, Table, TableSpec
from checkdam.state.hashmap import HashMapBackend
from checkdam.state.rocksdb import RocksDbBackend
from checkdam.testing.snapshots import LocalSnapshot

MAX_PARALLELISM = 16
MEMORY_BYTES = 8 << 20
START_MS = 1_000_000

Backend = HashMapBackend | RocksDbBackend
_numbers = itertools.count()


def spec(name: str, declared: Any = int, kind: str = "value", ttl_ms: int = 0) -> TableSpec:
    return TableSpec("op", name, serde_for(declared, f"state `{name}`"), kind, ttl_ms)


class Workshop:
    """Makes backends of one kind, each with a folder of its own.

    Args:
        kind: `hashmap` or `rocksdb`.
        folder: Where the folders go.
        fork_from_entries: From how many entries on snapshots are forked.
        memory_bytes: For RocksDB.
        clock: Of all backends; one of its own by default.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        fork_from_entries: int = 20_000,
        memory_bytes: int = MEMORY_BYTES,
        clock: ManualClock | None = None,
    ) -> None:
        self.kind = kind
        self.folder = folder
        self.clock = clock or ManualClock(START_MS)
        self.memory_bytes = memory_bytes
        self._fork_from_entries = fork_from_entries
        self._made: list[Backend] = []

    def new_folder(self) -> Path:
        folder = self.folder / f"{self.kind}-{next(_numbers)}"
        folder.mkdir(parents=True)
        return folder

    def backend(self, key_groups: range = range(MAX_PARALLELISM), clock: Clock | None = None) -> Backend:
        made: Backend
        if self.kind == "hashmap":
            made = HashMapBackend(
                key_groups,
                MAX_PARALLELISM,
                self.new_folder(),
                clock=clock or self.clock,
                fork_from_entries=self._fork_from_entries,
                snapshot_timeout_s=30,
            )
        else:
            made = RocksDbBackend(
                key_groups,
                MAX_PARALLELISM,
                self.new_folder(),
                clock=clock or self.clock,
                memory_bytes=self.memory_bytes,
                fork_from_entries=self._fork_from_entries,
                snapshot_timeout_s=30,
            )
        self._made.append(made)
        return made

    def restored(self, files: list[LocalFile], key_groups: range = range(MAX_PARALLELISM)) -> Backend:
        backend = self.backend(key_groups)
        backend.restore([LocalSnapshot(files, range(MAX_PARALLELISM))])
        return backend

    def reopened(self, backend: Backend) -> Backend:
        """A backend restored from a snapshot of `backend` as it is now."""
        return self.restored(backend.snapshot(self.new_folder()).finish())

    def close(self) -> None:
        for backend in self._made:
            backend.close()


def store(table: Table, cells: dict[Any, Any], namespace: int = 0) -> None:
    table.cells(namespace, list(cells)).update(cells)
    table.changed(namespace, list(cells))


def delete(table: Table, keys: list[Any], namespace: int = 0) -> None:
    cells = table.cells(namespace, keys)
    for key in keys:
        cells.pop(key, None)
    table.changed(namespace, keys)


def content(table: Table, namespace: int = 0) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for portion in table.scan(namespace):
        for key, cell in portion:
            assert key not in found
            found[key] = cell
    return found


MakeWorkshop = Callable[..., Workshop]
