"""What a name in checkpoint storage may look like, for all implementations alike.

Names come from our own code, but also from `_metadata` files that somebody may have edited or moved, so a name that
would lead out of the job's folder is refused before it reaches a file system.
"""

from __future__ import annotations

import re
from typing import Final

from checkdam.core.errors import StorageError

TEMPORARY_FOLDER: Final = ".tmp"
"""Top-level folder of unfinished writes; never listed and never named by anybody else."""

_JOB_ID_SEGMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def check_name(operation: str, name: str, uri: str) -> str:
    """`name`, if it is a relative path without empty, `.` or `..` segments.

    Raises:
        StorageError: It is not.
    """
    segments = name.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or "\0" in name or segments[0] == TEMPORARY_FOLDER:
        raise StorageError(
            operation,
            f"{uri}/{name}",
            f"a name must be a relative path without empty, `.` or `..` segments, not below `{TEMPORARY_FOLDER}` (got {name!r})",
        )
    return name


def check_prefix(operation: str, prefix: str, uri: str) -> str:
    """`prefix` without a trailing slash, if it is `""` or a valid name. Raises: StorageError: it is neither."""
    stripped = prefix.removesuffix("/")
    return check_name(operation, stripped, uri) if stripped else ""


def check_job_id(job_id: str) -> str:
    """`job_id`, if it is `name` or `namespace/name` of segments that are safe as folder names.

    Raises:
        StorageError: It is not.
    """
    segments = job_id.split("/")
    if len(segments) > 2 or not all(_JOB_ID_SEGMENT.fullmatch(segment) for segment in segments):
        raise StorageError(
            "open",
            f"checkpoint storage of job {job_id!r}",
            "a job id must be `name` or `namespace/name`, each of letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit",
            "set `spec.jobId` or `metadata.name` accordingly",
        )
    return job_id
