"""Finds state that was changed without saying so.

On the hashmap backend an object that a function gets from its state and changes in place is changed in state, `update`
or not; on RocksDB it is lost as soon as it leaves the cache. So tests look: whatever `cells` handed out is encoded then
and again later, and a difference that was not announced is an error that names operator, state and key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from checkdam.core.errors import CheckdamError
from checkdam.state.base import KeyedBackend, LocalFile, MapTable, SnapshotWriter, Table, TableSpec, Timers


class UnannouncedChangeError(CheckdamError):
    """State was changed in place without `update()`."""


class CheckedTable:
    """A table that remembers what it handed out."""

    def __init__(self, inner: Table) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._handed: dict[tuple[int, Any], bytes] = {}

    def cells(self, namespace: int, keys: Collection[Any]) -> dict[Any, Any]:
        self.check()
        cells = self._inner.cells(namespace, keys)
        self._handed = {(namespace, key): self._encode(cells[key]) for key in keys if key in cells}
        return cells

    def changed(self, namespace: int, keys: Iterable[Any]) -> None:
        keys = list(keys)
        for key in keys:
            self._handed.pop((namespace, key), None)
        self._inner.changed(namespace, keys)

    def namespaces(self) -> list[int]:
        return self._inner.namespaces()

    def scan(self, namespace: int) -> Iterator[list[tuple[Any, Any]]]:
        self.check()
        self._handed = {}
        return self._inner.scan(namespace)

    def drop(self, namespace: int) -> None:
        self.check()
        self._handed = {}
        self._inner.drop(namespace)

    def check(self) -> None:
        """Raises: UnannouncedChangeError: a cell handed out before has changed since."""
        for (namespace, key), before in self._handed.items():
            cells = self._inner.cells(namespace, [key])
            if key in cells and self._encode(cells[key]) != before:
                raise UnannouncedChangeError(
                    f"state `{self.spec.name}` of operator `{self.spec.operator}` was changed in place for key {key!r} "
                    "without `update()`; call `update(value)` after every change, or RocksDB loses it"
                )

    def _encode(self, cell: Any) -> bytes:
        return self.spec.serde.encode(cell[0] if self.spec.ttl_ms else cell)


class CheckedBackend:
    """A keyed backend whose value tables are `CheckedTable`s."""

    def __init__(self, inner: KeyedBackend) -> None:
        self._inner = inner
        self._tables: list[CheckedTable] = []
        self.key_groups = inner.key_groups
        self.max_parallelism = inner.max_parallelism

    def key_group(self, key: Any) -> int:
        return self._inner.key_group(key)

    def table(self, spec: TableSpec) -> Table:
        table = CheckedTable(self._inner.table(spec))
        self._tables.append(table)
        return table

    def map_table(self, spec: TableSpec) -> MapTable:
        return self._inner.map_table(spec)

    def timers(self, operator: str, domain: str) -> Timers:
        return self._inner.timers(operator, domain)

    def prepare(self) -> None:
        self._inner.prepare()

    def snapshot(self, directory: Path) -> SnapshotWriter:
        for table in self._tables:
            table.check()
        return self._inner.snapshot(directory)

    def restore(self, files: list[LocalFile]) -> None:
        self._inner.restore(files)

    def unclaimed_tables(self) -> list[str]:
        return self._inner.unclaimed_tables()

    def maintain(self) -> None:
        self._inner.maintain()

    def size_hint(self) -> int:
        return self._inner.size_hint()

    def close(self) -> None:
        self._inner.close()
