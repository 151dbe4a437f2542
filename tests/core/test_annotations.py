"""What functions say that they return."""

from __future__ import annotations

import functools
import operator
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, NewType

import core_samples as samples
import pytest

from checkdam.core.serde import declared_return_type, element_type

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

Pairs = NewType("Pairs", list[tuple[str, int]])


def parse(line: str) -> tuple[str, int]:
    return line, 1


def parse_missing(line: Missing) -> samples.Trade:
    return samples.Trade(str(line), 1.0)


def return_missing(line: str) -> Missing:
    return line


def return_nothing(line: str) -> None:
    del line


def unannotated(line):  # type: ignore[no-untyped-def]
    return line


async def fetch(line: str) -> int:
    return len(line)


@functools.wraps(parse)
def wrapped(*args: Any) -> Any:
    return parse(*args)


@functools.cache
def cached(line: str) -> float:
    return float(line)


class Parser:
    def __call__(self, line: str) -> samples.Quote:
        return samples.Quote(line)

    def method(self, line: str) -> list[Parser]:
        return [self]

    @classmethod
    def from_text(cls, line: str) -> Parser:
        return cls()

    @staticmethod
    def static(line: str) -> int:
        return len(line)


@pytest.mark.parametrize(
    ("function", "declared"),
    [
        (parse, tuple[str, int]),
        (parse_missing, samples.Trade),
        (return_missing, None),
        (return_nothing, NoneType),
        (unannotated, None),
        (fetch, int),
        (wrapped, tuple[str, int]),
        (cached, float),
        (functools.partial(parse, "a"), tuple[str, int]),
        (Parser(), samples.Quote),
        (Parser().method, list[Parser]),
        (Parser.from_text, Parser),
        (Parser.static, int),
        (int, int),
        (samples.Trade, samples.Trade),
        (lambda line: line, None),
        (len, None),
        (str.upper, None),
        (operator.itemgetter(0), None),
        (functools.partial(int), int),
        ("not callable", None),
    ],
)
def test_the_return_type_is_read_wherever_it_is_declared(function: Callable[..., Any], declared: Any) -> None:
    assert declared_return_type(function) == declared


@pytest.mark.parametrize(
    ("declared", "element"),
    [
        (list[int], int),
        (Iterable[tuple[str, int]], tuple[str, int]),
        (Iterator[str], str),
        (Generator[int, None, None], int),
        (AsyncIterator[int], int),
        (set[str], str),
        (tuple[int, ...], int),
        (Annotated[list[int], "some"], int),
        (Pairs, tuple[str, int]),
        (tuple[int, str], None),
        (dict[str, int], None),
        (list, None),
        (str, None),
        (Any, None),
        (None, None),
    ],
    ids=str,
)
def test_the_element_type_of_what_a_function_yields_is_read(declared: Any, element: Any) -> None:
    assert element_type(declared) == element
