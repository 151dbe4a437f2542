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

    A change that is older than a checkpoint interval will probably not be overwritten soon: it is *settled*, and worth
    writing to the database, so that not every snapshot has to hold it again.

    Attributes:
        recent: Keys changed since settling was last begun; operators' changes are added here.
    """

    __slots__ = ("_settled", "recent")

    def __init__(self) -> None:
        self.recent: set[Key] = set()
        self._settled: set[Key] = set()

    def __len__(self) -> int:
        return len(self.recent) + len(self._settled)

    def __contains__(self, key: Key) -> bool:
        return key in self.recent or key in self._settled

    def __iter__(self) -> Iterator[Key]:
        """Each key once."""
        yield from self.recent
        for key in self._settled:
            if key not in self.recent:
                yield key

    def written(self, keys: Iterable[Key]) -> None:
        """The database has the cells of `keys` now."""
        keys = list(keys)
        self.recent.difference_update(keys)
        if self._settled:
            self._settled.difference_update(keys)

    def begin_settling(self) -> bool:
        """A snapshot is taken: call what has changed up to now settled; False if the last lot is not done with yet."""
        if self._settled:
            return False
        self._settled, self.recent = self.recent, self._settled
        return True

    def take_settled(self, limit: int) -> list[Key]:
        """Up to `limit` settled keys, to be written now; fewer only when none is left."""
        taken: list[Key] = []
        while self._settled and len(taken) < limit:
            key = self._settled.pop()
            if key not in self.recent:
                taken.append(key)
        return taken
