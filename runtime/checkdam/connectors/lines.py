"""A file as blocks of whole lines, from any offset.

Reading line by line costs more than parsing the line. So a `LineStream` hands out blocks that end where a line ends, as
large as the reader wants a batch to be, and decoding and splitting happen once a block. Every offset is one into the
decompressed bytes: exact, and the same for all ways of reading. A line belongs to the range in which its first byte
lies, so ranges of one file can be read by different readers without agreeing on anything but the numbers.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from checkdam.connectors.files import is_compressed, open_stream, reading
from checkdam.core.errors import RecordError, StorageError

READ_BYTES: Final = 1 << 20
"""How much is read from the file at once."""

MAX_LINE_BYTES: Final = 64 << 20
"""A longer line is refused: it could not travel in a frame either."""

_SKIP_BYTES: Final = 4 << 20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class LineStream:
    """The lines of a file that begin in a range of it.

    Args:
        path: The file; compressed ones are read from their beginning up to where the range begins.
        data_start: Offset of the first line that is data: after a byte order mark and a header.
        begin: The first line is the first one that begins at or after this offset, and at or after `data_start`.
        stop: Lines that begin at or after this offset are not read; `None` for the file's end.
        quote: The quote character if line ends between quotes do not end a line.

    Raises:
        StorageError: the file cannot be opened.
    """

    def __init__(self, path: str, data_start: int, begin: int, stop: int | None, quote: bytes | None = None) -> None:
        self._path = path
        self._stop = stop
        self._quote = quote
        self._buffer = b""
        self._cursor = 0
        self._at_file_end = False
        # Where a line begins is known from the byte before it, so the search starts one byte early.
        self._searching = begin > data_start
        self._skip_to = begin - 1 if self._searching else data_start
        self._quotes_seen = 0
        self._file = open_stream(path)
        self._offset = 0
        if quote is None and not is_compressed(path):
            with reading(path):
                self._offset = self._file.seek(self._skip_to)

    @property
    def offset(self) -> int:
        """Where the next block begins."""
        return self._offset

    def take(self, want_bytes: int) -> tuple[int, bytes] | None:
        """The next whole lines, of about `want_bytes` bytes together: never fewer unless the range ends, and at least one line.

        Returns:
            The block's offset and its bytes, with the line ends, of which the file's last line may lack its own;
            no bytes while the stream is still looking for the beginning, so that a long way costs several short calls;
            `None` when the range has ended.

        Raises:
            StorageError: the file cannot be read, is damaged, or ends before the range begins to end.
            RecordError: a line is longer than `MAX_LINE_BYTES`.
        """
        if self._offset < self._skip_to:
            return self._skip()
        if self._searching and not self._find_first_line():
            return None
        while True:
            available = len(self._buffer) - self._cursor
            wanted = want_bytes
            if self._stop is not None:
                # The last line of the range is the one that holds the range's last byte.
                in_range = self._stop - self._offset
                if in_range <= 0:
                    return None
                wanted = min(wanted, in_range)
            if available >= wanted:
                end = self._line_end(self._cursor + wanted - 1, 0)
                if end >= 0:
                    return self._hand_out(end + 1)
            if self._at_file_end:
                self._check_not_cut_short(available)
                return self._hand_out(len(self._buffer)) if available else None
            if available > MAX_LINE_BYTES:
                return self._hand_out(self._end_of_long_line() + 1)
            self._fill(available)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _skip(self) -> tuple[int, bytes] | None:
        with reading(self._path):
            data = self._file.read(min(_SKIP_BYTES, self._skip_to - self._offset))
        if not data:
            return None
        self._offset += len(data)
        if self._quote is not None:
            self._quotes_seen += data.count(self._quote)
        return self._offset, b""

    def _find_first_line(self) -> bool:
        while True:
            end = self._line_end(self._cursor, self._quotes_seen)
            if end >= 0:
                self._hand_out(end + 1)
                self._searching = False
                return True
            if self._quote is not None:
                self._quotes_seen += self._buffer.count(self._quote, self._cursor)
            self._hand_out(len(self._buffer))
            if self._at_file_end:
                return False
            self._fill(0)

    def _line_end(self, index: int, quotes_before: int) -> int:
        """Index of the first line end at or after `index`, −1 if there is none in the buffer."""
        end = self._buffer.find(b"\n", index)
        if self._quote is None or end < 0:
            return end
        quotes = quotes_before + self._buffer.count(self._quote, self._cursor, end)
        while quotes & 1:
            following = self._buffer.find(b"\n", end + 1)
            if following < 0:
                return -1
            quotes += self._buffer.count(self._quote, end + 1, following)
            end = following
        return end

    def _hand_out(self, end: int) -> tuple[int, bytes]:
        offset, cursor = self._offset, self._cursor
        self._offset += end - cursor
        self._cursor = end
        return offset, self._buffer[cursor:end]

    def _end_of_long_line(self) -> int:
        end = self._line_end(self._cursor, 0)
        if end < 0:
            what = "a line is" if self._quote is None else "a record is, or a quote is never closed,"
            raise RecordError(f"{self._path}, byte {self._offset}: {what} longer than {MAX_LINE_BYTES >> 20} MiB")
        return end

    def _fill(self, available: int) -> None:
        with reading(self._path):
            # Doubling keeps the copying of a very long line linear in its length.
            data = self._file.read(max(READ_BYTES, available))
        self._at_file_end = not data
        self._buffer = self._buffer[self._cursor :] + data
        self._cursor = 0

    def _check_not_cut_short(self, available: int) -> None:
        if self._stop is not None and self._offset + available < self._stop:
            raise StorageError(
                "read",
                self._path,
                f"it ends at byte {self._offset + available} but had {self._stop} bytes or more when it was found",
                "input files must not change while a job reads them: put the old file back, or start the job over",
            )


def line_ends(block: bytes, quote: bytes | None = None) -> list[int]:
    """For each line of a block, the offset in it at which the line has ended, line end included."""
    ends = list(accumulate(len(line) + 1 for line in block.split(b"\n")))
    if block.endswith(b"\n"):
        ends.pop()
    else:
        ends[-1] -= 1
    if quote is None or quote not in block:
        return ends
    outside: list[int] = []
    quotes = start = 0
    for end in ends:
        quotes += block.count(quote, start, end)
        start = end
        if quotes & 1 == 0:
            outside.append(end)
    return outside if outside and outside[-1] == ends[-1] else [*outside, ends[-1]]


def first_line(path: str, quote: bytes | None = None) -> tuple[int, bytes]:
    """Where a file's text begins, after a byte order mark, and its first line with its line end; empty for an empty file.

    Raises:
        StorageError: the file cannot be read.
        RecordError: the line is longer than `MAX_LINE_BYTES`.
    """
    stream = LineStream(path, 0, 0, None, quote)
    try:
        block = stream.take(1)
    finally:
        stream.close()
    line = b"" if block is None else block[1]
    return (len(_BYTE_ORDER_MARK), line[3:]) if line.startswith(_BYTE_ORDER_MARK) else (0, line)


def line_number(path: str, offset: int) -> int:
    """The number, from 1, of the line that begins at `offset`. Reads the file up to there: for error messages only."""
    number = 1
    file = open_stream(path)
    try:
        with reading(path):
            while offset > 0:
                data = file.read(min(READ_BYTES, offset))
                if not data:
                    break
                number += data.count(b"\n")
                offset -= len(data)
    finally:
        file.close()
    return number
