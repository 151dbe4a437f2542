"""Maps by an async function: many records wait for the outside world at once, in a thread with an event loop.

The task thread only queues records and hands out results; the loop's thread, which belongs to the operator, takes the
queued ones as fast as the concurrency allows. Four things lie between the two: the *backlog* of records that wait for a
free place, the finished calls, the first failure, and a flag that says that the task loop has been woken. They need no
lock, because each is changed in single steps that Python makes atomic. Everything else belongs to one thread alone.

Order is kept by *segments*: a segment is a group of records whose results may overtake each other, followed by at most
one watermark. In ordered mode each record is a segment of its own, in unordered mode all records between two watermarks
are one. Results leave from the first segment only, and a watermark when its segment has been handed out in full. So no
result ever comes out after a watermark that its record came before.

Records that have not been handed out are the operator's snapshot, a list of them, so that a rescale deals them out one by
one; after a restore their calls are made again.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from checkdam.core.batch import MIN_TIME, Batch
from checkdam.core.durations import format_ms
from checkdam.core.errors import PipelineError, UserCodeError
from checkdam.core.names import shown
from checkdam.core.serde import Serde, serde_for
from checkdam.operators.base import Operator, OperatorContext
from checkdam.operators.calls import CHUNK
from checkdam.operators.user import user_error, user_traceback

AsyncFunction = Callable[[Any], Awaitable[Any]]
"""An async function: record → output."""

_JOIN_TIMEOUT_S: Final = 2.0
"""How long `close` waits for functions that swallow their cancellation; the thread is a daemon and ends with the process."""


class _Call:
    """One record on its way."""

    __slots__ = ("result", "segment", "time_ms", "value")

    def __init__(self, value: Any, time_ms: int | None, segment: _Segment) -> None:
        self.value = value
        self.time_ms = time_ms
        self.segment = segment
        self.result: Any = None


class _Segment:
    """Records whose results may overtake each other, and the watermark behind them."""

    __slots__ = ("finished", "open", "watermark_ms")

    def __init__(self) -> None:
        self.open: dict[_Call, None] = {}
        self.finished: list[_Call] = []
        self.watermark_ms: int | None = None


class AsyncMapOperator(Operator):
    """Replaces each record by what an async function makes of it; times are kept, keys are not.

    At most `concurrency` calls run at a time. Results of finished calls that must wait for others are bounded too: no
    input is taken while records wait for a free place, or twice as many as may run have not been handed out.
    Calls are repeated after a failure, so their effects outside must be idempotent.

    Args:
        operator_id: The operator's id.
        fn: The async function.
        concurrency: How many calls run at a time, at least 1.
        ordered: Whether results keep the order of their records; if not, they only stay between the same watermarks.
        timeout_ms: A call that takes longer fails the attempt; `None`: it may take for ever.
        allow_pickle: Whether snapshots may pickle records.
        value_type: The declared type of the records; `None` for undeclared.

    Raises:
        PipelineError: An argument is not allowed.
        ValueTypeError: Records cannot be stored.
    """

    def __init__(
        self,
        operator_id: str,
        fn: AsyncFunction,
        concurrency: int,
        ordered: bool = True,
        timeout_ms: int | None = None,
        allow_pickle: bool = True,
        value_type: Any = None,
    ) -> None:
        if not callable(fn):
            raise PipelineError(f"operator `{operator_id}` needs an async function (got {fn!r})")
        if concurrency < 1:
            raise PipelineError(f"`concurrency` of operator `{operator_id}` must be at least 1 (got {concurrency})")
        if timeout_ms is not None and timeout_ms < 1:
            raise PipelineError(f"`timeout` of operator `{operator_id}` must be at least 1 ms (got {timeout_ms} ms)")
        self.operator_id = operator_id
        self._concurrency = concurrency
        self._ordered = ordered
        self._serde: Serde = serde_for(value_type, f"the input of operator `{operator_id}`", allow_pickle)
        self._segments: deque[_Segment] = deque()
        self._waiting = 0
        self._watermark_ms = MIN_TIME
        self._released_ms = MIN_TIME
        self._caller = _Caller(operator_id, fn, concurrency, timeout_ms)

    def own_serdes(self) -> dict[str, Serde]:
        return {"records": self._serde}

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        self._caller.start(context.wake)
        records = [record for snapshot in restored for record in snapshot]
        self._enqueue([self._serde.decode(value) for value, _ in records], [time_ms for _, time_ms in records])

    @property
    def accepts_input(self) -> bool:
        return not self._caller.backlog and self._waiting < 2 * self._concurrency

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        self._caller.check()
        self._enqueue(batch.values, [None] * len(batch) if batch.times is None else batch.times)
        return ()

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        self._watermark_ms = watermark_ms
        if self._segments:
            self._segments[-1].watermark_ms = watermark_ms
        else:
            self._released_ms = watermark_ms
        return ()

    def output_watermark(self, watermark_ms: int) -> int:
        return self._released_ms

    def poll(self) -> Iterator[Batch]:
        for call in self._caller.take_finished():
            call.segment.finished.append(call)
        segments = self._segments
        leaving: list[_Call] = []
        while segments:
            first = segments[0]
            for call in first.finished:
                del first.open[call]
            leaving += first.finished
            first.finished = []
            if first.open:
                break
            segments.popleft()
            if first.watermark_ms is not None:
                # Neither may results overtake a watermark: a record that is late must stay so.
                yield from self._hand_out(leaving)
                leaving = []
                self._released_ms = first.watermark_ms
        yield from self._hand_out(leaving)

    def has_pending(self) -> bool:
        return bool(self._segments)

    def snapshot(self, checkpoint: int) -> Any:
        calls = [call for segment in self._segments for call in segment.open]
        return [(self._serde.encode(call.value), call.time_ms) for call in calls]

    def close(self) -> None:
        self._caller.stop()

    def _enqueue(self, values: list[Any], times: list[Any]) -> None:
        calls = []
        for value, time_ms in zip(values, times, strict=True):
            segments = self._segments
            if not segments or self._ordered or segments[-1].watermark_ms is not None:
                segments.append(_Segment())
            call = _Call(value, time_ms, segments[-1])
            segments[-1].open[call] = None
            calls.append(call)
        self._waiting += len(calls)
        self._caller.submit(calls)

    def _hand_out(self, calls: list[_Call]) -> Iterator[Batch]:
        self._waiting -= len(calls)
        for start in range(0, len(calls), CHUNK):
            chunk = calls[start : start + CHUNK]
            # A stream has event times throughout or not at all.
            times = None if chunk[0].time_ms is None else [call.time_ms or 0 for call in chunk]
            yield Batch([call.result for call in chunk], times)


class _Caller:
    """The event loop in its thread, and the calls that run in it.

    `submit`, `take_finished`, `check`, `start` and `stop` are called by the task thread, all others by the loop's.

    Attributes:
        backlog: Calls that wait for a free place.
    """

    def __init__(self, operator_id: str, fn: AsyncFunction, concurrency: int, timeout_ms: int | None) -> None:
        self.backlog: deque[_Call] = deque()
        self._operator_id = operator_id
        self._fn = fn
        self._concurrency = concurrency
        self._timeout_ms = timeout_ms
        self._finished: deque[_Call] = deque()
        self._failure: UserCodeError | None = None
        self._signalled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopped = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] = lambda: None

    def start(self, wake: Callable[[], None]) -> None:
        """Start the thread; `wake` is called from it when there are results."""
        self._wake = wake
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name=f"checkdam-async-{self._operator_id}", daemon=True
        )
        self._thread.start()
        started.wait()

    def submit(self, calls: list[_Call]) -> None:
        """Queue calls."""
        if calls and self._loop is not None:
            self.backlog.extend(calls)
            self._loop.call_soon_threadsafe(self._fill)

    def take_finished(self) -> list[_Call]:
        """The calls that have finished since the last time, in the order in which they did.

        Raises:
            UserCodeError: As `check`.
        """
        # Put down first: what happens from now on wakes the task loop again.
        self._signalled = False
        self.check()
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def check(self) -> None:
        """Raises: UserCodeError: a call raised or took too long; names the record."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Cancel all calls and end the thread."""
        thread, loop, self._thread = self._thread, self._loop, None
        if thread is None or loop is None:
            return
        self.backlog.clear()
        loop.call_soon_threadsafe(self._stop)
        thread.join(_JOIN_TIMEOUT_S)

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            started.set()
            runner.run(self._until_stopped())
            # The runner now cancels the calls, and whatever else the functions have left running.

    async def _until_stopped(self) -> None:
        await self._stopped.wait()

    def _stop(self) -> None:
        self._stopping = True
        self._stopped.set()

    def _fill(self) -> None:
        """Start queued calls as long as there are free places."""
        while self.backlog and len(self._tasks) < self._concurrency and not self._stopping and self._failure is None:
            task = asyncio.get_running_loop().create_task(self._call(self.backlog.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._fill()
        if not self._signalled and not self._stopping:
            self._signalled = True
            self._wake()

    async def _call(self, call: _Call) -> None:
        limit = asyncio.timeout(None if self._timeout_ms is None else self._timeout_ms / 1000)
        try:
            async with limit:
                call.result = await self._fn(call.value)
        except BaseException as error:
            if self._stopping and isinstance(error, asyncio.CancelledError):
                raise
            if self._failure is None:
                self._failure = self._failed(call, error, limit.expired())
        else:
            self._finished.append(call)

    def _failed(self, call: _Call, error: BaseException, expired: bool) -> UserCodeError:
        if expired and isinstance(error, TimeoutError):
            reason = f"the call did not finish within {format_ms(self._timeout_ms or 0)}; give it a longer `timeout`"
        elif isinstance(error, Exception):
            return user_error(self._operator_id, call.value, error)
        else:
            reason = user_traceback(error)
        return UserCodeError(self._operator_id, shown(call.value), reason)
