"""The check that makes a job refuse storage on which its journal would not be safe.

Everything rests on `create` letting exactly one caller win. Some S3-compatible servers accept the conditional header
and ignore it, and then two coordinators could both commit; that shows when one name is created twice.
"""

from __future__ import annotations

import uuid
from typing import Final

from checkdam.checkpoint.storage.base import Storage
from checkdam.core.errors import AlreadyExistsError, StorageError

PROBE_FOLDER: Final = "probe"
"""Where the names lie that a probe creates and deletes."""

_LEFTOVER_MS: Final = 600_000


def probe_conditional_create(storage: Storage) -> None:
    """Create one new name twice, read it back and delete it, and what probes that crashed have left.

    Raises:
        StorageError: The place cannot be written or read, or the second `create` succeeded.
    """
    name = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
    content = name.encode()
    try:
        storage.create(name, content)
    except AlreadyExistsError:
        pass  # a retry below us whose first try had succeeded: nobody else knows this name
    try:
        _refuse_overwriting(storage, name, content)
    finally:
        found = {file.path: file.modified_ms for file in storage.list(PROBE_FOLDER)}
        now_ms = found.get(name, 0)
        storage.delete([name, *(path for path, modified_ms in found.items() if now_ms - modified_ms > _LEFTOVER_MS)])


def _refuse_overwriting(storage: Storage, name: str, content: bytes) -> None:
    try:
        storage.create(name, b"second")
    except AlreadyExistsError:
        if storage.read(name) == content:
            return
        cause = "a refused `create` changed the file"
    else:
        cause = "a second `create` of one name succeeded"
    raise StorageError(
        "use",
        storage.uri,
        f"{cause}: conditional create is not honoured here, so two coordinators could both commit",
        "choose storage with conditional writes (a POSIX file system with hard links, Amazon S3, MinIO, HDFS)",
    )
