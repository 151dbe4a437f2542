"""Keeping the cells of many keys as they are now, without stopping the task for all of them.

To fetch a hundred thousand cells from memory takes tens of milliseconds. So when a snapshot is taken only the keys are set aside. The
I/O thread that writes the snapshot then fetches the cells, a thousand at a time, and before a key is handed out to an operator, or its
cell is given up, the task thread fetches the cell of that one. Cells themselves must be of a kind that nobody can change.

What is done per cell is done right after it was fetched: a moment later it is as far from the processor as before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from checkdam.state.base import Key

ABSENT: Final[Any] = object()
"""In place of the cell of a key that has none any more."""

SLICE: Final = 1024
"""Cells that are fetched at once: what the task thread may have to wait for, less than a millisecond."""


class Captured(NamedTuple):
    """Keys, the cell of each, and the keys that have none."""

    keys: list[Key]
    cells: list[Any]
    gone: list[Key]


class Capture:
    """The cells of some keys as they were when this was made.

    Threads: its owner, the task thread, says what is about to change and holds `lock` while cells move or go; any one other takes what
    is left. `lock` guards everything.

    Args:
        keys: The keys; given away.
        look_up: The cells of some of them as they are now, or ABSENT.

    Attributes:
        complete: Nothing is left to be fetched; read without the lock, since it is set at the very end and stays so.
    """

    def __init__(self, keys: set[Key], look_up: Callable[[list[Key]], list[Any]]) -> None:
        self.lock = threading.Lock()
        self.complete = not keys
        self._pending = keys
        self._look_up = look_up
        self._captured = Captured([], [], [])

    def before_change(self, keys: Collection[Key]) -> None:
        """The cells of `keys` may change from now on."""
        with self.lock:
            pending = self._pending.intersection(keys)
            self._pending -= pending
            self._fetch(list(pending))

    def before_loss(self, items: list[tuple[Key, Any]]) -> None:
        """These keys with their cells are not to be found any more. `lock` is held, and was before they went."""
        for key, cell in items:
            if key in self._pending:
                self._pending.remove(key)
                self._captured.keys.append(key)
                self._captured.cells.append(cell)
        self.complete = not self._pending

    def settle(self) -> None:
        """Fetch what is left, for `rest`."""
        with self.lock:
            pending, self._pending = self._pending, set()
            self._fetch(list(pending))

    def rest(self) -> Captured:
        """Fetch what is left, and give all of it away."""
        while True:
            with self.lock:
                if not self._pending:
                    captured, self._captured = self._captured, Captured([], [], [])
                    return captured
                self._fetch([self._pending.pop() for _ in range(min(SLICE, len(self._pending)))])

    def _fetch(self, keys: list[Key]) -> None:
        cells = self._look_up(keys)
        gone = [key for key, cell in zip(keys, cells, strict=True) if cell is ABSENT]
        if gone:
            keys = [key for key, cell in zip(keys, cells, strict=True) if cell is not ABSENT]
            cells = [cell for cell in cells if cell is not ABSENT]
        self._captured.keys.extend(keys)
        self._captured.cells.extend(cells)
        self._captured.gone.extend(gone)
        self.complete = not self._pending
