"""How a worker's local files become files of a checkpoint, and come back.

Small files travel inside `_metadata`, where they cost no request of their own; both directions check sizes and SHA-256,
so that what a job restores is what it had, or an error that names the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from checkdam.checkpoint.manifest import FileHandle
from checkdam.checkpoint.storage.base import Storage
from checkdam.core.errors import CheckpointError, CorruptCheckpointError, NotFoundError, StorageError

INLINE_LIMIT_BYTES: Final = 16_384
"""Files up to this size are inlined: less than what a request to object storage costs in time."""

INLINE_TOTAL_BYTES: Final = 65_536
"""Bound of what one call of `upload_files` inlines, so that acknowledgements and `_metadata` stay small."""


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


def upload_files(
    storage: Storage,
    folder: str,
    files: Sequence[LocalFileLike],
    inline_limit_bytes: int = INLINE_LIMIT_BYTES,
    prefix: str = "",
    inline_total_bytes: int = INLINE_TOTAL_BYTES,
) -> list[FileHandle]:
    """Store a snapshot's files below `folder`, under `<folder>/<prefix><name>`.

    Blocks; for I/O threads. When it raises, what it had uploaded is deleted again as far as storage lets it.

    Args:
        storage: The job's.
        folder: The checkpoint's folder.
        files: They may be deleted once this returns.
        inline_limit_bytes: Files up to this size become part of the handle.
        prefix: Makes names unique among subtasks, such as `window-0/`.
        inline_total_bytes: At most so many bytes are inlined in all. Where storage is not shared, everything is.

    Raises:
        CheckpointError: A local file is not as it was described.
        StorageError: It could not be stored.
    """
    handles: list[FileHandle] = []
    uploaded: list[str] = []
    inlined_bytes = 0
    try:
        for file in files:
            inline: bytes | None = None
            path = ""
            if not storage.shared or (
                file.size_bytes <= inline_limit_bytes and inlined_bytes + file.size_bytes <= inline_total_bytes
            ):
                inline = _read_local(file)
                inlined_bytes += len(inline)
            else:
                path = f"{folder}/{prefix}{file.name}"
                uploaded.append(path)
                storage.put_file(path, file.path)
            handles.append(
                FileHandle(file.name, file.size_bytes, file.sha256, path, inline, dict(file.key_group_offsets))
            )
    except BaseException:
        discard(storage, uploaded)
        raise
    return handles


def discard(storage: Storage, paths: Iterable[str]) -> None:
    """Delete uploads of a checkpoint that is given up; what storage refuses to delete now, the sweep finds later."""
    try:
        storage.delete(paths)
    except StorageError:
        pass


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


def _read_local(file: LocalFileLike) -> bytes:
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"snapshot file {file.path} cannot be read: {error.strerror}") from error
    if len(data) != file.size_bytes:
        raise CheckpointError(f"snapshot file {file.path} must have {file.size_bytes} bytes (got {len(data)})")
    return data
