"""How the caches of decoded values in front of RocksDB share one bound.

Decoding a value costs more than using it, so tables keep what they have decoded, and write back what has changed only
when it must go or a snapshot is due. All tables and timers of a backend draw on one budget of bytes: when it is
overdrawn the largest holder gives up entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from checkdam.state.base import Key

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


class Changes:
    """The keys of a namespace whose cached cells differ from the database.

    Those that changed since the last snapshot are *recent*; the others are *logged*: the log of changes (`rocksdb_log`) has their
    cells as they are. A key may be both, when it has changed again.

    Attributes:
        recent: Keys changed since the last snapshot; operators' changes are added here.
    """

    __slots__ = ("_fresh", "_logged", "recent")

    def __init__(self) -> None:
        self.recent: set[Key] = set()
        self._fresh: set[Key] = set()
        self._logged: set[Key] = set()

    def __len__(self) -> int:
        """How many there are, those that are recent and logged counted twice."""
        return len(self.recent) + len(self._fresh) + len(self._logged)

    def __contains__(self, key: Key) -> bool:
        return key in self.recent or key in self._fresh or key in self._logged

    def __iter__(self) -> Iterator[Key]:
        """Each key once."""
        return iter(self.all())

    def all(self) -> set[Key]:
        """All keys, in a set of its own."""
        largest, *others = sorted((self.recent, self._fresh, self._logged), key=len, reverse=True)
        return largest.union(*others)

    def has_logged(self) -> bool:
        """Whether the log has any."""
        return bool(self._fresh or self._logged)

    def written(self, keys: Iterable[Key]) -> set[Key]:
        """The database has the cells of `keys` now; returns those of which the log still has one."""
        keys = set(keys)
        logged = keys & self._fresh | keys & self._logged
        self.recent -= keys
        self._fresh -= logged
        self._logged -= logged
        return logged

    def begin_log(self) -> None:
        """A snapshot was taken: its log has all recent ones."""
        self.fold(len(self._fresh))
        self._fresh, self.recent = self.recent, self._fresh

    def fold(self, limit: int) -> int:
        """Do up to `limit` keys of the work that `begin_log` has left; returns how many were done."""
        fresh = self._fresh
        if limit < len(fresh):
            self._logged.update([fresh.pop() for _ in range(limit)])
            return limit
        done = len(fresh)
        if len(self._logged) < done:
            self._logged, self._fresh = fresh, self._logged
        self._logged |= self._fresh
        self._fresh = set()
        return done
