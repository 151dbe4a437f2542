"""How the caches of decoded values in front of RocksDB share one bound.

Decoding a value costs more than using it, so tables keep what they have decoded, and write back what has changed only
when it must go or a snapshot is due. All tables and timers of a backend draw on one budget of bytes: when it is
overdrawn the largest holder gives up entries.
"""

from __future__ import annotations

from typing import Final, Protocol

EVICTION_ENTRIES: Final = 4096
"""Least number of entries that are given up at once: changed ones are written back in one sorted batch."""


class Holder(Protocol):
    """A table, or timers, that keeps entries in memory."""

    def held_bytes(self) -> int:
        """About how much it holds."""
        ...

    def give_up(self, excess_bytes: int, asked_by_itself: bool) -> None:
        """Forget entries of that size together, writing back those that changed.

        What an operator has in hand stays, unless it is this table that the operator turns to now (`asked_by_itself`).
        """
        ...


class CacheBudget:
    """The bound that all holders of a backend share.

    Args:
        capacity_bytes: The bound; exceeded by what one batch brings.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._holders: list[Holder] = []

    def join(self, holder: Holder) -> None:
        """Count this holder from now on."""
        self._holders.append(holder)

    def make_room(self, asking: Holder) -> None:
        """Get back below the bound if it is exceeded; called by a holder before it loads anything."""
        held = [holder.held_bytes() for holder in self._holders]
        excess_bytes = sum(held) - self._capacity_bytes
        if excess_bytes <= 0:
            return
        for _, place in sorted(zip(held, range(len(held)), strict=True), reverse=True):
            holder = self._holders[place]
            holder.give_up(excess_bytes, holder is asking)
            excess_bytes += holder.held_bytes() - held[place]
            if excess_bytes <= 0:
                return
