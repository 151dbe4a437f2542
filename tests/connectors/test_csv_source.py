"""CSV files as a source: quoted and multiline fields, types, options, and what does not fit."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest
from file_reading import drain, read_all, read_interrupted, write
from hypothesis import given, settings
from hypothesis import strategies as st

from checkdam.connectors import lines as lines_module
from checkdam.connectors.file_source import csv_files
from checkdam.core.errors import RecordError


@dataclass
class Flight:
    carrier: str
    delay: float | None
    tail: str = "?"


class FlightRow(TypedDict):
    carrier: str
    delay: float | None


class RenamedFlight(msgspec.Struct, rename={"airline": "carrier"}, kw_only=True):
    delay: int | None = None
    airline: str


class Trip(NamedTuple):
    fare: float


CSV = b"year,carrier,delay\n2013,UA,2\n2013,AA,NA\n2014,B6,\n"


def test_csv_records_are_dictionaries_with_typed_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", CSV)
    source = csv_files(path, types={"year": int, "delay": float | None}, null_values=["NA"])
    rows = [
        {"year": 2013, "carrier": "UA", "delay": 2.0},
        {"year": 2013, "carrier": "AA", "delay": None},
        {"year": 2014, "carrier": "B6", "delay": None},
    ]
    assert read_all(source) == read_interrupted(source, 1, 1) == rows
    assert read_all(csv_files(path, types={"year": int}, columns=["delay", "year"], null_values=["NA"])) == [
        {"delay": "2", "year": 2013},
        {"delay": None, "year": 2013},
        {"delay": "", "year": 2014},
    ]
    assert source.value_type == dict[str, float | int | str | None]


def test_csv_records_are_the_declared_type(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", CSV)
    wanted = [("UA", 2.0), ("AA", None), ("B6", None)]
    assert read_all(csv_files(path, types=Flight, null_values=["NA"])) == [Flight(*row) for row in wanted]
    assert read_all(csv_files(path, types=FlightRow, null_values=["NA"])) == [
        {"carrier": carrier, "delay": delay} for carrier, delay in wanted
    ]
    assert read_all(csv_files(path, types=RenamedFlight, null_values=["NA"])) == [
        RenamedFlight(airline=carrier, delay=None if delay is None else int(delay)) for carrier, delay in wanted
    ]
    with pytest.raises(RecordError, match=r"f\.csv, line 1: the file has no column fare"):
        read_all(csv_files(path, types=Trip))


fields = st.text(st.sampled_from('ab,"\r é;'), max_size=4)


def csv_bytes(rows: list[list[str]], line_end: str) -> bytes:
    return "".join(
        ",".join('"' + f.replace('"', '""') + '"' if set(f) & set(',"\r\n') else f for f in row) + line_end
        for row in rows
    ).encode()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(fields, min_size=2, max_size=2), max_size=8), st.integers(1, 40), st.integers(1, 3))
def test_quoted_fields_are_read_in_every_range_and_from_every_position(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], split_bytes: int, max_records: int
) -> None:
    data = csv_bytes([["x", "y"], *rows], "\r\n" if len(rows) % 2 else "\n")
    source = csv_files(write(tmp_path_factory.mktemp("csv") / "a.csv", data), split_bytes=split_bytes)
    records = [{"x": x, "y": y} for x, y in rows]
    assert read_all(source, max_records) == records
    assert read_interrupted(source, max_records, 1) == records


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.text(st.sampled_from('a,"\n'), max_size=5), min_size=2, max_size=2), max_size=8),
    st.integers(1, 3),
    st.lists(st.integers(0, 60), max_size=3),
    st.booleans(),
)
def test_multiline_fields_are_read_whole_from_every_position(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], max_records: int, cuts: list[int], compressed: bool
) -> None:
    data = csv_bytes([["x", "y"], *rows], "\n")
    path = tmp_path_factory.mktemp("csv") / ("a.csv.gz" if compressed else "a.csv")
    source = csv_files(write(path, gzip.compress(data) if compressed else data), multiline=True, split_bytes=5)
    records = [{"x": x, "y": y} for x, y in rows]
    assert read_all(source, max_records) == records
    assert read_interrupted(source, max_records, 1) == records
    (split,) = source.splits(1)
    edges: list[int | None] = [None, *sorted(cuts), None]
    parts = [drain(source.open(split, a), max_records, b) for a, b in pairwise(edges)]
    assert [row for part in parts for row in part] == records


def test_csv_that_does_not_fit_names_file_line_column_and_value(tmp_path: Path) -> None:
    def error_of(data: bytes, **options: Any) -> str:
        with pytest.raises(RecordError) as caught:
            read_all(csv_files(write(tmp_path / "a.csv", data), **options), 100)
        return str(caught.value).removeprefix(str(tmp_path))

    many = b"x,y\n" + b"1,2\n" * 30
    types = {"y": int}
    assert error_of(many + b"1,z\n", types=types) == "/a.csv, line 32: column `y` must be int (got 'z'): '1,z'"
    assert error_of(many + b"1,\n", types=types) == "/a.csv, line 32: column `y` must be int (got ''): '1,'"
    assert error_of(many + b"1\n1,2,3\n") == "/a.csv, line 32: must have 2 fields (got 1): '1'"
    assert "a quoted field does not end on its line; give `multiline=True`" in error_of(b'x,y\n1,"a\nb"\n')
    assert "line 2: is no CSV" in error_of(b'x,y\n1,"a"b\n')
    assert "a quote is never closed" in error_of_unclosed(tmp_path)
    assert "the file has no column q; it has x, y" in error_of(many, columns=["q"])
    assert "the header line is empty" in error_of(b"\n1\n")


def error_of_unclosed(tmp_path: Path) -> str:
    path = write(tmp_path / "u.csv", b'x,y\n1,"a\n' + b"1,2\n" * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "READ_BYTES", 4)
        patch.setattr(lines_module, "MAX_LINE_BYTES", 8)
        with pytest.raises(RecordError) as caught:
            read_all(csv_files(path, multiline=True))
    return str(caught.value)


def test_csv_options_change_delimiter_quote_and_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"'1;2';3\n\n4;5\n")
    source = csv_files(path, names=["a", "b"], delimiter=";", quote="'", types={"b": int})
    assert read_all(source) == [{"a": "1;2", "b": 3}, {"a": "4", "b": 5}]
    single = csv_files(write(tmp_path / "b.csv", b"a\n1\n\n2\n"), types={"a": int})
    assert read_all(single, 100) == [{"a": 1}, {"a": 2}]
    for options in ({"delimiter": "ab"}, {"quote": ""}, {"null_values": "NA"}, {"types": Flight, "columns": ["a"]}):
        with pytest.raises(ValueError, match="must"):
            csv_files(path, **options)
    with pytest.raises(ValueError, match="record type must be a dataclass"):
        csv_files(path, types=int)
