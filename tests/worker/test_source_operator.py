"""A source operator: positions, the watermark over its splits, idleness, the talk with the coordinator, reservations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_kit import Port, Splits

from checkdam.connectors.base import SourceBatch, Split, SplitReader
from checkdam.core.batch import MAX_TIME, MIN_TIME
from checkdam.core.clock import ManualClock
from checkdam.core.errors import PipelineError, UserCodeError
from checkdam.operators.base import OperatorMetrics
from checkdam.operators.source import (
    RESERVE_ANEW_AFTER_MS,
    RESERVE_RECORDS_FIRST,
    SourceOperator,
)
from checkdam.operators.watermarks import Watermarks, bounded_out_of_orderness, from_source, monotonous


class Reading:
    """A source operator in the hands of a test."""

    def __init__(
        self,
        source: Splits,
        watermarks: Watermarks | None = None,
        *,
        at_most_once: bool = False,
        restored: Any = None,
        reserved: dict[str, Any] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.port = Port()
        self.source = SourceOperator(
            "numbers", source, watermarks, self.clock, OperatorMetrics(), self.port, at_most_once=at_most_once
        )
        if restored is not None:
            self.source.restore([restored], reserved or {})
        self.source.start()

    def assign(self, *numbers: int, exhausted: bool = True, more: bool = False) -> None:
        self.source.assign([(f"s{n}", n, None) for n in numbers], exhausted, more)

    def read(self, times: int = 1, most: int = 2) -> list[int]:
        found = []
        for _ in range(times):
            for batch in self.source.read(most):
                found += batch.values
            self.source.advance()
        return found

    @property
    def watermark(self) -> int:
        return self.source.advance()


def test_splits_of_a_concurrent_source_are_read_in_turns_and_positions_survive() -> None:
    source = Splits([1, 2, 3, 4, 5], [10, 20, 30])
    reading = Reading(source, monotonous())
    reading.assign(0, 1)
    first = reading.read(2)
    assert sorted(first) == [1, 2, 10, 20]

    restored = Reading(source, monotonous(), restored=reading.source.snapshot(1))
    restored.assign()
    assert sorted(restored.read(6)) == [3, 4, 5, 30]
    assert restored.source.ended
    assert restored.watermark == MAX_TIME


def test_the_watermark_is_that_of_the_slowest_split() -> None:
    reading = Reading(Splits([1, 2, 3, 100], [10, 20, 30]), bounded_out_of_orderness(5))
    reading.assign(0, 1)
    reading.read(1)
    assert reading.watermark == MIN_TIME, "one split has said nothing yet"
    reading.read(1)
    assert reading.watermark == 2 - 5 - 1


def test_a_restored_watermark_goes_on_from_where_it_was() -> None:
    source = Splits([100, 50, 60, 200], bounded=False, available=2)
    reading = Reading(source, bounded_out_of_orderness(10))
    reading.assign(0)
    reading.read(1)
    assert reading.watermark == 89

    restored = Reading(source, bounded_out_of_orderness(10), restored=reading.source.snapshot(1))
    restored.assign()
    assert restored.watermark == 89


def test_unread_splits_of_a_bounded_source_hold_the_watermark() -> None:
    reading = Reading(Splits([1, 2, 3], [5, 6], concurrent=False), monotonous())
    reading.assign(0, exhausted=False)
    reading.read(1)
    assert reading.watermark == MIN_TIME

    reading.assign()
    assert reading.watermark == 1, "nobody has an unread split any more"


def test_splits_given_out_but_not_begun_hold_the_watermark_too() -> None:
    reading = Reading(Splits([1, 2, 3], [0, 6], concurrent=False), monotonous())
    reading.assign(0, 1)
    reading.read(1)
    assert reading.watermark == MIN_TIME


def test_ordered_splits_hold_the_watermark_at_the_start_of_the_last_one_begun() -> None:
    source = Splits([10, 20, 30], [15, 40], [35, 60], concurrent=False, ordered=True)
    reading = Reading(source, monotonous())
    reading.assign(0, exhausted=False)
    reading.read(2)
    assert reading.watermark == 9, "a later split may begin as soon as this one did"
    reading.read(1)

    reading.assign(1, exhausted=False)
    reading.read(2)
    assert reading.watermark == 14

    restored = Reading(source, monotonous(), restored=reading.source.snapshot(1))
    restored.assign(2)
    assert restored.watermark == MIN_TIME, "the split has said nothing yet; what was reached is in keyed state"
    restored.read(1)
    assert restored.watermark == 59


def test_records_of_ordered_splits_are_never_late() -> None:
    """Splits overlap as far as the promise allows: each begins after the one before it began."""
    contents = [[n * 10 + k for k in range(0, 18, 3)] for n in range(6)]
    reading = Reading(Splits(*contents, concurrent=False, ordered=True), monotonous())
    for number in range(6):
        reading.assign(number, exhausted=number == 5)
        for _ in range(4):
            before = reading.watermark
            assert all(value > before for value in reading.read(1))


@pytest.mark.parametrize("concurrent", [True, False])
def test_an_idle_split_holds_back_nobody_and_an_idle_subtask_says_so(concurrent: bool) -> None:
    source = Splits([1, 2], bounded=False, concurrent=concurrent)
    reading = Reading(source, monotonous().with_idleness("1s"))
    reading.assign(0, more=True)
    reading.read(2)
    assert not reading.source.idle
    assert reading.source.idle_in_ms() == 1000

    reading.clock.advance(1000)
    assert reading.source.idle
    assert reading.source.idle_in_ms() is None
    assert reading.watermark == 1, "it stays"

    source.contents[0].append(3)
    reading.clock.advance(10)
    assert reading.read(1) == [3] or reading.read(1) == [3]
    assert not reading.source.idle


def test_an_empty_assignment_makes_an_unbounded_source_idle_and_ends_a_bounded_one() -> None:
    unbounded, bounded = Reading(Splits(bounded=False), monotonous()), Reading(Splits(), monotonous())
    assert not unbounded.source.idle, "active at first: nothing is known yet"

    unbounded.assign(more=True)
    bounded.assign()

    assert unbounded.source.idle
    assert not unbounded.source.ended
    assert bounded.source.ended


def test_splits_are_asked_for_one_after_another() -> None:
    reading = Reading(Splits([1], [2], concurrent=False))
    assert reading.port.requests == 1
    reading.assign(0, exhausted=False)
    assert reading.port.requests == 1
    reading.read(2)
    assert reading.port.finished == [["s0"]]
    assert reading.port.requests == 2
    reading.assign(1)
    reading.read(2)
    assert reading.port.finished[-1] == ["s0", "s1"]
    assert reading.port.requests == 2, "there is nothing left to ask for"


def test_finished_splits_are_repeated_until_a_checkpoint_holds_them() -> None:
    source = Splits([1], [2], [3], concurrent=False)
    reading = Reading(source)
    reading.assign(0, 1, 2)
    reading.read(2)
    reading.source.snapshot(1)
    reading.read(2)
    reading.source.complete(1)()
    reading.read(2)

    assert reading.port.finished == [["s0"], ["s0", "s1"], ["s1", "s2"]]
    assert source.completed == [{"s1": 0, "s2": 0}]


def test_a_record_without_a_time_is_named() -> None:
    reading = Reading(Splits([1, 2, 3]), monotonous(lambda value: 10 // (value - 2)))
    reading.assign(0)
    with pytest.raises(UserCodeError, match="failed on record 2"):
        reading.read(1, most=3)


def test_watermarks_need_times() -> None:
    class Timeless(Splits):
        def open(self, split: Split, position: Any) -> SplitReader[int]:
            reader = super().open(split, position)
            read = reader.read
            reader.read = lambda most, limit=None: SourceBatch(read(most, limit).values)  # type: ignore
            return reader

    reading = Reading(Timeless([1]), from_source())
    reading.assign(0)
    with pytest.raises(PipelineError, match="carry no times"):
        reading.read(1)


# Reservations (AtMostOnce)


def test_nothing_is_read_before_a_reservation_was_granted() -> None:
    reading = Reading(Splits(list(range(10))), at_most_once=True)
    reading.assign(0)
    assert reading.read(3) == []
    assert reading.port.reservations == [{"s0": RESERVE_RECORDS_FIRST}]

    reading.source.reserved({"s0": 4})
    assert reading.read(3) == [0, 1, 2, 3], "and not past it"
    assert reading.port.reservations[1:] == [{"s0": 4 + RESERVE_RECORDS_FIRST}]


def test_at_most_two_reservations_are_ahead_of_what_was_read() -> None:
    source = Splits(list(range(10**6)), bounded=False, available=0)
    reading = Reading(source, at_most_once=True)
    reading.assign(0)
    granted = 0
    for available in range(0, 300, 3):
        source.available = available
        reading.read(1, most=1)
        if len(reading.port.reservations) > granted:
            reading.source.reserved(reading.port.reservations[granted])
            granted += 1
        reading.clock.advance(1000)

    assert granted == 2, "slow reading does not make reservations run away"


def test_reservations_that_are_used_up_fast_become_longer() -> None:
    source = Splits(list(range(10**6)))
    reading = Reading(source, at_most_once=True)
    reading.assign(0)
    for _ in range(12):
        reading.read(1)
        reading.source.reserved(reading.port.reservations[-1])
        while reading.read(1, most=10**6):
            pass
    last, before = reading.port.reservations[-1]["s0"], reading.port.reservations[-2]["s0"]

    assert last - before > RESERVE_RECORDS_FIRST * 10


def test_a_record_that_is_longer_than_all_reservations_does_not_stop_reading_for_ever() -> None:
    size = RESERVE_RECORDS_FIRST * 3
    reading = Reading(Splits([7, 8, 9], record_size=size), at_most_once=True)
    reading.assign(0)
    found: list[int] = []
    for _ in range(40):
        found += reading.read(1)
        while reading.port.reservations:
            reading.source.reserved(reading.port.reservations.pop(0))
        reading.clock.advance(RESERVE_ANEW_AFTER_MS // 4)

    assert found == [7, 8, 9]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["read", "grant", "crash", "data", "wait", "snapshot"]), max_size=60),
    record_size=st.sampled_from([1, 1000, RESERVE_RECORDS_FIRST * 3]),
    concurrent=st.booleans(),
)
def test_no_record_is_read_twice_and_none_before_its_reservation_is_durable(
    steps: Sequence[str], record_size: int, concurrent: bool
) -> None:
    source = Splits(
        list(range(100)), list(range(100)), bounded=False, available=0, record_size=record_size, concurrent=concurrent
    )
    durable: dict[str, Any] = {}
    reading = Reading(source, at_most_once=True)
    reading.assign(0, 1)
    snapshot = reading.source.snapshot(1)
    seen: set[tuple[int, int]] = set()
    for step in steps:
        if step == "data":
            source.available = (source.available or 0) + 3
        elif step == "wait":
            reading.clock.advance(RESERVE_ANEW_AFTER_MS)
        elif step == "grant" and reading.port.reservations:
            positions = reading.port.reservations.pop(0)
            durable.update(positions)
            reading.source.reserved(positions)
        elif step == "snapshot":
            snapshot = reading.source.snapshot(1)
        elif step == "crash":
            reading = Reading(source, at_most_once=True, restored=snapshot, reserved=durable)
            reading.assign()
        elif step == "read":
            for active in reading.source._active:
                before = len(source.read_positions)
                reading.read(1, most=2)
                del active
                for position in source.read_positions[before:]:
                    split = reading.source._active[reading.source._turn].split.payload
                    assert (split, position) not in seen
                    assert position < durable[f"s{split}"]
                    seen.add((split, position))
