"""The loop that calls a user's function record by record: for process functions, timers and broadcast joins alike.

This is the one place where the framework works per record, so all that can be done per batch is: state is loaded and
announced around the loop, outputs are gathered in two lists, and the function's results, mostly short lists and tuples,
are added to them without a call of ours in between. Whenever a few thousand outputs have come together they are yielded;
state is announced before that and loaded again afterwards, because the backend may do other work in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import GeneratorType
from typing import Any, Final

from checkdam.core.batch import Batch
from checkdam.core.clock import Clock
from checkdam.core.errors import PipelineError
from checkdam.core.names import shown
from checkdam.operators.functions import RecordContext
from checkdam.operators.handles import Binding
from checkdam.operators.user import user_error
from checkdam.state.base import Key

CHUNK: Final = 4096
"""About how many outputs are yielded at once."""

BREATH: Final = Batch([], tag="~breath")
"""Nothing, for a side output that nobody reads: lets the task loop look up when much is done without any output."""

Step = tuple[Key, Any, int | None]
"""A call to make: key, first argument, time."""

UserCall = Callable[[Any, Any], Iterable[Any] | None]
"""The user's function: (value or timer's time, context) → outputs."""


class Calls:
    """Calls a user's functions and yields what they return.

    Args:
        operator_id: For errors.
        context: Handed to every call; the loop keeps its key and time.
        bindings: The state to load for the keys of a batch.
        clock: Processing time, for TTLs.

    Attributes:
        timed: Whether outputs carry times.
    """

    def __init__(self, operator_id: str, context: RecordContext, bindings: Sequence[Binding], clock: Clock) -> None:
        self.operator_id = operator_id
        self.timed = False
        self._context = context
        self._bindings = bindings
        self._clock = clock
        self._values: list[Any] = []
        self._times: list[Any] = []
        self._iterable: set[type] = {GeneratorType}

    def run(
        self,
        user: UserCall,
        steps: Iterable[Step],
        keys: Collection[Key],
        shown: Callable[[Any, Key], Any] | None = None,
    ) -> Iterator[Batch]:
        """Call `user` for each of `steps` and yield its outputs.

        Args:
            user: What to call.
            steps: The calls, in order.
            keys: All keys that occur in `steps`, whose state is loaded.
            shown: Makes of a call's first argument and key what an error shows as the record.

        Raises:
            UserCodeError: `user` raised, or returned something that is no iterable of outputs.
        """
        context = self._context
        values, times = self._values, self._times
        add_value, add_time = values.append, times.append
        iterable = self._iterable
        self._load(keys)
        value: Any = None
        try:
            for context.key, value, context.time_ms in steps:
                outputs = user(value, context)
                if outputs is None:
                    continue
                kind = type(outputs)
                if kind is tuple or kind is list:
                    if len(outputs) == 1:  # type: ignore[arg-type]
                        add_value(outputs[0])  # type: ignore[index]
                        add_time(context.time_ms)
                        continue
                    values += outputs
                else:
                    if kind not in iterable:
                        _require_iterable(outputs)
                        iterable.add(kind)
                    for output in outputs:
                        add_value(output)
                        if len(values) >= CHUNK:
                            times += [context.time_ms] * (len(values) - len(times))
                            yield from self._pause(keys)
                times += [context.time_ms] * (len(values) - len(times))
                if len(values) >= CHUNK:
                    yield from self._pause(keys)
        except Exception as error:
            record = value if shown is None else shown(value, context.key)
            raise user_error(self.operator_id, record, error) from error
        self._flush()
        yield from self._drain()

    def _load(self, keys: Collection[Key]) -> None:
        now_ms = self._clock.now_ms()
        for binding in self._bindings:
            binding.load(keys, now_ms)

    def _flush(self) -> None:
        for binding in self._bindings:
            binding.flush()

    def _pause(self, keys: Collection[Key]) -> Iterator[Batch]:
        self._flush()
        yield from self._drain()
        self._load(keys)

    def _drain(self) -> Iterator[Batch]:
        """What has been gathered, in batches of bounded size."""
        pending = [("", list(self._values), list(self._times))] if self._values else []
        # Cleared in place: the loop in `run` holds on to these two lists.
        self._values.clear()
        self._times.clear()
        pending += [(tag, values, times) for tag, (values, times) in self._context.take_sides().items()]
        for tag, values, times in pending:
            for start in range(0, len(values), CHUNK):
                stop = start + CHUNK
                yield Batch(values[start:stop], times[start:stop] if self.timed else None, None, tag)


def _require_iterable(outputs: Any) -> None:
    """Refuse what is no iterable of outputs, or an iterable that was surely meant as one output."""
    if isinstance(outputs, str | bytes | dict | tuple) or not isinstance(outputs, Iterable):
        raise PipelineError(
            f"a process function must return an iterable of outputs (got {shown(outputs)}); "
            "put a single output into a list, or use `yield`"
        )
