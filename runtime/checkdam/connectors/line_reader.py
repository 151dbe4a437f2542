"""Reads one split of a file whose records are lines.

A batch is, as a rule, one block: the reader asks its `LineStream` for as many bytes as a batch of records has had until
now, so a batch is decoded in one go and its position is the block's end. Where a block was cut by the number of records
or by a limit, the position within it is worked out from its lines, and only if somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from checkdam.connectors.base import SourceBatch, SplitReader
from checkdam.connectors.files import FileSplit, check_unchanged, is_compressed
from checkdam.connectors.formats import LineDecoder, LineFormat
from checkdam.connectors.lines import LineStream, first_line, line_ends, line_number
from checkdam.core.errors import RecordError

OnError = Literal["fail", "skip", "side"]
"""What happens to a record that cannot be parsed: the job fails, it is counted and left out, or it goes to a side output."""

PARSE_ERRORS: Final = "parse-errors"
"""The side output that unparsable records go to unless another was named."""

_MOST_BLOCK_BYTES: Final = 4 << 20
_FIRST_GUESS_BYTES: Final = 100.0


class BadRecord(msgspec.Struct, frozen=True):
    """A record that could not be parsed, as it goes to the side output.

    Attributes:
        path: The file.
        offset: Where in the (decompressed) file the record begins, in bytes.
        text: The record; bytes that are not UTF-8 as escapes.
        error: Why it cannot be parsed.
    """

    path: str
    offset: int
    text: str
    error: str


class _Block:
    """A decoded block: items, each a record or, at the indices in `bad`, a line that cannot be parsed."""

    __slots__ = ("_ends", "_quote", "_starts", "bad", "items", "offset", "raw", "served")

    def __init__(self, offset: int, raw: bytes, items: list[Any], quote: bytes | None) -> None:
        self.offset = offset
        self.raw = raw
        self.items = items
        self.bad: dict[int, BadRecord] = {}
        self.served = 0
        self._quote = quote
        self._starts: list[int] | None = None
        self._ends: list[int] | None = None

    def set_spans(self, starts: list[int], ends: list[int]) -> None:
        """Say where each item lies in the block, if it is not one item a line."""
        self._starts, self._ends = starts, ends

    def end_of(self, count: int) -> int:
        """The offset in the file right after the first `count` items."""
        return self.offset + (len(self.raw) if count == len(self.items) else self._all_ends()[count - 1])

    def count_before(self, limit: int) -> int:
        """How many items begin before the offset `limit` in the file."""
        if limit >= self.offset + len(self.raw):
            return len(self.items)
        if self._starts is None:
            self._starts = [0, *self._all_ends()[:-1]]
        return bisect_left(self._starts, limit - self.offset)

    def _all_ends(self) -> list[int]:
        if self._ends is None:
            self._ends = line_ends(self.raw, self._quote)
        return self._ends


class LineReader(SplitReader[Any]):
    """The records of a file, or of a range of it. The position is the offset of the next line in bytes: ExactlyOnce.

    Args:
        split: What to read.
        fmt: How lines become records.
        on_error: What happens to lines that cannot be parsed.
        error_tag: The side output they go to with `on_error="side"`.
        position: Where to begin; `None` for the start of the split.

    Raises:
        StorageError: the file is gone, unreadable or no longer the one that was found.
        RecordError: its header does not fit.
    """

    def __init__(
        self, split: FileSplit, fmt: LineFormat, on_error: OnError, error_tag: str, position: int | None
    ) -> None:
        check_unchanged(split, appending_is_fine=not is_compressed(split.path))
        self._path = split.path
        self._on_error = on_error
        self._error_tag = error_tag
        self._quote = fmt.multiline_quote
        self._position = split.start if position is None else position
        self._decoder, data_start = self._prepare(fmt)
        self._stream = LineStream(split.path, data_start, self._position, split.stop, self._quote)
        self._block: _Block | None = None
        self._ended = False
        self._record_bytes = _FIRST_GUESS_BYTES
        self._hint_ms = 0
        self._skipped = 0
        self._side: list[tuple[str, BadRecord]] = []

    def read(self, max_records: int, limit: Any = None) -> SourceBatch[Any] | None:
        self._hint_ms = 0
        if self._block is None:
            if self._ended:
                return None
            if limit is not None and self._stream.offset >= limit:
                self._hint_ms = 10
                return SourceBatch([])
            self._block = self._next_block(max_records)
            if self._block is None:
                return None if self._ended else SourceBatch([])
        return SourceBatch(self._serve(self._block, max_records, limit))

    def position(self) -> int:
        block = self._block
        return self._position if block is None or not block.served else block.end_of(block.served)

    def reserve(self, after: Any, records: int) -> int:
        return int(after) + max(1, round(records * self._record_bytes))

    def wait_hint_ms(self) -> int:
        return self._hint_ms

    def skipped(self) -> int:
        return self._skipped

    def side_output(self) -> Sequence[tuple[str, Any]]:
        side, self._side = self._side, []
        return side

    def close(self) -> None:
        self._stream.close()

    def _prepare(self, fmt: LineFormat) -> tuple[LineDecoder, int]:
        text_start, line = first_line(self._path, fmt.multiline_quote)
        try:
            decoder = fmt.decoder(line)
        except ValueError as error:
            raise RecordError(f"{self._path}, line 1: {error}") from error
        return decoder, text_start + (len(line) if fmt.has_header else 0)

    def _next_block(self, max_records: int) -> _Block | None:
        # A little less than fits, so that a block seldom holds more records than were asked for.
        want_bytes = int(max_records * self._record_bytes * 0.95)
        taken = self._stream.take(max(1, min(want_bytes, _MOST_BLOCK_BYTES)))
        if taken is None:
            self._ended = True
            return None
        offset, raw = taken
        if not raw:
            return None
        block = self._decode(offset, raw)
        self._record_bytes = len(raw) / max(1, len(block.items))
        return block

    def _serve(self, block: _Block, max_records: int, limit: Any) -> list[Any]:
        start = block.served
        stop = min(len(block.items), start + max_records)
        if limit is not None:
            stop = max(start, min(stop, block.count_before(limit)))
            self._hint_ms = 10 if stop == start else 0
        if stop == len(block.items):
            self._position = block.end_of(stop)
            self._block = None
        block.served = stop
        if block.bad:
            return self._without_bad(block, start, stop)
        return block.items if stop - start == len(block.items) else block.items[start:stop]

    def _without_bad(self, block: _Block, start: int, stop: int) -> list[Any]:
        bad = [block.bad[index] for index in range(start, stop) if index in block.bad]
        if self._on_error == "skip":
            self._skipped += len(bad)
        else:
            self._side += [(self._error_tag, record) for record in bad]
        return [block.items[index] for index in range(start, stop) if index not in block.bad]

    def _decode(self, offset: int, raw: bytes) -> _Block:
        try:
            values = self._decoder.decode_block(raw)
        except ValueError:
            values = None
        return self._decode_by_line(offset, raw) if values is None else _Block(offset, raw, values, self._quote)

    def _decode_by_line(self, offset: int, raw: bytes) -> _Block:
        """The way through a block that holds empty lines or a bad one."""
        block = _Block(offset, raw, [], self._quote)
        starts: list[int] = []
        ends: list[int] = []
        start = 0
        for end in line_ends(raw, self._quote):
            line = raw[start:end].removesuffix(b"\n")
            if not self._decoder.is_blank(line):
                try:
                    block.items.append(self._decoder.decode_line(line))
                except ValueError as error:
                    block.bad[len(block.items)] = self._bad_record(offset + start, line, error)
                    block.items.append(None)
                starts.append(start)
                ends.append(end)
            start = end
        block.set_spans(starts, ends)
        return block

    def _bad_record(self, offset: int, line: bytes, error: ValueError) -> BadRecord:
        text = line.decode("utf-8", errors="backslashreplace")
        if self._on_error == "fail":
            cut = text if len(text) <= 200 else f"{text[:200]}…"
            raise RecordError(f"{self._path}, line {line_number(self._path, offset)}: {error}: {cut!r}") from error
        return BadRecord(self._path, offset, text, str(error))
