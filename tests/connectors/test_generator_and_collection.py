"""Sources that need no files: what they hand out is a function of the position alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.connectors.base import Source
from checkdam.connectors.collection import CollectionSource
from checkdam.connectors.generator import GeneratorSource, RateLimiter, SeededRandom
from checkdam.core.clock import ManualClock


def read_split(source: Source[Any], index: int, max_records: int, every: int = 1_000_000) -> list[Any]:
    """All records of a split, by readers that are replaced after each `every` batches."""
    split = source.splits(1)[index]
    position: Any = None
    values: list[Any] = []
    while True:
        reader = source.open(split, position)
        for _ in range(every):
            batch = reader.read(max_records)
            if batch is None:
                return values
            values += batch.values
        position = reader.position()


def squares(start: int, stop: int) -> list[int]:
    return [number * number for number in range(start, stop)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_the_splits_of_a_generator_share_all_numbers_whatever_the_batches_and_restarts(
    count: int, splits: int, max_records: int, every: int, in_portions: bool
) -> None:
    rate = 100.0 * splits  # portions of five
    clock = _AlwaysLater()
    source = (
        GeneratorSource(batch_fn=squares, count=count, splits=splits, rate_per_second=rate, clock=clock)
        if in_portions
        else GeneratorSource(lambda number: number * number, count=count, splits=splits)
    )
    found = [read_split(source, index, max_records, every) for index in range(splits)]
    assert sorted(value for values in found for value in values) == squares(0, count)
    assert found == [read_split(source, index, 7) for index in range(splits)]


class _AlwaysLater(ManualClock):
    """Time passes whenever somebody looks."""

    def monotonic_ms(self) -> int:
        self.advance(100)
        return super().monotonic_ms()


def test_a_seeded_generator_makes_the_same_record_for_the_same_number() -> None:
    def record(number: int, random: SeededRandom) -> Any:
        return number, random.random(), random.randrange(1000), random.choice("abc"), random.gauss()

    one = GeneratorSource(record, count=50, splits=2, seed=7)
    other = GeneratorSource(record, count=50, splits=2, seed=8)
    assert read_split(one, 1, 3, every=2) == read_split(one, 1, 50)
    assert read_split(one, 0, 50) != read_split(other, 0, 50)


def test_the_seeded_numbers_never_change() -> None:
    random = SeededRandom(42)
    random.start_at(3)
    first = random.getrandbits(64)
    assert (first, random.getrandbits(8)) == (11022221231937569768, 132)
    random.start_at(3)
    assert random.getrandbits(64) == first
    draws = [random.random() for _ in range(2000)]
    assert sum(draws) / 2000 == pytest.approx(0.5, abs=0.03)


def test_a_generator_leaves_out_none_and_gives_times_to_the_rest() -> None:
    source = GeneratorSource(lambda n: None if n % 3 else n, count=8, timestamps=lambda n: n * 10)
    reader = source.open(source.splits(1)[0], None)
    batch = reader.read(100)
    assert batch is not None
    assert (batch.values, batch.times) == ([0, 3, 6], [0, 30, 60])
    assert reader.position() == 8
    full = GeneratorSource(batch_fn=squares, count=3, timestamps=lambda n: n)
    batch = full.open(full.splits(1)[0], 1).read(100)
    assert batch is not None
    assert (batch.values, batch.times) == ([1, 4], [1, 2])


def test_a_batch_function_is_always_called_for_whole_portions() -> None:
    calls: list[tuple[int, int]] = []

    def batch(start: int, stop: int) -> list[int]:
        calls.append((start, stop))
        return list(range(start, stop))

    source = GeneratorSource(batch_fn=batch, count=10_000)
    assert read_split(source, 0, 1000, every=5) == list(range(10_000))
    assert set(calls) == {(0, 4096), (4096, 8192), (8192, 10_000)}
    with pytest.raises(ValueError, match=r"`batch_fn\(0, 5\)` must make 5 records \(got 1\)"):
        read_split(GeneratorSource(batch_fn=lambda start, stop: [1], count=5), 0, 5)


def test_a_generator_reads_up_to_its_limit_and_reserves_by_counting() -> None:
    source = GeneratorSource(lambda n: n)
    reader = source.open(source.splits(1)[0], None)
    assert not source.bounded
    assert reader.reserve(5, 100) == 105
    assert [batch.values for batch in (reader.read(10, 7), reader.read(10, 7)) if batch] == [list(range(7)), []]
    assert reader.wait_hint_ms() > 0


def test_a_rate_is_kept_by_all_splits_together_without_bursts_after_a_pause() -> None:
    clock = ManualClock()
    source = GeneratorSource(lambda n: n, rate_per_second=2000, splits=2, clock=clock)
    readers = [source.open(split, None) for split in source.splits(2)]

    def read() -> int:
        return sum(len(batch.values) for batch in (reader.read(10_000) for reader in readers) if batch)

    assert read() == 0
    for _ in range(100):
        clock.advance(10)
        assert read() == 20
    clock.advance(60_000)
    assert read() == 2 * (50 + 1)  # 50 ms worth of it


def test_slow_rates_lose_nothing_to_rounding_and_say_when_to_come_again() -> None:
    clock = ManualClock()
    limiter = RateLimiter(3, clock)
    granted = 0
    for _ in range(10_000):
        clock.advance(1)
        granted += limiter.take(5)
    assert granted == 30
    assert limiter.wait_ms() == 334
    clock.advance(333)
    assert limiter.take(1) == 0
    clock.advance(1)
    assert limiter.take(1) == 1


def test_wrong_arguments_of_a_generator_are_named() -> None:
    for arguments, message in (
        ({}, "give either"),
        ({"fn": abs, "batch_fn": squares}, "give either"),
        ({"batch_fn": squares, "seed": 1}, "`seed` needs `fn`"),
        ({"fn": abs, "count": -1}, "`count` must"),
        ({"fn": abs, "splits": 0}, "`splits` must"),
        ({"fn": abs, "rate_per_second": 0}, "`rate_per_second` must"),
    ):
        with pytest.raises(ValueError, match=message):
            GeneratorSource(**arguments)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 4))
def test_a_collection_is_handed_out_once_in_order(count: int, splits: int, max_records: int) -> None:
    source = CollectionSource(range(count), splits=splits)
    assert [v for s in range(splits) for v in read_split(source, s, max_records, 1)] == list(range(count))


def test_a_collection_has_times_limits_and_reservations() -> None:
    source = CollectionSource("abcd", times=[1, 2, 3, 4])
    reader = source.open(source.splits(1)[0], 1)
    batch = reader.read(10, 3)
    assert batch is not None
    assert (batch.values, batch.times) == (["b", "c"], [2, 3])
    waiting = reader.read(10, 3)
    assert waiting is not None
    assert waiting.values == []
    assert reader.reserve(3, 10) == 13
    assert reader.read(10, 13) is not None
    assert reader.read(10, 13) is None
    with pytest.raises(ValueError, match="`times` must be as many"):
        CollectionSource([1], times=[])
    with pytest.raises(ValueError, match="`splits` must be"):
        CollectionSource([1], splits=0)
