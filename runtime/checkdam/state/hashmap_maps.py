"""The map tables and timers of the hashmap backend."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

from checkdam.core.clock import Clock
from checkdam.core.keys import KeyGroups
from checkdam.state.base import Key, TableSpec
from checkdam.state.blocks import Block
from checkdam.state.columns import (
    Run,
    decode_rows,
    decode_timers,
    encode_runs,
    encode_timers,
    estimated_total,
)
from checkdam.state.hashmap_values import WALK_CELLS
from checkdam.state.submap import SubMap
from checkdam.state.timer_heap import TimerHeap
from checkdam.state.walks import PacedWalk


class HashMapMapTable:
    """See `MapTable`.

    Args:
        spec: What it is.
        clock: For update times and expiry.
        groups: Key → key group.
    """

    def __init__(self, spec: TableSpec, clock: Clock, groups: KeyGroups) -> None:
        self.spec = spec
        self._clock = clock
        self._groups = groups
        self._maps: dict[Key, SubMap] = {}
        self._walk = PacedWalk(clock, spec.ttl_ms // 4, self._walk_once)

    def load(self, keys: Collection[Key]) -> None:
        """See `MapTable`. Everything is in memory already."""

    def get(self, key: Key, subkey: Key, default: Any = None) -> Any:
        """See `MapTable`."""
        held = self._maps.get(key)
        if held is None:
            return default
        if not self.spec.ttl_ms:
            return held.entries.get(subkey, default)
        cell = held.entries.get(subkey)
        return default if cell is None or cell[1] <= self._expired_ms() else cell[0]

    def put(self, key: Key, subkey: Key, value: Any) -> None:
        """See `MapTable`."""
        held = self._maps.get(key)
        if held is None:
            self._maps[key] = held = SubMap()
        held.put(subkey, (value, self._clock.now_ms()) if self.spec.ttl_ms else value)

    def remove(self, key: Key, subkey: Key) -> None:
        """See `MapTable`."""
        held = self._maps.get(key)
        if held is not None and held.remove(subkey) and not held.entries:
            del self._maps[key]

    def items(self, key: Key, low: int | None = None, high: int | None = None) -> list[tuple[Key, Any]]:
        """See `MapTable`."""
        held = self._maps.get(key)
        if held is None:
            return []
        found = held.items(low, high)
        if not self.spec.ttl_ms:
            return found
        expired_ms = self._expired_ms()
        return [(subkey, cell[0]) for subkey, cell in found if cell[1] > expired_ms]

    def clear(self, key: Key) -> None:
        """See `MapTable`."""
        self._maps.pop(key, None)

    def maintain(self) -> None:
        """Remove expired entries among the next few thousand."""
        if self.spec.ttl_ms:
            self._walk.step()

    def size_hint(self) -> int:
        """About how many entries there are."""
        return estimated_total(self._maps.values())

    def sizes(self) -> Iterator[int]:
        """The number of entries, key by key."""
        return map(len, self._maps.values())

    def group_runs(self) -> dict[int, list[Run]]:
        """Key group → (key, its sub-keys)."""
        by_group: dict[int, list[Run]] = defaultdict(list)
        for (key, held), group in zip(self._maps.items(), map(self._groups.__getitem__, self._maps), strict=True):
            by_group[group].append((key, list(held.entries)))
        return by_group

    def blocks(self, group_runs: list[Run]) -> Iterator[Block]:
        """The entries of one key group."""

        def cells_of(key: Key, subkeys: list[Key]) -> Iterator[Any]:
            return map(self._maps[key].entries.__getitem__, subkeys)

        return encode_runs(group_runs, cells_of, self.spec, self._clock.now_ms())

    def load_block(self, block: Block) -> None:
        """Add the entries of a block."""
        for key, rows in decode_rows(block, self.spec):
            held = self._maps.get(key)
            if held is None:
                self._maps[key] = SubMap(dict(rows))
            else:
                held.entries.update(rows)

    def _expired_ms(self) -> int:
        """Entries that were last updated then, or before, have expired."""
        return self._clock.now_ms() - self.spec.ttl_ms

    def _walk_once(self) -> Iterator[None]:
        looked_at = 0
        for key in list(self._maps):
            held = self._maps.get(key)
            if held is None:
                continue
            subkeys = iter(list(held.entries))
            while portion := list(islice(subkeys, WALK_CELLS)):
                expired_ms = self._expired_ms()
                for subkey in portion:
                    cell = held.entries.get(subkey)
                    if cell is not None and cell[1] <= expired_ms:
                        held.remove(subkey)
                looked_at += len(portion)
                if looked_at >= WALK_CELLS:
                    looked_at = 0
                    yield
            if not held.entries and self._maps.get(key) is held:
                del self._maps[key]


class HashMapTimers:
    """See `Timers`.

    Args:
        groups: Key → key group.
    """

    def __init__(self, groups: KeyGroups) -> None:
        self._groups = groups
        self._heap = TimerHeap()

    def register(self, time_ms: int, key: Key, namespace: int = 0) -> None:
        """See `Timers`."""
        self._heap.add(time_ms, key, namespace)

    def register_many(self, time_ms: int, keys: Iterable[Key], namespace: int = 0) -> None:
        """See `Timers`."""
        self._heap.add_many(time_ms, keys, namespace)

    def delete(self, time_ms: int, key: Key, namespace: int = 0) -> None:
        """See `Timers`."""
        self._heap.remove(time_ms, key, namespace)

    def next_time(self) -> int | None:
        """See `Timers`; exact."""
        return self._heap.next_time()

    def pop_due(self, up_to_ms: int, limit: int = 4096) -> list[tuple[int, Key, int]]:
        """See `Timers`."""
        return self._heap.pop(up_to_ms, limit)

    def size_hint(self) -> int:
        """How many timers there are."""
        return len(self._heap)

    def sizes(self) -> Iterator[int]:
        """The number of timers, as the one element."""
        return iter((len(self._heap),))

    def group_runs(self) -> dict[int, list[tuple[int, Key, int]]]:
        """Key group → its timers."""
        by_group: dict[int, list[tuple[int, Key, int]]] = defaultdict(list)
        group_of = self._groups.__getitem__
        for time_ms, namespace, keys in self._heap.slots():
            for key, group in zip(keys, map(group_of, keys), strict=True):
                by_group[group].append((time_ms, key, namespace))
        return by_group

    def blocks(self, timers: list[tuple[int, Key, int]]) -> Iterator[Block]:
        """The timers of one key group."""
        return encode_timers(timers)

    def load_block(self, block: Block) -> None:
        """Add the timers of a block."""
        for timer in decode_timers(block):
            self._heap.add(*timer)
