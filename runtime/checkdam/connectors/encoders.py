"""Records into the bytes of an output file: JSON lines, CSV and Parquet.

An encoder belongs to one file. Dictionaries, dataclasses, Structs and NamedTuples are rows with named columns; what has
no names gets them where the format needs some: a pair is `key` and `value`, anything else that is no tuple is `value`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from checkdam.core.errors import ValueTypeError

FileFormat = Literal["json", "csv", "parquet"]
"""What a file sink writes."""

_FRAME_ROWS: Final = 8_192
_PLAIN: Final = frozenset({str, int, float})


class Encoder(Protocol):
    """Encodes the records of one file."""

    def encode(self, values: list[Any]) -> bytes:
        """The bytes to append for these records; none if they are kept until `finish`.

        Raises:
            ValueTypeError: a record does not fit the format; says which and why.
        """
        ...

    def held_bytes(self) -> int:
        """About how many bytes of records are kept until `finish`."""
        ...

    def finish(self) -> bytes:
        """The file's last bytes. Called once."""
        ...


class JsonLinesEncoder:
    """A JSON value on each line; NamedTuples as objects, other tuples as arrays."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def encode(self, values: list[Any]) -> bytes:
        named = [kind for kind in set(map(type, values)) if _is_named_tuple(kind)]
        if named:
            values = [value._asdict() if type(value) in named else value for value in values]
        try:
            return self._encoder.encode_lines(values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueTypeError(
                f"a record cannot be written as JSON: {error}; map it to plain values first"
            ) from error

    def held_bytes(self) -> int:
        return 0

    def finish(self) -> bytes:
        return b""


class CsvEncoder:
    """A header line and a line for each record. Lists and dictionaries in a field are written as JSON, `None` as nothing.

    Args:
        fields: The columns; empty for those of the first record. Columns that a record lacks are left empty; one
            that it has beyond them is an error.
    """

    def __init__(self, fields: Sequence[str] = ()) -> None:
        self._fields = tuple(fields)
        self._known = frozenset(fields)
        self._header_written = False

    def encode(self, values: list[Any]) -> bytes:
        rows = as_rows(values)
        if not rows:
            return b""
        if not self._fields:
            self._fields = tuple(rows[0])
            self._known = frozenset(self._fields)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._header_written:
            writer.writerow(self._fields)
            self._header_written = True
        fields, known = self._fields, self._known
        for row in rows:
            if not known.issuperset(row):
                extra = ", ".join(sorted(str(name) for name in row if name not in known))
                raise ValueTypeError(
                    f"a record has the field {extra} but the CSV file's columns are {', '.join(fields)}; "
                    "name all columns with `fields=`"
                )
            writer.writerow([_cell(row.get(name)) for name in fields])
        return text.getvalue().encode()

    def held_bytes(self) -> int:
        return 0

    def finish(self) -> bytes:
        return b""


class ParquetEncoder:
    """A Parquet file, compressed with zstd. Its rows are held in memory, as columns, until it is finished.

    Args:
        schema: Column → Python type or polars type, where they should not be taken from the records.
    """

    def __init__(self, schema: Mapping[str, Any] | None = None) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._frames: list[Any] = []
        self._frames_bytes = 0
        self._encoded_rows = 0

    def encode(self, values: list[Any]) -> bytes:
        self._rows += as_rows(values)
        if len(self._rows) >= _FRAME_ROWS:
            self._make_frame()
        return b""

    def held_bytes(self) -> int:
        average = self._frames_bytes / self._encoded_rows if self._encoded_rows else 100
        return self._frames_bytes + int(len(self._rows) * average)

    def finish(self) -> bytes:
        import polars

        if self._rows:
            self._make_frame()
        file = io.BytesIO()
        try:
            polars.concat(self._frames, how="diagonal_relaxed").write_parquet(file)
        except polars.exceptions.PolarsError as error:
            raise _not_columns(error) from error
        return file.getvalue()

    def _make_frame(self) -> None:
        import polars

        try:
            frame = polars.DataFrame(self._rows, schema=self._schema, infer_schema_length=None)
        except (polars.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
            raise _not_columns(error) from error
        self._frames.append(frame)
        self._frames_bytes += int(frame.estimated_size())
        self._encoded_rows += frame.height
        self._rows = []


def _not_columns(error: Exception) -> ValueTypeError:
    return ValueTypeError(f"records cannot be written as Parquet columns: {error}; give their types with `schema=`")


def as_rows(values: list[Any]) -> list[dict[str, Any]]:
    """Each record as a dictionary of its columns.

    Raises:
        ValueTypeError: a plain tuple that is no pair, or a dictionary whose keys are no names.
    """
    kinds = set(map(type, values))
    if kinds == {dict}:
        return values
    as_row = {kind: _row_maker(kind) for kind in kinds}
    return [as_row[type(value)](value) for value in values]


def _row_maker(kind: type) -> Callable[[Any], dict[str, Any]]:
    if issubclass(kind, dict):
        return dict
    if issubclass(kind, msgspec.Struct):
        return msgspec.structs.asdict
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
        if len(names) == 1:
            (name,) = names
            return lambda value: {name: getattr(value, name)}
        fields = operator.attrgetter(*names)
        return lambda value: dict(zip(names, fields(value), strict=True))
    if _is_named_tuple(kind):
        return kind._asdict  # type: ignore[attr-defined,no-any-return]
    return _pair if issubclass(kind, tuple) else lambda value: {"value": value}


def _pair(value: tuple[Any, ...]) -> dict[str, Any]:
    if len(value) != 2:
        raise ValueTypeError(
            f"a tuple of {len(value)} has no column names: {value!r:.200}; map it to a dictionary or a NamedTuple first"
        )
    return {"key": value[0], "value": value[1]}


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _cell(value: Any) -> Any:
    if type(value) in _PLAIN or value is None:
        return value
    try:
        plain = msgspec.to_builtins(value)
    except TypeError as error:
        raise ValueTypeError(f"a field cannot be written as CSV: {error}; map it to plain values first") from error
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()
