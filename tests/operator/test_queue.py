"""The work queue: each key once at a time, in order, later where it must be, and jobs in trouble beside the others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_time import ManualTime

from checkdam_operator.queue import QueueLimits, WorkQueue


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


def queue_of(time: ManualTime, workers: int = 2) -> WorkQueue[str]:
    return WorkQueue(workers, clock=time)


def test_keys_come_in_the_order_in_which_they_became_ready(time: ManualTime) -> None:
    queue = queue_of(time, workers=3)
    for key in "cab":
        queue.add(key)
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == ["c", "a", "b", None]


def test_a_key_that_is_added_often_is_looked_at_once(time: ManualTime) -> None:
    queue = queue_of(time)
    queue.add("a")
    queue.add("a")
    queue.add_after("a", 0.0)
    assert queue.depth == 1
    assert queue.take() == "a"
    queue.done("a")
    assert queue.take() is None


def test_a_key_is_never_looked_at_twice_at_once(time: ManualTime) -> None:
    queue = queue_of(time)
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add_after("a", 0.0)
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"
    queue.done("a")
    assert queue.take() is None


def test_a_change_during_a_turn_is_looked_at_after_those_that_wait(time: ManualTime) -> None:
    queue = queue_of(time, workers=1)
    queue.add("busy")
    queue.add("patient")
    assert queue.take() == "busy"
    queue.add("busy")
    queue.done("busy")
    assert queue.take() == "patient"


def test_the_earliest_of_several_delays_counts(time: ManualTime) -> None:
    queue = queue_of(time)
    queue.add_after("a", 5.0)
    queue.add_after("a", 2.0)
    queue.add_after("a", 9.0)
    assert queue.next_due_in_s() == 2.0
    assert queue.take() is None
    time.now += 2.0
    assert queue.take() == "a"
    queue.done("a")
    assert queue.next_due_in_s() is None


def test_a_turn_forgets_delays_that_were_asked_for_before_it_and_keeps_later_ones(time: ManualTime) -> None:
    queue = queue_of(time)
    queue.add_after("a", 5.0)
    queue.add("a")
    assert queue.take() == "a"
    queue.add_after("a", 30.0)
    queue.done("a", again_after_s=60.0)
    assert queue.next_due_in_s() == 30.0
    assert queue.delayed == 1


def test_a_delay_that_ends_during_the_turn_is_looked_at_after_it(time: ManualTime) -> None:
    queue = queue_of(time)
    queue.add("a")
    assert queue.take() == "a"
    queue.add_after("a", 1.0)
    time.now += 2.0
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"


def test_failures_wait_twice_as_long_each_time_up_to_a_limit_and_success_forgets_them(time: ManualTime) -> None:
    queue = queue_of(time)
    waits = []
    queue.add("a")
    for _ in range(10):
        assert queue.take() == "a"
        queue.done("a", failed=True)
        wait_s = queue.next_due_in_s()
        assert wait_s is not None
        waits.append(wait_s)
        time.now += wait_s
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert queue.failures("a") == 10
    assert queue.take() == "a"
    queue.done("a")
    queue.add("a")
    assert queue.take() == "a"
    queue.done("a", failed=True)
    assert queue.next_due_in_s() == 0.25


def test_events_do_not_make_a_failing_key_spin_but_are_heard_after_a_second(time: ManualTime) -> None:
    queue = queue_of(time)
    queue.add("a")
    for _ in range(6):
        assert queue.take() == "a"
        queue.add("a")
        queue.done("a", failed=True)
        assert queue.take() is None
        wait_s = queue.next_due_in_s()
        assert wait_s is not None
        assert wait_s <= 1.0
        time.now += wait_s
    assert queue.failures("a") == 6


def test_jobs_in_trouble_leave_half_of_the_workers_to_the_others(time: ManualTime) -> None:
    queue = queue_of(time, workers=4)
    for number in range(10):
        queue.add(f"bad{number}")
    while (key := queue.take()) is not None:
        queue.done(key, failed=True)
    time.now += 30.0
    assert queue.depth == 10
    assert [queue.take(), queue.take(), queue.take()] == ["bad0", "bad1", None]
    for number in range(3):
        queue.add(f"good{number}")
    assert [queue.take(), queue.take(), queue.take()] == ["good0", "good1", None]
    queue.done("good0")
    assert [queue.take(), queue.take()] == ["good2", None]
    queue.done("bad0", failed=True)
    assert [queue.take(), queue.take()] == ["bad2", None]


def test_a_slow_turn_puts_a_key_among_those_in_trouble_until_a_quick_one(time: ManualTime) -> None:
    queue = WorkQueue[str](2, QueueLimits(slow_turn_s=5.0), clock=time)
    for key in ("slow1", "slow2"):
        queue.add(key)
        assert queue.take() == key
    time.now += 6.0
    queue.done("slow1")
    queue.done("slow2")
    queue.add("slow1")
    queue.add("slow2")
    assert queue.take() == "slow1"
    assert queue.take() is None, "one worker of two is kept for the others"
    queue.done("slow1")
    queue.add("slow1")
    assert {queue.take(), queue.take()} == {"slow1", "slow2"}


def test_the_age_of_the_head_tells_of_workers_that_do_not_come_back_and_not_of_jobs_in_trouble(
    time: ManualTime,
) -> None:
    queue = queue_of(time, workers=1)
    assert queue.head_age_s() == 0.0
    queue.add("a")
    queue.add("b")
    assert queue.take() == "a"
    time.now += 40.0
    assert queue.head_age_s() == 40.0
    queue.done("a", failed=True)
    assert queue.take() == "b"
    time.now += 40.0
    assert queue.depth == 1, "a waits for the worker"
    assert queue.head_age_s() == 0.0


def test_whoever_runs_the_queue_is_told_of_each_key_that_may_be_ready_earlier(time: ManualTime) -> None:
    queue = queue_of(time)
    calls: list[str] = []
    queue.on_change = lambda: calls.append("changed")
    queue.add("a")
    queue.add_after("b", 3.0)
    queue.add_after("b", 1.0)
    assert len(calls) == 3
    queue.add_after("b", 2.0)
    assert len(calls) == 3, "it is due in 1 s already"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc")),
        st.tuples(st.just("after"), st.sampled_from("abc")),
        st.tuples(st.just("take"), st.just("")),
        st.tuples(st.just("done"), st.booleans()),
        st.tuples(st.just("wait"), st.floats(0.0, 10.0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_happens_each_change_is_looked_at_afterwards(steps: list[tuple[str, object]]) -> None:
    time = ManualTime()
    queue = WorkQueue[str](2, clock=time)
    working: list[str] = []
    owed: set[str] = set()
    for step, argument in steps:
        if step == "add":
            queue.add(str(argument))
            owed.add(str(argument))
        elif step == "after":
            queue.add_after(str(argument), 3.0)
        elif step == "take" and (key := queue.take()) is not None:
            assert key not in working
            working.append(key)
            owed.discard(key)
        elif step == "done" and working:
            key = working.pop(0)
            queue.done(key, failed=bool(argument))
        elif step == "wait":
            time.now += float(str(argument))
        assert queue.working == len(working) <= 2
    for _ in range(20):
        for key in working:
            queue.done(key)
        working.clear()
        time.now += 31.0
        while (taken := queue.take()) is not None:
            working.append(taken)
            owed.discard(taken)
    assert not owed
