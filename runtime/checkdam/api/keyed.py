"""Keyed streams: aggregates, process functions, windows and joins, all with state per key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkdam.api.pipeline import Feed, Pipeline, Producer
from checkdam.api.stream import Stream
from checkdam.core.durations import Duration, to_ms
from checkdam.core.errors import PipelineError
from checkdam.graph.model import Partition
from checkdam.operators.aggregate import AggregateOperator, CombineOperator
from checkdam.operators.aggregators import Aggregator, count, max_of, mean_of, min_of, reducing, sum_of
from checkdam.operators.assigners import Session, Sliding, Tumbling
from checkdam.operators.broadcast import BroadcastFunction, BroadcastJoinOperator
from checkdam.operators.fields import Field
from checkdam.operators.joins import IntervalJoinOperator, WindowJoinOperator
from checkdam.operators.process import FunctionOrFactory, KeyedProcessOperator
from checkdam.operators.sessions import SessionWindowOperator
from checkdam.operators.windows import WindowOperator


class KeyedStream:
    """Records that meet by key; what `Stream.key_by` returns."""

    def __init__(self, pipeline: Pipeline, producers: tuple[Producer, ...], value_type: Any) -> None:
        self._pipeline = pipeline
        self._producers = producers
        self._type = value_type

    def aggregate(
        self, aggregator: Aggregator[Any, Any, Any], *, ttl: Duration | None = None, name: str | None = None
    ) -> Stream:
        """A running aggregate: `(key, result)` whenever it has changed, once per key and batch.

        Args:
            aggregator: `count()`, `sum_of("amount")`, `combined(n=count(), …)` or an own `Aggregator`.
            ttl: Forget a key that was not updated for so long (processing time).
            name: The stable id.

        Records are folded to one partial accumulator per key before they cross the network: those of a batch, and on a
        stream without event time those of several batches as long as the worker is busy.
        """
        pipeline, pickle = self._pipeline, self._pipeline.allow_pickle
        ttl_ms = 0 if ttl is None else to_ms(ttl)
        combine = pipeline.add("combine", None, lambda op: CombineOperator(op, aggregator), [self._feed(local=True)])
        feed = Feed((Producer(combine),), aggregator.acc_type, Partition.HASH)
        node = pipeline.add(
            "aggregate",
            name,
            lambda op: AggregateOperator(op, aggregator, ttl_ms, allow_pickle=pickle, partial_input=True),
            [feed],
            keyed=True,
        )
        return Stream(pipeline, (Producer(node),))

    def reduce(self, fn: Callable[[Any, Any], Any], *, ttl: Duration | None = None, name: str | None = None) -> Stream:
        """A running reduction by an associative `fn(a, b)`: `(key, reduced)` whenever it has changed, once per key and batch."""
        return self.aggregate(reducing(fn, self._type), ttl=ttl, name=name)

    def count(self, *, name: str | None = None) -> Stream:
        """`(key, number of records so far)`."""
        return self.aggregate(count(), name=name)

    def sum(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """`(key, sum)` of a field (name or function), or of the records themselves."""
        return self.aggregate(sum_of(field, self._type_of(field)), name=name)

    def min(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """`(key, minimum)` of a field (name or function), or of the records themselves."""
        return self.aggregate(min_of(field, self._type_of(field)), name=name)

    def max(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """`(key, maximum)` of a field (name or function), or of the records themselves."""
        return self.aggregate(max_of(field, self._type_of(field)), name=name)

    def mean(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """`(key, mean)` of a field (name or function), or of the records themselves."""
        return self.aggregate(mean_of(field, self._type_of(field)), name=name)

    def process(self, function: FunctionOrFactory, *, name: str | None = None, returns: Any = None) -> Stream:
        """Run a `ProcessFunction`, with state and timers per key."""
        pickle = self._pipeline.allow_pickle
        return self._keyed("process", name, lambda op: KeyedProcessOperator(op, function, allow_pickle=pickle), returns)

    def window(
        self,
        windows: Tumbling | Sliding | Session,
        *,
        allowed_lateness: Duration = 0,
        processing_time: bool = False,
    ) -> WindowedStream:
        """Group the records of each key into windows.

        Args:
            windows: `Tumbling("1h")`, `Sliding("1h", "10m")` or `Session("30m")`.
            allowed_lateness: For how long after its end a window still takes late records, and yields again.
            processing_time: Windows over the time of processing instead of event time.

        Raises:
            PipelineError: Session windows over the time of processing.
            ValueError: `allowed_lateness` is no duration.
        """
        return WindowedStream(self, windows, to_ms(allowed_lateness), processing_time)

    def interval_join(
        self,
        other: KeyedStream,
        lower: Duration,
        upper: Duration,
        fn: Callable[[Any, Any], Any],
        *,
        name: str | None = None,
        returns: Any = None,
    ) -> Stream:
        """`fn(left, right)` for every pair of one key with left.time + lower ≤ right.time ≤ left.time + upper."""
        lower_ms, upper_ms = to_ms(lower), to_ms(upper)
        left, right, pickle = self._type, other._type, self._pipeline.allow_pickle
        return self._keyed(
            "interval_join",
            name,
            lambda op: IntervalJoinOperator(
                op, lower_ms, upper_ms, fn, left_serde_type=left, right_serde_type=right, allow_pickle=pickle
            ),
            returns,
            other,
        )

    def window_join(
        self,
        other: KeyedStream,
        windows: Tumbling | Sliding,
        fn: Callable[[Any, Any], Any],
        *,
        allowed_lateness: Duration = 0,
        name: str | None = None,
        returns: Any = None,
    ) -> Stream:
        """`fn(left, right)` for every pair of one key within one window."""
        lateness_ms = to_ms(allowed_lateness)
        left, right, pickle = self._type, other._type, self._pipeline.allow_pickle
        return self._keyed(
            "window_join",
            name,
            lambda op: WindowJoinOperator(
                op,
                windows,
                fn,
                allowed_lateness_ms=lateness_ms,
                left_serde_type=left,
                right_serde_type=right,
                allow_pickle=pickle,
            ),
            returns,
            other,
        )

    def broadcast_join(
        self,
        other: Stream,
        function: BroadcastFunction | Callable[[], BroadcastFunction],
        *,
        name: str | None = None,
        returns: Any = None,
    ) -> Stream:
        """As `Stream.broadcast_join`, with the records of a key in one worker."""
        pickle = self._pipeline.allow_pickle
        feeds = [self._feed(), other._feed(Partition.BROADCAST, port=1)]
        node = self._pipeline.add(
            "broadcast_join", name, lambda op: BroadcastJoinOperator(op, function, allow_pickle=pickle), feeds
        )
        return Stream(self._pipeline, (Producer(node),), returns)

    def _type_of(self, field: Field | None) -> Any:
        """The declared type of what is aggregated: of the records, or unknown for a field of theirs."""
        return self._type if field is None else None

    def _feed(self, port: int = 0, local: bool = False) -> Feed:
        return Feed(self._producers, self._type, Partition.FORWARD if local else Partition.HASH, port)

    def _keyed(
        self, kind: str, name: str | None, make: Any, value_type: Any, other: KeyedStream | None = None
    ) -> Stream:
        feeds = [self._feed()]
        if other is not None:
            if not isinstance(other, KeyedStream):
                raise PipelineError(f"the other stream of a {kind} must be keyed; call `.key_by(…)` on it")
            feeds.append(other._feed(port=1))
        node = self._pipeline.add(kind, name, make, feeds, keyed=True)
        return Stream(self._pipeline, (Producer(node),), value_type)


class WindowedStream:
    """The records of each key, grouped into windows; what `KeyedStream.window` returns.

    The streams it makes yield `WindowResult(key, start_ms, end_ms, value)`; late records, which no live window takes, are
    counted and go to `.side_output("late")` of the resulting stream.
    """

    def __init__(
        self, stream: KeyedStream, windows: Tumbling | Sliding | Session, lateness_ms: int, processing_time: bool
    ) -> None:
        self._stream = stream
        self._windows = windows
        self._lateness_ms = lateness_ms
        self._processing_time = processing_time
        if processing_time and isinstance(windows, Session):
            raise PipelineError("session windows must be over event time")

    def aggregate(
        self,
        aggregator: Aggregator[Any, Any, Any],
        *,
        emit: Callable[[Any, int, int, Any], Any] | None = None,
        name: str | None = None,
        returns: Any = None,
    ) -> Stream:
        """One result per key and window, when the watermark passes its end.

        Args:
            aggregator: What is computed; an own one needs `merge` for sliding and session windows.
            emit: `emit(key, start_ms, end_ms, result)` makes the record that is yielded; default `WindowResult`.
            name: The stable id.
            returns: The type of what is yielded.
        """
        windows, lateness_ms, pickle = self._windows, self._lateness_ms, self._stream._pipeline.allow_pickle
        if isinstance(windows, Session):
            gap_ms = windows.gap_ms
            return self._stream._keyed(
                "session_window",
                name,
                lambda op: SessionWindowOperator(
                    op, gap_ms, aggregator, lateness_ms, late_tag="late", emit_fn=emit, allow_pickle=pickle
                ),
                returns,
            )
        processing_time = self._processing_time
        return self._stream._keyed(
            "window",
            name,
            lambda op: WindowOperator(
                op,
                windows,
                aggregator,
                lateness_ms,
                late_tag="late",
                emit_fn=emit,
                processing_time=processing_time,
                allow_pickle=pickle,
            ),
            returns,
        )

    def reduce(self, fn: Callable[[Any, Any], Any], *, name: str | None = None) -> Stream:
        """All records of a window reduced by an associative `fn(a, b)`."""
        return self.aggregate(reducing(fn, self._stream._type), name=name)

    def count(self, *, name: str | None = None) -> Stream:
        """How many records each window has."""
        return self.aggregate(count(), name=name)

    def sum(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """The sum of a field, or of the records themselves, over each window."""
        return self.aggregate(sum_of(field, self._stream._type_of(field)), name=name)

    def min(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """The minimum over each window."""
        return self.aggregate(min_of(field, self._stream._type_of(field)), name=name)

    def max(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """The maximum over each window."""
        return self.aggregate(max_of(field, self._stream._type_of(field)), name=name)

    def mean(self, field: Field | None = None, *, name: str | None = None) -> Stream:
        """The mean over each window."""
        return self.aggregate(mean_of(field, self._stream._type_of(field)), name=name)

    def apply(
        self, fn: Callable[[Any, int, int, list[Any]], Any], *, name: str | None = None, returns: Any = None
    ) -> Stream:
        """`fn(key, start_ms, end_ms, records)` for each window, with all its records in the order of arrival."""
        from checkdam.operators.aggregators import collect

        return self.aggregate(collect(value_type=self._stream._type), emit=fn, name=name, returns=returns)
