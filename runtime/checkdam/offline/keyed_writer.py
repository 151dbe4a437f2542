"""Writing keyed state that no job has built up: rows in any order become snapshots in the canonical format.

RocksDB backends take the rows, one for each part of the key groups, and write the snapshots, as in a job: so memory is bounded,
later rows replace earlier ones of the same key, and whatever a backend stores is stored here alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from checkdam.core.keys import KeyGroups, key_group_range, owner_of
from checkdam.state.backends import make_backend
from checkdam.state.base import Key, KeyedBackend, LocalFile, TableSpec

MEMORY_BYTES: Final = 256 << 20
"""What all parts of one operator use together."""

_PORTION: Final = 4096


class KeyedRow(NamedTuple):
    """One entry of a table.

    Attributes:
        key: The key.
        head: The namespace in value tables, the sub-key in map tables.
        value: The value.
        updated_ms: When it was last updated; looked at only where the table has a TTL.
    """

    key: Key
    head: Any
    value: Any
    updated_ms: int


class _RowClock:
    """Stands at the update time of the row that is being written."""

    def __init__(self, now_ms: int) -> None:
        self.time_ms = now_ms

    def now_ms(self) -> int:
        return self.time_ms

    def monotonic_ms(self) -> int:
        return 0

    def advance_to(self, now_ms: int) -> None:
        self.time_ms = max(self.time_ms, now_ms)


class KeyedWriter:
    """The keyed state of one operator, under construction.

    Args:
        directory: Of this writer alone.
        max_parallelism: Number of key groups.
        parts: Into how many snapshots it is cut.
        now_ms: When entries count as updated that do not say.
    """

    def __init__(self, directory: Path, max_parallelism: int, parts: int, now_ms: int) -> None:
        self._directory = directory
        self._max_parallelism = max_parallelism
        self._clock = _RowClock(now_ms)
        self._groups = KeyGroups(max_parallelism)
        self._backends = [self._backend(part, parts) for part in range(parts)]

    def put(self, spec: TableSpec, rows: Iterable[KeyedRow]) -> None:
        """Set entries of a table.

        Raises:
            KeyTypeError: A key has no stable encoding.
            ValueTypeError: A value does not fit the declared type.
        """
        put = self._put_entries if spec.kind == "map" else self._put_cells
        remaining = iter(rows)
        while portion := list(islice(remaining, _PORTION)):
            # The backend encodes values when it writes them back, which is too late to tell whose row was wrong.
            spec.serde.encode_many([row.value for row in portion])
            put(spec, portion)

    def _put_entries(self, spec: TableSpec, rows: list[KeyedRow]) -> None:
        for row in rows:
            self._clock.time_ms = row.updated_ms
            self._backends[self._owner(row.key)].map_table(spec).put(row.key, row.head, row.value)

    def _put_cells(self, spec: TableSpec, rows: list[KeyedRow]) -> None:
        cells: dict[tuple[int, int], dict[Key, Any]] = defaultdict(dict)
        for row in rows:
            cells[self._owner(row.key), row.head][row.key] = (row.value, row.updated_ms) if spec.ttl_ms else row.value
        for (owner, namespace), new in cells.items():
            table = self._backends[owner].table(spec)
            table.cells(namespace, new).update(new)
            table.changed(namespace, new)

    def register(self, operator: str, domain: str, timers: Iterable[tuple[Key, int]]) -> None:
        """Register timers (key, time in ms).

        Raises:
            KeyTypeError: A key has no stable encoding.
        """
        for key, time_ms in timers:
            self._backends[self._owner(key)].timers(operator, domain).register(time_ms, key)

    def finish(self) -> Iterator[tuple[tuple[int, int], list[LocalFile]]]:
        """The snapshots, part by part: key groups and files, which are there until the next part is asked for.

        Raises:
            CheckpointError: One could not be written; says why.
        """
        for part, backend in enumerate(self._backends):
            folder = self._directory / f"snapshot-{part}"
            folder.mkdir()
            files = backend.snapshot(folder, canonical=True).finish()
            yield (backend.key_groups.start, backend.key_groups.stop), files
            for file in files:
                file.path.unlink()

    def close(self) -> None:
        """Let go of the databases; their folders stay for the owner of the directory to delete."""
        for backend in self._backends:
            backend.close()

    def _backend(self, part: int, parts: int) -> KeyedBackend:
        folder = self._directory / str(part)
        folder.mkdir(parents=True)
        groups = key_group_range(self._max_parallelism, parts, part)
        memory_bytes = max(MEMORY_BYTES // parts, 1)
        return make_backend(
            "rocksdb", groups, self._max_parallelism, folder, self._clock, memory_bytes, groups=self._groups
        )

    def _owner(self, key: Key) -> int:
        return owner_of(self._groups[key], self._max_parallelism, len(self._backends))
