"""A source that makes its records up, always the same ones.

Record number i of the whole source is a function of i alone (and of a seed), so a position is a plain index and every
position can be read again: benchmarks, tests and demonstrations get ExactlyOnce and AtMostOnce from it.

The numbers are dealt to the splits in turn, in portions: split s of n gets portions s, s + n, s + 2n, …, so that all
splits move through the numbers, and through event time if that follows them, side by side.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

from checkdam.connectors.base import Source, SourceBatch, Split, SplitReader
from checkdam.core.clock import Clock, SystemClock

PORTION: Final = 4_096
"""How many records one call of a batch function makes, unless a rate asks for fewer."""

_BURST_S: Final = 0.05
_MASK: Final = (1 << 64) - 1


class SeededRandom(random.Random):
    """Randomness as a function of (seed, index): starting over at an index costs next to nothing.

    Everything that `random.Random` offers works (`choice`, `gauss`, `randrange` …); the numbers are splitmix64's.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._state = 0
        super().__init__(seed)

    def start_at(self, index: int) -> None:
        """Forget what was drawn; what is drawn from now on depends on the seed and `index` alone."""
        self._state = _mix(_mix(self._seed & _MASK) ^ (index & _MASK))
        self.gauss_next = None

    def random(self) -> float:
        """A float in [0, 1) with 53 random bits."""
        return (self._next() >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        """An int with `k` random bits."""
        bits = 0
        for _ in range(-(-k // 64)):
            bits = bits << 64 | self._next()
        return bits >> (-k % 64)

    def _next(self) -> int:
        self._state = self._state + 0x9E3779B97F4A7C15 & _MASK
        return _mix(self._state)


def _mix(bits: int) -> int:
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _MASK
    return bits ^ bits >> 31


class GeneratorSource(Source[Any]):
    """Records made by a function of their number. Guarantee: ExactlyOnce; can reserve, so AtMostOnce too.

    Args:
        fn: `fn(index)`, or `fn(index, random)` if a seed is given, makes record number `index`; `None` leaves it out.
            It must depend on nothing but its arguments.
        batch_fn: In place of `fn`, for speed: `batch_fn(start, stop)` makes the list of records `start:stop`, of which
            there must be as many, none of them `None`.
        count: How many numbers there are; `None` for no end.
        splits: How many readers can work at the same time.
        rate_per_second: At most so many records a second, all splits together; without bursts, also after a pause.
        seed: Gives `fn` a `SeededRandom` that has been started at the index.
        timestamps: `timestamps(index)`: the event time of a record in ms, if the watermark strategy takes the source's.
        value_type: The type of the records.
        clock: What the rate is measured by.

    Raises:
        ValueError: an argument is not what it must be.
    """

    can_reserve = True
    concurrent = True

    def __init__(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        batch_fn: Callable[[int, int], list[Any]] | None = None,
        count: int | None = None,
        splits: int = 1,
        rate_per_second: float | None = None,
        seed: int | None = None,
        timestamps: Callable[[int], int] | None = None,
        value_type: Any = None,
        clock: Clock | None = None,
    ) -> None:
        if fn is not None and batch_fn is not None:
            raise ValueError("give either `fn` or `batch_fn`, not both")
        if seed is not None and fn is None:
            raise ValueError("`seed` needs `fn`; a `batch_fn` can seed a generator of its own by `start`")
        if count is not None and count < 0:
            raise ValueError(f"`count` must be 0 or more, or None for no end (got {count})")
        if splits < 1:
            raise ValueError(f"`splits` must be at least 1 (got {splits})")
        if rate_per_second is not None and rate_per_second <= 0:
            raise ValueError(f"`rate_per_second` must be more than 0 (got {rate_per_second})")
        self.bounded = count is not None
        self.count = count
        self.value_type = value_type
        self._splits = splits
        self._rate_per_second = None if rate_per_second is None else rate_per_second / splits
        self._make = _in_portions(batch_fn) if batch_fn is not None else _one_by_one(fn, seed)
        self._portion = self._portion_for_rate() if batch_fn is not None else 1
        self._timestamps = timestamps
        self._clock = SystemClock() if clock is None else clock

    def splits(self, parallelism: int) -> list[Split]:
        parts = [_Deal(index, self._splits, self._portion) for index in range(self._splits)]
        return [Split(str(part.split), msgspec.to_builtins(part)) for part in parts]

    def open(self, split: Split, position: Any) -> SplitReader[Any]:
        deal = msgspec.convert(split.payload, _Deal)
        limiter = None if self._rate_per_second is None else RateLimiter(self._rate_per_second, self._clock)
        return _GeneratorReader(deal, self.count, self._make(), self._timestamps, limiter, position or 0)

    def _portion_for_rate(self) -> int:
        # At a low rate large portions would let one split run far ahead of the others in event time.
        return PORTION if self._rate_per_second is None else min(PORTION, max(1, int(self._rate_per_second * _BURST_S)))


class _Deal(msgspec.Struct, frozen=True):
    """Which numbers a split gets: portions `split`, `split + splits`, … of `portion` numbers each."""

    split: int
    splits: int
    portion: int

    def number(self, position: int) -> int:
        """The number of the split's record at `position`."""
        turn, rest = divmod(position, self.portion)
        return (turn * self.splits + self.split) * self.portion + rest


_Make = Callable[[range, "_Deal", int | None], list[Any]]
"""Makes the records of some numbers; those of a range that lies within a portion, if portions are larger than 1."""


def _one_by_one(fn: Callable[..., Any] | None, seed: int | None) -> Callable[[], _Make]:
    if fn is None:
        raise ValueError("give either `fn` or `batch_fn`")

    def plain() -> _Make:
        return lambda numbers, deal, count: [fn(number) for number in numbers]

    def seeded() -> _Make:
        drawn = SeededRandom(seed or 0)

        def make(numbers: range, deal: _Deal, count: int | None) -> list[Any]:
            values = []
            for number in numbers:
                drawn.start_at(number)
                values.append(fn(number, drawn))
            return values

        return make

    return plain if seed is None else seeded


def _in_portions(batch_fn: Callable[[int, int], list[Any]]) -> Callable[[], _Make]:
    """Calls `batch_fn` for whole portions only, so that what it makes does not depend on where a reader began."""

    def fresh() -> _Make:
        made: list[Any] = []
        made_start = -1

        def make(numbers: range, deal: _Deal, count: int | None) -> list[Any]:
            nonlocal made, made_start
            start = numbers.start // deal.portion * deal.portion
            if start != made_start:
                stop = start + deal.portion if count is None else min(start + deal.portion, count)
                made = batch_fn(start, stop)
                if len(made) != stop - start:
                    raise ValueError(f"`batch_fn({start}, {stop})` must make {stop - start} records (got {len(made)})")
                made_start = start
            return made[numbers.start - start : numbers.stop - start]

        return make

    return fresh


class _GeneratorReader(SplitReader[Any]):
    """Makes the records of one split; the position is the count of numbers that were used up."""

    def __init__(
        self,
        deal: _Deal,
        count: int | None,
        make: _Make,
        timestamps: Callable[[int], int] | None,
        limiter: RateLimiter | None,
        position: int,
    ) -> None:
        self._deal = deal
        self._count = count
        self._make = make
        self._timestamps = timestamps
        self._limiter = limiter
        self._position = position
        self._hint_ms = 0

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[Any] | None:
        first = self._deal.number(self._position)
        if self._count is not None and first >= self._count:
            return None
        numbers = self._numbers(first, max_records if limit is None else min(max_records, limit - self._position))
        self._hint_ms = 10
        if numbers and self._limiter is not None:
            granted = self._limiter.take(len(numbers))
            self._hint_ms = self._limiter.wait_ms()
            numbers = numbers[:granted]
        if not numbers:
            return SourceBatch([])
        self._hint_ms = 0
        made = self._make(numbers, self._deal, self._count)
        self._position += len(numbers)
        values = [value for value in made if value is not None]
        if self._timestamps is None:
            return SourceBatch(values)
        if len(values) == len(made):
            return SourceBatch(values, list(map(self._timestamps, numbers)))
        kept = [number for number, value in zip(numbers, made, strict=True) if value is not None]
        return SourceBatch(values, list(map(self._timestamps, kept)))

    def position(self) -> int:
        return self._position

    def reserve(self, after: Any, records: int) -> int:
        return int(after) + records

    def wait_hint_ms(self) -> int:
        return self._hint_ms

    def _numbers(self, first: int, records: int) -> range:
        deal = self._deal
        if deal.portion == 1:
            numbers = range(first, first + max(0, records) * deal.splits, deal.splits)
        else:
            left_in_portion = deal.portion - self._position % deal.portion
            numbers = range(first, first + max(0, min(records, left_in_portion)))
        if self._count is None or not numbers or numbers[-1] < self._count:
            return numbers
        return range(first, self._count, numbers.step)


class RateLimiter:
    """Grants records at a steady rate. What was not taken in time lapses, save for 50 ms worth of it and one record.

    Args:
        rate_per_second: How many records a second.
        clock: Its monotonic reading is what counts.
    """

    def __init__(self, rate_per_second: float, clock: Clock) -> None:
        self._per_ms = rate_per_second / 1_000
        # One more than lapses, or a rate below one record in 50 ms would lose what comes between two calls.
        self._most = 1 + rate_per_second * _BURST_S
        self._clock = clock
        self._last_ms = clock.monotonic_ms()
        self._granted = 0.0

    def take(self, records: int) -> int:
        """How many of `records` may come now; they count as having come."""
        now_ms = self._clock.monotonic_ms()
        self._granted = min(self._most, self._granted + (now_ms - self._last_ms) * self._per_ms)
        self._last_ms = now_ms
        # A rounding error must not cost a record its millisecond.
        taken = min(records, int(self._granted + 1e-9))
        self._granted -= taken
        return taken

    def wait_ms(self) -> int:
        """In how many ms the next record may come; at least 1."""
        return max(1, math.ceil((1 - self._granted) / self._per_ms - 1e-6))
