"""What users write to work record by record: process functions, their state and their context.

A `ProcessFunction` declares its state as class attributes. The operator makes one function per subtask, replaces each
declaration by a handle bound to the current key (`handles.py`), and calls `process` for each record and `on_timer` for
each timer. Declarations are taken off the class when it is defined, as `dataclass` does with fields: an attribute that
lives only in the instance is the fastest one to read, and state is read for every record.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

from checkdam.core.clock import Clock
from checkdam.core.durations import Duration, to_ms
from checkdam.core.errors import PipelineError
from checkdam.core.serde import serde_for
from checkdam.operators.handles import (
    AggregatingHandle,
    Binding,
    Cursor,
    ListHandle,
    MapBinding,
    MapHandle,
    ReducingHandle,
    ValueHandle,
    bind_value,
)
from checkdam.state.base import Key, KeyedBackend, TableSpec

if TYPE_CHECKING:
    from checkdam.operators.aggregators import Aggregator

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
H = TypeVar("H")
F = TypeVar("F")

Ttl = Duration | None
"""A timedelta, a text such as `"1h"`, or milliseconds; `None` for no TTL."""


class State(Generic[H]):
    """A declaration of keyed state: the base of the five kinds, not for use by itself.

    Args:
        name: Its name in checkpoints, unique within the function. A changed name is another state.
        ttl: How long an entry lives after its last update (timedelta, `"1h"` or ms), in processing time; `None`: for ever.

    Raises:
        PipelineError: The name or the TTL is not allowed.
    """

    kind: ClassVar[str] = "value"

    def __init__(self, name: str, ttl: Ttl = None) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise PipelineError(f"the name of a state must be a text without `/` (got {name!r})")
        try:
            self.ttl_ms = 0 if ttl is None else to_ms(ttl)
        except ValueError as error:
            raise PipelineError(f"`ttl` of state `{name}` {error}") from None
        if ttl is not None and self.ttl_ms <= 0:
            raise PipelineError(f"`ttl` of state `{name}` must be longer than 0 (got {ttl!r}); leave it out for no TTL")
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> H: ...
    def __get__(self, instance: object | None, owner: type) -> Self | H:
        # Type checkers see a handle in `self.count`; at run time the handle itself lies in the instance.
        if instance is None:
            return self
        raise PipelineError(f"state `{self.name}` can be used only in process() and on_timer()")

    def stored_type(self) -> Any:
        """The type of a cell, or of a map's values; `None` if undeclared."""
        raise NotImplementedError

    def table_spec(self, operator_id: str, allow_pickle: bool) -> TableSpec:
        """The table that keeps this state.

        Raises:
            ValueTypeError: The declared type cannot be stored.
        """
        serde = serde_for(self.stored_type(), f"state `{self.name}` of operator `{operator_id}`", allow_pickle)
        return TableSpec(operator_id, self.name, serde, self.kind, self.ttl_ms)

    def bind(self, backend: KeyedBackend, spec: TableSpec, cursor: Cursor) -> tuple[Binding, H]:
        """A handle on this state in `backend`, and the binding that feeds it."""
        binding, handle = bind_value(backend.table(spec), cursor, _where(spec))
        return binding, self.view(handle)

    def view(self, cell: ValueHandle[Any]) -> H:
        """This kind's handle over the value that it is stored as."""
        raise NotImplementedError


class ValueState(State[ValueHandle[T]]):
    """One value per key.

    Args:
        name: As for every state.
        value_type: The value's type; declared ones are compact and may evolve, undeclared ones use pickle.
        ttl: As for every state.
    """

    @overload
    def __init__(self, name: str, value_type: type[T], ttl: Ttl = None) -> None: ...
    @overload
    def __init__(self: ValueState[Any], name: str, value_type: Any = None, ttl: Ttl = None) -> None: ...
    def __init__(self, name: str, value_type: Any = None, ttl: Ttl = None) -> None:
        super().__init__(name, ttl)
        self.value_type = value_type

    def stored_type(self) -> Any:
        return self.value_type

    def view(self, cell: ValueHandle[Any]) -> ValueHandle[T]:
        return cell


class ListState(State[ListHandle[T]]):
    """A list per key, read and written as a whole: for lists that stay short. Use a `MapState` for long ones.

    Args:
        name: As for every state.
        item_type: The type of the items.
        ttl: For the whole list, from its last change.
    """

    @overload
    def __init__(self, name: str, item_type: type[T], ttl: Ttl = None) -> None: ...
    @overload
    def __init__(self: ListState[Any], name: str, item_type: Any = None, ttl: Ttl = None) -> None: ...
    def __init__(self, name: str, item_type: Any = None, ttl: Ttl = None) -> None:
        super().__init__(name, ttl)
        self.item_type = item_type

    def stored_type(self) -> Any:
        return list_of(self.item_type)

    def view(self, cell: ValueHandle[Any]) -> ListHandle[T]:
        return ListHandle(cell)


class MapState(State[MapHandle[K, V]]):
    """A map per key, entry by entry: reading one entry does not load the others.

    Args:
        name: As for every state.
        key_type: The type of the sub-keys, one that may be a key; for readers and type checkers.
        value_type: The type of the values.
        ttl: For each entry by itself.
    """

    kind = "map"

    @overload
    def __init__(self, name: str, key_type: type[K], value_type: type[V], ttl: Ttl = None) -> None: ...
    @overload
    def __init__(
        self: MapState[Any, Any], name: str, key_type: Any = None, value_type: Any = None, ttl: Ttl = None
    ) -> None: ...
    def __init__(self, name: str, key_type: Any = None, value_type: Any = None, ttl: Ttl = None) -> None:
        super().__init__(name, ttl)
        self.key_type = key_type
        self.value_type = value_type

    def stored_type(self) -> Any:
        return self.value_type

    def bind(self, backend: KeyedBackend, spec: TableSpec, cursor: Cursor) -> tuple[Binding, MapHandle[K, V]]:
        handle: MapHandle[K, V] = MapHandle(cursor)
        return MapBinding(backend.map_table(spec), handle, _where(spec)), handle


class ReducingState(State[ReducingHandle[T]]):
    """The values added per key, folded into one.

    Args:
        name: As for every state.
        value_type: The type of the values and of their fold.
        fn: `fn(folded, value) -> folded`, associative.
        ttl: As for every state.
    """

    @overload
    def __init__(self, name: str, value_type: type[T], fn: Callable[[T, T], T], ttl: Ttl = None) -> None: ...
    @overload
    def __init__(
        self: ReducingState[Any], name: str, value_type: Any, fn: Callable[[Any, Any], Any], ttl: Ttl = None
    ) -> None: ...
    def __init__(self, name: str, value_type: Any, fn: Callable[[Any, Any], Any], ttl: Ttl = None) -> None:
        super().__init__(name, ttl)
        self.value_type = value_type
        self.fn = fn

    def stored_type(self) -> Any:
        return self.value_type

    def view(self, cell: ValueHandle[Any]) -> ReducingHandle[T]:
        return ReducingHandle(cell, self.fn)


class AggregatingState(State[AggregatingHandle[T, R]]):
    """An aggregator's accumulator per key: `AggregatingState("mean", checkdam.mean_of())`.

    Args:
        name: As for every state.
        aggregator: How values are added, and how the accumulator becomes a result.
        ttl: As for every state.
    """

    def __init__(self, name: str, aggregator: Aggregator[T, Any, R], ttl: Ttl = None) -> None:
        super().__init__(name, ttl)
        self.aggregator = aggregator

    def stored_type(self) -> Any:
        return self.aggregator.acc_type

    def view(self, cell: ValueHandle[Any]) -> AggregatingHandle[T, R]:
        return AggregatingHandle(cell, self.aggregator)


class TimerRegistry(Protocol):
    """Timers of one time domain."""

    def register(self, time_ms: int, key: Key) -> None:
        """Add a timer; one that is there already stays one."""
        ...

    def delete(self, time_ms: int, key: Key) -> None:
        """Remove a timer; that there is none is no error."""
        ...


class RecordContext:
    """What every record-by-record function is told about the record at hand. Not to be kept beyond the call.

    Attributes:
        key: The record's key; `None` on a stream that is not keyed.
        time_ms: The record's event time, or the timer's time; `None` on a stream without event time.
        watermark_ms: The event time that this subtask has reached; `checkdam.core.batch.MIN_TIME` at first, `MAX_TIME`
            when the input has ended.
    """

    __slots__ = ("_clock", "_sides", "key", "time_ms", "watermark_ms")

    def __init__(self, clock: Clock, watermark_ms: int) -> None:
        self.key: Any = None
        self.time_ms: int | None = None
        self.watermark_ms = watermark_ms
        self._clock = clock
        self._sides: dict[str, tuple[list[Any], list[Any]]] = {}

    def now_ms(self) -> int:
        """Processing time in ms; never goes back, not even over a restart."""
        return self._clock.now_ms()

    def emit_to(self, tag: str, value: Any) -> None:
        """Send `value` to the side output `tag`, with the time of the record or timer at hand.

        Raises:
            PipelineError: The tag is empty, which would be the main output.
        """
        side = self._sides.get(tag)
        if side is None:
            if not tag:
                raise PipelineError("a side output needs a name (got ''); return the value for the main output")
            side = self._sides[tag] = ([], [])
        side[0].append(value)
        side[1].append(self.time_ms)

    def take_sides(self) -> dict[str, tuple[list[Any], list[Any]]]:
        """What was emitted since the last call, tag → (values, times); for the operator."""
        sides, self._sides = self._sides, {}
        return sides


class ProcessContext(RecordContext):
    """The context of a `ProcessFunction`: key, time and timers.

    Timers belong to the current key. Registering the same time twice makes one timer; a time that has passed already
    fires as soon as time moves on.
    """

    __slots__ = ("_event_timers", "_processing_timers")

    def __init__(self, clock: Clock, watermark_ms: int, event: TimerRegistry, processing: TimerRegistry) -> None:
        super().__init__(clock, watermark_ms)
        self._event_timers = event
        self._processing_timers = processing

    def register_event_timer(self, time_ms: int) -> None:
        """Call `on_timer(time_ms)` for the current key when the watermark reaches `time_ms`."""
        self._event_timers.register(time_ms, self.key)

    def register_processing_timer(self, time_ms: int) -> None:
        """Call `on_timer(time_ms)` for the current key when processing time reaches `time_ms`."""
        self._processing_timers.register(time_ms, self.key)

    def delete_event_timer(self, time_ms: int) -> None:
        """Forget the current key's event timer at `time_ms`, if there is one."""
        self._event_timers.delete(time_ms, self.key)

    def delete_processing_timer(self, time_ms: int) -> None:
        """Forget the current key's processing timer at `time_ms`, if there is one."""
        self._processing_timers.delete(time_ms, self.key)


@dataclass(frozen=True)
class FunctionContext:
    """Where a function runs; given to `open`.

    Attributes:
        operator_id: The operator's id.
        subtask: Index of the subtask, from 0.
        parallelism: Number of subtasks.
        attempt: Unique for every deployment of the job.
    """

    operator_id: str
    subtask: int
    parallelism: int
    attempt: str


class ProcessFunction:
    """Works record by record, with state and timers per key::

        class FirstOfDay(ProcessFunction):
            seen = ValueState("seen", bool, ttl="24h")

            def process(self, value, ctx):
                if not self.seen.get(False):
                    self.seen.update(True)
                    yield value

    Each subtask has a function of its own: a deep copy of the instance, or what the class or factory returns. What it
    keeps in ordinary attributes is neither per key nor in checkpoints.
    """

    declared_states: ClassVar[dict[str, State[Any]]] = {}
    """Attribute → declaration, of this class and its bases."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared: dict[str, State[Any]] = {}
        for base in reversed(cls.__mro__):
            own = {name: state for name, state in vars(base).items() if isinstance(state, State)}
            declared |= vars(base).get("declared_states", {}) | own
        for name in [name for name, state in vars(cls).items() if isinstance(state, State)]:
            delattr(cls, name)
        cls.declared_states = declared

    def __getattr__(self, name: str) -> Any:
        # Only called for attributes that are missing; so it costs the handles nothing.
        state = type(self).declared_states.get(name)
        if state is not None:
            raise PipelineError(
                f"state `{state.name}` can be used only in process() and on_timer() of a function that runs on a keyed stream"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def open(self, context: FunctionContext) -> None:
        """Called once before everything else: the place to open connections. State is not available yet."""

    def process(self, value: Any, ctx: ProcessContext) -> Iterable[Any] | None:
        """Handle one record.

        Returns:
            The outputs, each with the record's time: a list or tuple (fastest), any other iterable, or `None`.
        """
        raise NotImplementedError

    def on_timer(self, time_ms: int, ctx: ProcessContext) -> Iterable[Any] | None:
        """A timer of the current key is due.

        When a bounded input ends, the watermark becomes `MAX_TIME` and every event timer fires, also those that are
        registered meanwhile: register no periodic timer when `ctx.watermark_ms` is `MAX_TIME`, or the job never ends.

        Returns:
            The outputs, each with the timer's time.
        """
        return None

    def close(self) -> None:
        """The attempt ends, in whatever way. Not called when the process is killed."""


def states_of(function: object) -> dict[str, State[Any]]:
    """Attribute → declaration of a function's states, those set in `__init__` included.

    Raises:
        PipelineError: Two states have the same name.
    """
    states: dict[str, State[Any]] = {}
    for base in reversed(type(function).__mro__):
        states |= {name: state for name, state in vars(base).items() if isinstance(state, State)}
    states |= getattr(function, "declared_states", {})
    states |= {name: state for name, state in vars(function).items() if isinstance(state, State)}
    names = [state.name for state in states.values()]
    for name in names:
        if names.count(name) > 1:
            raise PipelineError(f"two states of `{type(function).__name__}` are named `{name}`; give each its own name")
    return states


def own_function(function: F | Callable[[], F], base: type[F], operator_id: str) -> F:
    """A function that no other subtask shares: a deep copy of an instance, or what a class or factory makes.

    Raises:
        PipelineError: It is neither, or it cannot be copied.
    """
    wanted = (
        f"operator `{operator_id}` needs a {base.__name__}, its class, or a function without arguments that makes one"
    )
    if isinstance(function, base):
        try:
            return copy.deepcopy(function)
        except Exception as error:
            raise PipelineError(
                f"{wanted}; this {type(function).__name__} cannot be copied for each subtask ({error}): "
                "pass its class, or open such things in open()"
            ) from error
    if not callable(function):
        raise PipelineError(f"{wanted} (got {function!r})")
    made = function()
    if not isinstance(made, base):
        raise PipelineError(f"{wanted} ({function!r} made {made!r})")
    return made


def _where(spec: TableSpec) -> str:
    return f"state `{spec.name}` of operator `{spec.operator}`"


def list_of(item_type: Any) -> Any:
    """`list[item_type]`, and undeclared for an undeclared item."""
    return None if item_type is None or item_type is Any else list[item_type]
