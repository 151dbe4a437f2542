"""The value tables of the hashmap backend: dictionaries that are the state.

A table hands out the very dictionary that holds its cells, so a batch costs the table nothing per key. What is left to
do is removing expired cells, and turning cells into blocks (in the forked child of a snapshot) and back.

Expired cells are removed by a walk in bounded steps. It goes over a copy of the keys, because an iteration over a
dictionary cannot be left in the middle and taken up again after changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from checkdam.core.clock import Clock
from checkdam.core.keys import KeyGroups
from checkdam.state.base import Key, TableSpec
from checkdam.state.blocks import Block
from checkdam.state.columns import Run, decode_rows, encode_runs, estimated_total
from checkdam.state.walks import PacedWalk

PORTION: Final = 4096
"""Cells that `scan` hands out at once."""

WALK_CELLS: Final = 16_384
"""Cells that a step of the walk for expired cells looks at: some ms."""

_EMPTY_WALK_PAUSE_MS: Final = 10_000


class HashMapTable:
    """See `Table`.

    Args:
        spec: What it is.
        clock: For expiry.
        groups: Key → key group.
    """

    def __init__(self, spec: TableSpec, clock: Clock, groups: KeyGroups) -> None:
        self.spec = spec
        self._clock = clock
        self._groups = groups
        self._namespaces: dict[int, dict[Key, Any]] = {}
        self._handed_out: int | None = None
        self._walk = PacedWalk(clock, spec.ttl_ms // 4 or _EMPTY_WALK_PAUSE_MS, self._walk_once)

    def cells(self, namespace: int, keys: Collection[Key]) -> dict[Key, Any]:
        """See `Table`."""
        cells = self._namespaces.get(namespace)
        if cells is None:
            self._namespaces[namespace] = cells = {}
        self._handed_out = namespace
        if self.spec.ttl_ms and cells:
            self._expire(cells, keys)
        return cells

    def changed(self, namespace: int, keys: Iterable[Key]) -> None:
        """See `Table`. The dictionary is the state: there is nothing to do."""

    def namespaces(self) -> list[int]:
        """See `Table`; a namespace whose cells have all expired is listed until they are removed."""
        return sorted([namespace for namespace, cells in self._namespaces.items() if cells])

    def scan(self, namespace: int) -> Iterator[list[tuple[Key, Any]]]:
        """See `Table`."""
        items = iter(self._namespaces.get(namespace, {}).items())
        ttl_ms = self.spec.ttl_ms
        while portion := list(islice(items, PORTION)):
            if ttl_ms:
                expired_ms = self._clock.now_ms() - ttl_ms
                portion = [item for item in portion if item[1][1] > expired_ms]
            if portion:
                yield portion

    def drop(self, namespace: int) -> None:
        """See `Table`."""
        self._namespaces.pop(namespace, None)

    def maintain(self) -> None:
        """Remove expired cells among the next few thousand, and namespaces that are empty."""
        self._walk.step()

    def size_hint(self) -> int:
        """About how many cells there are."""
        return estimated_total(self._namespaces.values())

    def sizes(self) -> Iterator[int]:
        """The number of cells, namespace by namespace."""
        return map(len, self._namespaces.values())

    def group_runs(self) -> dict[int, list[Run]]:
        """Key group → (namespace, its keys)."""
        by_group: dict[int, list[Run]] = defaultdict(list)
        group_of = self._groups.__getitem__
        for namespace, cells in self._namespaces.items():
            keys_of: dict[int, list[Key]] = defaultdict(list)
            for key, group in zip(cells, map(group_of, cells), strict=True):
                keys_of[group].append(key)
            for group, keys in keys_of.items():
                by_group[group].append((namespace, keys))
        return by_group

    def blocks(self, group_runs: list[Run]) -> Iterator[Block]:
        """The cells of one key group."""

        def cells_of(namespace: int, keys: list[Key]) -> Iterator[Any]:
            return map(self._namespaces[namespace].__getitem__, keys)

        return encode_runs(group_runs, cells_of, self.spec, self._clock.now_ms())

    def load_block(self, block: Block) -> None:
        """Add the cells of a block."""
        for namespace, rows in decode_rows(block, self.spec):
            self._namespaces.setdefault(namespace, {}).update(rows)

    def _expire(self, cells: dict[Key, Any], keys: Iterable[Key]) -> None:
        expired_ms = self._clock.now_ms() - self.spec.ttl_ms
        for key in keys:
            cell = cells.get(key)
            if cell is not None and cell[1] <= expired_ms:
                del cells[key]

    def _walk_once(self) -> Iterator[None]:
        looked_at = 0
        for namespace in list(self._namespaces):
            keys = iter(list(self._namespaces.get(namespace, ())) if self.spec.ttl_ms else ())
            while portion := list(islice(keys, WALK_CELLS)):
                # Looked up again: between two steps the namespace may have been dropped.
                self._expire(self._namespaces.get(namespace, {}), portion)
                looked_at += len(portion)
                if looked_at >= WALK_CELLS:
                    looked_at = 0
                    yield
            if namespace != self._handed_out and self._namespaces.get(namespace) == {}:
                del self._namespaces[namespace]
            looked_at += 1
            if looked_at >= WALK_CELLS:
                looked_at = 0
                yield
