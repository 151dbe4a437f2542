"""The sink of files in a folder, and the functions that users make one with.

::

    json_lines_sink("out/")
    csv_sink("out/", fields=["carrier", "delay"])
    parquet_sink("out/", roll_records=100_000)

Files become visible when the checkpoint completes that they belong to, whole and once. Guarantee: ExactlyOnce.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, get_args

from checkdam.connectors.base import Sink, SinkContext, TwoPhaseWriter
from checkdam.connectors.encoders import CsvEncoder, Encoder, FileFormat, JsonLinesEncoder, ParquetEncoder
from checkdam.connectors.parts import (
    Committable,
    PartFile,
    commit_parts,
    discard_parts,
    from_committables,
    part_name,
    pending_folder,
    remove_pending_folder,
    to_committables,
)
from checkdam.core.errors import StorageError

ROLL_BYTES: Final = 128 << 20
"""About how large a file grows before the next one is begun."""

MOST_UNWRITTEN_BYTES: Final = 64 << 20
"""How much a writer keeps in memory while the disk is full or the folder cannot be written."""

_SUFFIXES: Final[dict[FileFormat, str]] = {"json": ".jsonl", "csv": ".csv", "parquet": ".parquet"}


class FileSink(Sink[Any]):
    """Writes records to files in a folder. Guarantee: ExactlyOnce (two-phase).

    Files are called `<prefix>-<operator>-<subtask>-<epoch>.<attempt>-<counter>.<suffix>`; until they are committed they
    are hidden in `.pending/`. Each checkpoint ends the current file; one without records makes none. While the disk is
    full or the folder cannot be written, checkpoints fail and records wait in memory, up to 64 MiB a writer.

    Args:
        folder: The output folder; made if it does not exist. Links from its `.pending/` into it must be possible, or renames.
        format: `"json"` (a JSON value on each line), `"csv"` or `"parquet"`.
        roll_bytes: About how large a file grows before the next one is begun (Parquet: its rows in memory).
        roll_records: After how many records the next one is begun; `None` for by size only.
        prefix: What file names begin with.
        fields: The columns of CSV files; empty for those of the first record in each file.
        schema: Column → type of Parquet files, where it should not be taken from the records.

    Raises:
        ValueError: an argument is not what it must be.
    """

    two_phase: ClassVar[bool] = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        format: FileFormat = "json",
        *,
        roll_bytes: int = ROLL_BYTES,
        roll_records: int | None = None,
        prefix: str = "part",
        fields: Sequence[str] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        if format not in get_args(FileFormat):
            raise ValueError(f'`format` must be "json", "csv" or "parquet" (got {format!r})')
        if roll_bytes < 1 or (roll_records is not None and roll_records < 1):
            raise ValueError(f"`roll_bytes` and `roll_records` must be at least 1 (got {roll_bytes}, {roll_records})")
        if not prefix or "/" in prefix or prefix[0] in "._":
            raise ValueError(f"`prefix` must be a file name that does not begin with `.` or `_` (got {prefix!r})")
        if fields and format != "csv":
            raise ValueError(f"`fields` is for CSV only (got it for {format!r})")
        if schema is not None and format != "parquet":
            raise ValueError(f"`schema` is for Parquet only (got it for {format!r})")
        self.folder = os.path.abspath(os.fspath(folder))
        self.format: FileFormat = format
        self.prefix = prefix
        self._roll_bytes = roll_bytes
        self._roll_records = roll_records
        self._fields = tuple(fields)
        self._schema = schema

    def open(self, context: SinkContext) -> FileWriter:
        return FileWriter(
            self.folder,
            context,
            self._encoder,
            (self.prefix, _SUFFIXES[self.format]),
            self._roll_bytes,
            self._roll_records,
        )

    def commit(self, committables: list[Any]) -> None:
        commit_parts(from_committables(committables))

    def discard(self, context: SinkContext, keep: list[Any]) -> None:
        discard_parts(self.folder, context, [part.pending for part in from_committables(keep)])

    def _encoder(self) -> Encoder:
        match self.format:
            case "json":
                return JsonLinesEncoder()
            case "csv":
                return CsvEncoder(self._fields)
            case "parquet":
                return ParquetEncoder(self._schema)


class FileWriter(TwoPhaseWriter[Any]):
    """Writes the files of one subtask in one attempt.

    A part is *open* while it takes records, *sealed* once its last byte is known, *finished* when it is on disk. A
    part that cannot be written for now stays sealed, with its bytes in memory, and is tried again at the next chance.

    Args:
        folder: The output folder.
        context: Whose files they are.
        encoder: Makes the encoder of a file.
        naming: Prefix and suffix of file names.
        roll_bytes: From what size a part is sealed.
        roll_records: From how many records; `None` for any.
    """

    def __init__(
        self,
        folder: str,
        context: SinkContext,
        encoder: Callable[[], Encoder],
        naming: tuple[str, str],
        roll_bytes: int,
        roll_records: int | None,
    ) -> None:
        self._folder = folder
        self._context = context
        self._new_encoder = encoder
        self._naming = naming
        self._roll_bytes = roll_bytes
        self._roll_records = roll_records
        self._parts_begun = 0
        self._open: tuple[PartFile, Encoder] | None = None
        self._sealed: list[PartFile] = []
        self._finished: list[Committable] = []

    def write(self, values: list[Any], times: list[int] | None) -> None:
        """Write records.

        Raises:
            ValueTypeError: a record does not fit the format.
            StorageError: the disk has been full or unwritable for too many records, or lost some.
        """
        for sealed in self._sealed:
            sealed.check_usable()
        start = 0
        while start < len(values):
            part, encoder = self._open or self._begin()
            room = len(values) if self._roll_records is None else self._roll_records - part.records
            taken = values[start : start + room] if start or room < len(values) else values
            part.append(encoder.encode(taken))
            part.records += len(taken)
            start += len(taken)
            if part.wants_flush:
                self._try(part.flush)
            too_large = part.size_bytes + encoder.held_bytes() >= self._roll_bytes
            if too_large or (self._roll_records is not None and part.records >= self._roll_records):
                self._seal()
                self._try(self._finish_sealed)

    def prepare(self, checkpoint: int) -> list[Any]:
        """Finish the current files.

        Raises:
            StorageError: it failed; no record is lost, and the next call returns them.
        """
        self._seal()
        self._finish_sealed()
        finished, self._finished = self._finished, []
        return to_committables(finished)

    def close(self) -> None:
        """Remove what no checkpoint can name; what `prepare` returned stays."""
        for part in [*self._sealed, *([self._open[0]] if self._open else [])]:
            part.abandon()
        for committable in self._finished:
            PartFile(committable.pending, committable.final).abandon()
        self._open, self._sealed, self._finished = None, [], []
        remove_pending_folder(self._folder, self._context)

    def _begin(self) -> tuple[PartFile, Encoder]:
        self._open = (PartFile(*self._free_names()), self._new_encoder())
        return self._open

    def _free_names(self) -> tuple[str, str]:
        """The next hidden and final name.

        A job whose checkpoints are gone numbers its attempts from 1 again: names of its former life are left alone.
        """
        prefix, suffix = self._naming
        hidden = pending_folder(self._folder, self._context)
        while True:
            name = part_name(prefix, self._context, self._parts_begun, suffix)
            self._parts_begun += 1
            pending, final = os.path.join(hidden, name), os.path.join(self._folder, name)
            if not os.path.lexists(final) and not os.path.lexists(pending):
                return pending, final

    def _seal(self) -> None:
        if self._open is not None:
            part, encoder = self._open
            part.append(encoder.finish())
            self._open = None
            self._sealed.append(part)

    def _finish_sealed(self) -> None:
        while self._sealed:
            self._finished.append(self._sealed[0].finish())
            del self._sealed[0]

    def _try(self, action: Callable[[], object]) -> None:
        """Do what can as well be done later, unless there is too much to do already."""
        try:
            action()
        except StorageError:
            parts = [*self._sealed, *([self._open[0]] if self._open else [])]
            if sum(part.unwritten_bytes for part in parts) > MOST_UNWRITTEN_BYTES:
                raise


def json_lines_sink(
    folder: str | os.PathLike[str],
    *,
    roll_bytes: int = ROLL_BYTES,
    roll_records: int | None = None,
    prefix: str = "part",
) -> FileSink:
    """Files with a JSON value on each line. See `FileSink`."""
    return FileSink(folder, "json", roll_bytes=roll_bytes, roll_records=roll_records, prefix=prefix)


def csv_sink(
    folder: str | os.PathLike[str],
    *,
    fields: Sequence[str] = (),
    roll_bytes: int = ROLL_BYTES,
    roll_records: int | None = None,
    prefix: str = "part",
) -> FileSink:
    """CSV files with a header line. See `FileSink`."""
    return FileSink(folder, "csv", roll_bytes=roll_bytes, roll_records=roll_records, prefix=prefix, fields=fields)


def parquet_sink(
    folder: str | os.PathLike[str],
    *,
    schema: Mapping[str, Any] | None = None,
    roll_bytes: int = ROLL_BYTES,
    roll_records: int | None = None,
    prefix: str = "part",
) -> FileSink:
    """Parquet files. See `FileSink`."""
    return FileSink(folder, "parquet", roll_bytes=roll_bytes, roll_records=roll_records, prefix=prefix, schema=schema)
