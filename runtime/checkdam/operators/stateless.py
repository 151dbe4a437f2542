"""Operators without keyed state: each takes a batch, runs the user's function over it, and yields batches.

Functions over single values see nothing but the value, so `map`, `filter` and `flat_map` drop the keys of a keyed
stream: what comes out need not belong to the same key any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, compress, islice, repeat
from typing import Any

from checkdam.core.batch import MAX_TIME, Batch
from checkdam.core.errors import PipelineError
from checkdam.core.names import shown
from checkdam.operators.base import Operator, OperatorContext, Redistribution
from checkdam.operators.fields import Column, Field, column
from checkdam.operators.user import Records, call_many, extract_times, user_error
from checkdam.operators.watermarks import WatermarkGenerator, Watermarks, time_extractor

_OUTPUT_RECORDS = 4096
"""About how many records an output batch holds where one input record may yield many."""

_FLAT_MAP_INPUT_RECORDS = 512
"""How many records `flat_map` expands at a time, so that what it holds is bounded."""


class MapOperator(Operator):
    """One output per record: `fn(value)`, at the record's time."""

    def __init__(self, operator_id: str, fn: Callable[[Any], Any]) -> None:
        self._id = operator_id
        self._fn = fn

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        return (Batch(call_many(self._id, self._fn, batch.values), batch.times),)


class FilterOperator(Operator):
    """The records for which `fn(value)` is true."""

    def __init__(self, operator_id: str, fn: Callable[[Any], Any]) -> None:
        self._id = operator_id
        self._fn = fn

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        keep = call_many(self._id, self._fn, batch.values)
        values = list(compress(batch.values, keep))
        if not values:
            return ()
        return (Batch(values, None if batch.times is None else list(compress(batch.times, keep))),)


class FlatMapOperator(Operator):
    """Any number of outputs per record: the elements of `fn(value)`, all at the record's time.

    Lists and tuples are taken over whole; other iterables are read in portions, so that a generator may yield more than
    fits in memory.
    """

    def __init__(self, operator_id: str, fn: Callable[[Any], Iterable[Any]]) -> None:
        self._id = operator_id
        self._fn = fn

    def process(self, batch: Batch, port: int) -> Iterator[Batch]:
        values: list[Any] = []
        times: list[int] = []
        for start in range(0, len(batch), _FLAT_MAP_INPUT_RECORDS):
            for some_values, some_times in self._expand(batch.slice(start, start + _FLAT_MAP_INPUT_RECORDS)):
                values += some_values
                times += some_times
                if len(values) >= _OUTPUT_RECORDS:
                    yield Batch(values, None if batch.times is None else times)
                    values, times = [], []
        if values:
            yield Batch(values, None if batch.times is None else times)

    def _expand(self, batch: Batch) -> Iterator[tuple[Iterable[Any], Iterable[int]]]:
        """The outputs of a few records and their times, in portions."""
        parts = call_many(self._id, self._fn, batch.values)
        if set(map(type, parts)) <= {list, tuple}:
            times = () if batch.times is None else chain.from_iterable(map(repeat, batch.times, map(len, parts)))
            yield chain.from_iterable(parts), times
            return
        for index, part in enumerate(parts):
            for portion in self._portions(batch.values[index], part):
                yield portion, () if batch.times is None else repeat(batch.times[index], len(portion))

    def _portions(self, record: Any, part: Iterable[Any]) -> Iterator[list[Any]]:
        try:
            elements = iter(part)
            while portion := list(islice(elements, _OUTPUT_RECORDS)):
                yield portion
        except Exception as error:
            raise user_error(self._id, record, error) from error


class MapBatchOperator(Operator):
    """`fn` sees a whole batch as a list of values, which it owns.

    It returns as many values, which keep the times of the inputs in order, or a tuple `(values, times)` of two equally
    long lists where the number changes. On a stream without event time any number of values may be returned.
    """

    def __init__(self, operator_id: str, fn: Callable[[list[Any]], Any]) -> None:
        self._id = operator_id
        self._fn = fn

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        try:
            returned = self._fn(list(batch.values))
        except Exception as error:
            raise user_error(self._id, batch.values, error) from error
        values: list[Any]
        times: list[int] | None
        if isinstance(returned, tuple):
            values, times = self._pair(returned)
        else:
            values, times = self._listed(returned), batch.times
        if times is not None and len(times) != len(values):
            raise PipelineError(
                f"operator `{self._id}`: the function of map_batch must return as many values as times, or the tuple"
                f" (values, times) (got {len(values)} values for {len(times)} times)"
            )
        return (Batch(values, times),) if values else ()

    def _pair(self, returned: tuple[Any, ...]) -> tuple[list[Any], list[int]]:
        if len(returned) != 2:
            raise PipelineError(
                f"operator `{self._id}`: the function of map_batch must return a list of values or the tuple"
                f" (values, times) (got a tuple of {len(returned)})"
            )
        times = self._listed(returned[1])
        if set(map(type, times)) - {int}:
            raise PipelineError(
                f"operator `{self._id}`: times returned by the function of map_batch must be ms since the epoch as int"
                f" (got {shown(next(time for time in times if type(time) is not int))})"
            )
        return self._listed(returned[0]), times

    def _listed(self, returned: Any) -> list[Any]:
        if isinstance(returned, list):
            return returned
        if returned is None or isinstance(returned, str | bytes | dict) or not isinstance(returned, Iterable):
            raise PipelineError(
                f"operator `{self._id}`: the function of map_batch must return a list of values or the tuple"
                f" (values, times) (got {shown(returned)})"
            )
        return list(returned)


class KeyByOperator(Operator):
    """Gives every record its key; values and times stay.

    Args:
        operator_id: The operator's id.
        key_of: A field's name (item of dicts, attribute of other objects) or a function of the value.

    Raises:
        PipelineError: `key_of` is neither a name nor callable.
    """

    def __init__(self, operator_id: str, key_of: Field) -> None:
        self._keys: Callable[[list[Any]], list[Any]]
        if callable(key_of):
            self._keys = partial(call_many, operator_id, key_of)
        else:
            self._keys = partial(_named_keys, operator_id, column(key_of, f"operator `{operator_id}`"))

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        return (Batch(batch.values, batch.times, self._keys(batch.values)),)


def _named_keys(operator_id: str, read: Column, values: list[Any]) -> list[Any]:
    records = Records(values)
    try:
        return list(read(records))
    except Exception as error:
        raise user_error(operator_id, records.current(), error) from error


class SplitOperator(Operator):
    """Sends every record to the side output that `fn(value)` names; `None` and `""` mean the main output."""

    def __init__(self, operator_id: str, fn: Callable[[Any], str | None]) -> None:
        self._id = operator_id
        self._fn = fn

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        tags = call_many(self._id, self._fn, batch.values)
        distinct = set(tags)
        if any(tag is not None and not isinstance(tag, str) for tag in distinct):
            wrong = next(i for i, tag in enumerate(tags) if tag is not None and not isinstance(tag, str))
            raise PipelineError(
                f"operator `{self._id}`: the function of split must return the name of a side output, or None"
                f" (got {shown(tags[wrong])} for record {shown(batch.values[wrong])})"
            )
        return self._split(batch, tags, distinct)

    @staticmethod
    def _split(batch: Batch, tags: list[str | None], distinct: set[str | None]) -> Iterator[Batch]:
        if len(distinct) == 1:
            yield Batch(batch.values, batch.times, None, distinct.pop() or "")
            return
        for tag in sorted({tag or "" for tag in distinct}):
            chosen = [(other or "") == tag for other in tags]
            times = None if batch.times is None else list(compress(batch.times, chosen))
            yield Batch(list(compress(batch.values, chosen)), times, None, tag)


class TimestampOperator(Operator):
    """Gives records event times, and the stream watermarks, in the middle of a pipeline.

    The stream's own watermark replaces the one from upstream, unless the strategy takes watermarks from the source; the
    end of input passes in any case.

    Args:
        operator_id: The operator's id.
        watermarks: The strategy.

    Raises:
        PipelineError: The strategy names no timestamp, or declares idleness, which only sources can have.
    """

    redistribution = Redistribution.UNION

    def __init__(self, operator_id: str, watermarks: Watermarks) -> None:
        extract = time_extractor(watermarks.timestamp)
        if extract is None:
            raise PipelineError(
                f"operator `{operator_id}`: the watermark strategy must say where times come from:"
                " pass `timestamp=`, a field's name or a function of the record"
            )
        if watermarks.idle_after_ms is not None:
            raise PipelineError(
                f"operator `{operator_id}`: idleness is declared where splits are read: put the strategy on the source,"
                " or leave `with_idleness` out"
            )
        self._id = operator_id
        self._extract = extract
        self._generator = WatermarkGenerator(watermarks)
        self._own_watermark = watermarks.delay_ms is not None

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        self._wake = context.wake
        if restored:
            # After a rescale the records of the slowest former subtask may come here.
            self._generator.watermark_ms = min(watermark_ms for (watermark_ms,) in restored)

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        times = extract_times(self._id, self._extract, batch.values)
        before = self._generator.watermark_ms
        if self._own_watermark:
            self._generator.observe(times, None)
            if self._generator.watermark_ms > before:
                # Upstream may have no watermarks at all, and then nothing else would make the task loop ask for ours.
                self._wake()
        return (Batch(batch.values, times, batch.keys),)

    def output_watermark(self, watermark_ms: int) -> int:
        return self._generator.watermark_ms if self._own_watermark and watermark_ms < MAX_TIME else watermark_ms

    def snapshot(self, checkpoint: int) -> list[int]:
        return [self._generator.watermark_ms]
