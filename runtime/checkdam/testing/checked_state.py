"""Finds state that was changed without saying so.

On the hashmap backend an object that a function gets from its state and changes in place is changed in state, `update`
or not; on RocksDB it is lost as soon as it leaves the cache. So tests look: whatever state handed out, or was given, is
encoded then and again later, and a difference that was not announced is an error that names operator, state and key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from checkdam.core.errors import CheckdamError
from checkdam.core.serde import Serde
from checkdam.state.base import KeyedBackend, MapTable, SnapshotWriter, StoredSnapshot, Table, TableSpec, Timers

_MISSING: Final = object()


class UnannouncedChangeError(CheckdamError):
    """State was changed in place without `update()`."""


class CheckedTable:
    """A table that remembers what it handed out and what it was given."""

    def __init__(self, inner: Table) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._cells: dict[Any, Any] = {}
        self._known: dict[tuple[int, Any], bytes] = {}

    def cells(self, namespace: int, keys: Collection[Any]) -> dict[Any, Any]:
        self.check()
        cells = self._cells = self._inner.cells(namespace, keys)
        self._known = {(namespace, key): self._encode(cells[key]) for key in keys if key in cells}
        return cells

    def changed(self, namespace: int, keys: Iterable[Any]) -> None:
        keys = list(keys)
        for key in keys:
            if key in self._cells:
                self._known[namespace, key] = self._encode(self._cells[key])
            else:
                self._known.pop((namespace, key), None)
        self._inner.changed(namespace, keys)

    def namespaces(self) -> list[int]:
        return self._inner.namespaces()

    def scan(self, namespace: int) -> Iterator[list[tuple[Any, Any]]]:
        self.check()
        self._known = {}
        return self._inner.scan(namespace)

    def drop(self, namespace: int) -> None:
        self.check()
        self._known = {}
        self._inner.drop(namespace)

    def check(self) -> None:
        """Raises: UnannouncedChangeError: a cell known from before has changed since."""
        for (namespace, key), before in self._known.items():
            cells = self._inner.cells(namespace, [key])
            if key in cells and _differs(self.spec.serde, before, self._value(cells[key])):
                raise UnannouncedChangeError(
                    f"state `{self.spec.name}` of operator `{self.spec.operator}` was changed in place for key {key!r} "
                    "without `update()`; call `update(value)` after every change, or RocksDB loses it"
                )

    def _value(self, cell: Any) -> Any:
        return cell[0] if self.spec.ttl_ms else cell

    def _encode(self, cell: Any) -> bytes:
        return self.spec.serde.encode(self._value(cell))


class CheckedMapTable:
    """A map table that remembers the values that it handed out and was given."""

    def __init__(self, inner: MapTable) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._known: dict[tuple[Any, Any], bytes] = {}

    def load(self, keys: Collection[Any]) -> None:
        self.check()
        self._known = {}
        self._inner.load(keys)

    def get(self, key: Any, subkey: Any, default: Any = None) -> Any:
        value = self._inner.get(key, subkey, _MISSING)
        if value is _MISSING:
            return default
        self._remember(key, subkey, value)
        return value

    def put(self, key: Any, subkey: Any, value: Any) -> None:
        self._inner.put(key, subkey, value)
        self._known[key, subkey] = self.spec.serde.encode(value)

    def remove(self, key: Any, subkey: Any) -> None:
        self._inner.remove(key, subkey)
        self._known.pop((key, subkey), None)

    def items(self, key: Any, low: int | None = None, high: int | None = None) -> list[tuple[Any, Any]]:
        items = self._inner.items(key, low, high)
        for subkey, value in items:
            self._remember(key, subkey, value)
        return items

    def clear(self, key: Any) -> None:
        self._inner.clear(key)
        self._known = {place: before for place, before in self._known.items() if place[0] != key}

    def check(self) -> None:
        """Raises: UnannouncedChangeError: a value known from before has changed since."""
        for (key, subkey), before in self._known.items():
            value = self._inner.get(key, subkey, _MISSING)
            if value is not _MISSING and _differs(self.spec.serde, before, value):
                raise UnannouncedChangeError(
                    f"state `{self.spec.name}` of operator `{self.spec.operator}` was changed in place for key {key!r} "
                    f"and sub-key {subkey!r} without `put()`; call `put` after every change, or RocksDB loses it"
                )

    def _remember(self, key: Any, subkey: Any, value: Any) -> None:
        # What it was at first counts: it may have been changed between two looks at it.
        if (key, subkey) not in self._known:
            self._known[key, subkey] = self.spec.serde.encode(value)


def _differs(serde: Serde, before: bytes, value: Any) -> bool:
    """Whether `value` is another than what `before` encodes; equal values may have several encodings (sets, shared parts)."""
    return serde.encode(value) != before and bool(serde.decode(before) != value)


class CheckedBackend:
    """A keyed backend whose tables are checked; timers are not, they hold no objects of users."""

    def __init__(self, inner: KeyedBackend) -> None:
        self._inner = inner
        self._tables: list[CheckedTable | CheckedMapTable] = []
        self.key_groups = inner.key_groups
        self.max_parallelism = inner.max_parallelism

    def check(self) -> None:
        """Raises: UnannouncedChangeError: state has changed that nobody announced."""
        for table in self._tables:
            table.check()

    def key_group(self, key: Any) -> int:
        return self._inner.key_group(key)

    def table(self, spec: TableSpec) -> Table:
        table = CheckedTable(self._inner.table(spec))
        self._tables.append(table)
        return table

    def map_table(self, spec: TableSpec) -> MapTable:
        table = CheckedMapTable(self._inner.map_table(spec))
        self._tables.append(table)
        return table

    def timers(self, operator: str, domain: str) -> Timers:
        return self._inner.timers(operator, domain)

    def prepare(self) -> None:
        self._inner.prepare()

    def snapshot(self, directory: Path, *, canonical: bool = False) -> SnapshotWriter:
        self.check()
        return self._inner.snapshot(directory, canonical=canonical)

    def restore(self, snapshots: Sequence[StoredSnapshot]) -> None:
        self._inner.restore(snapshots)

    def unclaimed_tables(self) -> list[str]:
        return self._inner.unclaimed_tables()

    def maintain(self) -> None:
        self._inner.maintain()

    def size_hint(self) -> int:
        return self._inner.size_hint()

    def close(self) -> None:
        self._inner.close()
