"""CSV, read by columns.

Converting a column is one call into C; converting a field is a call for each. So a block of lines becomes columns first,
the columns are converted as their types say, and the records are put together last.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from checkdam.connectors.formats import LineDecoder, check_encoding, split_lines
from checkdam.connectors.records import (
    Columns,
    RecordType,
    dictionaries,
    dictionary_type,
    is_optional,
    record_type,
)


@dataclass(frozen=True)
class Csv:
    """Comma-separated values, a record on each line; empty lines are passed over.

    Attributes:
        types: A mapping from column to type, such as `{"delay": float | None}`, for records that are dictionaries, in
            which other columns are `str`; or a dataclass, `msgspec.Struct`, NamedTuple or TypedDict, whose fields are
            the columns to read. An empty field is `None` where the type allows it.
        columns: The columns to read, for dictionaries; the others are skipped, which is faster. `None` for all.
        names: The columns' names if the file has no header line.
        delimiter: One character.
        quote: One character; doubled within quotes.
        null_values: Texts that mean `None`, such as `NA`; also in columns without a declared type.
        multiline: Whether quoted fields may contain line ends. Such files are not split into ranges; without it, a
            field that goes on in the next line is an error.
        encoding: As for `Text`.
    """

    types: Any = None
    columns: Sequence[str] | None = None
    names: Sequence[str] | None = None
    delimiter: str = ","
    quote: str = '"'
    null_values: Sequence[str] = ()
    multiline: bool = False
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        for option, value in (("delimiter", self.delimiter), ("quote", self.quote)):
            if len(value) != 1 or not value.isascii() or value in "\r\n":
                raise ValueError(f"`{option}` must be one ASCII character (got {value!r})")
        if isinstance(self.null_values, str):
            raise ValueError(f"`null_values` must be a list of texts (got {self.null_values!r})")
        if isinstance(self.types, Mapping) or self.types is None:
            return
        if self.columns is not None:
            raise ValueError("`columns` must not be given together with a record type, whose fields are the columns")
        record_type(self.types)

    @property
    def has_header(self) -> bool:
        return self.names is None

    @property
    def multiline_quote(self) -> bytes | None:
        return self.quote.encode() if self.multiline else None

    @property
    def value_type(self) -> Any:
        if self.types is not None and not isinstance(self.types, Mapping):
            return self.types
        declared = list(self._mapping().values())
        return dictionary_type([*declared, str | None if self.null_values else str])

    def decoder(self, first_line: bytes) -> LineDecoder:
        names = self._names_in(first_line) if self.names is None else list(self.names)
        if not first_line:
            return _CsvDecoder(self, names, [], [], dictionaries([]))
        if self.types is None or isinstance(self.types, Mapping):
            wanted = names if self.columns is None else list(self.columns)
            self._require([*wanted, *self._mapping()], names)
            types = [self._mapping().get(name) for name in wanted]
            return _CsvDecoder(self, names, wanted, types, dictionaries(wanted))
        record: RecordType = record_type(self.types)
        self._require(record.required, names)
        wanted = [name for name in record.types if name in names]
        return _CsvDecoder(self, names, wanted, [record.types[name] for name in wanted], record.make(wanted))

    def _names_in(self, header: bytes) -> list[str]:
        text = header.decode(self.encoding).rstrip("\r\n")
        try:
            names = next(csv.reader([text], delimiter=self.delimiter, quotechar=self.quote), [])
        except csv.Error as error:
            raise ValueError(f"the header line is no CSV: {error}") from error
        if header and not names:
            raise ValueError("the header line is empty; give `names=` if there should be none")
        return names

    def _mapping(self) -> Mapping[str, Any]:
        return self.types if isinstance(self.types, Mapping) else {}

    def _require(self, wanted: Sequence[str] | frozenset[str], names: list[str]) -> None:
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"the file has no column {', '.join(missing)}; it has {', '.join(names)}")


@dataclass(frozen=True)
class _Column:
    """A column to read: where it is and how its texts become values (`None`: they stay as they are)."""

    name: str
    index: int
    declared: Any
    convert: Callable[[Sequence[str]], Sequence[Any]] | None


class _CsvDecoder:
    def __init__(
        self, fmt: Csv, names: list[str], wanted: list[str], types: list[Any], make: Callable[[Columns], list[Any]]
    ) -> None:
        self._format = fmt
        self._names = names
        nulls = frozenset(fmt.null_values)
        self._columns = [
            _Column(name, names.index(name), declared, _converter(declared, nulls))
            for name, declared in zip(wanted, types, strict=True)
        ]
        self._make = make

    def decode_block(self, block: bytes) -> list[Any] | None:
        text = block.decode(self._format.encoding)
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        if self._format.quote not in text:
            return self._decode_unquoted(text)
        lines = None if self._format.multiline else split_lines(text)
        try:
            rows = list(self._rows(io.StringIO(text, newline="") if lines is None else lines))
        except csv.Error:
            return None
        # Fewer rows than lines: a quoted field went on in the next line.
        return self._decode_rows(rows) if lines is None or len(rows) == len(lines) else None

    def decode_line(self, line: bytes) -> Any:
        text = line.decode(self._format.encoding).removesuffix("\r")
        source = io.StringIO(text, newline="") if self._format.multiline else [text]
        try:
            (row,) = self._rows(source)
        except csv.Error as error:
            if "unexpected end of data" in str(error) and not self._format.multiline:
                raise ValueError("a quoted field does not end on its line; give `multiline=True` if it may") from error
            raise ValueError(f"is no CSV: {error}") from error
        if len(row) != len(self._names):
            raise ValueError(f"must have {len(self._names)} fields (got {len(row)})")
        (value,) = self._make([_convert_one(column, row[column.index]) for column in self._columns])
        return value

    def is_blank(self, line: bytes) -> bool:
        return line in (b"", b"\r")

    def _rows(self, lines: Any) -> Any:
        return csv.reader(lines, delimiter=self._format.delimiter, quotechar=self._format.quote, strict=True)

    def _decode_unquoted(self, text: str) -> list[Any] | None:
        """Without quotes, all fields of a block come from one `split`, each `width` fields followed by a mark."""
        if text.endswith("\n"):
            text = text[:-1]
        delimiter, width = self._format.delimiter, len(self._names)
        rows = text.count("\n") + 1
        fields = text.replace("\n", f"{delimiter}\n{delimiter}").split(delimiter)
        stride = width + 1
        if len(fields) != stride * rows - 1 or fields[width::stride].count("\n") != rows - 1:
            return None
        if width == 1 and "" in fields:
            return None
        return self._from_columns([fields[column.index :: stride] for column in self._columns])

    def _decode_rows(self, rows: list[list[str]]) -> list[Any] | None:
        if set(map(len, rows)) != {len(self._names)}:
            return None
        columns = list(zip(*rows, strict=True))
        return self._from_columns([columns[column.index] for column in self._columns])

    def _from_columns(self, texts: Columns) -> list[Any]:
        return self._make(
            [
                values if column.convert is None else column.convert(values)
                for column, values in zip(self._columns, texts, strict=True)
            ]
        )


def _convert_one(column: _Column, text: str) -> Sequence[Any]:
    if column.convert is None:
        return [text]
    try:
        return column.convert([text])
    except ValueError as error:
        expected = getattr(column.declared, "__name__", None) or str(column.declared)
        raise ValueError(f"column `{column.name}` must be {expected} (got {text!r})") from error


def _converter(declared: Any, nulls: frozenset[str]) -> Callable[[Sequence[str]], Sequence[Any]] | None:
    if declared is None:
        return (lambda texts: _with_nulls(texts, nulls)) if nulls else None
    if declared is str:
        return None
    if is_optional(declared):
        nulls |= {""}
    wanted = list[declared]

    def convert(texts: Sequence[str]) -> Sequence[Any]:
        values: list[Any] = msgspec.convert(_with_nulls(texts, nulls), wanted, strict=False)
        return values

    return convert


def _with_nulls(texts: Sequence[str], nulls: frozenset[str]) -> Sequence[str | None]:
    # A handful of searches by identity and length is cheaper than hashing every text.
    if not any(null in texts for null in nulls):
        return texts
    return [None if text in nulls else text for text in texts]
