"""Maps by an async function: order, watermarks, bounds, restore and failure, decided by futures that the test resolves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from function_run import FunctionRun
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.batch import MAX_TIME, MIN_TIME
from checkdam.core.errors import PipelineError, UserCodeError, ValueTypeError
from checkdam.core.serde import serde_for
from checkdam.operators.async_io import AsyncMapOperator
from checkdam.operators.base import OperatorContext, OperatorMetrics, WatermarkFloor

DEADLINE_S = 20.0


class Service:
    """What the function calls: it answers when the test says so."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: dict[Any, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = {}
        self.history: list[Any] = []
        self.most = 0
        self.cancelled: list[Any] = []

    async def ask(self, value: Any) -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._changed:
            self._asked[value] = (loop, future)
            self.history.append(value)
            self.most = max(self.most, len(self._asked))
            self._changed.notify_all()
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(value)
            raise
        finally:
            with self._changed:
                self._asked.pop(value, None)

    def wait_for(self, *values: Any) -> None:
        """Until all of `values` are being asked for."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(values) <= set(self._asked), DEADLINE_S), self._asked

    def answer(self, *values: Any) -> None:
        for value in values:
            self.wait_for(value)
            loop, future = self._asked[value]
            loop.call_soon_threadsafe(future.set_result, f"answer {value}")

    def fail(self, value: Any, error: BaseException) -> None:
        self.wait_for(value)
        loop, future = self._asked[value]
        loop.call_soon_threadsafe(future.set_exception, error)


class AsyncRun(FunctionRun):
    """Polls when it was woken, as the task loop does."""

    def poll_until(self, done: Callable[[], bool]) -> None:
        ends = time.monotonic() + DEADLINE_S
        while not done():
            assert self.woken.wait(ends - time.monotonic()), f"never happened; so far {self.outputs}"
            self.woken.clear()
            self.take(self.operator.poll())

    def poll_until_seen(self, count: int) -> None:
        self.poll_until(lambda: len(self.outputs) == count)

    def poll_for(self, *values: Any) -> None:
        """Until just these results have come out, in this order; forgets them."""
        wanted = [f"answer {value}" for value in values]
        self.poll_until_seen(len(wanted))
        assert self.taken() == wanted

    @property
    def released(self) -> int:
        return self.operator.output_watermark(self.watermark_ms)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def start(service: Service) -> Iterator[Callable[..., AsyncRun]]:
    runs: list[AsyncRun] = []

    def make(concurrency: int = 10, ordered: bool = True, **more: Any) -> AsyncRun:
        run = AsyncRun(lambda: AsyncMapOperator("op", service.ask, concurrency, ordered, **more))
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkdam-async")]


Start = Callable[..., AsyncRun]


def test_ordered_results_keep_the_order_of_their_records_and_their_times(start: Start, service: Service) -> None:
    run = start()
    run.feed(("k", 1, "a"), ("k", 2, "b"), ("k", 3, "c"))
    service.answer("c", "b")
    service.wait_for("a")
    run.take(run.operator.poll())
    assert run.outputs == []
    service.answer("a")
    run.poll_until_seen(3)
    assert run.outputs == [("", "answer a", 1), ("", "answer b", 2), ("", "answer c", 3)]
    assert not run.operator.has_pending()


def test_unordered_results_come_as_they_are_ready_but_never_across_a_watermark(start: Start, service: Service) -> None:
    run = start(ordered=False)
    run.feed(("k", 1, "a"), ("k", 2, "b"))
    run.watermark(2)
    run.feed(("k", 3, "c"), ("k", 4, "d"))
    run.watermark(4)
    service.answer("b")
    run.poll_for("b")
    service.answer("d")
    service.wait_for("a", "c")
    assert run.released == MIN_TIME
    service.answer("a")
    run.poll_for("a", "d")
    assert run.released == 2
    service.answer("c")
    run.poll_for("c")
    assert run.released == 4


def test_a_watermark_passes_at_once_when_nothing_is_in_flight(start: Start, service: Service) -> None:
    run = start()
    run.watermark(10)
    assert run.released == 10
    run.feed(("k", 11, "a"))
    run.watermark(20)
    run.watermark(30)
    assert run.released == 10
    service.answer("a")
    run.poll_for("a")
    assert run.released == 30


def test_no_more_calls_run_than_allowed_and_no_input_is_taken_meanwhile(start: Start, service: Service) -> None:
    run = start(concurrency=2)
    assert run.operator.accepts_input
    run.feed(*((None, None, number) for number in range(6)))
    service.wait_for(0, 1)
    assert service.history == [0, 1]
    assert not run.operator.accepts_input
    for number in range(6):
        service.answer(number)
        run.poll_for(number)
    assert service.most == 2
    assert run.operator.accepts_input


def test_results_that_wait_behind_a_slow_call_close_the_input(start: Start, service: Service) -> None:
    run = start(concurrency=2)
    run.feed((None, None, "slow"))
    service.wait_for("slow")
    for number in range(3):
        assert run.operator.accepts_input
        run.feed((None, None, number))
        service.answer(number)
    assert not run.operator.accepts_input
    service.answer("slow")
    run.poll_for("slow", 0, 1, 2)
    assert run.operator.accepts_input


def test_records_in_flight_and_waiting_are_in_the_snapshot_and_asked_for_again(start: Start, service: Service) -> None:
    for ordered in (True, False):
        run = start(concurrency=2, ordered=ordered, value_type=str, allow_pickle=False)
        run.feed(("k", 1, "a"), ("k", 2, "b"), ("k", 3, "c"), ("k", 4, "d"))
        service.answer("a")
        run.poll_for("a")
        service.wait_for("b", "c")
        run.restore()
        service.wait_for("b", "c")
        assert run.operator.has_pending()
        run.watermark(4)
        assert run.released == MIN_TIME
        for seen, value in enumerate("bcd"):
            service.answer(value)
            run.poll_until_seen(seen + 1)
        assert run.outputs == [("", "answer b", 2), ("", "answer c", 3), ("", "answer d", 4)]
        assert run.released == 4
        assert not run.operator.has_pending()


def test_after_a_rescale_a_subtask_asks_for_the_records_of_all_lists_that_it_is_given(service: Service) -> None:
    serde = serde_for(None, "the records")
    run = AsyncRun(lambda: AsyncMapOperator("op", service.ask, 100))
    run.operator.close()
    run.operator = AsyncMapOperator("op", service.ask, 100)
    context = OperatorContext(
        "op", 0, 1, run.backend, run.clock, OperatorMetrics(), "1.2", WatermarkFloor(), run.woken.set
    )

    run.operator.open(context, [[(serde.encode(value), 7) for value in values] for values in ("abc", "de")])
    kept = run.operator.snapshot(2)
    run.close()

    assert [(serde.decode(value), time_ms) for value, time_ms in kept] == [(value, 7) for value in "abcde"]


def test_a_call_that_raises_fails_by_operator_and_record(start: Start, service: Service) -> None:
    run = start()
    run.feed((None, None, "a"), (None, None, "b"))
    service.fail("b", ValueError("refused"))
    with pytest.raises(UserCodeError, match=r"operator `op` failed on record 'b'\n[^$]*ValueError: refused") as caught:
        run.poll_until(lambda: False)
    assert "async_io.py" not in str(caught.value)
    with pytest.raises(UserCodeError, match="refused"):
        run.feed((None, None, "c"))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3)])
def test_a_call_that_ends_itself_fails_too_and_does_not_hang(start: Start, error: BaseException) -> None:
    async def leave(value: Any) -> Any:
        raise error

    run = AsyncRun(lambda: AsyncMapOperator("op", leave, 1))
    run.feed((None, None, "a"))
    with pytest.raises(UserCodeError, match=r"operator `op` failed on record 'a'"):
        run.poll_until(lambda: False)
    run.close()


def test_a_call_that_takes_too_long_fails_by_name(start: Start, service: Service) -> None:
    run = start(timeout_ms=1)
    run.feed((None, None, "a"))
    with pytest.raises(UserCodeError, match=r"failed on record 'a'\nthe call did not finish within 1ms"):
        run.poll_until(lambda: False)


def test_a_timeout_error_of_the_users_own_is_shown_as_such(start: Start, service: Service) -> None:
    run = start(timeout_ms=60_000)
    run.feed((None, None, "a"))
    service.fail("a", TimeoutError("the database took too long"))
    with pytest.raises(UserCodeError, match="TimeoutError: the database took too long"):
        run.poll_until(lambda: False)


def test_a_function_that_is_not_async_is_named(start: Start) -> None:
    run = AsyncRun(lambda: AsyncMapOperator("op", lambda value: value, 1))
    run.feed((None, None, 5))
    with pytest.raises(UserCodeError, match=r"failed on record 5\n.*can't be used in 'await' expression"):
        run.poll_until(lambda: False)
    run.close()


def test_close_cancels_what_is_in_flight_and_ends_the_thread(start: Start, service: Service) -> None:
    run = start(concurrency=2)
    run.feed(*((None, None, number) for number in range(5)))
    service.wait_for(0, 1)
    run.operator.close()
    run.operator.close()
    assert sorted(service.cancelled) == [0, 1]
    assert service.history == [0, 1]


def test_wrong_arguments_are_refused_by_name() -> None:
    async def fn(value: Any) -> Any:
        return value

    with pytest.raises(PipelineError, match=r"operator `op` needs an async function \(got 7\)"):
        AsyncMapOperator("op", 7, 1)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match=r"`concurrency` of operator `op` must be at least 1 \(got 0\)"):
        AsyncMapOperator("op", fn, 0)
    with pytest.raises(PipelineError, match=r"`timeout` of operator `op` must be at least 1 ms \(got 0 ms\)"):
        AsyncMapOperator("op", fn, 1, timeout_ms=0)
    with pytest.raises(ValueTypeError, match="the input of operator `op`"):
        AsyncMapOperator("op", fn, 1, allow_pickle=False)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 5), st.none()), max_size=12), st.integers(1, 4), st.booleans(), st.data())
def test_every_record_comes_out_once_between_its_watermarks(
    steps: list[int | None], concurrency: int, ordered: bool, data: st.DataObject
) -> None:
    async def echo(value: int) -> int:
        for _ in range(value % 3):
            await asyncio.sleep(0)
        return value

    run = AsyncRun(lambda: AsyncMapOperator("op", echo, concurrency, ordered))
    number = 0
    for size in steps:
        if size is None:
            run.watermark(number)
        else:
            run.feed(*((None, number + offset, number + offset) for offset in range(size)))
            number += size
        if data.draw(st.booleans()):
            run.restore()
            run.watermark_ms = MIN_TIME
        # The loop asks for the watermark after each poll: nothing below it may come later.
        run.take(run.operator.poll())
        released, seen = run.released, len(run.outputs)
        run.take(run.operator.poll())
        assert all(value >= released for _, value, _ in run.outputs[seen:])
    run.watermark(MAX_TIME)
    run.poll_until(lambda: not run.operator.has_pending())
    assert run.released == MAX_TIME
    assert sorted(run.taken()) == list(range(number))
    run.close()
