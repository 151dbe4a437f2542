"""How a worker's local files become files of a checkpoint, and come back.

A file goes one of three ways. A *reusable* one, which never changes, is named again if the base of the checkpoint holds
the same bytes, by SHA-256 and size; if not, it is uploaded under `shared/`, where later checkpoints may name it. Small
files travel inside `_metadata`, where they cost no request of their own. All others go into the checkpoint's folder.

Both directions check sizes, and whatever comes back is checked by its SHA-256, so that what a job restores is what it
had, or an error that names the file. Several files are on their way at a time (`transfers`).
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from checkdam.checkpoint.folders import is_own, shared_prefix
from checkdam.checkpoint.manifest import FileHandle, SubtaskSnapshot
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.transfers import Transfers
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, NotFoundError, StorageError

INLINE_LIMIT_BYTES: Final = 16_384
"""Files up to this size are inlined: less than what a request to object storage costs in time."""

INLINE_TOTAL_BYTES: Final = 65_536
"""Bound of what one call of `upload_files` inlines, so that acknowledgements and `_metadata` stay small."""

KnownFiles = Mapping[tuple[str, int], FileHandle]
"""(SHA-256, size) → a file in storage that a checkpoint may name again."""


class LocalFileLike(Protocol):
    """What is uploaded; `state.base.LocalFile` is one."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...

    @property
    def key_group_offsets(self) -> Mapping[int, tuple[int, int]]: ...

    @property
    def reusable(self) -> bool: ...


@dataclass(frozen=True)
class Inlining:
    """What becomes part of `_metadata`.

    Attributes:
        limit_bytes: Files up to this size.
        total_bytes: At most so many bytes in all.
    """

    limit_bytes: int = INLINE_LIMIT_BYTES
    total_bytes: int = INLINE_TOTAL_BYTES


def known_files(snapshots: Iterable[SubtaskSnapshot]) -> dict[tuple[str, int], FileHandle]:
    """The files of a checkpoint's snapshots that lie in storage."""
    return {
        (handle.sha256, handle.size_bytes): handle for snapshot in snapshots for handle in snapshot.files if handle.path
    }


def uploaded_bytes(folder: str, handles: Iterable[FileHandle]) -> int:
    """How much of a checkpoint's files was stored for it, inline bytes included; what it names of its base is not."""
    return sum(handle.size_bytes for handle in handles if not handle.path or is_own(handle.path, folder))


def upload_files(
    storage: Storage,
    folder: str,
    files: Sequence[LocalFileLike],
    *,
    transfers: Transfers,
    prefix: str = "",
    base: KnownFiles | None = None,
    inlining: Inlining = Inlining(),
    cancelled: threading.Event | None = None,
) -> list[FileHandle]:
    """Store a snapshot's files for the checkpoint in `folder`: below it as `<folder>/<prefix><name>`, or shared.

    Blocks; for I/O threads. When it raises, what it had uploaded is deleted again as far as storage lets it.

    Args:
        storage: The job's. Where it is not shared, everything is inlined.
        folder: The checkpoint's, or a savepoint's, which keeps all files to itself.
        files: They may be deleted once this returns.
        transfers: Bounds how many are uploaded at a time.
        prefix: Makes names unique among subtasks, such as `window-0/`.
        base: What may be named again; `None` where nothing is to be shared between checkpoints, not even with later ones.
        inlining: What becomes part of `_metadata`.
        cancelled: Set when nobody wants the files any more.

    Raises:
        CheckpointError: A local file is not as it was described, or it was cancelled.
        StorageError: It could not be stored.
    """
    shared = "" if base is None else shared_prefix(folder)
    handles: list[FileHandle] = []
    uploads: dict[str, LocalFileLike] = {}
    inlined_bytes = 0
    for file in files:
        known = base.get((file.sha256, file.size_bytes)) if base and shared and file.reusable else None
        if known is not None:
            handles.append(_handle(file, path=known.path))
        elif not storage.shared or (
            file.size_bytes <= inlining.limit_bytes and inlined_bytes + file.size_bytes <= inlining.total_bytes
        ):
            inlined_bytes += file.size_bytes
            handles.append(_handle(file, inline=_read_local(file)))
        else:
            path = f"{shared}{uuid.uuid4().hex}" if shared and file.reusable else f"{folder}/{prefix}{file.name}"
            uploads[path] = file
            handles.append(_handle(file, path=path))
    try:
        transfers.run([partial(_upload, storage, path, file) for path, file in uploads.items()], cancelled)
    except BaseException:
        discard(storage, uploads)
        raise
    return handles


def discard(storage: Storage, paths: Iterable[str]) -> None:
    """Delete uploads of a checkpoint that is given up; what storage refuses to delete now, the sweep finds later."""
    try:
        storage.delete(paths)
    except StorageError:
        pass


def fetch_files(storage: Storage, wanted: Sequence[tuple[FileHandle, Path]], transfers: Transfers) -> None:
    """As `fetch_file`, for many, several at a time; what came before an error stays."""
    for handle, local in wanted:
        if handle.inline is not None:
            fetch_file(storage, handle, local)
    # The largest first: the last one to come should not be one that takes long.
    stored = sorted((pair for pair in wanted if pair[0].inline is None), key=lambda pair: -pair[0].size_bytes)
    transfers.run([partial(fetch_file, storage, handle, local) for handle, local in stored])


def fetch_file(storage: Storage, handle: FileHandle, local: Path) -> None:
    """Bring a file of a checkpoint to `local`, which does not exist yet, and verify it.

    Raises:
        CorruptCheckpointError: It is missing or not what the checkpoint says; `local` does not exist then.
        StorageError: Storage failed.
    """
    if handle.inline is not None:
        with local.open("xb") as file:
            file.write(handle.inline)
    else:
        try:
            storage.fetch(handle.path, local)
        except NotFoundError as error:
            raise CorruptCheckpointError(f"{_where(storage, handle)} is missing; {_REMEDY}") from error
    problem = difference(handle, local)
    if problem:
        local.unlink(missing_ok=True)
        raise CorruptCheckpointError(f"{_where(storage, handle)} {problem}; {_REMEDY}")


def difference(handle: FileHandle, local: Path) -> str:
    """What is wrong with the bytes of `local`, as the end of a sentence; empty if they are what `handle` says."""
    size_bytes = local.stat().st_size
    if size_bytes != handle.size_bytes:
        return f"must have {handle.size_bytes} bytes (got {size_bytes})"
    with local.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != handle.sha256:
        return f"must have SHA-256 {handle.sha256} (got {digest})"
    return ""


_REMEDY: Final = "restore from an older checkpoint, or bring the file back"


def _where(storage: Storage, handle: FileHandle) -> str:
    return (
        f"{storage.uri}/{handle.path}"
        if handle.path
        else f"inline file `{handle.name}` of a checkpoint in {storage.uri}"
    )


def _handle(file: LocalFileLike, *, path: str = "", inline: bytes | None = None) -> FileHandle:
    return FileHandle(file.name, file.size_bytes, file.sha256, path, inline, dict(file.key_group_offsets))


def _upload(storage: Storage, path: str, file: LocalFileLike) -> None:
    try:
        size_bytes = file.path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"snapshot file {file.path} cannot be read: {error.strerror}") from error
    _check_size(file, size_bytes)
    storage.put_file(path, file.path)


def _read_local(file: LocalFileLike) -> bytes:
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"snapshot file {file.path} cannot be read: {error.strerror}") from error
    _check_size(file, len(data))
    return data


def _check_size(file: LocalFileLike, size_bytes: int) -> None:
    if size_bytes != file.size_bytes:
        raise CheckpointError(f"snapshot file {file.path} must have {file.size_bytes} bytes (got {size_bytes})")
