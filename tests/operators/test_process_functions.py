"""Process functions: outputs, times, timers, side outputs and errors, the same for every batching."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

import pytest
from function_run import FunctionRun, Row
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.core.batch import MAX_TIME, MIN_TIME, Batch
from checkdam.core.errors import PipelineError, UserCodeError
from checkdam.operators.calls import CHUNK
from checkdam.operators.functions import FunctionContext, ListState, ProcessContext, ProcessFunction, ValueState
from checkdam.operators.process import KeyedProcessOperator, ProcessOperator


def keyed(function: Any) -> FunctionRun:
    return FunctionRun(lambda: KeyedProcessOperator("op", function))


def unkeyed(function: Any) -> FunctionRun:
    return FunctionRun(lambda: ProcessOperator("op", function))


class Count(ProcessFunction):
    count = ValueState("count", int)

    def process(self, value: Any, ctx: ProcessContext) -> Any:
        number = self.count.get(0) + 1
        self.count.update(number)
        return ((ctx.key, number),)


def test_outputs_have_the_time_of_their_record() -> None:
    run = keyed(Count)
    run.feed(("a", 10, "x"), ("b", 20, "y"), ("a", 15, "z"))
    assert run.outputs == [("", ("a", 1), 10), ("", ("b", 1), 20), ("", ("a", 2), 15)]


def test_every_kind_of_iterable_is_taken_as_outputs() -> None:
    class Spread(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            return value(range(3))

    for kind in (list, tuple, iter, set, lambda numbers: (number for number in numbers), lambda numbers: numbers):
        run = unkeyed(Spread)
        run.feed((None, 7, kind), (None, 8, lambda numbers: None), (None, 9, lambda numbers: []))
        assert run.outputs == [("", 0, 7), ("", 1, 7), ("", 2, 7)]


@pytest.mark.parametrize("output", ["text", b"bytes", {"a": 1}, 7, FunctionContext("op", 0, 1, "1.1")])
def test_a_single_output_that_is_no_list_is_refused(output: Any) -> None:
    class Single(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            return output

    with pytest.raises(
        UserCodeError, match=r"must return an iterable of outputs \(got .*\); put a single output into a"
    ):
        unkeyed(Single).feed((None, None, 1))


def test_an_endless_stream_of_outputs_is_yielded_in_bounded_batches() -> None:
    class Flood(ProcessFunction):
        count = ValueState("count", int)

        def process(self, value: Any, ctx: ProcessContext) -> Any:
            for number in range(value):
                self.count.update(self.count.get(0) + 1)
                ctx.emit_to("side", number)
                yield number
            yield self.count.get()

    run = keyed(Flood)
    run.feed(("a", 1, 10_000), ("b", 2, 5_000))
    assert max(run.sizes) <= CHUNK
    assert [value for value in run.taken() if value in (10_000, 5_000)][-1:] == [5_000]
    assert len(run.taken("side")) == 15_000


def test_a_long_list_is_yielded_in_bounded_batches_too() -> None:
    class Many(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            return list(range(value))

    run = unkeyed(Many)
    run.feed((None, 1, 3 * CHUNK), (None, 2, 1))
    assert max(run.sizes) <= CHUNK
    assert run.taken() == [*range(3 * CHUNK), 0]


def test_side_outputs_carry_the_records_time() -> None:
    class Split(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            ctx.emit_to("odd" if value % 2 else "even", value)

    run = unkeyed(Split)
    run.feed((None, 1, 1), (None, 2, 2), (None, 3, 3))
    assert Counter(run.outputs) == Counter([("odd", 1, 1), ("odd", 3, 3), ("even", 2, 2)])


def test_a_side_output_without_a_name_is_refused() -> None:
    class Nameless(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            ctx.emit_to("", value)

    with pytest.raises(UserCodeError, match="a side output needs a name"):
        unkeyed(Nameless).feed((None, 1, 1))


class Alarm(ProcessFunction):
    """Registers what it is told, and says what fires."""

    fired = ListState("fired", int)

    def process(self, value: Any, ctx: ProcessContext) -> Any:
        domain, action, time_ms = value
        getattr(ctx, f"{action}_{domain}_timer")(time_ms)

    def on_timer(self, time_ms: int, ctx: ProcessContext) -> Any:
        self.fired.add(time_ms)
        return [(ctx.key, time_ms, ctx.time_ms, len(self.fired.get()))]


def test_event_timers_fire_in_the_order_of_their_times_when_the_watermark_reaches_them() -> None:
    run = keyed(Alarm)
    run.feed(*((key, 0, ("event", "register", time_ms)) for key, time_ms in [("a", 30), ("b", 10), ("a", 20)]))
    run.watermark(9)
    assert run.taken() == []
    run.watermark(20)
    assert run.outputs == [("", ("b", 10, 10, 1), 10), ("", ("a", 20, 20, 1), 20)]
    run.restore()
    run.outputs.clear()
    run.watermark(MAX_TIME)
    assert run.outputs == [("", ("a", 30, 30, 2), 30)]


def test_a_timer_registered_twice_fires_once_and_a_deleted_one_never() -> None:
    run = keyed(Alarm)
    for domain in ("event", "processing"):
        run.feed(*(("a", 0, (domain, "register", time_ms)) for time_ms in (5, 5, 6)))
        run.feed(("a", 0, (domain, "delete", 6)), ("a", 0, (domain, "delete", 99)))
    run.watermark(10)
    run.tick(10)
    assert [output[1] for output in run.taken()] == [5, 5]


def test_processing_timers_fire_by_the_clock() -> None:
    run = keyed(Alarm)
    assert run.operator.next_processing_time() is None
    run.feed(("a", 0, ("processing", "register", 100)), ("b", 0, ("processing", "register", 300)))
    assert run.operator.next_processing_time() == 100
    run.watermark(1000)
    assert run.taken() == []
    run.tick(200)
    assert run.taken() == [("a", 100, 100, 1)]
    run.restore()
    run.tick(300)
    assert run.outputs == [("", ("b", 300, 300, 1), 300)]


def test_outputs_of_processing_timers_have_no_time_where_records_have_none() -> None:
    run = keyed(Alarm)
    run.feed(("a", None, ("processing", "register", 100)))
    run.restore()
    run.tick(100)
    assert [time_ms for _, _, time_ms in run.outputs] == [None]


def test_a_timer_may_register_the_next_one() -> None:
    class Ticks(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            ctx.register_event_timer(value)

        def on_timer(self, time_ms: int, ctx: ProcessContext) -> Any:
            if time_ms < 50:
                ctx.register_event_timer(time_ms + 10)
            yield ctx.key, time_ms

    run = keyed(Ticks)
    run.feed(("a", 0, 10), ("b", 0, 15))
    run.watermark(37)
    assert run.taken() == [("a", 10), ("b", 15), ("a", 20), ("b", 25), ("a", 30), ("b", 35)]
    run.watermark(MAX_TIME)
    assert [time_ms for _, time_ms in run.taken()] == [40, 45, 50, 55]


def test_many_timers_fire_in_bounded_batches_and_portions_without_output_let_the_loop_look_up() -> None:
    class Quiet(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            ctx.register_event_timer(value)

        def on_timer(self, time_ms: int, ctx: ProcessContext) -> Any:
            return () if time_ms < 10_000 else [time_ms]

    run = keyed(Quiet)
    run.feed(*((number % 7, 0, number) for number in range(20_000)))
    run.watermark(MAX_TIME)
    assert run.taken() == list(range(10_000, 20_000))
    assert max(run.sizes) <= CHUNK
    assert run.sizes.count(0) >= 2


def test_the_context_tells_watermark_and_clock() -> None:
    class Look(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            return [(ctx.watermark_ms, ctx.now_ms(), ctx.time_ms, ctx.key)]

    run = keyed(Look)
    run.feed(("a", None, 1))
    run.watermark(70)
    run.clock.advance(5)
    run.feed(("a", 80, 2))
    run.restore()
    run.watermark(10)
    run.feed(("a", 90, 3))
    assert run.taken() == [(MIN_TIME, 0, None, "a"), (70, 5, 80, "a"), (70, 5, 90, "a")]


def test_open_and_close_are_called_once_with_the_place() -> None:
    calls: list[Any] = []

    class Life(ProcessFunction):
        def open(self, context: FunctionContext) -> None:
            calls.append(context)

        def close(self) -> None:
            calls.append("closed")

    for make in (keyed, unkeyed):
        run = make(Life)
        run.operator.close()
        run.operator.close()
        assert calls == [FunctionContext("op", 0, 1, "1.1"), "closed"]
        calls.clear()


def test_what_close_raises_is_logged_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(ProcessFunction):
        def close(self) -> None:
            raise OSError("stuck")

    with caplog.at_level(logging.WARNING):
        keyed(Stuck).operator.close()
    assert "close() of operator `op` failed" in caplog.text


def test_an_error_names_operator_and_record() -> None:
    class Fails(ProcessFunction):
        def process(self, value: Any, ctx: ProcessContext) -> Any:
            ctx.register_event_timer(5)
            yield 1 / value

        def on_timer(self, time_ms: int, ctx: ProcessContext) -> Any:
            raise ValueError("too early")

    run = keyed(Fails)
    with pytest.raises(UserCodeError, match=r"operator `op` failed on record 0\n[^$]*ZeroDivisionError") as caught:
        run.feed(("a", 1, 2), ("a", 1, 0), ("a", 1, 4))
    assert caught.value.record == "0"
    assert "calls.py" not in str(caught.value)
    run = keyed(Fails)
    run.feed(("a", 1, 2))
    with pytest.raises(UserCodeError, match="failed on record the event timer at 5 of key 'a'"):
        run.watermark(5)


def test_an_error_in_open_names_the_operator() -> None:
    class NoPlace(ProcessFunction):
        def open(self, context: FunctionContext) -> None:
            raise OSError("no such place")

    for make in (keyed, unkeyed):
        with pytest.raises(UserCodeError, match=r"operator `op` failed on record \(none: in open\(\)\)"):
            make(NoPlace)


def test_a_stream_without_keys_has_neither_state_nor_timers() -> None:
    with pytest.raises(
        PipelineError, match=r"operator `op` declares state \(`count`\).*call key_by\(\) before process"
    ):
        ProcessOperator("op", Count)
    for call in (lambda ctx: ctx.register_event_timer(1), lambda ctx: ctx.delete_processing_timer(1)):

        class Timer(ProcessFunction):
            def process(self, value: Any, ctx: ProcessContext) -> Any:
                value(ctx)

        with pytest.raises(UserCodeError, match="operator `op` has no timers, because its stream has no keys"):
            unkeyed(Timer).feed((None, 1, call))


def test_a_keyed_function_on_a_stream_without_keys_is_refused() -> None:
    with pytest.raises(PipelineError, match="operator `op` needs a keyed stream"):
        list(KeyedProcessOperator("op", Count).process(Batch([1]), 0))


def test_what_is_no_function_is_refused() -> None:
    for wrong, message in ((7, r"\(got 7\)"), (dict, r"made \{\}"), (Locked(), "cannot be copied for each subtask")):
        with pytest.raises(PipelineError, match=message):
            KeyedProcessOperator("op", wrong)  # type: ignore[arg-type]


class Locked(ProcessFunction):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Sessions(ProcessFunction):
    """Counts a key's records until it has been silent for 5, and takes back what it said when a record is negative."""

    count = ValueState("count", int)
    deadline = ValueState("deadline", int)

    def process(self, value: int, ctx: ProcessContext) -> Any:
        before = self.deadline.get()
        if before is not None:
            ctx.delete_event_timer(before)
        if value < 0:
            self.count.clear()
            self.deadline.clear()
            return
        assert ctx.time_ms is not None
        due_ms = max(before or 0, ctx.time_ms + 5)
        self.deadline.update(due_ms)
        self.count.update(self.count.get(0) + value)
        ctx.register_event_timer(due_ms)
        if value > 7:
            yield ctx.key, value

    def on_timer(self, time_ms: int, ctx: ProcessContext) -> Any:
        total = self.count.get()
        self.count.clear()
        self.deadline.clear()
        yield ctx.key, time_ms, total


def sessions_model(events: list[Row | int]) -> Counter[Any]:
    state: dict[Any, tuple[int, int]] = {}
    out: Counter[Any] = Counter()
    for event in events:
        if isinstance(event, int):
            for key, (total, due_ms) in list(state.items()):
                if due_ms <= event:
                    out[(key, due_ms, total), due_ms] += 1
                    del state[key]
            continue
        key, time_ms, value = event
        assert time_ms is not None
        if value < 0:
            state.pop(key, None)
            continue
        total, due_ms = state.get(key, (0, 0))
        state[key] = total + value, max(due_ms, time_ms + 5)
        if value > 7:
            out[(key, value), time_ms] += 1
    return out


rows = st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(-1, 9))
marks = st.integers(0, 70)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.lists(rows, min_size=1, max_size=6), marks), max_size=14), st.data())
def test_results_are_those_of_a_record_by_record_model_for_every_batching_and_restore(
    steps: list[Any], data: st.DataObject
) -> None:
    run = keyed(Sessions)
    flat: list[Any] = []
    for step in steps:
        if isinstance(step, int):
            if step > run.watermark_ms:
                flat.append(step)
                run.watermark(step)
        else:
            flat += step
            run.feed(*step)
        if data.draw(st.booleans()):
            run.restore()
    run.watermark(MAX_TIME)
    assert run.timed() == sessions_model([*flat, MAX_TIME])
    run.close()
