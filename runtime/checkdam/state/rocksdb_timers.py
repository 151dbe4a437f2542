"""The timers of the RocksDB backend: the next ones in memory, the later ones in a column family.

Within a key group rows are ordered by time. Each group that has rows which are not in memory has a *horizon*, the first
such row: everything before it is in memory, everything from it on is in the database alone. A group without a horizon
is in memory as a whole, and so is the usual job, whose timers fit its cache: they never reach the database, and go into
snapshots as changes to it.

When memory runs out the later quarter is written and forgotten, which sets horizons. When timers come due up to a
horizon, the next few hundred rows of that group are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Final

from checkdam.state.base import Key
from checkdam.state.blocks import Block
from checkdam.state.columns import decode_timers, encode_timers
from checkdam.state.rocksdb_cache import CacheBudget
from checkdam.state.rocksdb_rows import GROUP_BYTES, RowMaker, pack_group, read_timer_row, unpack_group, unpack_number
from checkdam.state.rocksdb_store import Column
from checkdam.state.sizes import EntrySize
from checkdam.state.timer_heap import TimerHeap

REFILL_ROWS: Final = 256
_BUFFERED_CHANGES: Final = 8192
_ROOM_EVERY: Final = 1024
_ENTRY_OVERHEAD_BYTES: Final = 300

_Timer = tuple[int, Key, int]


class RocksDbTimers:
    """See `Timers`.

    Args:
        column: Their column family, with the rows that were restored.
        rows: Makes the rows' keys.
        budget: The cache's bound.
    """

    def __init__(self, column: Column, rows: RowMaker, budget: CacheBudget) -> None:
        self._column = column
        self._rows = rows
        self._budget = budget
        self._near = TimerHeap()
        # Before the horizons: timers that the database lacks, and those it has although they are gone.
        self._to_put: set[_Timer] = set()
        self._to_delete: set[_Timer] = set()
        # Changes beyond a horizon: put or delete.
        self._far: dict[_Timer, bool] = {}
        self._horizons: dict[int, tuple[int, bytes]] = {}
        self._far_from_ms: int | None = None
        self._entry_size = EntrySize(_ENTRY_OVERHEAD_BYTES)
        self._operations = 0
        self._find_horizons()
        budget.join(self)

    def register(self, time_ms: int, key: Key, namespace: int = 0) -> None:
        """See `Timers`."""
        self._count_operation(key)
        if self._far_from_ms is not None and self._is_far(time_ms, key, namespace):
            self._change_far(time_ms, key, namespace, present=True)
        elif self._near.add(time_ms, key, namespace):
            self._note_added((time_ms, key, namespace))

    def register_many(self, time_ms: int, keys: Iterable[Key], namespace: int = 0) -> None:
        """See `Timers`."""
        if self._far_from_ms is not None and time_ms >= self._far_from_ms:
            for key in keys:
                self.register(time_ms, key, namespace)
            return
        added = self._near.add_many(time_ms, keys, namespace)
        if not added:
            return
        if self._to_delete:
            for key in added:
                self._note_added((time_ms, key, namespace))
        else:
            self._to_put.update(zip(repeat(time_ms), added, repeat(namespace)))
        self._entry_size.sample(added[0])
        self._budget.make_room(self)

    def delete(self, time_ms: int, key: Key, namespace: int = 0) -> None:
        """See `Timers`."""
        if self._far_from_ms is not None and self._is_far(time_ms, key, namespace):
            self._change_far(time_ms, key, namespace, present=False)
        elif self._near.remove(time_ms, key, namespace):
            self._note_removed((time_ms, key, namespace))

    def next_time(self) -> int | None:
        """See `Timers`."""
        near_ms, far_ms = self._near.next_time(), self._far_from_ms
        if near_ms is None or far_ms is None:
            return far_ms if near_ms is None else near_ms
        return min(near_ms, far_ms)

    def pop_due(self, up_to_ms: int, limit: int = 4096) -> list[_Timer]:
        """See `Timers`."""
        due: list[_Timer] = []
        while True:
            far_ms = self._far_from_ms
            popped = self._near.pop(up_to_ms if far_ms is None else min(up_to_ms, far_ms), limit - len(due))
            for timer in popped:
                self._note_removed(timer)
            due += popped
            if len(due) == limit or far_ms is None or far_ms > up_to_ms:
                return due
            self._refill(far_ms)

    def held_bytes(self) -> int:
        """See `Holder`."""
        timers = len(self._near) + len(self._to_delete) + len(self._far)
        return timers * self._entry_size.bytes

    def give_up(self, excess_bytes: int, asked_by_itself: bool) -> None:
        """See `Holder`. The latest quarter goes, or more."""
        # Horizons move back: what memory has deleted must not be read again behind them.
        self._write_deleted()
        excess = excess_bytes // self._entry_size.bytes
        cut = self._near.cut_to(max(0, len(self._near) - max(excess, len(self._near) // 4 + 1)))
        changes: list[tuple[bytes, bytes | None]] = []
        for timer in cut:
            row = self._row(timer)
            if timer in self._to_put:
                self._to_put.discard(timer)
                changes.append((row, b""))
            group, place = unpack_group(row), (timer[0], row)
            horizon = self._horizons.get(group)
            if horizon is None or place[1] < horizon[1]:
                self._horizons[group] = place
        self._column.write(changes)
        self._note_horizons()

    def sizes(self) -> Iterator[int]:
        """See `Part`: the number of changes, as the one element."""
        return iter((len(self._to_put) + len(self._to_delete) + len(self._far),))

    def group_runs(self) -> dict[int, list[Any]]:
        """See `Part`: (timers that the database lacks, timers that it has although they are gone)."""
        lacking = [*self._to_put, *(timer for timer, present in self._far.items() if present)]
        gone = [*self._to_delete, *(timer for timer, present in self._far.items() if not present)]
        by_group: dict[int, list[Any]] = defaultdict(lambda: [[], []])
        for place, timers in enumerate((lacking, gone)):
            for timer, group in zip(timers, self._rows.groups(timer[1] for timer in timers), strict=True):
                by_group[group][place].append(timer)
        return by_group

    def blocks(self, group_runs: list[Any]) -> Iterator[Block]:
        """See `Part`."""
        if group_runs:
            lacking, gone = group_runs
            yield from encode_timers(lacking)
            yield from encode_timers(gone, deleted=True)

    def load_block(self, block: Block) -> None:
        """See `Part`: changes again, as they were."""
        change = self.delete if block.deleted else self.register
        for timer in decode_timers(block):
            change(*timer)

    def size_hint(self) -> int:
        """About how many timers there are."""
        return max(self._column.estimated_rows(), len(self._near))

    def _row(self, timer: _Timer) -> bytes:
        return self._rows.timer_row(*timer)

    def _is_far(self, time_ms: int, key: Key, namespace: int) -> bool:
        """Whether a timer lies at or behind the horizon of its group."""
        if self._far_from_ms is None or time_ms < self._far_from_ms:
            return False
        row = self._rows.timer_row(time_ms, key, namespace)
        horizon = self._horizons.get(unpack_group(row))
        return horizon is not None and row >= horizon[1]

    def _change_far(self, time_ms: int, key: Key, namespace: int, present: bool) -> None:
        self._far[time_ms, key, namespace] = present
        if len(self._far) >= _BUFFERED_CHANGES:
            self._write_far()

    def _note_added(self, timer: _Timer) -> None:
        if timer in self._to_delete:
            self._to_delete.discard(timer)
        else:
            self._to_put.add(timer)

    def _note_removed(self, timer: _Timer) -> None:
        if timer in self._to_put:
            self._to_put.discard(timer)
            return
        self._to_delete.add(timer)
        if len(self._to_delete) >= _BUFFERED_CHANGES:
            self._write_deleted()

    def _write_deleted(self) -> None:
        self._column.write([(self._row(timer), None) for timer in self._to_delete])
        self._to_delete.clear()

    def _write_far(self) -> None:
        self._column.write([(self._row(timer), b"" if present else None) for timer, present in self._far.items()])
        self._far.clear()

    def _refill(self, up_to_ms: int) -> None:
        """Read the next rows of each group whose horizon is at or before `up_to_ms`."""
        self._write_far()
        for group in [group for group, horizon in self._horizons.items() if horizon[0] <= up_to_ms]:
            prefix = pack_group(group)
            found = self._column.rows(self._horizons.pop(group)[1], REFILL_ROWS)
            rows = [row for row, _ in found if row.startswith(prefix)]
            for row in rows:
                self._near.add(*read_timer_row(row))
            if len(rows) == REFILL_ROWS:
                last = rows[-1]
                self._horizons[group] = (_time_of(last), last + b"\0")
        self._note_horizons()

    def _note_horizons(self) -> None:
        self._far_from_ms = min([horizon[0] for horizon in self._horizons.values()], default=None)

    def _find_horizons(self) -> None:
        """After a restore: the first row of each group."""
        position = b""
        while (row := self._column.first(position)) is not None:
            group = unpack_group(row)
            self._horizons[group] = (_time_of(row), row)
            position = pack_group(group + 1)
        self._note_horizons()

    def _count_operation(self, key: Key) -> None:
        self._operations += 1
        if self._operations >= _ROOM_EVERY:
            self._operations = 0
            self._entry_size.sample(key)
            self._budget.make_room(self)


def _time_of(row: bytes) -> int:
    return unpack_number(row[GROUP_BYTES : GROUP_BYTES + 8])
