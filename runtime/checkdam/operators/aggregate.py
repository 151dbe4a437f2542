"""Running aggregates over keyed streams, and the part of them that can run before the shuffle.

State is read and written once per distinct key in a batch, not once per record, and one result per distinct key and
batch goes downstream: an update that holds everything up to the key's last record in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from checkdam.core.batch import Batch
from checkdam.core.errors import PipelineError
from checkdam.core.keys import check_hashable
from checkdam.core.serde import serde_for
from checkdam.operators.aggregators import Aggregator
from checkdam.operators.base import Operator, OperatorContext
from checkdam.operators.user import Records, user_error
from checkdam.state.base import TableSpec

HOLD_RECORDS: Final = 262_144
"""How many records at most are folded together before the shuffle. More save little."""

HOLD_KEYS: Final = 16_384
"""With so many distinct keys what is held goes on: beyond, the dictionary outgrows the processor's cache and little is saved."""

HOLD_MS: Final = 100
"""For how long a busy worker holds records back at most."""


class AggregateOperator(Operator):
    """Yields `(key, result so far)` for every distinct key of a batch, at the time of the key's last record in it.

    Args:
        operator_id: The operator's id.
        aggregator: What is computed.
        ttl_ms: How long a key's aggregate lives after its last record; 0 for ever.
        allow_pickle: Whether accumulators of undeclared type may be pickled.
        partial_input: Whether the values are partial accumulators made by `CombineOperator`.

    Raises:
        ValueTypeError: Accumulators would need pickle, which is forbidden.
    """

    def __init__(
        self,
        operator_id: str,
        aggregator: Aggregator[Any, Any, Any],
        ttl_ms: int = 0,
        allow_pickle: bool = True,
        partial_input: bool = False,
    ) -> None:
        serde = serde_for(aggregator.acc_type, f"the aggregate of operator `{operator_id}`", allow_pickle)
        self._id = operator_id
        self._aggregator = aggregator
        self._spec = TableSpec(operator_id, "aggregate", serde, ttl_ms=ttl_ms)
        self._add = aggregator.absorb if partial_input else aggregator.fold

    def tables(self) -> list[TableSpec]:
        """The tables that the operator keeps; known before `open`."""
        return [self._spec]

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        self._table = context.backend.table(self._spec)
        self._clock = context.clock

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        keys = keys_of(batch, self._id)
        if not keys:
            return ()
        last: dict[Any, Any] = dict.fromkeys(keys) if batch.times is None else dict(zip(keys, batch.times, strict=True))
        cells = self._table.cells(0, last)
        if self._spec.ttl_ms:
            accs = self._update_stamped(cells, last, keys, batch.values)
        else:
            fold_batch(self._id, self._add, cells, keys, batch.values)
            accs = list(map(cells.__getitem__, last))
        self._table.changed(0, last)
        results = results_of(self._id, self._aggregator, accs)
        return (Batch(list(zip(last, results, strict=True)), None if batch.times is None else list(last.values())),)

    def _update_stamped(self, cells: dict[Any, Any], last: dict[Any, Any], keys: list[Any], values: list[Any]) -> Any:
        """The same with cells that carry the time of their last update."""
        bare = {key: cells[key][0] for key in last if key in cells}
        fold_batch(self._id, self._add, bare, keys, values)
        now_ms = self._clock.now_ms()
        accs = list(map(bare.__getitem__, last))
        cells.update((key, (acc, now_ms)) for key, acc in zip(last, accs, strict=True))
        return accs


class CombineOperator(Operator):
    """Folds records to one partial accumulator per distinct key, so that less crosses the shuffle.

    Yields partial accumulators as values, keyed, for an `AggregateOperator` with `partial_input`. Without event time,
    batches are folded together while the worker is busy: the more records meet in a partial, the less there is to send,
    to merge and to emit. They go on when enough has come together, before a barrier, and when nothing else is to be
    done. With event time each batch is folded by itself, each partial at the time of its key's last record: what is
    held back would fall behind the watermark.
    """

    def __init__(self, operator_id: str, aggregator: Aggregator[Any, Any, Any]) -> None:
        self._id = operator_id
        self._aggregator = aggregator
        self._held: dict[Any, Any] = {}
        self._held_records = 0
        self._held_since_ms = 0

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        self._clock = context.clock

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        keys = keys_of(batch, self._id)
        if not keys:
            return ()
        if batch.times is not None:
            cells: dict[Any, Any] = {}
            fold_batch(self._id, self._aggregator.fold, cells, keys, batch.values)
            last = dict(zip(keys, batch.times, strict=True))
            return (*self.release(), Batch(list(map(cells.__getitem__, last)), list(last.values()), list(last)))
        fold_batch(self._id, self._aggregator.fold, self._held, keys, batch.values)
        now_ms = self._clock.monotonic_ms()
        if not self._held_records:
            self._held_since_ms = now_ms
        self._held_records += len(keys)
        enough = self._held_records >= HOLD_RECORDS or len(self._held) >= HOLD_KEYS
        return self.release() if enough or now_ms - self._held_since_ms >= HOLD_MS else ()

    def release(self) -> Iterable[Batch]:
        if not self._held:
            return ()
        held, self._held, self._held_records = self._held, {}, 0
        return (Batch(list(held.values()), None, list(held)),)

    def on_end(self) -> Iterable[Batch]:
        return self.release()


def keys_of(batch: Batch, operator_id: str) -> list[Any]:
    """The keys of a batch.

    Raises:
        PipelineError: The stream is not keyed.
    """
    if batch.keys is None:
        raise PipelineError(f"operator `{operator_id}` needs a keyed stream: put `key_by(…)` before it")
    return batch.keys


def times_of(batch: Batch, operator_id: str) -> list[int]:
    """The event times of a batch.

    Raises:
        PipelineError: The stream has no event time.
    """
    if batch.times is None:
        raise PipelineError(
            f"operator `{operator_id}` works in event time, but its records have no times: give the source watermarks"
            ' such as `monotonous(timestamp="time")`, or use processing time'
        )
    return batch.times


def fold_batch(
    operator_id: str,
    add: Callable[[dict[Any, Any], list[Any], list[Any]], None],
    cells: dict[Any, Any],
    keys: list[Any],
    values: list[Any],
) -> None:
    """Run an aggregator's `fold` or `absorb` over a batch.

    Raises:
        UserCodeError: It raised; names the operator and the record.
        KeyTypeError: A key is not hashable.
    """
    records = Records(values)
    try:
        add(cells, keys, records)
    except Exception as error:
        if isinstance(error, TypeError):
            check_hashable(keys)
        raise user_error(operator_id, records.current(), error) from error


def results_of(operator_id: str, aggregator: Aggregator[Any, Any, Any], accs: list[Any]) -> list[Any]:
    """An aggregator's results.

    Raises:
        UserCodeError: It raised; names the operator and the accumulator.
    """
    records = Records(accs)
    try:
        return aggregator.results(records)
    except Exception as error:
        raise user_error(operator_id, records.current(), error) from error
