"""The value tables of the RocksDB backend: a write-back cache of decoded cells in front of a column family.

Each namespace has a *space* of cells in two generations. `cells` hands out the young one, having moved or loaded the
asked cells into it. When the cache is full, the old generation is emptied from its end; once it is used up the young one
takes its place. So cells that are used again survive, and nothing is paid per use.

A snapshot does not write back what has changed, which would stop the task for seconds: what changed since the last one is
added to the log of changes (`rocksdb_log`), beside the checkpoint of the database, and is changed again after a restore. It
reaches the database when it is given up; the log is told then.

A space that holds all there is of its namespace is *complete*: as long as no cell of it has been given up, a missing
key needs no look into the database. That makes new windows, and state that fits the cache, as fast as a dictionary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final

from checkdam.core.clock import Clock
from checkdam.core.keys import decode_key
from checkdam.state.base import Key, TableSpec
from checkdam.state.blocks import Block
from checkdam.state.columns import (
    decode_deletions,
    decode_rows,
)
from checkdam.state.rocksdb_cache import EVICTION_ENTRIES, CacheBudget, Changes
from checkdam.state.rocksdb_capture import ABSENT, Capture
from checkdam.state.rocksdb_log import FrozenChanges, LogReader, Outdated
from checkdam.state.rocksdb_rows import (
    GROUP_BYTES,
    SPACE_BYTES,
    STAMP_BYTES,
    RowMaker,
    after,
    pack_group,
    pack_number,
    unpack_group,
    unpack_number,
)
from checkdam.state.rocksdb_space import Space
from checkdam.state.rocksdb_store import Column, Row, expiring_rows
from checkdam.state.sizes import EntrySize
from checkdam.state.walks import PacedWalk

PORTION: Final = 4096
FOLDED_KEYS: Final = 32_768
"""Keys of changes that one step of maintenance puts in order: a few ms."""

_CHECKED_KEYS: Final = 256
"""So many changed keys of each snapshot are looked at whether they are owned here at all."""

_ENTRY_OVERHEAD_BYTES: Final = 150
_SPACE_OVERHEAD_BYTES: Final = 700
_POINT_DELETES_PER_GROUP: Final = 8
"""Up to this many rows per key group are deleted one by one: range deletions slow reads down."""


class RocksDbTable:
    """See `Table`.

    Args:
        spec: What it is.
        column: Its column family, with the rows that were restored.
        clock: For update times and expiry.
        rows: Makes the rows' keys.
        budget: The cache's bound.
    """

    def __init__(self, spec: TableSpec, column: Column, clock: Clock, rows: RowMaker, budget: CacheBudget) -> None:
        self.spec = spec
        self._column = column
        self._clock = clock
        self._rows = rows
        self._budget = budget
        self._spaces: OrderedDict[int, Space] = OrderedDict()
        self._handed_out: int | None = None
        self._entries = 0
        self._entry_size = EntrySize(_ENTRY_OVERHEAD_BYTES)
        self._stored = _stored_groups(column)
        self._doubtful: set[int] = set()
        self._unfolded: list[int] = []
        self._touched: set[int] = set()
        self._outdated = Outdated()
        self._walk = PacedWalk(clock, spec.ttl_ms // 4, self._remove_expired)
        budget.join(self)

    def cells(self, namespace: int, keys: Collection[Key]) -> dict[Key, Any]:
        """See `Table`."""
        self._budget.make_room(self)
        space = self._space(namespace)
        self._handed_out = namespace
        if keys:
            space.before_change(keys)
            if space.old or not space.complete:
                self._load(namespace, space, keys)
            if self.spec.ttl_ms:
                self._expire(namespace, space, keys)
            first = next(iter(keys))
            if first in space.young:
                self._entry_size.sample(first, space.young[first])
        return space.young

    def changed(self, namespace: int, keys: Iterable[Key]) -> None:
        """See `Table`.

        Raises:
            ValueError: It is not the namespace that `cells` was last called for.
        """
        if namespace != self._handed_out:
            raise ValueError(
                f"table `{self.spec.id}`: `changed` must follow `cells` of the same namespace before any other call "
                f"(got {namespace}, after {self._handed_out})"
            )
        space = self._spaces[namespace]
        space.changes.recent.update(keys)
        self._touched.add(namespace)
        if len(space) > space.counted:
            # The size of cells is not known before they are there.
            newest = next(reversed(space.young))
            self._entry_size.sample(newest, space.young[newest])

    def namespaces(self) -> list[int]:
        """See `Table`; a namespace whose cells have all expired is listed until they are removed."""
        return sorted([namespace for namespace in {*self._spaces, *self._stored} if self._is_live(namespace)])

    def scan(self, namespace: int) -> Iterator[list[tuple[Key, Any]]]:
        """See `Table`. What is read on the way does not displace what is cached."""
        space = self._spaces.get(namespace)
        if space is not None and space.complete:
            yield from self._scan_cache(space)
        elif namespace in self._stored:
            if space is not None:
                self._write_back(namespace, space)
            for prefix in self._prefixes(namespace):
                for rows in self._column.portions(prefix):
                    portion = self._live(self._decode_rows(rows))
                    if portion:
                        yield portion

    def drop(self, namespace: int) -> None:
        """See `Table`."""
        space = self._spaces.pop(namespace, None)
        if space is not None:
            self._entries -= space.counted
            if space.changes.has_logged():
                self._outdated.add_all(namespace)
        if self._handed_out == namespace:
            self._handed_out = None
        self._doubtful.discard(namespace)
        groups = self._stored.get(namespace, 0)
        if not groups:
            return
        if (
            space is not None
            and space.complete
            and len(space) + len(space.changes) <= _POINT_DELETES_PER_GROUP * groups.bit_count()
        ):
            _, rows = self._rows.value_rows(namespace, {*space.young, *space.old, *space.changes})
            self._column.write([(row, None) for row in rows])
        else:
            self._column.delete_ranges([(prefix, after(prefix)) for prefix in self._prefixes(namespace)])
        del self._stored[namespace]

    def held_bytes(self) -> int:
        """See `Holder`."""
        self._recount()
        return self._entries * self._entry_size.bytes + len(self._spaces) * _SPACE_OVERHEAD_BYTES

    def give_up(self, excess_bytes: int, asked_by_itself: bool) -> None:
        """See `Holder`. Namespaces that were not used for long go first."""
        self._recount()
        wanted = max(excess_bytes // self._entry_size.bytes, EVICTION_ENTRIES)
        for namespace in list(islice(self._spaces, wanted)):
            space = self._spaces[namespace]
            if space.scans:
                continue
            in_hand = namespace == self._handed_out and not asked_by_itself
            wanted -= self._shrink(namespace, space, wanted, may_rotate=not in_hand)
            if not space.young and not space.old and not in_hand:
                self._write_back(namespace, space)
                del self._spaces[namespace]
                if self._handed_out == namespace:
                    self._handed_out = None
            if wanted <= 0:
                return

    def maintain(self) -> None:
        """Remove expired rows among the next thousand; put some changes in order."""
        if self.spec.ttl_ms:
            self._walk.step()
        room = FOLDED_KEYS
        while self._unfolded and room > 0:
            space = self._spaces.get(self._unfolded[-1])
            folded = 0 if space is None else space.changes.fold(room)
            if folded < room:
                self._unfolded.pop()
            room -= folded

    def log_size(self, whole: bool) -> int:
        """See `LoggedTable`."""
        if whole:
            return sum([len(space.changes) for space in self._spaces.values()])
        return len(self._outdated) + sum([len(space.changes.recent) for _, space in self._touched_spaces()])

    def freeze(self, whole: bool) -> FrozenChanges:
        """See `LoggedTable`.

        Raises:
            CheckpointError: A key is not owned here.
        """
        frozen = FrozenChanges(self.spec, self._clock.now_ms(), None if whole else self._outdated)
        for namespace, space in self._spaces.items() if whole else self._touched_spaces():
            keys = space.changes.all() if whole else space.changes.recent.copy()
            # To know the group of every key would take longer than all the rest.
            self._rows.check_owned(islice(keys, _CHECKED_KEYS))
            space.capture = Capture(keys, space.cells)
            frozen.runs.append((namespace, space.capture))
        # What was handed out before may not be changed any more: a key has to be asked for, to be captured.
        self._recount()
        self._handed_out = None
        return frozen

    def settle(self) -> None:
        """See `LoggedTable`."""
        for space in self._spaces.values():
            if space.capture is not None:
                space.capture.settle()
                space.capture = None

    def begin_log(self) -> None:
        """See `LoggedTable`."""
        self._unfolded = []
        for namespace, space in self._touched_spaces():
            space.changes.begin_log()
            self._unfolded.append(namespace)
        self._touched = set()
        self._outdated = Outdated()

    def load_log(self, blocks: Iterable[Block], owned: range | None) -> None:
        """Take over a log of changes as changes.

        Args:
            blocks: Of this table, the latest first.
            owned: Take only keys of these key groups; None where the log has no others.

        Raises:
            CorruptCheckpointError: A block is damaged.
            ValueTypeError: A value does not fit the declared type.
        """
        reader = LogReader(self._rows.groups, owned)
        for block in reader.read(blocks):
            if block.deleted:
                for namespace, keys in decode_deletions(block):
                    self._note_changed(namespace, reader.wanted(namespace, keys))
            else:
                for namespace, rows in decode_rows(block, self.spec):
                    cells = dict(rows)
                    self._load_cells(namespace, {key: cells[key] for key in reader.wanted(namespace, cells)})

    def size_hint(self) -> int:
        """About how many cells there are."""
        return max(self._column.estimated_rows(), self._entries)

    def _load_cells(self, namespace: int, cells: dict[Key, Any]) -> None:
        if not cells:
            return
        space = self._space(namespace)
        space.young.update(cells)
        self._note_changed(namespace, cells)
        first = next(iter(cells))
        self._entry_size.sample(first, cells[first])
        self._count(space)
        self._budget.make_room(self)

    def _note_changed(self, namespace: int, keys: Iterable[Key]) -> None:
        self._space(namespace).changes.recent.update(keys)
        self._touched.add(namespace)

    def _touched_spaces(self) -> Iterator[tuple[int, Space]]:
        """The spaces that changed since the last snapshot and are still cached."""
        for namespace in self._touched:
            space = self._spaces.get(namespace)
            if space is not None:
                yield namespace, space

    def _all_written(self, namespace: int, space: Space) -> None:
        """Nothing of a namespace differs from the database any more."""
        if space.changes.has_logged():
            self._outdated.add_all(namespace)
        space.changes = Changes()

    def _recount(self) -> None:
        """Account for what the operator has put into, or taken out of, the dictionary in its hands."""
        if self._handed_out is not None:
            self._count(self._spaces[self._handed_out])

    def _count(self, space: Space) -> None:
        self._entries += len(space) - space.counted
        space.counted = len(space)

    def _space(self, namespace: int) -> Space:
        """The space of a namespace, now the last used one."""
        space = self._spaces.get(namespace)
        if space is None:
            self._spaces[namespace] = space = Space(complete=namespace not in self._stored)
        else:
            self._spaces.move_to_end(namespace)
        return space

    def _load(self, namespace: int, space: Space, keys: Iterable[Key]) -> None:
        """Bring the cells of `keys` into the young generation."""
        young, old, changes = space.young, space.old, space.changes
        missing = [key for key in keys if key not in young]
        if old:
            for key in missing:
                if key in old:
                    young[key] = old.pop(key)
        if space.complete or namespace not in self._stored:
            return
        # What has changed and has no cell was deleted: the row in the database is out of date.
        wanted = list({key: None for key in missing if key not in young and key not in changes})
        if not wanted:
            return
        _, wanted_rows = self._rows.value_rows(namespace, wanted)
        located = sorted(zip(wanted_rows, range(len(wanted)), strict=True))
        found = self._column.get_many([row for row, _ in located])
        decode, with_ttl = self.spec.serde.decode, self.spec.ttl_ms
        for (_, index), value in zip(located, found, strict=True):
            if value is not None:
                cell = decode(value[STAMP_BYTES:])
                young[wanted[index]] = (cell, unpack_number(value[:STAMP_BYTES])) if with_ttl else cell

    def _expire(self, namespace: int, space: Space, keys: Iterable[Key]) -> None:
        expired_ms = self._clock.now_ms() - self.spec.ttl_ms
        young = space.young
        for key in keys:
            cell = young.get(key)
            if cell is not None and cell[1] <= expired_ms:
                del young[key]
                space.changes.recent.add(key)
                self._touched.add(namespace)

    def _shrink(self, namespace: int, space: Space, wanted: int, may_rotate: bool) -> int:
        """Give up to `wanted` cells of a space up; returns how many went."""
        given_up = 0
        while given_up < wanted:
            gone = space.give_up(wanted - given_up, may_rotate)
            if not gone:
                break
            changed = [item for item in gone if item[0] in space.changes]
            self._write(namespace, changed)
            self._outdated.add(namespace, space.changes.written([key for key, _ in changed]))
            space.complete = False
            given_up += len(gone)
        space.counted -= given_up
        self._entries -= given_up
        return given_up

    def _write_back(self, namespace: int, space: Space) -> None:
        """Write what has changed in a space, in portions that stay in the processor's cache while they are sorted."""
        keys = list(space.changes)
        for start in range(0, len(keys), PORTION):
            self._write(namespace, [(key, space.cell(key)) for key in keys[start : start + PORTION]])
        self._all_written(namespace, space)

    def _write(self, namespace: int, cells: list[tuple[Key, Any]]) -> None:
        """Write cells, or delete those that are ABSENT."""
        if not cells:
            return
        encode, with_ttl = self.spec.serde.encode, self.spec.ttl_ms
        now = pack_number(self._clock.now_ms())
        stored = self._stored.get(namespace, 0)
        groups, rows = self._rows.value_rows(namespace, [key for key, _ in cells])
        changes: list[tuple[bytes, bytes | None]] = []
        put_groups: set[int] = set()
        for group, row, (_, cell) in zip(groups, rows, cells, strict=True):
            if cell is not ABSENT:
                put_groups.add(group)
                changes.append((row, pack_number(cell[1]) + encode(cell[0]) if with_ttl else now + encode(cell)))
            elif stored >> group & 1:
                # Where no row of the group was ever written there is none to delete.
                changes.append((row, None))
                self._doubtful.add(namespace)
        self._column.write(changes)
        for group in put_groups:
            stored |= 1 << group
        if stored:
            self._stored[namespace] = stored

    def _prefixes(self, namespace: int) -> list[bytes]:
        """The prefixes under which a namespace has rows, in the order of key groups."""
        groups, space = self._stored.get(namespace, 0), pack_number(namespace)
        return [pack_group(group) + space for group in range(groups.bit_length()) if groups >> group & 1]

    def _decode_rows(self, rows: list[Row]) -> list[tuple[Key, Any]]:
        decode = self.spec.serde.decode
        if not self.spec.ttl_ms:
            return [(decode_key(row[SPACE_BYTES:]), decode(value[STAMP_BYTES:])) for row, value in rows]
        return [
            (decode_key(row[SPACE_BYTES:]), (decode(value[STAMP_BYTES:]), unpack_number(value[:STAMP_BYTES])))
            for row, value in rows
        ]

    def _live(self, cells: list[tuple[Key, Any]]) -> list[tuple[Key, Any]]:
        if not self.spec.ttl_ms:
            return cells
        expired_ms = self._clock.now_ms() - self.spec.ttl_ms
        return [item for item in cells if item[1][1] > expired_ms]

    def _scan_cache(self, space: Space) -> Iterator[list[tuple[Key, Any]]]:
        # By a list of the keys: `cells` may move cells from one generation to the other between two portions.
        keys = list(chain(space.young, space.old))
        space.scans += 1
        try:
            for start in range(0, len(keys), PORTION):
                portion = self._live([(key, space.cell(key)) for key in keys[start : start + PORTION]])
                if portion:
                    yield portion
        finally:
            space.scans -= 1

    def _is_live(self, namespace: int) -> bool:
        space = self._spaces.get(namespace)
        if space is not None and (space.young or space.old):
            return True
        if (space is not None and space.complete) or namespace not in self._stored:
            return False
        if space is not None:
            self._write_back(namespace, space)
        if namespace not in self._doubtful:
            return True
        for prefix in self._prefixes(namespace):
            first = self._column.first(prefix)
            if first is not None and first.startswith(prefix):
                self._doubtful.discard(namespace)
                return True
        del self._stored[namespace]
        self._doubtful.discard(namespace)
        if space is not None:
            space.complete = True
        return False

    def _remove_expired(self) -> Iterator[None]:
        for expired in expiring_rows(self._column, self._clock, self.spec.ttl_ms):
            self._column.write([(row, None) for row in expired])
            self._doubtful.update([unpack_number(row[GROUP_BYTES:SPACE_BYTES]) for row in expired])
            yield


def _stored_groups(column: Column) -> dict[int, int]:
    """Namespace → the key groups it has rows in, as bits; by skipping from one (group, namespace) to the next."""
    stored: dict[int, int] = {}
    position = b""
    while (row := column.first(position)) is not None:
        namespace = unpack_number(row[GROUP_BYTES:SPACE_BYTES])
        stored[namespace] = stored.get(namespace, 0) | 1 << unpack_group(row)
        position = after(row[:SPACE_BYTES])
    return stored
