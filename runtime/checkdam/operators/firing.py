"""What windows and joins share: the fate of late records, and the shape of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import compress
from typing import Any

from checkdam.core.batch import Batch
from checkdam.core.errors import PipelineError
from checkdam.operators.aggregate import results_of
from checkdam.operators.aggregators import Aggregator
from checkdam.operators.assigners import WindowResult
from checkdam.operators.base import OperatorMetrics
from checkdam.operators.progress import EventProgress
from checkdam.operators.user import Records, user_error

WindowFunction = Callable[[Any, int, int, Any], Any]
"""(key, start of the window in ms, end in ms, aggregator's result) → what goes downstream."""


def check_lateness(operator_id: str, allowed_lateness_ms: int) -> None:
    """Raises: PipelineError: the allowed lateness is negative."""
    if allowed_lateness_ms < 0:
        raise PipelineError(f"operator `{operator_id}`: allowed lateness must be ≥ 0 ms (got {allowed_lateness_ms})")


def split_late(
    batch: Batch, in_time: list[bool], late_tag: str, metrics: OperatorMetrics
) -> tuple[Batch, Batch | None]:
    """A batch without its late records, and these for the side output `late_tag`; counts them.

    Args:
        batch: The batch, with times.
        in_time: For each record whether it is not late.
        late_tag: The side output; empty for none, and then late records are dropped.
        metrics: Where they are counted.
    """
    late = [not ok for ok in in_time]
    count = sum(late)
    if not count:
        return batch, None
    metrics.late_records += count
    kept = _compressed(batch, in_time)
    if not late_tag:
        return kept, None
    rejected = _compressed(batch, late)
    return kept, Batch(rejected.values, rejected.times, None, late_tag)


class LateGate:
    """Separates late records from the others, where lateness depends on nothing but time and key.

    Args:
        progress: The event time reached, key by key.
        earliest: A watermark → the earliest time that is not late then; does not fall when the watermark rises.
        late_tag: The side output for late records; empty for none, and then they are dropped.
        metrics: Where they are counted.
    """

    def __init__(
        self, progress: EventProgress, earliest: Callable[[int], int], late_tag: str, metrics: OperatorMetrics
    ) -> None:
        self._progress = progress
        self._earliest = earliest
        self._late_tag = late_tag
        self._metrics = metrics
        # For batches that are in time as a whole: looked up again only when event time has moved.
        self._high_ms = progress.high_ms
        self._in_time_from_ms = earliest(progress.high_ms)

    def split(self, batch: Batch) -> tuple[Batch, Batch | None]:
        """The records that are in time, and those that are late, if any are wanted; `batch` has keys and times."""
        times, progress, earliest = batch.times, self._progress, self._earliest
        if progress.high_ms != self._high_ms:
            self._high_ms = progress.high_ms
            self._in_time_from_ms = earliest(progress.high_ms)
        bound_ms = self._in_time_from_ms
        if not times or min(times) >= bound_ms:
            return batch, None
        if progress.low_ms == progress.high_ms:
            in_time = [time_ms >= bound_ms for time_ms in times]
        else:
            keyed = zip(batch.keys or (), times, strict=True)
            in_time = [time_ms >= earliest(progress.of(key)) for key, time_ms in keyed]
        return split_late(batch, in_time, self._late_tag, self._metrics)


def window_batch(
    operator_id: str,
    aggregator: Aggregator[Any, Any, Any],
    emit_fn: WindowFunction | None,
    keys: list[Any],
    bounds: tuple[Iterable[int], Iterable[int]],
    accs: list[Any],
    times: list[int],
) -> Batch:
    """The results of some keys and windows.

    Args:
        operator_id: The operator, for errors.
        aggregator: Makes results of `accs`.
        emit_fn: Makes the output of each; `None` for `WindowResult`.
        keys: The keys.
        bounds: Starts and ends of their windows; may be endless.
        accs: Their accumulators.
        times: The event times of the outputs.

    Raises:
        UserCodeError: The aggregator or `emit_fn` raised; names the accumulator or the key.
    """
    starts, ends = bounds
    results = results_of(operator_id, aggregator, accs)
    if emit_fn is None:
        return Batch(list(map(WindowResult, keys, starts, ends, results)), times)
    records = Records(keys)
    try:
        outputs = [emit_fn(*row) for row in zip(records, starts, ends, results, strict=False)]
    except Exception as error:
        raise user_error(operator_id, records.current(), error) from error
    return Batch(outputs, times)


def _compressed(batch: Batch, chosen: list[bool]) -> Batch:
    return Batch(
        list(compress(batch.values, chosen)),
        None if batch.times is None else list(compress(batch.times, chosen)),
        None if batch.keys is None else list(compress(batch.keys, chosen)),
    )
