"""Watermark strategies: how event times and watermarks come out of a source.

A strategy is a description; each split gets a *generator* made from it, so a split that lags does not let the others'
records arrive late. A split's generator state travels with the split's position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from checkdam.core.batch import MIN_TIME
from checkdam.core.durations import Duration, to_ms
from checkdam.operators.fields import column

_WHOLE = frozenset({int})

TimeOf = str | Callable[[Any], Any] | None
"""A field's name, a function of the record, or `None` to take the source's own times.
Fields and functions give ms since the epoch as int, or a datetime (naive ones are UTC)."""


@dataclass(frozen=True)
class Watermarks:
    """How a source's records get event times and watermarks. Made by the functions below.

    Attributes:
        timestamp: Where a record's event time comes from.
        delay_ms: How much earlier than the latest record a record may still come; `None`: the source says watermarks itself.
        idle_after_ms: A split without records for so long no longer holds the watermark; `None`: it holds it for ever.
    """

    timestamp: TimeOf = None
    delay_ms: int | None = 0
    idle_after_ms: int | None = None

    def with_idleness(self, after: Duration) -> Watermarks:
        """The same, but a split without records for `after` (timedelta, `"30s"` or ms) does not hold the others back."""
        return replace(self, idle_after_ms=to_ms(after))


def bounded_out_of_orderness(delay: Duration, timestamp: TimeOf = None) -> Watermarks:
    """Records come at most `delay` (timedelta, `"5s"` or ms) later than one with a later time."""
    return Watermarks(timestamp, to_ms(delay))


def monotonous(timestamp: TimeOf = None) -> Watermarks:
    """Each split's records come in the order of their times."""
    return Watermarks(timestamp, 0)


def from_source(timestamp: TimeOf = None) -> Watermarks:
    """The source says its watermarks itself (`SourceBatch.watermark_ms`)."""
    return Watermarks(timestamp, None)


class WatermarkGenerator:
    """The watermark of one split.

    Args:
        strategy: What to make.
        watermark_ms: The watermark to go on from; stored with the split.
    """

    def __init__(self, strategy: Watermarks, watermark_ms: int = MIN_TIME) -> None:
        self.strategy = strategy
        self.watermark_ms = watermark_ms

    def observe(self, times: list[int], source_watermark_ms: int | None) -> None:
        """Take a batch's times and the source's own word into account; the watermark never goes back."""
        if self.strategy.delay_ms is None:
            candidate = MIN_TIME if source_watermark_ms is None else source_watermark_ms
        elif times:
            # The same convention as Flink: a watermark t says that no record with time ≤ t comes any more.
            candidate = max(times) - self.strategy.delay_ms - 1
        else:
            return
        if candidate > self.watermark_ms:
            self.watermark_ms = candidate


def time_extractor(timestamp: TimeOf) -> Callable[[list[Any]], list[int]] | None:
    """A function from a list of records to their times in ms; `None` where the source's own times are taken."""
    if timestamp is None:
        return None
    read = column(timestamp, "watermarks")

    def extract(values: list[Any]) -> list[int]:
        times = list(read(values))
        if set(map(type, times)) <= _WHOLE:
            return times
        return [_as_ms(time) for time in times]

    return extract


def _as_ms(time: Any) -> int:
    if isinstance(time, datetime):
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    return int(time)
