"""What the cache of a RocksDB value table has of one namespace.

See `rocksdb_values` for how its two generations of cells are used, and `rocksdb_capture` for what a snapshot that is being
written needs of it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from itertools import repeat
from typing import Any

from checkdam.state.base import Key
from checkdam.state.rocksdb_cache import Changes
from checkdam.state.rocksdb_capture import ABSENT, Capture


class Space:
    """The cached cells of one namespace; a key that has changed and has no cell was deleted."""

    __slots__ = ("capture", "changes", "complete", "counted", "old", "scans", "young")

    def __init__(self, complete: bool) -> None:
        self.young: dict[Key, Any] = {}
        self.old: dict[Key, Any] = {}
        self.changes = Changes()
        self.capture: Capture | None = None
        self.complete = complete
        self.counted = 0
        self.scans = 0

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def cell(self, key: Key) -> Any:
        """The cached cell, or ABSENT."""
        cell = self.young.get(key, ABSENT)
        return self.old.get(key, ABSENT) if cell is ABSENT else cell

    def cells(self, keys: list[Key]) -> list[Any]:
        """As `cell`, of many keys."""
        cells = list(map(self.young.get, keys, repeat(ABSENT)))
        if self.old:
            for index in [index for index, cell in enumerate(cells) if cell is ABSENT]:
                cells[index] = self.old.get(keys[index], ABSENT)
        return cells

    def before_change(self, keys: Collection[Key]) -> None:
        """The cells of `keys` may change from now on."""
        if self.capture is not None:
            self.capture.before_change(keys)
            if self.capture.complete:
                self.capture = None

    def give_up(self, most: int, may_rotate: bool) -> list[tuple[Key, Any]]:
        """Forget up to so many cells of one generation, and return them; none if the old one is used up and the young one must stay."""
        with nullcontext() if self.capture is None else self.capture.lock:
            if not self.old and may_rotate:
                self.old, self.young = self.young, self.old
            gone = [self.old.popitem() for _ in range(min(most, len(self.old)))]
            if self.capture is not None:
                self.capture.before_loss(gone)
        return gone
