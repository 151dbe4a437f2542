"""Process functions as operators: with state and timers on keyed streams, plain on others.

The work is shared out: `functions.py` says what users write, `handles.py` binds state to keys, `timer_order.py` keeps timers
in order, `calls.py` makes the calls. Here they are put together for the task loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from checkdam.core.batch import Batch
from checkdam.core.errors import PipelineError
from checkdam.operators.aggregate import keys_of
from checkdam.operators.base import Operator, OperatorContext, Redistribution
from checkdam.operators.calls import BREATH, Calls, Step
from checkdam.operators.functions import (
    FunctionContext,
    ProcessContext,
    ProcessFunction,
    own_function,
    states_of,
)
from checkdam.operators.handles import Binding
from checkdam.operators.timer_order import OrderedTimers
from checkdam.operators.user import user_error
from checkdam.state.base import Key, TableSpec

_logger = logging.getLogger(__name__)

FunctionOrFactory = ProcessFunction | Callable[[], ProcessFunction]


@dataclass(frozen=True)
class _Phase:
    """Stands in for the record where an error has none."""

    text: str

    def __repr__(self) -> str:
        return self.text


class KeyedProcessOperator(Operator):
    """A process function on a keyed stream, with state and timers.

    Records of a key are handled in the order they come; event timers fire in the order of their times when the
    watermark has reached them, those registered meanwhile included. Outputs have the time of the record or timer they
    come from, and no key.

    Args:
        operator_id: The operator's id.
        function: A ProcessFunction, which is copied, or a class or factory that makes one.
        allow_pickle: Whether state of undeclared type may be pickled.

    Raises:
        PipelineError: `function` is none, or its states are declared wrongly.
    """

    redistribution = Redistribution.UNION

    def __init__(self, operator_id: str, function: FunctionOrFactory, allow_pickle: bool = True) -> None:
        self.operator_id = operator_id
        self._function = own_function(function, ProcessFunction, operator_id)
        self._states = states_of(self._function)
        self._allow_pickle = allow_pickle
        self._opened = False

    def tables(self) -> list[TableSpec]:
        """The tables of the function's states; usable before `open`.

        Raises:
            ValueTypeError: A state's type cannot be stored.
        """
        return [state.table_spec(self.operator_id, self._allow_pickle) for state in self._states.values()]

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        backend, clock = context.backend, context.clock
        self._event = OrderedTimers(backend.timers(self.operator_id, "event"))
        self._processing = OrderedTimers(backend.timers(self.operator_id, "processing"))
        self._context = ProcessContext(clock, context.floor.lowest_ms, self._event, self._processing)
        open_function(self._function, context)
        self._opened = True
        bindings: list[Binding] = []
        for (attribute, state), spec in zip(self._states.items(), self.tables(), strict=True):
            binding, handle = state.bind(backend, spec, self._context)
            bindings.append(binding)
            setattr(self._function, attribute, handle)
        self._calls = Calls(self.operator_id, self._context, bindings, clock)
        self._calls.timed = any(state["timed"] for state in restored)

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        keys = keys_of(batch, self.operator_id)
        self._calls.timed = batch.times is not None
        times: Iterable[int | None] = repeat(None) if batch.times is None else batch.times
        return self._calls.run(self._function.process, zip(keys, batch.values, times), set(keys))  # noqa: B905

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        # After a restore the inputs' watermark starts anew, below what had been reached.
        self._context.watermark_ms = max(self._context.watermark_ms, watermark_ms)
        return self._fire(self._event, watermark_ms, "event")

    def next_processing_time(self) -> int | None:
        return self._processing.next_time()

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        return self._fire(self._processing, now_ms, "processing")

    def snapshot(self, checkpoint: int) -> Any:
        # Outputs of processing timers must look like those of records, also when no record has come since a restore.
        return {"timed": self._calls.timed}

    def close(self) -> None:
        if self._opened:
            self._opened = False
            close_function(self._function, self.operator_id)

    def _fire(self, timers: OrderedTimers, up_to_ms: int, domain: str) -> Iterator[Batch]:
        def shown(time_ms: Any, key: Key) -> _Phase:
            return _Phase(f"the {domain} timer at {time_ms} of key {key!r}")

        while keys := timers.begin(up_to_ms):
            yielded = False
            for batch in self._calls.run(self._function.on_timer, _steps(timers), keys, shown):
                yielded = True
                yield batch
            if not yielded:
                yield BREATH


class ProcessOperator(Operator):
    """A process function on a stream without keys: no state, no timers, but side outputs and several outputs a record.

    Args:
        operator_id: The operator's id.
        function: A ProcessFunction, which is copied, or a class or factory that makes one.

    Raises:
        PipelineError: `function` is none, or declares state.
    """

    def __init__(self, operator_id: str, function: FunctionOrFactory) -> None:
        self.operator_id = operator_id
        self._function = own_function(function, ProcessFunction, operator_id)
        self._opened = False
        refuse_states(self._function, operator_id, "call key_by() before process()")

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        timers = _NoTimers(self.operator_id)
        self._context = ProcessContext(context.clock, context.floor.lowest_ms, timers, timers)
        open_function(self._function, context)
        self._opened = True
        self._calls = Calls(self.operator_id, self._context, (), context.clock)

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        self._calls.timed = batch.times is not None
        times: Iterable[int | None] = repeat(None) if batch.times is None else batch.times
        return self._calls.run(self._function.process, zip(repeat(None), batch.values, times), ())

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        self._context.watermark_ms = max(self._context.watermark_ms, watermark_ms)
        return ()

    def close(self) -> None:
        if self._opened:
            self._opened = False
            close_function(self._function, self.operator_id)


class _NoTimers:
    """Refuses timers where there is no key."""

    def __init__(self, operator_id: str) -> None:
        self._message = (
            f"operator `{operator_id}` has no timers, because its stream has no keys; call key_by() before it"
        )

    def register(self, time_ms: int, key: Key) -> None:
        raise PipelineError(self._message)

    def delete(self, time_ms: int, key: Key) -> None:
        raise PipelineError(self._message)


def open_function(function: Any, context: OperatorContext) -> None:
    """Call a function's `open`.

    Raises:
        UserCodeError: It raised.
    """
    about = FunctionContext(context.operator_id, context.subtask, context.parallelism, context.attempt)
    try:
        function.open(about)
    except Exception as error:
        raise user_error(context.operator_id, _Phase("(none: in open())"), error) from error


def close_function(function: Any, operator_id: str) -> None:
    """Call a function's `close`; what it raises is logged, for the attempt is over anyway."""
    try:
        function.close()
    except Exception:
        _logger.warning("close() of operator `%s` failed", operator_id, exc_info=True)


def refuse_states(function: object, operator_id: str, remedy: str) -> None:
    """Raise PipelineError if a function that cannot have keyed state declares some."""
    names = ", ".join(f"`{state.name}`" for state in states_of(function).values())
    if names:
        raise PipelineError(
            f"the function of operator `{operator_id}` declares state ({names}), which belongs to keys; {remedy}"
        )


def _steps(timers: OrderedTimers) -> Iterator[Step]:
    while (due := timers.take()) is not None:
        time_ms, key = due
        yield key, time_ms, time_ms
