"""Timers in memory: a heap of times beside a dictionary from time to keys.

Most timers either share their time with thousands of others (the end of a window) or with none (a deadline per key).
So a slot, one (time, namespace), holds a bare key as long as it has only one and a dictionary of keys from the second
on, and only slots, never single timers, go through the heap. Deleted timers leave their slot in the heap; such stale
slots are skipped when they come up and swept when they outnumber the live ones.

The hashmap backend keeps all its timers here, the RocksDB backend those that are due next.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from checkdam.state.base import Key

_NONE: Any = object()
_STALE_SLACK = 64


class _Keys(dict[Key, None]):
    """The keys of a slot that has several; a type of its own, to tell it from a key."""

    __slots__ = ()


class TimerHeap:
    """A set of (time, key, namespace) that gives back its earliest members."""

    __slots__ = ("_count", "_heap", "_slots")

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int], Any] = {}
        self._heap: list[tuple[int, int]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, timer: tuple[int, Key, int]) -> bool:
        time_ms, key, namespace = timer
        held = self._slots.get((time_ms, namespace), _NONE)
        if held is _NONE:
            return False
        return bool(key in held if type(held) is _Keys else key == held)

    def add(self, time_ms: int, key: Key, namespace: int) -> bool:
        """Add a timer; False if it was there already."""
        slot = (time_ms, namespace)
        held = self._slots.get(slot, _NONE)
        if held is _NONE:
            self._slots[slot] = key
            heapq.heappush(self._heap, slot)
        elif type(held) is _Keys:
            if key in held:
                return False
            held[key] = None
        elif held == key:
            return False
        else:
            self._slots[slot] = _Keys(((held, None), (key, None)))
        self._count += 1
        return True

    def add_many(self, time_ms: int, keys: Iterable[Key], namespace: int) -> list[Key]:
        """Add a timer for each of `keys`; returns the keys whose timer is new."""
        slot = (time_ms, namespace)
        wanted: dict[Key, None] = dict.fromkeys(keys)
        if not wanted:
            return []
        held = self._slots.get(slot, _NONE)
        if held is _NONE:
            heapq.heappush(self._heap, slot)
            self._slots[slot] = _Keys(wanted) if len(wanted) > 1 else next(iter(wanted))
            self._count += len(wanted)
            return list(wanted)
        if type(held) is not _Keys:
            held = self._slots[slot] = _Keys(((held, None),))
        new = [key for key in wanted if key not in held]
        held.update(zip(new, repeat(None)))
        self._count += len(new)
        return new

    def remove(self, time_ms: int, key: Key, namespace: int) -> bool:
        """Remove a timer; False if there was none."""
        slot = (time_ms, namespace)
        held = self._slots.get(slot, _NONE)
        if held is _NONE:
            return False
        if type(held) is _Keys:
            if key not in held:
                return False
            del held[key]
            if not held:
                del self._slots[slot]
        elif held == key:
            del self._slots[slot]
        else:
            return False
        self._count -= 1
        if len(self._heap) > 2 * len(self._slots) + _STALE_SLACK:
            self._heap = list(self._slots)
            heapq.heapify(self._heap)
        return True

    def next_time(self) -> int | None:
        """The earliest time; `None` when empty."""
        heap, slots = self._heap, self._slots
        while heap:
            if heap[0] in slots:
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def pop(self, up_to_ms: int, limit: int) -> list[tuple[int, Key, int]]:
        """Remove and return up to `limit` timers with time ≤ `up_to_ms`, earliest first."""
        heap, slots = self._heap, self._slots
        due: list[tuple[int, Key, int]] = []
        while heap and heap[0][0] <= up_to_ms and len(due) < limit:
            slot = heap[0]
            time_ms, namespace = slot
            held = slots.get(slot, _NONE)
            room = limit - len(due)
            if type(held) is _Keys and len(held) > room:
                # From the end: a dictionary emptied from its front is walked from its first hole each time.
                due += [(time_ms, held.popitem()[0], namespace) for _ in range(room)]
                break
            heapq.heappop(heap)
            if held is _NONE:
                continue
            del slots[slot]
            if type(held) is _Keys:
                due += [(time_ms, key, namespace) for key in held]
            else:
                due.append((time_ms, held, namespace))
        self._count -= len(due)
        return due

    def slots(self) -> Iterator[tuple[int, int, list[Key]]]:
        """Every (time, namespace) with its keys, in no order; nothing may be changed meanwhile."""
        for (time_ms, namespace), held in self._slots.items():
            yield time_ms, namespace, list(held) if type(held) is _Keys else [held]

    def cut_to(self, keep: int) -> list[tuple[int, Key, int]]:
        """Remove and return the latest timers, whole times only, so that at most `keep` remain.

        Every timer that stays is earlier than all that are returned.
        """
        times = sorted(self._slots)
        at = 0
        while at < len(times):
            held = self._slots[times[at]]
            keep -= len(held) if type(held) is _Keys else 1
            if keep < 0:
                break
            at += 1
        while at and at < len(times) and times[at][0] == times[at - 1][0]:
            at -= 1
        cut: list[tuple[int, Key, int]] = []
        for slot in times[at:]:
            held = self._slots.pop(slot)
            keys = list(held) if type(held) is _Keys else [held]
            cut += [(slot[0], key, slot[1]) for key in keys]
        self._heap = times[:at]
        self._count -= len(cut)
        return cut
