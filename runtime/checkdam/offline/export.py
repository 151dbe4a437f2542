"""Rows as JSON lines and as Parquet.

JSON has fewer values than Python: bytes become base64, times ISO 8601 texts, sets and tuples arrays, the attributes of an object a
JSON object, and a float that is no number the text `NaN`, `Infinity` or `-Infinity`, which readers can tell from `null`.
Parquet has types of its own and needs one for each column, so rows must be alike; both are written in bounded memory.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from checkdam.core.errors import ValueTypeError

_SEQUENCES: Final = (list, tuple, set, frozenset, deque)
_COLUMN_TYPES: Final = (
    *(bool, int, float, str, bytes, decimal.Decimal),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
)
_FRAME_ROWS: Final = 65_536
_MOST_FIELDS: Final = 1_000
"""Dictionaries with more different keys than this are no columns."""


def json_lines(rows: Iterable[msgspec.Struct]) -> Iterator[bytes]:
    """Each row as a line of JSON; fields that do not apply to it are left out."""
    encoder = msgspec.json.Encoder(enc_hook=_plain)
    for row in rows:
        try:
            line = encoder.encode(row)
        except (TypeError, ValueError, OverflowError, RecursionError):  # keys that JSON has not, ints beyond 64 bits
            line = _slow_line(row)
        else:
            if b"null" in line:  # None, or a float that is no number
                line = _slow_line(row)
        yield line + b"\n"


def write_parquet(rows: Iterable[msgspec.Struct], path: Path) -> int:
    """Write rows as a Parquet file, which appears when it is complete; returns how many there were.

    Raises:
        ValueTypeError: They are not alike, so that they make no columns.
        OSError: The file cannot be written.
    """
    import polars

    written, remaining = 0, iter(rows)
    with tempfile.TemporaryDirectory(prefix=".checkdam-parquet-", dir=path.parent) as name:
        parts: list[Path] = []
        while portion := [_named(row, _columnar) for row in islice(remaining, _FRAME_ROWS)]:
            _check_fields(portion)
            parts.append(Path(name) / f"{len(parts)}.parquet")
            try:
                polars.DataFrame(portion, infer_schema_length=None).write_parquet(parts[-1])
            except (polars.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
                raise _no_columns(error) from error
            written += len(portion)
        whole = Path(name) / "whole.parquet"
        if not parts:
            polars.DataFrame().write_parquet(whole)
        else:
            _check_alike([polars.read_parquet_schema(part) for part in parts])
            frames = [polars.scan_parquet(part) for part in parts]
            polars.concat(frames, how="diagonal_relaxed").sink_parquet(whole)
        whole.replace(path)
    return written


def _slow_line(row: msgspec.Struct) -> bytes:
    return json.dumps(_named(row, _plain), allow_nan=False, separators=(",", ":")).encode()


def _named(row: msgspec.Struct, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a row that apply to it, converted."""
    optional = _optional_fields(type(row))
    fields = [(name, getattr(row, name)) for name in row.__struct_fields__]
    return {name: convert(value) for name, value in fields if value is not None or name not in optional}


@lru_cache
def _optional_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The fields that are `None` where they do not apply."""
    return frozenset(field.name for field in msgspec.structs.fields(kind) if field.default is None)


def _plain(value: Any) -> Any:
    """A value of what JSON has."""
    if value is None or isinstance(value, (str, bool)) or type(value) is int:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, _SEQUENCES):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_key_text(key): _plain(item) for key, item in value.items()}
    fields = _fields(value)
    if fields is not None:
        return {name: _plain(item) for name, item in fields.items()}
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        return {name: _plain(item) for name, item in vars(value).items()} if hasattr(value, "__dict__") else repr(value)


def _columnar(value: Any) -> Any:
    """A value of what polars makes columns of."""
    if isinstance(value, enum.Enum):
        return _columnar(value.value)
    if value is None or isinstance(value, _COLUMN_TYPES):
        return value
    if isinstance(value, _SEQUENCES):
        return [_columnar(item) for item in value]
    if isinstance(value, dict):
        return {_key_text(key): _columnar(item) for key, item in value.items()}
    fields = _fields(value)
    if fields is not None:
        return {name: _columnar(item) for name, item in fields.items()}
    return _plain(value)


def _fields(value: Any) -> dict[str, Any] | None:
    """Field → value of a dataclass's or Struct's instance; `None` of anything else."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _key_text(key: Any) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, separators=(",", ":"))


def _check_fields(rows: list[dict[str, Any]]) -> None:
    names: set[str] = set()
    for row in rows:
        if isinstance(row.get("value"), dict):
            names.update(row["value"])
    if len(names) > _MOST_FIELDS:
        raise _no_columns(f"the values are dictionaries with more than {_MOST_FIELDS} different keys")


def _check_alike(schemas: list[dict[str, Any]]) -> None:
    """See that no column is of plain values in one part and nested in another, which polars would make texts of."""
    nested: dict[str, set[bool]] = {}
    for schema in schemas:
        for name, kind in schema.items():
            if kind != "Null":
                nested.setdefault(name, set()).add(bool(kind.is_nested()))
    for name, kinds in nested.items():
        if len(kinds) > 1:
            raise _no_columns(f"`{name}` is a plain value in some rows and has parts in others")


def _no_columns(problem: object) -> ValueTypeError:
    return ValueTypeError(f"the rows cannot be written as Parquet columns: {problem}; write JSON lines instead")
