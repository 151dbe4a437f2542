"""A list as a source: for tests and small tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from checkdam.connectors.base import Source, SourceBatch, Split, SplitReader

T = TypeVar("T")


class CollectionSource(Source[T]):
    """The items of a collection, in order. Guarantee: ExactlyOnce; can reserve, so AtMostOnce too.

    Every process of a job builds its own copy, so the collection must be the same each time the pipeline is built.

    Args:
        items: The records.
        times: Their event times in ms, as many, if the watermark strategy takes the source's.
        splits: Into how many runs of neighbours the items are divided, to be read in parallel.
        value_type: The type of the items.

    Raises:
        ValueError: an argument is not what it must be.
    """

    can_reserve = True

    def __init__(
        self,
        items: Iterable[T],
        times: Sequence[int] | None = None,
        splits: int = 1,
        value_type: Any = None,
    ) -> None:
        self.items = list(items)
        self.times = None if times is None else list(times)
        if self.times is not None and len(self.times) != len(self.items):
            raise ValueError(f"`times` must be as many as the items, {len(self.items)} (got {len(self.times)})")
        if splits < 1:
            raise ValueError(f"`splits` must be at least 1 (got {splits})")
        self.value_type = value_type
        self._splits = splits

    def splits(self, parallelism: int) -> list[Split]:
        edges = [len(self.items) * index // self._splits for index in range(self._splits + 1)]
        return [Split(str(index), [edges[index], edges[index + 1]]) for index in range(self._splits)]

    def open(self, split: Split, position: Any) -> SplitReader[T]:
        start, stop = split.payload
        return _CollectionReader(self.items, self.times, start if position is None else position, stop)


class _CollectionReader(SplitReader[T]):
    """Reads items up to `stop`; the position is the index of the next one."""

    def __init__(self, items: list[T], times: list[int] | None, position: int, stop: int) -> None:
        self._items = items
        self._times = times
        self._position = position
        self._stop = stop

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[T] | None:
        start = self._position
        if start >= self._stop:
            return None
        stop = min(self._stop, start + max_records)
        if limit is not None:
            stop = max(start, min(stop, limit))
        self._position = stop
        return SourceBatch(self._items[start:stop], None if self._times is None else self._times[start:stop])

    def position(self) -> int:
        return self._position

    def reserve(self, after: Any, records: int) -> int:
        return int(after) + records
