"""Aggregators: how many values become one.

An aggregator is a pure description with an *accumulator* per key, or per key and window, that lives in keyed state. It
never sees state itself: operators hand it a dictionary of accumulators and a whole batch, so that the built-in ones run
without a Python call per record. Users' own aggregators define `create`, `add`, `merge` and `result`; the batch methods
then have defaults.

Accumulators are numbers, tuples and other values that the job's serialisation can store. Since panes of sliding windows
are merged again and again, `merge` must leave both its arguments as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Generic, TypeVar, cast

from checkdam.core.errors import PipelineError
from checkdam.operators.fields import Field, column, getter

V = TypeVar("V")
A = TypeVar("A")
R = TypeVar("R")


class Missing(Enum):
    """The accumulator before the first value, where no value of the user's own type can stand for it."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class Aggregator(Generic[V, A, R]):
    """How values become an accumulator, and an accumulator a result. Base class for users' own.

    Attributes:
        acc_type: The declared type of accumulators, for storing them compactly and across versions; `None` for
            undeclared, which stores them by pickle where it must.
    """

    acc_type: Any = None

    def create(self) -> A:
        """The accumulator of no values."""
        raise NotImplementedError

    def add(self, acc: A, value: V) -> A:
        """The accumulator with `value` added; may change and return `acc`."""
        raise NotImplementedError

    def merge(self, a: A, b: A) -> A:
        """The accumulator of the values of both; must change neither `a` nor `b`."""
        raise NotImplementedError

    def result(self, acc: A) -> R:
        """What goes downstream; must not be changed by a later `add` to `acc`."""
        raise NotImplementedError

    def fold(self, cells: dict[Any, A], keys: Sequence[Any], values: Sequence[V]) -> None:
        """Add each value to the accumulator of its key; afterwards every key of `keys` has one in `cells`.

        `keys` and `values` are equally long and in order of arrival. Overrides must read `values` in one pass at the
        pace at which they use them, so that an error can name the record.
        """
        create, add = self.create, self.add
        for key, value in zip(keys, values, strict=True):
            cells[key] = add(cells[key] if key in cells else create(), value)

    def absorb(self, cells: dict[Any, A], keys: Sequence[Any], partials: Sequence[A]) -> None:
        """Merge each partial accumulator into that of its key.

        As in `fold` the accumulators in `cells` may be changed, but never a partial, not even one that became an
        accumulator in this call.
        """
        merge = self.merge
        for key, partial in zip(keys, partials, strict=True):
            cells[key] = merge(cells[key], partial) if key in cells else partial

    def results(self, accs: Sequence[A]) -> list[R]:
        """`result` of many accumulators."""
        result = self.result
        return [result(acc) for acc in accs]


class _Count(Aggregator[Any, int, int]):
    acc_type = int

    def create(self) -> int:
        return 0

    def add(self, acc: int, value: Any) -> int:
        return acc + 1

    def merge(self, a: int, b: int) -> int:
        return a + b

    def result(self, acc: int) -> int:
        return acc

    def fold(self, cells: dict[Any, int], keys: Sequence[Any], values: Sequence[Any]) -> None:
        # `Counter.update` counts into any dictionary, in C; `cells` need not be a Counter for it.
        Counter.update(cast("Counter[Any]", cells), keys)

    def absorb(self, cells: dict[Any, int], keys: Sequence[Any], partials: Sequence[int]) -> None:
        known = cells.get
        for key, partial in zip(keys, partials, strict=True):
            cells[key] = known(key, 0) + partial

    def results(self, accs: Sequence[int]) -> list[int]:
        return list(accs)


class _FieldAggregator(Aggregator[Any, A, R]):
    """An aggregator of a field of the records."""

    def __init__(self, name: str, field: Field | None, acc_type: Any) -> None:
        self.acc_type = acc_type
        self._column = column(field, f"`{name}`")
        self._getter = getter(field, f"`{name}`")


class _Sum(_FieldAggregator[Any, Any]):
    def create(self) -> Any:
        return 0

    def add(self, acc: Any, value: Any) -> Any:
        return acc + self._getter(value)

    def merge(self, a: Any, b: Any) -> Any:
        return a + b

    def result(self, acc: Any) -> Any:
        return acc

    def fold(self, cells: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
        known = cells.get
        for key, number in zip(keys, self._column(values), strict=True):
            cells[key] = known(key, 0) + number

    def absorb(self, cells: dict[Any, Any], keys: Sequence[Any], partials: Sequence[Any]) -> None:
        known = cells.get
        for key, partial in zip(keys, partials, strict=True):
            cells[key] = known(key, 0) + partial

    def results(self, accs: Sequence[Any]) -> list[Any]:
        return list(accs)


class _Extreme(_FieldAggregator[Any, Any]):
    """What minimum and maximum share: the accumulator is the extreme value so far."""

    def create(self) -> Any:
        return MISSING

    def result(self, acc: Any) -> Any:
        return None if acc is MISSING else acc

    def results(self, accs: Sequence[Any]) -> list[Any]:
        return list(accs)


class _Min(_Extreme):
    def add(self, acc: Any, value: Any) -> Any:
        return self.merge(acc, self._getter(value))

    def merge(self, a: Any, b: Any) -> Any:
        return b if a is MISSING or (b is not MISSING and b < a) else a

    def fold(self, cells: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
        for key, candidate in zip(keys, self._column(values), strict=True):
            if key not in cells or candidate < cells[key]:
                cells[key] = candidate

    def absorb(self, cells: dict[Any, Any], keys: Sequence[Any], partials: Sequence[Any]) -> None:
        for key, partial in zip(keys, partials, strict=True):
            if key not in cells or partial < cells[key]:
                cells[key] = partial


class _Max(_Extreme):
    def add(self, acc: Any, value: Any) -> Any:
        return self.merge(acc, self._getter(value))

    def merge(self, a: Any, b: Any) -> Any:
        return b if a is MISSING or (b is not MISSING and b > a) else a

    def fold(self, cells: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
        for key, candidate in zip(keys, self._column(values), strict=True):
            if key not in cells or candidate > cells[key]:
                cells[key] = candidate

    def absorb(self, cells: dict[Any, Any], keys: Sequence[Any], partials: Sequence[Any]) -> None:
        for key, partial in zip(keys, partials, strict=True):
            if key not in cells or partial > cells[key]:
                cells[key] = partial


class _Mean(_FieldAggregator[tuple[Any, int], Any]):
    def create(self) -> tuple[Any, int]:
        return 0, 0

    def add(self, acc: tuple[Any, int], value: Any) -> tuple[Any, int]:
        return acc[0] + self._getter(value), acc[1] + 1

    def merge(self, a: tuple[Any, int], b: tuple[Any, int]) -> tuple[Any, int]:
        return a[0] + b[0], a[1] + b[1]

    def result(self, acc: tuple[Any, int]) -> Any:
        return acc[0] / acc[1] if acc[1] else None

    def fold(self, cells: dict[Any, tuple[Any, int]], keys: Sequence[Any], values: Sequence[Any]) -> None:
        known, nothing = cells.get, (0, 0)
        for key, number in zip(keys, self._column(values), strict=True):
            total, seen = known(key, nothing)
            cells[key] = (total + number, seen + 1)

    def results(self, accs: Sequence[tuple[Any, int]]) -> list[Any]:
        return [total / seen for total, seen in accs]


class _Collect(_FieldAggregator[list[Any], list[Any]]):
    def create(self) -> list[Any]:
        return []

    def add(self, acc: list[Any], value: Any) -> list[Any]:
        acc.append(self._getter(value))
        return acc

    def merge(self, a: list[Any], b: list[Any]) -> list[Any]:
        return a + b

    def result(self, acc: list[Any]) -> list[Any]:
        return list(acc)

    def fold(self, cells: dict[Any, list[Any]], keys: Sequence[Any], values: Sequence[Any]) -> None:
        for key, item in zip(keys, self._column(values), strict=True):
            if key in cells:
                cells[key].append(item)
            else:
                cells[key] = [item]

    def absorb(self, cells: dict[Any, list[Any]], keys: Sequence[Any], partials: Sequence[list[Any]]) -> None:
        for key, partial in zip(keys, partials, strict=True):
            if key in cells:
                cells[key] += partial
            else:
                cells[key] = list(partial)


class _Reducing(Aggregator[Any, Any, Any]):
    def __init__(self, fn: Callable[[Any, Any], Any], value_type: Any) -> None:
        if not callable(fn):
            raise PipelineError(f"`reducing(fn)`: must be a function of two values (got {fn!r})")
        self.acc_type = value_type
        self._fn = fn

    def create(self) -> Any:
        return MISSING

    def add(self, acc: Any, value: Any) -> Any:
        return value if acc is MISSING else self._fn(acc, value)

    def merge(self, a: Any, b: Any) -> Any:
        if a is MISSING or b is MISSING:
            return b if a is MISSING else a
        return self._fn(a, b)

    def result(self, acc: Any) -> Any:
        return None if acc is MISSING else acc

    def fold(self, cells: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> None:
        fn = self._fn
        for key, value in zip(keys, values, strict=True):
            cells[key] = fn(cells[key], value) if key in cells else value

    def absorb(self, cells: dict[Any, Any], keys: Sequence[Any], partials: Sequence[Any]) -> None:
        self.fold(cells, keys, partials)

    def results(self, accs: Sequence[Any]) -> list[Any]:
        return list(accs)


class _Combined(Aggregator[Any, tuple[Any, ...], dict[str, Any]]):
    """Several aggregators over the same values; the accumulator is the tuple of theirs."""

    def __init__(self, parts: dict[str, Aggregator[Any, Any, Any]]) -> None:
        for name, part in parts.items():
            if not isinstance(part, Aggregator):
                raise PipelineError(f"`combined({name}=…)` must be an aggregator such as `count()` (got {part!r})")
        if not parts:
            raise PipelineError("`combined()` must be given at least one aggregator, by name (got none)")
        self._names = tuple(parts)
        self._parts = tuple(parts.values())
        types = [part.acc_type for part in self._parts]
        self.acc_type = None if None in types else tuple[tuple(types)]  # type: ignore[misc]

    def create(self) -> tuple[Any, ...]:
        return tuple(part.create() for part in self._parts)

    def add(self, acc: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return tuple(part.add(of_part, value) for part, of_part in zip(self._parts, acc, strict=True))

    def merge(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part.merge(x, y) for part, x, y in zip(self._parts, a, b, strict=True))

    def result(self, acc: tuple[Any, ...]) -> dict[str, Any]:
        results = (part.result(of_part) for part, of_part in zip(self._parts, acc, strict=True))
        return dict(zip(self._names, results, strict=True))

    def fold(self, cells: dict[Any, tuple[Any, ...]], keys: Sequence[Any], values: Sequence[Any]) -> None:
        distinct = dict.fromkeys(keys)
        columns = self._columns(cells, distinct)
        for part, of_part in zip(self._parts, columns, strict=True):
            part.fold(of_part, keys, values)
        self._store(cells, distinct, columns)

    def absorb(self, cells: dict[Any, tuple[Any, ...]], keys: Sequence[Any], partials: Sequence[Any]) -> None:
        distinct = dict.fromkeys(keys)
        columns = self._columns(cells, distinct)
        by_part = zip(*partials, strict=True)
        for part, of_part, part_partials in zip(self._parts, columns, by_part, strict=False):
            part.absorb(of_part, keys, part_partials)
        self._store(cells, distinct, columns)

    def results(self, accs: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        names = self._names
        by_part = [part.results(of_part) for part, of_part in zip(self._parts, zip(*accs, strict=True), strict=False)]
        return [dict(zip(names, row, strict=True)) for row in zip(*by_part, strict=True)]

    def _columns(self, cells: dict[Any, tuple[Any, ...]], distinct: dict[Any, None]) -> list[dict[Any, Any]]:
        """The accumulators of the keys that have some, as one dictionary per part."""
        known = [key for key in distinct if key in cells]
        if not known:
            return [{} for _ in self._parts]
        by_part = zip(*map(cells.__getitem__, known), strict=True)
        return [dict(zip(known, accs, strict=True)) for accs in by_part]

    def _store(
        self, cells: dict[Any, tuple[Any, ...]], distinct: dict[Any, None], columns: list[dict[Any, Any]]
    ) -> None:
        rows = zip(*(map(of_part.__getitem__, distinct) for of_part in columns), strict=True)
        cells.update(zip(distinct, rows, strict=True))


def count() -> Aggregator[Any, int, int]:
    """The number of records."""
    return _Count()


def sum_of(field: Field | None = None, value_type: Any = None) -> Aggregator[Any, Any, Any]:
    """The sum of a field, or of the records themselves.

    Integers are summed exactly, of any size. Floats are added in order of arrival, panes and combined parts one after
    the other: where rounding matters, the last digits may depend on how the stream was cut into batches.

    Args:
        field: A field's name, a function of the record, or `None` for the record itself.
        value_type: The declared type of the sum (such as `int`, then of at most 64 bits, or `float`), for jobs that
            forbid pickle.

    Raises:
        PipelineError: `field` is neither a name nor callable.
    """
    return _Sum("sum", field, value_type)


def min_of(field: Field | None = None, value_type: Any = None) -> Aggregator[Any, Any, Any]:
    """The least value of a field, or of the records; values must be comparable (NaN is not). Arguments as in `sum_of`."""
    return _Min("min", field, value_type)


def max_of(field: Field | None = None, value_type: Any = None) -> Aggregator[Any, Any, Any]:
    """The greatest value of a field, or of the records; values must be comparable (NaN is not). Arguments as in `sum_of`."""
    return _Max("max", field, value_type)


def mean_of(field: Field | None = None, value_type: Any = None) -> Aggregator[Any, tuple[Any, int], Any]:
    """The arithmetic mean of a field, or of the records: their sum, as in `sum_of`, by their number."""
    return _Mean("mean", field, None if value_type is None else tuple[value_type, int])


def collect(field: Field | None = None, value_type: Any = None) -> Aggregator[Any, list[Any], list[Any]]:
    """All values of a field, or all records, as a list in order of arrival. State grows with every record."""
    return _Collect("collect", field, None if value_type is None else list[value_type])


def reducing(fn: Callable[[Any, Any], Any], value_type: Any = None) -> Aggregator[Any, Any, Any]:
    """`fn` over all values, two at a time, from the first value on.

    Args:
        fn: Gives a value of the same type as its two arguments, and changes neither. It must be associative where
            parts are combined: in sliding and session windows.
        value_type: The declared type of the values.

    Raises:
        PipelineError: `fn` is not callable.
    """
    return _Reducing(fn, value_type)


def combined(**parts: Aggregator[Any, Any, Any]) -> Aggregator[Any, tuple[Any, ...], dict[str, Any]]:
    """Several aggregators at once; the result is a dictionary of their results by name.

    Raises:
        PipelineError: None is given, or one is no aggregator.
    """
    return _Combined(parts)
