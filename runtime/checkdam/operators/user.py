"""Running the user's functions so that an error names the operator, the record and the user's own frames.

Nothing here costs anything per record. A list iterator knows how much is left of it, so after an exception the failing
record is found by subtraction: `call_many` does that for plain functions, `Records` for code that iterates over the
values in its own way, such as an aggregator's `fold`.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Iterator
from operator import length_hint
from pathlib import Path
from typing import Any

from checkdam.core.errors import UserCodeError
from checkdam.core.names import shown

_FOREIGN_FOLDERS = (
    str(Path(__file__).resolve().parents[1]) + os.sep,
    os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep,
)
"""Of Checkdam and of the import system: frames in there are of no use to the user."""


def call_many(operator_id: str, fn: Callable[[Any], Any], values: list[Any]) -> list[Any]:
    """`[fn(value) for value in values]`.

    Raises:
        UserCodeError: `fn` raised; names the operator and the record it was given.
    """
    remaining = iter(values)
    try:
        results = list(map(fn, remaining))
    except Exception as error:
        raise user_error(operator_id, values[len(values) - length_hint(remaining) - 1], error) from error
    if len(results) != len(values):
        # `map` takes a StopIteration that escapes from `fn` for the end of the values.
        raise user_error(operator_id, values[len(results)], StopIteration())
    return results


def extract_times(operator_id: str, extract: Callable[[list[Any]], list[int]], values: list[Any]) -> list[int]:
    """`extract(values)`, the event times of records.

    Raises:
        UserCodeError: It raised; names the operator and the first record whose time cannot be read.
    """
    try:
        return extract(values)
    except Exception as error:
        raise user_error(operator_id, _without_time(extract, values), error) from error


def _without_time(extract: Callable[[list[Any]], list[int]], values: list[Any]) -> Any:
    """The first record whose time cannot be read, found by reading again one by one."""
    for value in values:
        try:
            extract([value])
        except Exception:
            return value
    return values


class Records(list[Any]):
    """Values that remember how far they were read, for code that iterates over them itself."""

    __slots__ = ("_reading",)

    _reading: Iterator[Any] | None

    def __init__(self, values: list[Any]) -> None:
        super().__init__(values)
        self._reading = None

    def __iter__(self) -> Iterator[Any]:
        self._reading = super().__iter__()
        return self._reading

    def current(self) -> Any:
        """The value that the latest iteration handed out last; all values as a list if there is none."""
        if self._reading is None or not self:
            return list(self)
        left = length_hint(self._reading)
        return self[len(self) - left - 1] if left < len(self) else list(self)


def user_error(operator_id: str, record: Any, error: Exception) -> UserCodeError:
    """The error to raise (`from error`) after user code of an operator raised `error` on `record`.

    An error that is a UserCodeError already is given back as it is: it was found closer to its cause.
    """
    if isinstance(error, UserCodeError):
        return error
    return UserCodeError(operator_id, shown(record), user_traceback(error))


def user_traceback(error: BaseException) -> str:
    """The traceback of `error` and of its causes without the frames of Checkdam itself and of the import system."""
    summary = traceback.TracebackException.from_exception(error)
    _drop_foreign_frames(summary)
    return "".join(summary.format()).rstrip("\n")


def _drop_foreign_frames(summary: traceback.TracebackException) -> None:
    frames = [frame for frame in summary.stack if not _is_foreign(frame.filename)]
    summary.stack = traceback.StackSummary.from_list(frames)
    for related in (summary.__cause__, summary.__context__, *(summary.exceptions or ())):
        if related is not None:
            _drop_foreign_frames(related)


def _is_foreign(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or os.path.abspath(filename).startswith(_FOREIGN_FOLDERS)
