"""The sub-keys and values of one key of a map table, in memory, with range queries over integer sub-keys.

A plain dictionary serves reads and writes. The order of the sub-keys is worked out at the first `items` and then kept
up as long as that is cheap: sub-keys that come in ascending order, such as event times, are appended, others inserted
where they belong; when neither pays, the order is forgotten and worked out again on demand.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

from checkdam.core.keys import encode_key
from checkdam.state.base import Key

_INSERTION_LIMIT = 16_384
"""From this length on, inserting into the middle of the order costs more than sorting once per query."""


def is_int_subkey(subkey: Key) -> bool:
    """Whether `subkey` is an integer as keys see it: ints, bools and integral floats are the same key."""
    return isinstance(subkey, int) or (isinstance(subkey, float) and subkey.is_integer())


class SubMap:
    """{sub-key: value} with ordered `items`.

    Attributes:
        entries: The content; changed through `put` and `remove` only.
    """

    __slots__ = ("_all_ints", "_order", "entries")

    def __init__(self, entries: dict[Key, Any] | None = None) -> None:
        self.entries: dict[Key, Any] = {} if entries is None else entries
        self._order: list[Key] | None = None
        self._all_ints = False

    def __len__(self) -> int:
        return len(self.entries)

    def put(self, subkey: Key, value: Any) -> None:
        """Set an entry."""
        if self._order is not None and subkey not in self.entries:
            self._place(self._order, subkey)
        self.entries[subkey] = value

    def remove(self, subkey: Key) -> bool:
        """Delete an entry; False if there was none."""
        if subkey not in self.entries:
            return False
        del self.entries[subkey]
        order = self._order
        if order is not None:
            if self._all_ints:
                del order[bisect_left(order, subkey)]
            else:
                self._order = None
        return True

    def items(self, low: int | None = None, high: int | None = None) -> list[tuple[Key, Any]]:
        """The entries in order of their encoded sub-keys, which for ints is their value.

        With `low` or `high`, those with an int sub-key of `low` ≤ sub-key < `high`.
        """
        entries = self.entries
        if not entries:
            return []
        order = self._order
        if order is None:
            order = self._sort()
        if low is None and high is None:
            return [(subkey, entries[subkey]) for subkey in order]
        if not self._all_ints:
            order = [subkey for subkey in order if is_int_subkey(subkey)]
        start = 0 if low is None else bisect_left(order, low)
        stop = len(order) if high is None else bisect_left(order, high)
        return [(subkey, entries[subkey]) for subkey in order[start:stop]]

    def _sort(self) -> list[Key]:
        self._all_ints = set(map(type, self.entries)) == {int}
        order = sorted(self.entries) if self._all_ints else sorted(self.entries, key=encode_key)
        self._order = order
        return order

    def _place(self, order: list[Key], subkey: Key) -> None:
        if not self._all_ints or type(subkey) is not int:
            self._order = None
        elif not order or subkey > order[-1]:
            order.append(subkey)
        elif len(order) < _INSERTION_LIMIT:
            insort(order, subkey)
        else:
            self._order = None
