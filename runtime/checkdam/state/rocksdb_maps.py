"""The map tables of the RocksDB backend: a write-back cache of the maps of recent keys.

Small maps are cached whole, since most uses read a range of them; of a map with more than a thousand entries only
those that were read one by one or written, and its ranges are read from the database. As in value tables there are two
generations, and as long as nothing was ever given up or restored, an unknown key is known to have no entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any, Final

from checkdam.core.clock import Clock
from checkdam.core.keys import decode_key, encode_key
from checkdam.state.base import Key, TableSpec
from checkdam.state.blocks import Block
from checkdam.state.columns import ChangeRun, decode_deletions, decode_rows, encode_changes
from checkdam.state.rocksdb_cache import EVICTION_ENTRIES, CacheBudget
from checkdam.state.rocksdb_rows import STAMP_BYTES, RowMaker, after, pack_number, unpack_number
from checkdam.state.rocksdb_store import Column, Row, expiring_rows
from checkdam.state.sizes import EntrySize
from checkdam.state.submap import SubMap, is_int_subkey
from checkdam.state.walks import PacedWalk

WHOLE_MAP_ENTRIES: Final = 1024
"""Maps up to this size are cached whole."""

_ENTRY_OVERHEAD_BYTES: Final = 200
_HELD_OVERHEAD_BYTES: Final = 700
_ROOM_EVERY: Final = 1024
"""Look at the cache's bound once in so many operations."""

_ABSENT: Any = object()


class _Held:
    """The cached part of one key's map.

    Attributes:
        map: Entries; with a TTL as (value, updated_ms).
        dirty: Sub-keys that differ from the database; without an entry they were deleted.
        complete: The map has all entries there are.
        large: The map is known to be too large to be cached whole.
        stored: The database may have rows of the key.
    """

    __slots__ = ("complete", "dirty", "large", "map", "stored")

    def __init__(self, stored: bool) -> None:
        self.map = SubMap()
        self.dirty: set[Key] = set()
        self.complete = not stored
        self.large = False
        self.stored = stored

    def written(self) -> None:
        """The database has all changes now."""
        self.dirty.clear()
        self.stored = True


class RocksDbMapTable:
    """See `MapTable`.

    Args:
        spec: What it is.
        column: Its column family, with the rows that were restored.
        clock: For update times and expiry.
        rows: Makes the rows' keys.
        budget: The cache's bound.
    """

    def __init__(self, spec: TableSpec, column: Column, clock: Clock, rows: RowMaker, budget: CacheBudget) -> None:
        self.spec = spec
        self._column = column
        self._clock = clock
        self._rows = rows
        self._prefix = rows.map_prefix
        self._budget = budget
        self._young: dict[Key, _Held] = {}
        self._old: dict[Key, _Held] = {}
        self._all_held = column.first(b"") is None
        self._entries = 0
        self._entry_size = EntrySize(_ENTRY_OVERHEAD_BYTES)
        self._operations = 0
        self._walk = PacedWalk(clock, spec.ttl_ms // 4, lambda: _remove_expired(column, clock, spec.ttl_ms))
        budget.join(self)

    def load(self, keys: Collection[Key]) -> None:
        """See `MapTable`."""
        self._budget.make_room(self)
        if self._all_held:
            return
        for key in sorted({key: None for key in keys if key not in self._young}, key=self._prefix):
            held = self._hold(key)
            if not held.complete and not held.large:
                self._complete(key, held)

    def get(self, key: Key, subkey: Key, default: Any = None) -> Any:
        """See `MapTable`."""
        held = self._young.get(key) or self._find(key)
        if held is not None:
            cell = held.map.entries.get(subkey, _ABSENT)
            if cell is not _ABSENT:
                return self._value(cell, default)
            if held.complete or subkey in held.dirty:
                return default
        elif self._all_held:
            return default
        stored = self._column.get(self._prefix(key) + encode_key(subkey))
        if stored is None:
            return default
        cell = self._decode(stored)
        self._count_operation()
        self._hold(key).map.put(subkey, cell)
        self._entries += 1
        return self._value(cell, default)

    def put(self, key: Key, subkey: Key, value: Any) -> None:
        """See `MapTable`."""
        self._count_operation()
        held = self._young.get(key) or self._hold(key)
        if subkey not in held.map.entries:
            self._entries += 1
            if not self._entries & 63:
                self._entry_size.sample(subkey, value)
        held.map.put(subkey, (value, self._clock.now_ms()) if self.spec.ttl_ms else value)
        held.dirty.add(subkey)

    def remove(self, key: Key, subkey: Key) -> None:
        """See `MapTable`."""
        held = self._young.get(key) or self._find(key)
        if held is None:
            if self._all_held:
                return
            held = self._hold(key)
        if held.map.remove(subkey):
            self._entries -= 1
        if held.stored:
            held.dirty.add(subkey)
        else:
            held.dirty.discard(subkey)
            if not held.map.entries:
                del self._young[key]

    def items(self, key: Key, low: int | None = None, high: int | None = None) -> list[tuple[Key, Any]]:
        """See `MapTable`."""
        held = self._young.get(key) or self._find(key)
        if held is None:
            if self._all_held:
                return []
            self._count_operation()
            held = self._hold(key)
        if not held.complete and not held.large:
            self._complete(key, held)
        found = held.map.items(low, high) if held.complete else self._read_range(key, held, low, high)
        if not self.spec.ttl_ms:
            return found
        expired_ms = self._clock.now_ms() - self.spec.ttl_ms
        return [(subkey, cell[0]) for subkey, cell in found if cell[1] > expired_ms]

    def clear(self, key: Key) -> None:
        """See `MapTable`."""
        held = self._find(key)
        if held is None:
            if self._all_held:
                return
            held = self._hold(key)
        self._entries -= len(held.map)
        if not held.stored:
            del self._young[key]
        elif held.complete:
            held.dirty.update(held.map.entries)
            held.map = SubMap()
        else:
            prefix = self._prefix(key)
            self._column.delete_ranges([(prefix, after(prefix))])
            self._young[key] = _Held(stored=False)

    def held_bytes(self) -> int:
        """See `Holder`."""
        keys = len(self._young) + len(self._old)
        return self._entries * self._entry_size.bytes + keys * _HELD_OVERHEAD_BYTES

    def give_up(self, excess_bytes: int, asked_by_itself: bool) -> None:
        """See `Holder`. An operator never has a map in hand, only values."""
        changes: list[tuple[bytes, bytes | None]] = []
        wanted_bytes = max(excess_bytes, EVICTION_ENTRIES * self._entry_size.bytes)
        while wanted_bytes > 0:
            if not self._old:
                if not self._young:
                    break
                self._old, self._young = self._young, {}
            key, held = self._old.popitem()
            changes += self._changes(key, held)
            self._entries -= len(held.map)
            self._all_held = self._all_held and not held.map.entries
            wanted_bytes -= _HELD_OVERHEAD_BYTES + len(held.map) * self._entry_size.bytes
        self._column.write(changes)

    def maintain(self) -> None:
        """Remove expired rows among the next thousand."""
        if self.spec.ttl_ms:
            self._walk.step()

    def sizes(self) -> Iterator[int]:
        """See `Part`: the changes of each key."""
        return (len(held.dirty) for held in self._all())

    def group_runs(self) -> dict[int, list[ChangeRun]]:
        """See `Part`: (key, changed sub-keys, deleted sub-keys)."""
        by_group: dict[int, list[ChangeRun]] = defaultdict(list)
        held_keys = [(key, held) for key, held in chain(self._young.items(), self._old.items()) if held.dirty]
        for (key, held), group in zip(held_keys, self._rows.groups(key for key, _ in held_keys), strict=True):
            entries = held.map.entries
            changed = [subkey for subkey in held.dirty if subkey in entries]
            by_group[group].append((key, changed, [subkey for subkey in held.dirty if subkey not in entries]))
        return by_group

    def blocks(self, group_runs: list[ChangeRun]) -> Iterator[Block]:
        """See `Part`."""
        return encode_changes(group_runs, self._cells_of, self.spec, self._clock.now_ms())

    def load_block(self, block: Block) -> None:
        """See `Part`: changes again, as they were."""
        if block.deleted:
            for key, subkeys in decode_deletions(block):
                self._hold(key).dirty.update(subkeys)
            return
        for key, rows in decode_rows(block, self.spec):
            held = self._hold(key)
            before = len(held.map)
            for subkey, cell in rows:
                held.map.put(subkey, cell)
                held.dirty.add(subkey)
            self._entries += len(held.map) - before
            self._entry_size.sample(*rows[0])
        self._budget.make_room(self)

    def size_hint(self) -> int:
        """About how many entries there are."""
        return max(self._column.estimated_rows(), self._entries)

    def _cells_of(self, key: Key, subkeys: list[Key]) -> list[Any]:
        held = self._young.get(key) or self._old[key]
        return list(map(held.map.entries.__getitem__, subkeys))

    def _all(self) -> Iterator[_Held]:
        return chain(self._young.values(), self._old.values())

    def _find(self, key: Key) -> _Held | None:
        """What is cached of a key, now in the young generation; None if nothing is."""
        held = self._young.get(key)
        if held is None and self._old:
            held = self._old.pop(key, None)
            if held is not None:
                self._young[key] = held
        return held

    def _hold(self, key: Key) -> _Held:
        """What is cached of a key, from now on something."""
        held = self._find(key)
        if held is None:
            self._young[key] = held = _Held(stored=not self._all_held)
        return held

    def _count_operation(self) -> None:
        self._operations += 1
        if self._operations >= _ROOM_EVERY:
            self._operations = 0
            self._budget.make_room(self)

    def _decode(self, stored: bytes) -> Any:
        value = self.spec.serde.decode(stored[STAMP_BYTES:])
        return (value, unpack_number(stored[:STAMP_BYTES])) if self.spec.ttl_ms else value

    def _value(self, cell: Any, default: Any) -> Any:
        if not self.spec.ttl_ms:
            return cell
        return default if cell[1] <= self._clock.now_ms() - self.spec.ttl_ms else cell[0]

    def _complete(self, key: Key, held: _Held) -> None:
        """Read all entries of a key, or find that they are too many."""
        prefix = self._prefix(key)
        found: list[Row] = []
        for rows in self._column.portions(prefix):
            found += rows
            if len(found) > WHOLE_MAP_ENTRIES:
                held.large = True
                return
        entries, dirty = held.map.entries, held.dirty
        before = len(entries)
        for row, stored in found:
            subkey = decode_key(row[len(prefix) :])
            if subkey not in entries and subkey not in dirty:
                held.map.put(subkey, self._decode(stored))
        held.complete = True
        self._entries += len(entries) - before

    def _read_range(self, key: Key, held: _Held, low: int | None, high: int | None) -> list[tuple[Key, Any]]:
        """The cells of a large map in a range, from the database."""
        self._column.write(self._changes(key, held))
        held.written()
        prefix = self._prefix(key)
        start = prefix if low is None else prefix + encode_key(low)
        whole = low is None and high is None
        cells: list[tuple[Key, Any]] = []
        for rows in self._column.portions(prefix, start):
            for row, stored in rows:
                subkey = decode_key(row[len(prefix) :])
                if not whole and not is_int_subkey(subkey):
                    continue
                if high is not None and subkey >= high:
                    return cells
                cached = held.map.entries.get(subkey, _ABSENT)
                cells.append((subkey, self._decode(stored) if cached is _ABSENT else cached))
        return cells

    def _changes(self, key: Key, held: _Held) -> list[tuple[bytes, bytes | None]]:
        """The rows that bring the database up to date with what is cached of a key."""
        if not held.dirty:
            return []
        encode, with_ttl = self.spec.serde.encode, self.spec.ttl_ms
        now = pack_number(self._clock.now_ms())
        prefix, entries = self._prefix(key), held.map.entries
        changes: list[tuple[bytes, bytes | None]] = []
        for subkey in held.dirty:
            cell = entries.get(subkey, _ABSENT)
            if cell is _ABSENT:
                stored = None
            elif with_ttl:
                stored = pack_number(cell[1]) + encode(cell[0])
            else:
                stored = now + encode(cell)
            changes.append((prefix + encode_key(subkey), stored))
        return changes


def _remove_expired(column: Column, clock: Clock, ttl_ms: int) -> Iterator[None]:
    for expired in expiring_rows(column, clock, ttl_ms):
        column.write([(row, None) for row in expired])
        yield
