"""The rules of a subtask: what it takes in when, and what goes on in which order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from source_kit import Port, Splits
from worker_kit import Recorder, Slow, Wired

from checkdam.core.batch import MAX_TIME, Batch
from checkdam.core.clock import ManualClock
from checkdam.core.errors import UserCodeError
from checkdam.operators.base import Operator, OperatorMetrics
from checkdam.operators.source import SourceOperator
from checkdam.operators.stateless import SplitOperator, TimestampOperator
from checkdam.operators.watermarks import monotonous
from checkdam.worker.channels import BARRIER, END, IDLE, WATERMARK

# Barriers


def test_an_input_whose_barrier_has_come_is_held_back_until_all_have() -> None:
    wired = Wired([Recorder()], inputs=2)
    wired.control(0, BARRIER, 1)
    wired.data(0, "after")
    wired.data(1, "before")
    wired.run()
    assert wired.take() == [["before"]]
    assert wired.barriers == []

    wired.control(1, BARRIER, 1)
    wired.run()
    assert wired.barriers == [1]
    assert wired.take() == [("barrier", 1), ["after"]]


def test_at_least_once_holds_nothing_back_and_passes_at_the_last_barrier() -> None:
    wired = Wired([Recorder()], inputs=2, aligned=False)
    wired.control(0, BARRIER, 1)
    wired.data(0, "after")
    wired.data(1, "before")
    wired.run()
    assert sorted(wired.take()) == [["after"], ["before"]]

    wired.control(1, BARRIER, 1)
    wired.run()
    assert wired.take() == [("barrier", 1)]


def test_a_higher_barrier_cancels_a_lower_one() -> None:
    wired = Wired([Recorder()], inputs=2)
    wired.control(0, BARRIER, 1)
    wired.data(0, "a")
    wired.control(1, BARRIER, 2)
    wired.data(1, "held for 2")
    wired.run()
    assert wired.take() == [["a"]], "input 0 is released when barrier 2 comes elsewhere"

    wired.control(0, BARRIER, 2)
    wired.run()
    assert wired.barriers == [2]
    assert wired.take() == [("barrier", 2), ["held for 2"]]


def test_an_abort_releases_held_inputs_and_late_barriers_are_dropped() -> None:
    wired = Wired([Recorder()], inputs=2)
    wired.control(0, BARRIER, 3)
    wired.data(0, "a")
    wired.run()
    assert wired.take() == []

    wired.subtask.abort(3)
    wired.control(1, BARRIER, 3)
    wired.control(1, BARRIER, 2)
    wired.data(1, "b")
    wired.run()
    assert sorted(wired.take()) == [["a"], ["b"]]
    assert wired.barriers == []

    for channel in (0, 1):
        wired.control(channel, BARRIER, 4)
    wired.run()
    assert wired.barriers == [4]


def test_inputs_that_have_ended_still_carry_barriers() -> None:
    wired = Wired([Recorder()], inputs=2)
    wired.control(0, END)
    wired.control(0, BARRIER, 1)
    wired.control(1, BARRIER, 1)
    wired.control(1, END)
    wired.control(0, BARRIER, 2)
    wired.control(1, BARRIER, 2)
    wired.run()

    assert wired.barriers == [1, 2]
    assert wired.take() == [("barrier", 1), ("watermark", MAX_TIME), ("end", 0), ("barrier", 2)]
    assert wired.subtask.ended


def test_a_barrier_passes_while_an_output_is_full() -> None:
    wired = Wired([Recorder()], credit_bytes=1)
    for value in range(3):
        wired.data(0, value)
        wired.run()
    assert len(wired.target.queue) == 1
    assert wired.subtask._outputs[0].pending

    wired.inputs[0].queue.clear()
    wired.control(0, BARRIER, 1)
    wired.run()

    assert wired.barriers == [1]
    assert wired.take()[-1] == ("barrier", 1), "behind what is pending"


def test_a_suspended_iterator_takes_no_input_and_no_barrier_until_it_is_exhausted() -> None:
    recorder = Recorder(fire=range(10))
    wired = Wired([recorder], credit_bytes=1)
    wired.control(0, WATERMARK, 100)
    wired.data(0, "later")
    wired.control(0, BARRIER, 1)
    wired.run()
    assert wired.subtask.suspended
    assert len(wired.inputs[0].queue) == 2
    assert wired.barriers == []

    out = []
    while not wired.barriers:
        out += wired.take(1)
        wired.run()
    out += wired.take()
    wired.run()
    out += wired.take()
    assert out == [*([n] for n in range(10)), ("watermark", 100), ["later"], ("barrier", 1)]


# Watermarks


def test_the_watermark_is_the_lowest_of_the_active_inputs() -> None:
    recorder = Recorder()
    wired = Wired([recorder], inputs=3)
    wired.control(0, WATERMARK, 10)
    wired.control(1, WATERMARK, 20)
    wired.run()
    assert wired.take() == []

    wired.control(2, IDLE)
    wired.run()
    assert wired.take() == [("watermark", 10)]

    wired.control(0, WATERMARK, 30)
    wired.run()
    assert wired.take() == [("watermark", 20)]

    wired.control(2, WATERMARK, 5)
    wired.run()
    wired.take()
    wired.control(1, WATERMARK, 40)
    wired.run()
    assert wired.take() == [], "input 2 is back, and behind: time stands still but never goes back"
    assert [mark for mark in recorder.seen if mark[0] == "watermark"] == [("watermark", 10), ("watermark", 20)]


def test_when_all_inputs_are_idle_the_watermark_stays_and_idleness_goes_on() -> None:
    wired = Wired([Recorder()], inputs=2)
    for channel in (0, 1):
        wired.control(channel, WATERMARK, 10)
        wired.control(channel, IDLE)
    wired.run()
    assert wired.take() == [("watermark", 10), ("idle", 0)]
    assert wired.subtask.watermark_ms == 10

    wired.control(0, WATERMARK, 10)
    wired.run()
    assert wired.take() == [("watermark", 10)], "active again, though time has not moved"


def test_the_last_watermark_of_an_input_does_not_let_time_pass_idle_ones() -> None:
    wired = Wired([Recorder()], inputs=2)
    wired.control(1, IDLE)
    wired.control(0, WATERMARK, MAX_TIME)
    wired.run()
    assert wired.take() == [("idle", 0)]
    wired.control(1, WATERMARK, 25)
    wired.control(1, WATERMARK, MAX_TIME)
    wired.run()
    assert [item for item in wired.take() if item[0] == "watermark"][-2:] == [
        ("watermark", 25),
        ("watermark", MAX_TIME),
    ]


def test_an_input_that_has_ended_does_not_let_time_pass_idle_ones() -> None:
    wired = Wired([Recorder()], inputs=2)
    wired.control(0, WATERMARK, 10)
    wired.control(1, WATERMARK, 20)
    wired.control(1, IDLE)
    wired.run()
    wired.control(0, END)
    wired.run()
    assert wired.subtask.watermark_ms < MAX_TIME

    wired.control(1, WATERMARK, 25)
    wired.data(1, "in time")
    wired.run()
    assert wired.take() == [("watermark", 10), ("idle", 0), ("watermark", 10), ("watermark", 25), ["in time"]]


def test_watermarks_made_in_the_middle_reach_the_outputs_without_any_from_above() -> None:
    wired = Wired([Recorder(), TimestampOperator("t", monotonous(lambda value: value)), Recorder()])
    wired.data(0, 100, 200)
    wired.run()

    assert wired.take() == [[100], [200], ("watermark", 199)]


# Ports, side outputs, ends


def test_inputs_are_told_apart_by_their_ports() -> None:
    recorder = Recorder()
    wired = Wired([recorder], inputs=2, ports=[0, 1])
    wired.data(1, "right")
    wired.data(0, "left")
    wired.run()

    assert sorted(recorder.seen) == [(0, ["left"]), (1, ["right"])]


def test_a_side_output_leaves_from_the_middle_of_a_chain_and_without_its_tag() -> None:
    split = SplitOperator("split", lambda value: "odd" if value % 2 else None)
    wired = Wired([Recorder(), split, Recorder()], side=(1, "odd"))
    wired.data(0, 1, 2, 3, 4)
    wired.run()

    assert [batch.tag for _, batch, _ in wired.side_target.queue] == [""]
    assert wired.take() == [[2], [4]]
    assert wired.take(side=True) == [[1], [3]]


def test_the_end_comes_last_and_once() -> None:
    recorder = Recorder(fire=["last"])
    wired = Wired([recorder], inputs=2)
    wired.control(0, END)
    wired.data(1, 1)
    wired.control(1, END)
    wired.run()
    wired.run()

    assert wired.take() == [[1], ["last"], ("watermark", MAX_TIME), ("end", 0)]
    assert recorder.seen == [(0, [1]), ("watermark", MAX_TIME), "end"]


# Operators with records in flight


def test_an_operator_that_takes_no_more_holds_back_data_but_not_barriers() -> None:
    slow = Slow(room=2)
    wired = Wired([slow], inputs=2)
    wired.data(0, 1, 2)
    wired.data(0, 3)
    wired.control(1, BARRIER, 1)
    wired.run(100)
    assert slow.held == [1, 2, 3] or slow.held == [1, 2]

    wired.inputs[0].queue.clear()
    wired.control(0, BARRIER, 1)
    wired.run(100)
    assert wired.barriers == [1]


def test_an_operator_in_the_middle_of_a_chain_is_never_given_more_than_it_takes() -> None:
    slow = Slow(room=3)
    wired = Wired([Recorder(fire=range(20)), slow, Recorder()])
    wired.control(0, WATERMARK, 100)
    out = []
    for _ in range(30):
        wired.run(100)
        out += wired.take()
        slow.finish(1)
    wired.run(100)
    out += wired.take()

    assert slow.most_held == 3
    assert out == [*([n] for n in range(20)), ("watermark", 100)]


def test_the_end_waits_for_what_the_last_words_of_others_have_put_in_flight() -> None:
    class LastWord(Recorder):
        def on_end(self) -> Iterable[Batch]:
            yield Batch(["farewell"])

    slow = Slow(room=5)
    wired = Wired([LastWord(), slow])
    wired.data(0, 1)
    wired.control(0, END)
    wired.run(100)
    assert not wired.subtask.ended

    slow.finish(1)
    wired.run(100)
    assert not wired.subtask.ended, "the farewell is in flight now"

    slow.finish(1)
    wired.run(100)
    assert wired.subtask.ended
    assert wired.take() == [[1], ("watermark", MAX_TIME), ["farewell"], ("end", 0)]


def wired_source(source: Splits, operators: list[Operator], clock: ManualClock, **kwargs: Any) -> Wired:
    reading = SourceOperator("head", source, monotonous().with_idleness("1s"), clock, OperatorMetrics(), Port())
    reading.start()
    reading.assign([(split.id, split.payload, None) for split in source.splits(1)], True, not source.bounded)
    return Wired(operators, source=reading, **kwargs)


def test_a_source_reads_no_more_than_the_operators_behind_it_take() -> None:
    slow = Slow(room=4)
    wired = wired_source(Splits(list(range(50))), [slow], ManualClock(), batch_records=2)
    out = []
    for _ in range(100):
        wired.run(200)
        assert wired.subtask.ended or wired.subtask.next_due_ms() != 0, "nor does it ask again and again"
        out += wired.take()
        slow.finish(1)

    assert slow.most_held <= 4 + 1, "a batch of two is the last that it takes"
    assert [item[0] for item in out if isinstance(item, list)] == list(range(50))
    assert wired.subtask.ended


def test_a_source_that_was_idle_is_active_again_before_its_first_record() -> None:
    source, clock = Splits([5, 4, 6], bounded=False, available=1), ManualClock()
    wired = wired_source(source, [Recorder()], clock)
    wired.run()
    clock.advance(1_000)
    wired.run()
    assert wired.take() == [[5], ("watermark", 4), ("idle", 0)]

    source.available = 2
    clock.advance(10)
    wired.run()
    assert wired.take() == [("watermark", 4), [4]], "though the watermark has not moved"


# Processing time, batch sizes, errors


class Alarm(Recorder):
    """Fires at the times it is given."""

    def __init__(self, *times: int) -> None:
        super().__init__()
        self.times = list(times)

    def next_processing_time(self) -> int | None:
        return self.times[0] if self.times else None

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        while self.times and self.times[0] <= now_ms:
            yield Batch([self.times.pop(0)])


def test_processing_time_timers_fire_when_their_time_has_come() -> None:
    wired = Wired([Alarm(10, 20, 500)])
    wired.run()
    assert wired.take() == []
    assert wired.subtask.next_due_ms() == 10

    wired.clock.advance(20)
    wired.run()
    assert wired.take() == [[10], [20]]
    assert wired.subtask.next_due_ms() == 480


def test_slow_batches_become_smaller_and_fast_ones_grow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns, cost_ns = 0, 1_000_000
    sizes = []

    class Costly(Operator):
        def process(self, batch: Batch, port: int) -> Iterable[Batch]:
            nonlocal now_ns
            now_ns += len(batch) * cost_ns
            sizes.append(len(batch))
            yield Batch(batch.values)

    monkeypatch.setattr("checkdam.worker.subtask.time.perf_counter_ns", lambda: now_ns)
    wired = Wired([Costly()], batch_records=1024)
    for _ in range(10):
        wired.data(0, *range(1024))
    wired.run()
    assert sizes[0] == 1024
    assert max(sizes[-5:]) * cost_ns <= 150_000_000

    cost_ns = 1_000
    for _ in range(10):
        wired.data(0, *range(1024))
    wired.run()
    assert sizes[-1] == 1024


def test_an_error_of_foreign_code_names_the_stage() -> None:
    class Broken(Operator):
        def process(self, batch: Batch, port: int) -> Iterable[Batch]:
            raise ZeroDivisionError("ouch")

    wired = Wired([Broken()])
    wired.data(0, 1)

    with pytest.raises(UserCodeError, match="op0"):
        wired.run()
    wired.close()
