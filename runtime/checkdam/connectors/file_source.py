"""The source of files and folders, and the functions that users make one with.

::

    json_lines("events/", type=Event)
    csv_files("flights.csv.zip", types={"dep_delay": float | None}, null_values=["NA"])
    text_files("logs/**/*.log.gz")
    parquet_files("trips.parquet", columns=["city", "fare"])

Large files are split into ranges that are read in parallel; compressed ones, and CSV with `multiline`, cannot be.
Guarantee: positions are exact, so a job that reads files can be ExactlyOnce; and AtMostOnce, as positions can be reserved.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from checkdam.connectors.base import Source, Split, SplitReader
from checkdam.connectors.csv_format import Csv
from checkdam.connectors.files import FileSplit, InputFile, find_files, is_compressed
from checkdam.connectors.formats import JsonLines, Parquet, Text
from checkdam.connectors.line_reader import PARSE_ERRORS, LineReader, OnError
from checkdam.core.durations import Duration, to_ms

SPLIT_BYTES: Final = 64 << 20
"""About how large a range of a file is."""

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class FileSource(Source[Any]):
    """Reads the records of files.

    Args:
        paths: A file, a folder (with all folders below), a pattern such as `logs/**/*.json`, or a list of these. Names
            that begin with `.` or `_` are ignored. Files ending in .gz, .zst, .bz2, .xz or .zip (of one file) are
            decompressed.
        fmt: What the files hold.
        watch: Whether to go on looking for new files for ever, and how often (`True` for once a second, or an interval
            as timedelta, `"10s"` or ms). A file is read once, with what it holds when it is found: move files into the
            folder when they are complete, and do not change them. Each is one split.
        split_bytes: About how large the ranges are that a large file is split into.
        on_error: What happens to records that cannot be parsed: `"fail"` the job, naming file and line; `"skip"` and
            count them; or `"side"`: send a `BadRecord` to the side output `error_tag`.
        ordered: The promise that files, in the order of `paths` and within a folder of their names, are ordered in event
            time. Then files that are not read yet do not hold back the watermark.
        error_tag: The name of that side output.

    Raises:
        ValueError: an argument is not what it must be.
    """

    can_reserve = True

    def __init__(
        self,
        paths: Paths,
        fmt: Text | JsonLines | Csv | Parquet,
        *,
        watch: bool | Duration = False,
        split_bytes: int = SPLIT_BYTES,
        on_error: OnError = "fail",
        ordered: bool = False,
        error_tag: str = PARSE_ERRORS,
    ) -> None:
        self.paths = [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(path) for path in paths]
        if not self.paths:
            raise ValueError("`paths` must name at least one file, folder or pattern (got none)")
        if split_bytes < 1:
            raise ValueError(f"`split_bytes` must be at least 1 (got {split_bytes})")
        if on_error not in ("fail", "skip", "side"):
            raise ValueError(f'`on_error` must be "fail", "skip" or "side" (got {on_error!r})')
        self.fmt = fmt
        self.bounded = watch is False
        self.discovery_interval_ms = 0 if watch is False else 1_000 if watch is True else to_ms(watch)
        if not self.bounded and self.discovery_interval_ms < 1:
            raise ValueError(f"`watch` must be an interval of at least 1ms (got {watch!r})")
        self.split_bytes = split_bytes
        self.on_error: OnError = on_error
        self.splits_ordered_in_time = ordered
        self.error_tag = error_tag
        self.value_type = fmt.value_type

    def splits(self, parallelism: int) -> list[Split]:
        found = find_files(self.paths, watching=not self.bounded)
        return [
            Split(f"{part.path}@{part.start}", msgspec.to_builtins(part))
            for file in found
            for part in self._parts(file)
        ]

    def open(self, split: Split, position: Any) -> SplitReader[Any]:
        part = msgspec.convert(split.payload, FileSplit)
        if isinstance(self.fmt, Parquet):
            from checkdam.connectors.parquet_reader import ParquetReader

            return ParquetReader(part, self.fmt, position)
        return LineReader(part, self.fmt, self.on_error, self.error_tag, position)

    def _parts(self, file: InputFile) -> list[FileSplit]:
        if isinstance(self.fmt, Parquet):
            if not self.bounded:
                return [FileSplit(file.path, file.size_bytes)]
            from checkdam.connectors.parquet_reader import count_rows

            end = count_rows(file.path)
            step = max(1, end * self.split_bytes // max(1, file.size_bytes))
        elif is_compressed(file.path):
            return [FileSplit(file.path, file.size_bytes)]
        else:
            end = file.size_bytes
            whole = self.fmt.multiline_quote is not None or not self.bounded
            step = max(1, end) if whole else self.split_bytes
        # Evenly sized, so that no reader is left with a crumb.
        count = max(1, -(-end // step))
        edges = [end * index // count for index in range(count + 1)]
        return [FileSplit(file.path, file.size_bytes, start, stop) for start, stop in pairwise(edges)]


def text_files(
    paths: Paths,
    *,
    encoding: str = "utf-8",
    watch: bool | Duration = False,
    split_bytes: int = SPLIT_BYTES,
    on_error: OnError = "fail",
    ordered: bool = False,
) -> FileSource:
    """Lines of text files, each a `str`. See `Text` and `FileSource`."""
    return FileSource(paths, Text(encoding), watch=watch, split_bytes=split_bytes, on_error=on_error, ordered=ordered)


def json_lines(
    paths: Paths,
    *,
    type: Any = None,
    watch: bool | Duration = False,
    split_bytes: int = SPLIT_BYTES,
    on_error: OnError = "fail",
    ordered: bool = False,
) -> FileSource:
    """The JSON value on each line of files. See `JsonLines` and `FileSource`."""
    return FileSource(paths, JsonLines(type), watch=watch, split_bytes=split_bytes, on_error=on_error, ordered=ordered)


def csv_files(
    paths: Paths,
    *,
    types: Any = None,
    columns: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    quote: str = '"',
    null_values: Sequence[str] = (),
    multiline: bool = False,
    encoding: str = "utf-8",
    watch: bool | Duration = False,
    split_bytes: int = SPLIT_BYTES,
    on_error: OnError = "fail",
    ordered: bool = False,
) -> FileSource:
    """The records of CSV files: dictionaries, or of a declared type. See `Csv` and `FileSource`."""
    fmt = Csv(types, columns, names, delimiter, quote, null_values, multiline, encoding)
    return FileSource(paths, fmt, watch=watch, split_bytes=split_bytes, on_error=on_error, ordered=ordered)


def parquet_files(
    paths: Paths,
    *,
    type: Any = None,
    columns: Sequence[str] | None = None,
    watch: bool | Duration = False,
    split_bytes: int = SPLIT_BYTES,
    ordered: bool = False,
) -> FileSource:
    """The rows of Parquet files: dictionaries, or of a declared type. See `Parquet` and `FileSource`."""
    return FileSource(paths, Parquet(type, columns), watch=watch, split_bytes=split_bytes, ordered=ordered)
