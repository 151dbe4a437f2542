"""Output files that appear whole or not at all, whatever is killed when.

A part is written under a hidden name, in `.pending/<operator>.<subtask>/` of the output folder. When it is finished, its
bytes and its name are on disk; a *committable* remembers both its names. To commit is to link the final name to the file,
which fails if the name is taken and cannot be seen half done, and then to remove the hidden one. Each step can be
repeated: "the final name exists" is success, unless another file has it.

Bytes that could not be written stay in memory, so a full disk can be waited out. The one error that cannot be is a
failing fsync: the kernel may have dropped what it could not write, so the part is broken for good.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

import msgspec

from checkdam.connectors.base import SinkContext
from checkdam.core.errors import StorageError

PENDING: Final = ".pending"
"""The folder of hidden files within the output folder."""

_FLUSH_BYTES: Final = 1 << 20
_CANNOT_LINK: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Committable(msgspec.Struct, frozen=True):
    """A finished file that waits for its checkpoint.

    Attributes:
        pending: Its absolute path now.
        final: Its absolute path once it is committed.
        size_bytes: Its size.
        records: How many records it holds.
    """

    pending: str
    final: str
    size_bytes: int
    records: int


class PartFile:
    """A file that is being written, with the bytes that are not yet in it.

    Nothing touches the disk before `flush`, so an unwritable folder loses no record.

    Args:
        pending: Its hidden path.
        final: Its path once committed.
    """

    def __init__(self, pending: str, final: str) -> None:
        self.pending = pending
        self.final = final
        self.records = 0
        self._unwritten = bytearray()
        self._written_bytes = 0
        self._file: int | None = None
        self._broken: StorageError | None = None

    @property
    def size_bytes(self) -> int:
        """Its size, with what is not written yet."""
        return self._written_bytes + len(self._unwritten)

    @property
    def unwritten_bytes(self) -> int:
        """How many bytes are only in memory."""
        return len(self._unwritten)

    @property
    def wants_flush(self) -> bool:
        """Whether enough has come together to be worth a write."""
        return len(self._unwritten) >= _FLUSH_BYTES

    def append(self, data: bytes) -> None:
        """Add bytes, in memory."""
        self._unwritten += data

    def flush(self) -> None:
        """Write what is in memory. May be called again after it failed.

        Raises:
            StorageError: it failed for now; nothing is lost.
        """
        self.check_usable()
        with _writing(self.pending):
            if self._file is None:
                self._file = _create(self.pending)
            while self._unwritten:
                with memoryview(self._unwritten) as view:
                    written = os.write(self._file, view)
                del self._unwritten[:written]
                self._written_bytes += written

    def finish(self) -> Committable:
        """Write and sync everything and close the file: no crash loses it after that.

        Raises:
            StorageError: it failed; it may be called again, but after a failed fsync to no avail.
        """
        self.flush()
        try:
            with _writing(self.pending):
                if self._file is not None:
                    os.fsync(self._file)
                sync_folder(os.path.dirname(self.pending))
        except StorageError as error:
            self._broken = error
            raise
        self._close()
        return Committable(self.pending, self.final, self._written_bytes, self.records)

    def abandon(self) -> None:
        """Close and remove it. Never raises."""
        self._close()
        with contextlib.suppress(OSError):
            os.unlink(self.pending)

    def check_usable(self) -> None:
        """Raises: StorageError: an earlier fsync failed: the part cannot be finished any more."""
        if self._broken is not None:
            raise StorageError(
                "write",
                self.pending,
                f"an earlier fsync failed ({self._broken.cause}), so it may have lost records",
                "the attempt must start over from its last checkpoint",
            )

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def pending_folder(folder: str, context: SinkContext) -> str:
    """Where a subtask of a sink keeps its hidden files: a folder that no other subtask or operator uses."""
    return os.path.join(folder, PENDING, f"{quote(context.operator_id, safe='')}.{context.subtask}")


def part_name(prefix: str, context: SinkContext, counter: int, suffix: str) -> str:
    """A name that no other part has: of the same operator, subtask, attempt, or any other."""
    return f"{prefix}-{quote(context.operator_id, safe='')}-{context.subtask}-{context.attempt}-{counter:05d}{suffix}"


def commit_parts(parts: Iterable[Committable]) -> None:
    """Make finished parts visible. Idempotent, and safe beside another process that commits the same ones.

    Raises:
        StorageError: it failed for now, or a part is nowhere to be found.
    """
    parts = list(parts)
    for part in parts:
        with _writing(part.final):
            _publish(part)
    for folder in sorted({os.path.dirname(part.final) for part in parts}):
        with _writing(folder):
            sync_folder(folder)
    # Only now: a crash of the machine must not find the hidden name gone and the final one not yet there.
    for part in parts:
        with _writing(part.pending), contextlib.suppress(FileNotFoundError):
            os.unlink(part.pending)


def _publish(part: Committable) -> None:
    try:
        os.link(part.pending, part.final)
    except FileExistsError:
        _check_own(part)
    except FileNotFoundError:
        _check_published(part)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        # No hard links here. The name is this part's alone, so nothing else can be overwritten.
        if os.path.lexists(part.final):
            _check_own(part)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.rename(part.pending, part.final)
        _check_published(part)


def _check_own(part: Committable) -> None:
    """The final name is taken: by this part, when it was committed before, or is it somebody else's?"""
    try:
        same = os.path.samefile(part.pending, part.final)
    except FileNotFoundError:
        return  # the hidden name goes last
    if not same:
        raise StorageError(
            "commit",
            part.final,
            "another file has that name",
            "give each job an output folder of its own; move that file away, and the job goes on",
        )


def _check_published(part: Committable) -> None:
    if not os.path.lexists(part.final):
        raise StorageError(
            "commit",
            part.final,
            f"neither it nor {part.pending} exists any more",
            f"{part.records} records of a checkpoint are lost unless someone moved the file: put it back under either name, or start from a "
            "savepoint that was taken while the job went on: it needs none",
        )


def discard_parts(folder: str, context: SinkContext, keep: Iterable[str]) -> None:
    """Remove the hidden files of earlier attempts of the subtasks that this one inherits from, save those in `keep`.

    Files of this attempt and of later ones stay: whoever asks may be a process that slept while a successor took over.

    Raises:
        StorageError: a file cannot be removed.
    """
    kept = set(keep)
    for former in _inherited_folders(folder, context):
        with _writing(former):
            for name in _names_in(former):
                path = os.path.join(former, name)
                if path not in kept and _attempt_of(name) < _attempt_number(context.attempt):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)


def _inherited_folders(folder: str, context: SinkContext) -> list[str]:
    """Where the subtasks that this one inherits from, itself among them, have kept their hidden files."""
    pending, own = os.path.join(folder, PENDING), quote(context.operator_id, safe="")
    with _writing(pending):
        named = [(name, *name.rpartition(".")) for name in _names_in(pending)]
    return [
        os.path.join(pending, name)
        for name, operator, _, subtask in named
        if operator == own and subtask.isdecimal() and context.inherits(int(subtask))
    ]


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def remove_pending_folder(folder: str, context: SinkContext) -> None:
    """Remove the folders of hidden files that are the subtask's, and the one above them, if they are empty. Never raises."""
    with contextlib.suppress(StorageError):
        for path in (*_inherited_folders(folder, context), os.path.join(folder, PENDING)):
            with contextlib.suppress(OSError):
                os.rmdir(path)


def _attempt_of(name: str) -> tuple[int, ...]:
    # <prefix>-<operator>-<subtask>-<attempt>-<counter><suffix>
    parts = name.rsplit("-", 2)
    return _attempt_number(parts[1]) if len(parts) == 3 else ()


def _attempt_number(attempt: str) -> tuple[int, ...]:
    return tuple(int(number) if number.isdecimal() else 0 for number in attempt.split("."))


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for _ in range(3):
        _make_folder(os.path.dirname(path))
        # An earlier attempt that ends just now may have removed the empty folder.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags, 0o666)
    return os.open(path, flags, 0o666)


def _make_folder(path: str) -> None:
    """Make a folder and those above it, each on disk before anything is put into it."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_folder(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    sync_folder(parent)


def sync_folder(path: str) -> None:
    """Put the names in a folder on disk."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        hints: dict[int | None, str] = {
            errno.ENOSPC: "free space on that disk; the job goes on by itself",
            errno.EDQUOT: "raise the quota; the job goes on by itself",
            errno.EACCES: "make the folder writable for the user that runs the job",
            errno.EROFS: "the file system is mounted read-only; give another folder",
        }
        raise StorageError("write", path, error.strerror or str(error), hints.get(error.errno, "")) from error


def to_committables(parts: Iterable[Committable]) -> list[Any]:
    """As they are stored in a checkpoint."""
    return [msgspec.to_builtins(part) for part in parts]


def from_committables(committables: Iterable[Any]) -> list[Committable]:
    """What `to_committables` made."""
    return [msgspec.convert(committable, Committable) for committable in committables]
