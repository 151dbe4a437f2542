"""Reads one split of a Parquet file: a range of its rows.

Polars decodes a slice of the rows at a time; a slice is turned into records only as far as it is served.
"""

from __future__ import annotations

from typing import Any, Final

import polars

from checkdam.connectors.base import SourceBatch, SplitReader
from checkdam.connectors.files import FileSplit, check_unchanged, reading
from checkdam.connectors.formats import Parquet
from checkdam.connectors.records import RecordType, dictionaries, record_type
from checkdam.core.errors import RecordError, StorageError

_SLICE_ROWS: Final = 65_536


def count_rows(path: str) -> int:
    """How many rows a Parquet file has, from its footer.

    Raises:
        StorageError: it cannot be read or is no Parquet.
    """
    with reading(path):
        try:
            return int(polars.scan_parquet(path, glob=False).select(polars.len()).collect().item())
        except polars.exceptions.PolarsError as error:
            raise StorageError("read", path, f"it is no Parquet file ({error})") from error


class ParquetReader(SplitReader[Any]):
    """The rows of a file, or of a range of it. The position is the number of the next row in the file: ExactlyOnce.

    Args:
        split: What to read; `start` and `stop` count rows.
        fmt: Which columns, and what a record is.
        position: Where to begin; `None` for the start of the split.

    Raises:
        StorageError: the file is gone, unreadable or no longer the one that was found.
        RecordError: it lacks a column.
    """

    def __init__(self, split: FileSplit, fmt: Parquet, position: int | None) -> None:
        check_unchanged(split, appending_is_fine=False)
        self._path = split.path
        self._stop = split.stop if split.stop is not None else count_rows(split.path)
        self._position = split.start if position is None else position
        self._frame = polars.DataFrame()
        self._frame_start = self._position
        self._at_limit = False
        with reading(self._path):
            self._rows = polars.scan_parquet(self._path, glob=False)
            names = self._rows.collect_schema().names()
        self._names, self._make = self._columns(fmt, names)

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[Any] | None:
        if self._position >= self._stop:
            return None
        stop = self._stop if limit is None else min(self._stop, limit)
        self._at_limit = stop <= self._position
        if self._at_limit:
            return SourceBatch([])
        if self._position >= self._frame_start + self._frame.height:
            self._load()
        first = self._position - self._frame_start
        rows = self._frame.slice(first, min(max_records, stop - self._position))
        self._position += rows.height
        return SourceBatch(self._make([rows[name].to_list() for name in self._names]))

    def position(self) -> int:
        return self._position

    def reserve(self, after: Any, records: int) -> int:
        return int(after) + records

    def wait_hint_ms(self) -> int:
        return 10 if self._at_limit else 0

    def _load(self) -> None:
        rows = min(_SLICE_ROWS, self._stop - self._position)
        with reading(self._path):
            try:
                self._frame = self._rows.select(self._names).slice(self._position, rows).collect()
            except polars.exceptions.PolarsError as error:
                raise StorageError("read", self._path, str(error)) from error
        self._frame_start = self._position
        if self._frame.height < rows:
            cause = f"it has no row {self._position + self._frame.height} any more"
            raise StorageError("read", self._path, cause, "input files must not change while a job reads them")

    def _columns(self, fmt: Parquet, names: list[str]) -> tuple[list[str], Any]:
        if fmt.type is None:
            wanted = list(fmt.columns) if fmt.columns is not None else names
            self._require(wanted, names)
            return wanted, dictionaries(wanted)
        record: RecordType = record_type(fmt.type)
        self._require(sorted(record.required), names)
        wanted = [name for name in record.types if name in names]
        return wanted, record.make(wanted)

    def _require(self, wanted: list[str], names: list[str]) -> None:
        missing = [name for name in wanted if name not in names]
        if missing:
            raise RecordError(f"{self._path} has no column {', '.join(missing)}; it has {', '.join(names)}")
