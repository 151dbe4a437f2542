"""Broadcast joins: a small stream that every subtask knows in full, beside a large one that is spread over them.

Records of the small stream go to every subtask (the edge's partition sees to that) and change the *broadcast state*, a
dictionary; records of the large one are worked with that dictionary at hand. Each subtask keeps its own copy and puts it
into its snapshot, so `process_broadcast` must depend on nothing but the state and the record: then all copies stay equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from types import MappingProxyType
from typing import Any, ClassVar, Final

from checkdam.core.batch import Batch
from checkdam.core.clock import Clock
from checkdam.core.serde import Serde, serde_for
from checkdam.operators.base import Operator, OperatorContext, Redistribution
from checkdam.operators.calls import Calls
from checkdam.operators.functions import FunctionContext, RecordContext, own_function
from checkdam.operators.process import close_function, open_function, refuse_states
from checkdam.state.base import Key

BROADCAST: Final = 1
"""The port of the broadcast stream; 0 is that of the main stream."""


class BroadcastState(dict[Any, Any]):
    """The broadcast state where it may be changed: a dictionary that also answers to the calls of map state."""

    def put(self, subkey: Any, value: Any) -> None:
        """Set the value under `subkey`."""
        self[subkey] = value

    def remove(self, subkey: Any) -> None:
        """Forget the value under `subkey`, if there is one."""
        self.pop(subkey, None)


class BroadcastContext(RecordContext):
    """The context of a `BroadcastFunction`.

    Attributes:
        broadcast_state: In `process_broadcast` a `BroadcastState`; in `process` a view of it that cannot be changed.
    """

    __slots__ = ("broadcast_state",)

    def __init__(self, clock: Clock, watermark_ms: int, state: BroadcastState) -> None:
        super().__init__(clock, watermark_ms)
        self.broadcast_state: Any = state


class BroadcastFunction:
    """Works records of a main stream with what a broadcast stream has said so far::

        class Enrich(BroadcastFunction):
            key_type, value_type = str, Airline

            def process(self, flight, ctx):
                yield flight, ctx.broadcast_state.get(flight.carrier)

            def process_broadcast(self, airline, ctx):
                ctx.broadcast_state.put(airline.code, airline)

    Nothing orders the two streams: a record of the main stream may be worked before the broadcast record it needs.
    Each subtask has a function of its own, as with a `ProcessFunction`.
    """

    key_type: ClassVar[Any] = None
    """The type of the broadcast state's keys; undeclared ones are pickled."""

    value_type: ClassVar[Any] = None
    """The type of the broadcast state's values; undeclared ones are pickled."""

    def open(self, context: FunctionContext) -> None:
        """Called once before everything else."""

    def process(self, value: Any, ctx: BroadcastContext) -> Iterable[Any] | None:
        """Handle a record of the main stream; `ctx.key` is set where that is keyed. Returns the outputs."""
        raise NotImplementedError

    def process_broadcast(self, value: Any, ctx: BroadcastContext) -> Iterable[Any] | None:
        """Handle a record of the broadcast stream, in every subtask alike. Returns the outputs, of this subtask."""
        raise NotImplementedError

    def close(self) -> None:
        """The attempt ends, in whatever way."""


class _Lookup(BroadcastFunction):
    """Keeps the latest broadcast record of each key; made by `broadcast_lookup`."""

    def __init__(self, key_of: Callable[[Any], Any], fn: Callable[[Any, Mapping[Any, Any]], Any]) -> None:
        self._key_of = key_of
        self._fn = fn

    def process(self, value: Any, ctx: BroadcastContext) -> Iterable[Any] | None:
        return (self._fn(value, ctx.broadcast_state),)

    def process_broadcast(self, value: Any, ctx: BroadcastContext) -> Iterable[Any] | None:
        ctx.broadcast_state[self._key_of(value)] = value
        return None


def broadcast_lookup(
    key_of: Callable[[Any], Any], fn: Callable[[Any, Mapping[Any, Any]], Any]
) -> Callable[[], BroadcastFunction]:
    """A broadcast function for the common case: a table of reference data, looked up for each record.

    Args:
        key_of: Broadcast record → the key it is kept under; a later record with that key replaces it.
        fn: `fn(record, table)` → one output, where `table` maps keys to broadcast records and cannot be changed.
    """
    return lambda: _Lookup(key_of, fn)


class BroadcastJoinOperator(Operator):
    """Runs a `BroadcastFunction`: port 0 takes the main stream, keyed or not, port 1 the broadcast stream.

    Args:
        operator_id: The operator's id.
        function: A BroadcastFunction, which is copied, or a class or factory that makes one.
        allow_pickle: Whether broadcast state of undeclared type may be pickled.

    Raises:
        PipelineError: `function` is none, or declares keyed state.
        ValueTypeError: The declared types of the broadcast state cannot be stored.
    """

    redistribution = Redistribution.BROADCAST

    def __init__(
        self, operator_id: str, function: BroadcastFunction | Callable[[], BroadcastFunction], allow_pickle: bool = True
    ) -> None:
        self.operator_id = operator_id
        self._function = own_function(function, BroadcastFunction, operator_id)
        refuse_states(self._function, operator_id, "use ctx.broadcast_state, or a ProcessFunction on a keyed stream")
        where = f"of the broadcast state of operator `{operator_id}`"
        self._key_serde: Serde = serde_for(self._function.key_type, f"the keys {where}", allow_pickle)
        self._value_serde: Serde = serde_for(self._function.value_type, f"the values {where}", allow_pickle)
        self._state = BroadcastState()
        self._view = MappingProxyType(self._state)
        self._opened = False

    def own_serdes(self) -> dict[str, Serde]:
        return {"keys": self._key_serde, "values": self._value_serde}

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        for snapshot in restored:
            keys = self._key_serde.decode_many(snapshot["keys"])
            self._state.update(zip(keys, self._value_serde.decode_many(snapshot["values"]), strict=True))
        self._context = BroadcastContext(context.clock, context.floor.lowest_ms, self._state)
        self._calls = Calls(self.operator_id, self._context, (), context.clock)
        open_function(self._function, context)
        self._opened = True

    def process(self, batch: Batch, port: int) -> Iterator[Batch]:
        self._calls.timed = batch.times is not None
        keys: Iterable[Key] = repeat(None) if batch.keys is None else batch.keys
        times: Iterable[int | None] = repeat(None) if batch.times is None else batch.times
        if port == BROADCAST:
            self._context.broadcast_state, user = self._state, self._function.process_broadcast
        else:
            self._context.broadcast_state, user = self._view, self._function.process
        return self._calls.run(user, zip(keys, batch.values, times), ())  # noqa: B905

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        self._context.watermark_ms = max(self._context.watermark_ms, watermark_ms)
        return ()

    def snapshot(self, checkpoint: int) -> Any:
        return {
            "keys": self._key_serde.encode_many(list(self._state)),
            "values": self._value_serde.encode_many(list(self._state.values())),
        }

    def close(self) -> None:
        if self._opened:
            self._opened = False
            close_function(self._function, self.operator_id)
