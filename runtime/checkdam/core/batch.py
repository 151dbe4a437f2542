"""Records travel in batches, and a batch is a struct of lists.

Per-record work in the framework is what makes Python stream libraries slow, so records are never wrapped one by one:
a batch holds a list of values and, beside it, lists of the same length for event times and keys.
Splitting, encoding and counting then happen once a batch, mostly inside C code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

MIN_TIME: Final = -(2**63)
"""The watermark before anything is known (ms)."""

MAX_TIME: Final = 2**63 - 1
"""The watermark after the last record of a bounded input (ms)."""


class Batch:
    """Up to a few thousand records that travel together.

    Attributes:
        values: The records.
        times: Event times in ms since the epoch, as long as `values`; `None` on a stream without event time.
        keys: Keys, as long as `values`, on a keyed stream; `None` elsewhere.
        tag: The side output that the batch goes to; empty for the main output.

    A batch that was handed on is never changed again by its sender; receivers may keep its lists but must not change them.
    """

    __slots__ = ("keys", "tag", "times", "values")

    def __init__(
        self,
        values: list[Any],
        times: list[int] | None = None,
        keys: list[Any] | None = None,
        tag: str = "",
    ) -> None:
        self.values = values
        self.times = times
        self.keys = keys
        self.tag = tag

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Batch({len(self.values)} records, tag={self.tag!r}, keyed={self.keys is not None})"

    def slice(self, start: int, stop: int) -> Batch:
        """The records `start:stop` as a batch of their own."""
        return Batch(
            self.values[start:stop],
            None if self.times is None else self.times[start:stop],
            None if self.keys is None else self.keys[start:stop],
            self.tag,
        )

    def take(self, indices: Sequence[int]) -> Batch:
        """The records at `indices`, in that order."""
        values, times, keys = self.values, self.times, self.keys
        return Batch(
            [values[i] for i in indices],
            None if times is None else [times[i] for i in indices],
            None if keys is None else [keys[i] for i in indices],
            self.tag,
        )

    def tagged(self, tag: str) -> Batch:
        """The same records, bound for the side output `tag`."""
        return Batch(self.values, self.times, self.keys, tag)


def concat(batches: Iterable[Batch]) -> Batch:
    """One batch with the records of all `batches`, which must agree in tag and in having times and keys."""
    first, *rest = batches
    if not rest:
        return first
    values = list(first.values)
    times = None if first.times is None else list(first.times)
    keys = None if first.keys is None else list(first.keys)
    for batch in rest:
        values += batch.values
        if times is not None and batch.times is not None:
            times += batch.times
        if keys is not None and batch.keys is not None:
            keys += batch.keys
    return Batch(values, times, keys, first.tag)
