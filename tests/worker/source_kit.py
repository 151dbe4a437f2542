"""A source that gives what the test lets it give, and the port of a coordinator that only takes notes."""

from __future__ import annotations

from typing import Any

from checkdam.connectors.base import Source, SourceBatch, Split, SplitReader


class Splits(Source[int]):
    """Splits of ints, which are their own times; what is added to `available` may be read now."""

    def __init__(
        self,
        *contents: list[int],
        bounded: bool = True,
        concurrent: bool = True,
        ordered: bool = False,
        available: int | None = None,
        record_size: int = 1,
    ) -> None:
        self.contents = [list(content) for content in contents]
        self.bounded = bounded
        self.concurrent = concurrent
        self.splits_ordered_in_time = ordered
        self.available = available
        self.record_size = record_size
        self.read_positions: list[int] = []
        self.completed: list[dict[str, Any]] = []
        self.can_reserve = True

    def splits(self, parallelism: int) -> list[Split]:
        return [Split(f"s{n}", n) for n in range(len(self.contents))]

    def open(self, split: Split, position: Any) -> SplitReader[int]:
        return _Reader(self, self.contents[split.payload], position or 0)

    def checkpoint_complete(self, positions: dict[str, Any]) -> None:
        self.completed.append(positions)


class _Reader(SplitReader[int]):
    """Positions are offsets; a record takes `record_size` of them."""

    def __init__(self, source: Splits, content: list[int], position: int) -> None:
        self._source = source
        self._content = content
        self._next = -(-position // source.record_size)

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[int] | None:
        source = self._source
        if source.bounded and self._next >= len(self._content):
            return None
        stop = min(self._next + max_records, len(self._content))
        if source.available is not None:
            stop = min(stop, source.available)
        if limit is not None:
            stop = min(stop, -(-limit // source.record_size))
        taken = self._content[self._next : max(stop, self._next)]
        source.read_positions += [self._next * source.record_size + n * source.record_size for n in range(len(taken))]
        self._next += len(taken)
        return SourceBatch(taken, list(taken), max(taken) if taken else None)

    def position(self) -> int:
        return self._next * self._source.record_size

    def reserve(self, after: Any, records: int) -> int:
        return int(after) + records


class Port:
    """Notes what the source asks of the coordinator."""

    def __init__(self) -> None:
        self.requests = 0
        self.finished: list[list[str]] = []
        self.reservations: list[dict[str, Any]] = []

    def request_splits(self, source: str) -> None:
        self.requests += 1

    def finished_splits(self, source: str, splits: list[str]) -> None:
        self.finished.append(splits)

    def reserve(self, source: str, positions: dict[str, Any]) -> None:
        self.reservations.append(positions)
