"""State as the user's function sees it: a handle that is bound to the key of the record at hand.

A handle costs a dictionary access and nothing more. The operator loads the cells of a whole batch at once and gives the
dictionary to the handle (a *binding* does both), sets the current key in the context that all handles share, and calls
the user's function; what the function changed is collected on the way and announced to the table once a batch.
Only values and maps touch tables: list, reducing and aggregating state are small views over a value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, overload

from checkdam.core.errors import PipelineError
from checkdam.state.base import Key, MapTable, Table

if TYPE_CHECKING:
    from checkdam.operators.aggregators import Aggregator

T = TypeVar("T")
D = TypeVar("D")
K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

_MISSING: Any = object()


class Cursor(Protocol):
    """Whoever knows the current key; an operator's handles share one."""

    key: Key


class _Outside:
    """Stands in for cells and maps while no record is at hand, so that such use is an error and not a lost update."""

    def __init__(self, where: str) -> None:
        object.__setattr__(self, "_where", where)

    def _refuse(self) -> NoReturn:
        raise PipelineError(
            f"{self._where} was used where there is no current key; use it in process() and on_timer() only, "
            "and keep no iterator or thread that uses it later"
        )

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()

    def __setitem__(self, key: Key, value: Any) -> NoReturn:
        self._refuse()


class ValueHandle(Generic[T]):
    """One value per key. Made by the operator; declare a `ValueState` to get one."""

    __slots__ = ("_cells", "_cursor", "_touch")

    _cells: Any
    _touch: Callable[[Key], None]

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    @overload
    def get(self) -> T | None: ...
    @overload
    def get(self, default: D) -> T | D: ...
    def get(self, default: Any = None) -> Any:
        """The current key's value, `default` if it has none. Call `update` after changing a value in place."""
        return self._cells.get(self._cursor.key, default)

    def update(self, value: T) -> None:
        """Set the current key's value; `None` is a value like others."""
        key = self._cursor.key
        self._cells[key] = value
        self._touch(key)

    def clear(self) -> None:
        """Forget the current key's value."""
        key = self._cursor.key
        self._cells.pop(key, None)
        self._touch(key)


class TtlValueHandle(ValueHandle[T]):
    """A `ValueHandle` of state with a TTL: `update` starts the value's life again, reading it does not."""

    __slots__ = ("_now_ms",)

    _now_ms: int

    def get(self, default: Any = None) -> Any:
        """As `ValueHandle.get`; an expired value is none."""
        cell = self._cells.get(self._cursor.key)
        return default if cell is None else cell[0]

    def update(self, value: T) -> None:
        """As `ValueHandle.update`."""
        key = self._cursor.key
        self._cells[key] = (value, self._now_ms)
        self._touch(key)


class ListHandle(Generic[T]):
    """A list of values per key; one TTL for the whole list, started again by every change."""

    __slots__ = ("_cell",)

    def __init__(self, cell: ValueHandle[list[T]]) -> None:
        self._cell = cell

    def get(self) -> list[T]:
        """The values in the order they were added, as a list of the caller's own; empty if there are none."""
        return list(self._cell.get(()))

    def add(self, value: T) -> None:
        """Append one value."""
        items = self._cell.get()
        if items is None:
            items = []
        items.append(value)
        self._cell.update(items)

    def update(self, values: list[T]) -> None:
        """Replace all values."""
        self._cell.update(list(values))

    def clear(self) -> None:
        """Forget all values."""
        self._cell.clear()


class ReducingHandle(Generic[T]):
    """The values added so far, folded into one by the state's function."""

    __slots__ = ("_cell", "_fn")

    def __init__(self, cell: ValueHandle[T], fn: Callable[[T, T], T]) -> None:
        self._cell = cell
        self._fn = fn

    def get(self) -> T | None:
        """The folded value, `None` before the first `add`."""
        return self._cell.get()

    def add(self, value: T) -> None:
        """Fold `value` in."""
        before = self._cell.get(_MISSING)
        self._cell.update(value if before is _MISSING else self._fn(before, value))

    def clear(self) -> None:
        """Start anew."""
        self._cell.clear()


class AggregatingHandle(Generic[T, R]):
    """An aggregator's accumulator per key."""

    __slots__ = ("_aggregator", "_cell")

    def __init__(self, cell: ValueHandle[Any], aggregator: Aggregator[T, Any, R]) -> None:
        self._cell = cell
        self._aggregator = aggregator

    def get(self) -> R | None:
        """The aggregator's result, `None` before the first `add`."""
        accumulator = self._cell.get(_MISSING)
        return None if accumulator is _MISSING else self._aggregator.result(accumulator)

    def add(self, value: T) -> None:
        """Add `value` to the accumulator."""
        accumulator = self._cell.get(_MISSING)
        if accumulator is _MISSING:
            accumulator = self._aggregator.create()
        self._cell.update(self._aggregator.add(accumulator, value))

    def clear(self) -> None:
        """Start anew."""
        self._cell.clear()


class MapHandle(Generic[K, V]):
    """A map per key; entries are stored, and expire, one by one."""

    __slots__ = ("_cursor", "_map")

    _map: Any

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    @overload
    def get(self, subkey: K) -> V | None: ...
    @overload
    def get(self, subkey: K, default: D) -> V | D: ...
    def get(self, subkey: K, default: Any = None) -> Any:
        """The value under `subkey`, `default` if there is none."""
        return self._map.get(self._cursor.key, subkey, default)

    def put(self, subkey: K, value: V) -> None:
        """Set the value under `subkey`, of any type that may be a key."""
        self._map.put(self._cursor.key, subkey, value)

    def remove(self, subkey: K) -> None:
        """Forget the value under `subkey`, if there is one."""
        self._map.remove(self._cursor.key, subkey)

    def items(self) -> list[tuple[K, V]]:
        """All entries of the current key, in a stable order (ascending for ints)."""
        entries: list[tuple[K, V]] = self._map.items(self._cursor.key)
        return entries

    def keys(self) -> list[K]:
        """The sub-keys of the current key, in the order of `items`."""
        return [subkey for subkey, _ in self.items()]

    def __contains__(self, subkey: object) -> bool:
        return self._map.get(self._cursor.key, subkey, _MISSING) is not _MISSING

    def clear(self) -> None:
        """Forget all entries of the current key."""
        self._map.clear(self._cursor.key)


class Binding(Protocol):
    """Connects one handle to its table, for a batch at a time."""

    def load(self, keys: Collection[Key], now_ms: int) -> None:
        """Make the state of `keys` available to the handle; updates count as made at `now_ms`."""
        ...

    def flush(self) -> None:
        """Announce what was changed since `load`; the handle refuses to work until the next one."""
        ...


class ValueBinding:
    """Feeds a value handle with the cells of a batch."""

    def __init__(self, table: Table, handle: ValueHandle[Any], where: str) -> None:
        self._table = table
        self._handle = handle
        self._outside = _Outside(where)
        self._touched: set[Key] = set()
        handle._cells = self._outside
        handle._touch = self._touched.add

    def load(self, keys: Collection[Key], now_ms: int) -> None:
        handle = self._handle
        handle._cells = self._table.cells(0, keys)
        if isinstance(handle, TtlValueHandle):
            handle._now_ms = now_ms

    def flush(self) -> None:
        self._handle._cells = self._outside
        if self._touched:
            self._table.changed(0, self._touched)
            self._touched = set()
            self._handle._touch = self._touched.add


class MapBinding:
    """Opens a map handle while a batch is at hand."""

    def __init__(self, table: MapTable, handle: MapHandle[Any, Any], where: str) -> None:
        self._table = table
        self._handle = handle
        self._outside = _Outside(where)
        handle._map = self._outside

    def load(self, keys: Collection[Key], now_ms: int) -> None:
        self._table.load(keys)
        self._handle._map = self._table

    def flush(self) -> None:
        self._handle._map = self._outside


def bind_value(table: Table, cursor: Cursor, where: str) -> tuple[ValueBinding, ValueHandle[Any]]:
    """A value handle over `table`, and the binding that feeds it; `where` names the state in errors."""
    handle: ValueHandle[Any] = TtlValueHandle(cursor) if table.spec.ttl_ms else ValueHandle(cursor)
    return ValueBinding(table, handle, where), handle
