"""What the bytes of a file mean: text, JSON lines and Parquet (CSV has a module of its own).

A line format makes one `LineDecoder` for each file it reads. The decoder turns whole blocks of lines into records, in as
few calls into C as can be. It promises one record for each line; a block that it cannot keep the promise for is taken
apart line by line, and only then does anybody look for the line that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec


class LineDecoder(Protocol):
    """Turns lines of one file into records."""

    def decode_block(self, block: bytes) -> list[Any] | None:
        """The records of whole lines, one for each line; `None` if this block does not have one for each.

        Raises:
            ValueError: some line cannot be parsed.
        """
        ...

    def decode_line(self, line: bytes) -> Any:
        """The record of a line, given without its line end.

        Raises:
            ValueError: it cannot be parsed; says why.
        """
        ...

    def is_blank(self, line: bytes) -> bool:
        """Whether the line holds no record."""
        ...


class LineFormat(Protocol):
    """A format in which every line is a record."""

    @property
    def value_type(self) -> Any:
        """The records' type, `None` if it is not known."""
        ...

    @property
    def has_header(self) -> bool:
        """Whether the file's first line is no record but says what the records are."""
        ...

    @property
    def multiline_quote(self) -> bytes | None:
        """The quote character if line ends between quotes belong to the record; such files are not split."""
        ...

    def decoder(self, first_line: bytes) -> LineDecoder:
        """A decoder for a file that begins with `first_line`.

        Raises:
            ValueError: the first line is no fitting header; says why.
        """
        ...


@dataclass(frozen=True)
class Text:
    """Lines of text: each is a `str` without its line end (`\\n` or `\\r\\n`); empty lines count.

    Attributes:
        encoding: Any encoding in which a line end is one byte, such as utf-8 or latin-1.
    """

    encoding: str = "utf-8"

    has_header = False
    multiline_quote = None
    value_type = str

    def __post_init__(self) -> None:
        check_encoding(self.encoding)

    def decoder(self, first_line: bytes) -> LineDecoder:
        return _TextDecoder(self.encoding)


class _TextDecoder:
    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def decode_block(self, block: bytes) -> list[Any] | None:
        lines = split_lines(block.decode(self._encoding))
        if b"\r" in block:
            return [line[:-1] if line.endswith("\r") else line for line in lines]
        return lines

    def decode_line(self, line: bytes) -> Any:
        return line.removesuffix(b"\r").decode(self._encoding)

    def is_blank(self, line: bytes) -> bool:
        return False


@dataclass(frozen=True)
class JsonLines:
    """A JSON value on each line; empty lines are passed over.

    Attributes:
        type: What each value must be: a dataclass, `msgspec.Struct`, TypedDict, `dict[str, int]` …; `None` for any JSON.
            A declared type is checked while it is parsed, and is faster than dictionaries.
    """

    type: Any = None

    has_header = False
    multiline_quote = None

    @property
    def value_type(self) -> Any:
        return self.type

    def decoder(self, first_line: bytes) -> LineDecoder:
        return _JsonDecoder(Any if self.type is None else self.type)


class _JsonDecoder:
    def __init__(self, declared: Any) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(declared)

    def decode_block(self, block: bytes) -> list[Any] | None:
        if b"\n\n" in block:
            return None
        values = self._decoder.decode_lines(block)
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        return values if len(values) == lines else None

    def decode_line(self, line: bytes) -> Any:
        return self._decoder.decode(line)

    def is_blank(self, line: bytes) -> bool:
        return not line.strip()


@dataclass(frozen=True)
class Parquet:
    """Rows of a Parquet file, as dictionaries or as the declared type.

    Attributes:
        type: A dataclass, `msgspec.Struct`, NamedTuple or TypedDict whose fields are columns; `None` for dictionaries.
            The columns' values are taken as they are.
        columns: The columns to read; others cost nothing. `None` for all, or for the fields of `type`.
    """

    type: Any = None
    columns: Sequence[str] | None = None

    @property
    def value_type(self) -> Any:
        return self.type


def split_lines(text: str) -> list[str]:
    """The lines of a block, without their line feeds. (`str.splitlines` would also split at form feeds and the like.)"""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def check_encoding(encoding: str) -> None:
    """Refuse encodings in which a line feed is not the one byte 0x0A.

    Raises:
        ValueError: it is such a one, or unknown.
    """
    try:
        fits = "a\n".encode(encoding)[-2:] == b"a\n"
    except LookupError:
        fits = False
    if not fits:
        raise ValueError(f"`encoding` must be one that encodes ASCII as single bytes, such as utf-8 (got {encoding!r})")
