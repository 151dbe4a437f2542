"""Finding input files and opening them, whatever they are compressed with.

A file is described when it is found, by path and size; whoever opens it later can tell that it is no longer the same.
Names that begin with `.` or `_` are taken for files in the making and left alone, as everybody does since Hadoop.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import BinaryIO, Final, cast

import msgspec
import zstandard

from checkdam.core.errors import StorageError


class InputFile(msgspec.Struct, frozen=True):
    """A file as it was found: absolute path and size."""

    path: str
    size_bytes: int


class FileSplit(msgspec.Struct, frozen=True):
    """The part of a file that one reader reads; the payload of a file source's splits.

    Attributes:
        path: The file's absolute path.
        size_bytes: Its size when it was found.
        start: First byte of the range (first row for Parquet).
        stop: End of the range, exclusive; `None` where the whole file is read to its end because it is compressed.
    """

    path: str
    size_bytes: int
    start: int = 0
    stop: int | None = None


def find_files(paths: Sequence[str], watching: bool = False) -> list[InputFile]:
    """The files that `paths` name, in the order of `paths`; those of a folder or a pattern in the order of their names.

    Args:
        paths: Files, folders (searched with all folders below), or patterns such as `logs/**/*.json`.
        watching: Whether it is fine to find nothing yet.

    Raises:
        StorageError: a path does not exist or cannot be read, or nothing was found.
    """
    found: dict[str, InputFile] = {}
    for path in paths:
        with reading(path):
            for name in _names_below(os.path.abspath(path)):
                if name not in found:
                    try:
                        found[name] = InputFile(name, os.stat(name).st_size)
                    except FileNotFoundError:
                        if not watching:
                            raise
    if not found and not watching:
        hint = "check the path; names that begin with `.` or `_` are ignored"
        raise StorageError("read", ", ".join(paths), "there is no input file", hint)
    return list(found.values())


def _names_below(path: str) -> Iterator[str]:
    if os.path.isdir(path):
        yield from _names_in_folder(path)
    elif glob.has_magic(path) and not os.path.exists(path):
        for name in sorted(glob.glob(path, recursive=True)):
            if os.path.isfile(name) and not any(map(_is_in_the_making, _matched_part(path, name))):
                yield name
    else:
        os.stat(path)
        yield path


def _matched_part(pattern: str, name: str) -> list[str]:
    """The folders and the file of `name` that were matched and not spelled out."""
    spelled_out = takewhile(lambda part: not glob.has_magic(part), pattern.split(os.sep))
    return name.split(os.sep)[len(list(spelled_out)) :]


def _names_in_folder(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    names: list[str] = []
    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not _is_in_the_making(name)]
        names += [os.path.join(root, name) for name in files if not _is_in_the_making(name)]
    return sorted(names)


def _is_in_the_making(path: str) -> bool:
    return os.path.basename(path).startswith((".", "_"))


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into a `StorageError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError("read", path, "there is no such file or folder") from error
    except PermissionError as error:
        raise StorageError(
            "read", path, "permission denied", "make it readable for the user that runs the job"
        ) from error
    except (EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise StorageError("read", path, f"its compressed data is damaged or cut short ({error})") from error
    except OSError as error:
        raise StorageError("read", path, error.strerror or str(error)) from error


def check_unchanged(split: FileSplit, appending_is_fine: bool) -> None:
    """Refuse a file that is not the one that was found.

    Args:
        split: What was found.
        appending_is_fine: Whether the file may have grown: the range to read is still the same then.

    Raises:
        StorageError: the file is gone or its size changed.
    """
    with reading(split.path):
        size_bytes = os.stat(split.path).st_size
    if size_bytes < split.size_bytes or (size_bytes > split.size_bytes and not appending_is_fine):
        raise StorageError(
            "read",
            split.path,
            f"it had {split.size_bytes} bytes when it was found and has {size_bytes} now",
            "input files must not change while a job reads them: put the old file back, or start the job over",
        )


def _open_zip(path: str) -> BinaryIO:
    # The archive's file stays open, by reference count, until the member is closed.
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise StorageError("read", path, f"it must hold exactly one file (got {len(members)})", "unpack it")
        return cast(BinaryIO, archive.open(members[0]))


def _open_zst(path: str) -> BinaryIO:
    stored = open(path, "rb")  # noqa: SIM115 (the reader closes it)
    return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True, closefd=True))


_DECOMPRESSORS: Final[dict[str, Callable[[str], BinaryIO]]] = {
    ".gz": lambda path: cast(BinaryIO, gzip.open(path, "rb")),  # noqa: SIM115
    ".bz2": lambda path: cast(BinaryIO, bz2.open(path, "rb")),  # noqa: SIM115
    ".xz": lambda path: cast(BinaryIO, lzma.open(path, "rb")),  # noqa: SIM115
    ".zst": _open_zst,
    ".zip": _open_zip,
}


def is_compressed(path: str) -> bool:
    """Whether the file can only be read from its beginning, judged by its name."""
    return os.path.splitext(path)[1].lower() in _DECOMPRESSORS


def open_stream(path: str) -> BinaryIO:
    """The file's bytes, decompressed; unbuffered, so read it in large blocks.

    Raises:
        StorageError: it cannot be opened; also a .zip with more or less than one file in it.
    """
    opener = _DECOMPRESSORS.get(os.path.splitext(path)[1].lower())
    with reading(path):
        return cast(BinaryIO, open(path, "rb", buffering=0)) if opener is None else opener(path)
