"""Streams: what users chain operators onto.

A stream is immutable and cheap: it names the operators whose output it is. The same stream can be used several times;
each use gets all its records. Functions given to operators must be deterministic where the job is to be exactly-once,
and values must not be changed after they were handed on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from checkdam.connectors.base import Sink
from checkdam.connectors.callbacks import PrintSink
from checkdam.core.durations import Duration, to_ms
from checkdam.core.errors import PipelineError
from checkdam.core.serde import declared_return_type, element_type
from checkdam.graph.model import Partition
from checkdam.operators.async_io import AsyncMapOperator
from checkdam.operators.base import Operator
from checkdam.operators.broadcast import BroadcastFunction, BroadcastJoinOperator
from checkdam.operators.process import FunctionOrFactory, ProcessOperator
from checkdam.operators.sink import sink_operator
from checkdam.operators.stateless import (
    FilterOperator,
    FlatMapOperator,
    KeyByOperator,
    MapBatchOperator,
    MapOperator,
    SplitOperator,
    TimestampOperator,
)
from checkdam.operators.watermarks import Watermarks

if TYPE_CHECKING:
    from checkdam.api.keyed import KeyedStream
    from checkdam.api.pipeline import Feed, Pipeline, Producer


class Stream:
    """Records that flow from one or more operators.

    Every method that adds an operator takes `name`, its stable id: state is found again under it, so name what keeps
    state. `returns` declares the type of the results where the function's annotation does not: values of declared types
    travel as MessagePack and evolve, others are pickled.
    """

    def __init__(self, pipeline: Pipeline, producers: tuple[Producer, ...], value_type: Any = None) -> None:
        self._pipeline = pipeline
        self._producers = producers
        self._type = value_type

    def map(self, fn: Callable[[Any], Any], *, name: str | None = None, returns: Any = None) -> Stream:
        """`fn(record)` for each record."""
        return self._then("map", name, lambda op: MapOperator(op, fn), returns or declared_return_type(fn))

    def filter(self, fn: Callable[[Any], Any], *, name: str | None = None) -> Stream:
        """The records for which `fn(record)` is true."""
        return self._then("filter", name, lambda op: FilterOperator(op, fn), self._type)

    def flat_map(self, fn: Callable[[Any], Iterable[Any]], *, name: str | None = None, returns: Any = None) -> Stream:
        """All results of `fn(record)`, which is an iterable, for each record; they keep the record's time."""
        value_type = returns or element_type(declared_return_type(fn))
        return self._then("flat_map", name, lambda op: FlatMapOperator(op, fn), value_type)

    def map_batch(self, fn: Callable[[list[Any]], Any], *, name: str | None = None, returns: Any = None) -> Stream:
        """`fn(records)` for each batch, as a list; for libraries that work on many values at once.

        `fn` returns a list of as many results, which keep their records' times, or a pair of lists (results, times).
        How records are cut into batches is not determined.
        """
        return self._then("map_batch", name, lambda op: MapBatchOperator(op, fn), returns)

    def map_async(
        self,
        fn: Callable[[Any], Awaitable[Any]],
        *,
        concurrency: int = 100,
        ordered: bool = True,
        timeout: Duration | None = None,
        name: str | None = None,
        returns: Any = None,
    ) -> Stream:
        """`await fn(record)` for each record, up to `concurrency` at a time in each worker.

        Args:
            fn: A coroutine function; it runs in an event loop of its own thread.
            concurrency: How many calls may be under way.
            ordered: Whether results keep the records' order. If not, they come as they are ready, but never across a watermark.
            timeout: A call that takes longer fails the attempt.
            name: The stable id.
            returns: The type of the results.

        Records whose calls are under way are part of checkpoints and are tried again after a failure: calls are at least once.
        """
        timeout_ms = None if timeout is None else to_ms(timeout)
        pickle, value_type = self._pipeline.allow_pickle, self._type
        return self._then(
            "map_async",
            name,
            lambda op: AsyncMapOperator(op, fn, concurrency, ordered, timeout_ms, pickle, value_type),
            returns,
        )

    def assign_timestamps(self, watermarks: Watermarks, *, name: str | None = None) -> Stream:
        """The same records with event times and watermarks made by `watermarks`; better done at the source, split by split."""
        return self._then("timestamps", name, lambda op: TimestampOperator(op, watermarks), self._type)

    def split(self, fn: Callable[[Any], str | None], *, name: str | None = None) -> Stream:
        """Deal records out: those for which `fn(record)` names a tag go to `.side_output(tag)`, the others stay here."""
        return self._then("split", name, lambda op: SplitOperator(op, fn), self._type)

    def side_output(self, tag: str, value_type: Any = None) -> Stream:
        """What the operator yields under `tag`: from `split`, from `ctx.emit_to`, or `late` records of windows.

        Raises:
            PipelineError: `tag` is empty.
        """
        from checkdam.api.pipeline import Producer

        if not tag:
            raise PipelineError("the tag of a side output must not be empty")
        return Stream(self._pipeline, tuple(Producer(p.node, tag) for p in self._producers), value_type)

    def union(self, *others: Stream) -> Stream:
        """All records of this stream and of `others`; its watermark is the lowest of theirs."""
        streams = (self, *others)
        types = {repr(stream._type) for stream in streams}
        producers = tuple(producer for stream in streams for producer in stream._producers)
        return Stream(self._pipeline, producers, self._type if len(types) == 1 else None)

    def rebalance(self) -> Stream:
        """The same records dealt out evenly over all workers, batch by batch."""
        return _Rebalanced(self._pipeline, self._producers, self._type)

    def process(self, function: FunctionOrFactory, *, name: str | None = None, returns: Any = None) -> Stream:
        """Run a `ProcessFunction` without state; `key_by` first for state and timers."""
        return self._then("process", name, lambda op: ProcessOperator(op, function), returns)

    def broadcast_join(
        self,
        other: Stream,
        function: BroadcastFunction | Callable[[], BroadcastFunction],
        *,
        name: str | None = None,
        returns: Any = None,
    ) -> Stream:
        """Join this stream with a small one that every worker keeps whole, by a `BroadcastFunction`."""
        pickle = self._pipeline.allow_pickle
        feeds = [self._feed(), other._feed(Partition.BROADCAST, port=1)]
        return self._with(
            "broadcast_join", name, lambda op: BroadcastJoinOperator(op, function, allow_pickle=pickle), feeds, returns
        )

    def key_by(self, key: str | Callable[[Any], Any], *, name: str | None = None) -> KeyedStream:
        """The records partitioned by key: all of one key meet in one worker, with their state.

        Args:
            key: A field's name or a function of the record. Keys are str, int, bytes, bool, float, enums, tuples or frozen
                dataclasses of those.
            name: The stable id.
        """
        from checkdam.api.keyed import KeyedStream
        from checkdam.api.pipeline import Producer

        node = self._pipeline.add("key_by", name, lambda op: KeyByOperator(op, key), [self._feed()])
        return KeyedStream(self._pipeline, (Producer(node),), self._type)

    def sink(self, name: str, sink: Sink[Any]) -> None:
        """Write the records to `sink`, under a stable name.

        Raises:
            PipelineError: `sink` is no `Sink`, or the name is taken.
        """
        if not isinstance(sink, Sink):
            raise PipelineError(f"the sink `{name}` must be a checkdam.Sink (got {sink!r})")
        self._pipeline.add(
            "sink",
            name,
            lambda op: sink_operator(op, sink),
            [self._feed()],
            state={"pending": type(sink).__name__} if sink.two_phase else {},
            two_phase=sink.two_phase,
        )

    def print(self, prefix: str = "", *, name: str | None = None) -> None:
        """Print the records; repeated after a failure."""
        sink: Sink[Any] = PrintSink(prefix)
        self._pipeline.add("sink", name, lambda op: sink_operator(op, sink), [self._feed()], state={})

    def _feed(self, partition: Partition = Partition.FORWARD, port: int = 0) -> Feed:
        from checkdam.api.pipeline import Feed

        return Feed(self._producers, self._type, partition, port)

    def _then(self, kind: str, name: str | None, make: Callable[[str], Operator], value_type: Any) -> Stream:
        return self._with(kind, name, make, [self._feed()], value_type)

    def _with(
        self,
        kind: str,
        name: str | None,
        make: Callable[[str], Operator],
        feeds: list[Feed],
        value_type: Any,
        keyed: bool = False,
    ) -> Stream:
        from checkdam.api.pipeline import Producer

        node = self._pipeline.add(kind, name, make, feeds, keyed=keyed)
        return Stream(self._pipeline, (Producer(node),), value_type)


class _Rebalanced(Stream):
    """A stream whose next operator takes batches from all workers in turn."""

    def _feed(self, partition: Partition = Partition.FORWARD, port: int = 0) -> Feed:
        return super()._feed(Partition.REBALANCE if partition is Partition.FORWARD else partition, port)
