"""From the uri in a manifest or on a command line to the `Storage` behind it.

`file://` takes an absolute path (`file:///data/checkpoints`) or one relative to a base folder that the caller names
(`file://checkpoints`, for manifests that run on a laptop); percent-escapes are decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import DEFAULT_LIMIT_BYTES, MemoryStorage
from checkdam.checkpoint.storage.naming import check_job_id
from checkdam.core.clock import Clock
from checkdam.core.errors import StorageError

_LATER: Final = frozenset({"s3", "hdfs"})
_WORKING: Final = "use file:///absolute/path or memory://"


def open_storage(
    uri: str,
    job_id: str,
    *,
    base: Path | None = None,
    memory_limit_bytes: int = DEFAULT_LIMIT_BYTES,
    clock: Clock | None = None,
) -> Storage:
    """The storage of one job: its folder `<uri>/<job id>`. Nothing is touched yet; `probe` does that.

    Args:
        uri: `spec.checkpoint.storage.uri`.
        job_id: `name` or `namespace/name`.
        base: What a relative `file://` path is relative to; without it such a path is refused.
        memory_limit_bytes: Bound of `memory://`, which is new and empty at every call.
        clock: For `memory://`.

    Raises:
        StorageError: The uri or the job id is not one that this release can use; the message says what is.
    """
    check_job_id(job_id)
    if _scheme(uri) == "memory":
        if uri.removeprefix("memory://").strip("/"):
            raise StorageError("open", uri, "memory:// takes no path", "use memory://")
        return MemoryStorage(job_id, limit_bytes=memory_limit_bytes, clock=clock)
    return FileStorage(resolve_file_uri(uri, base).joinpath(*job_id.split("/")))


def resolve_file_uri(uri: str, base: Path | None = None) -> Path:
    """The absolute path of a `file://` uri.

    Raises:
        StorageError: It is of another scheme, or relative where there is no `base`.
    """
    if _scheme(uri) != "file":
        raise StorageError("open", uri, "memory:// is gone with the process that held it", "use file:///absolute/path")
    text = unquote(uri.removeprefix("file://"))
    if text.startswith("localhost/"):
        text = text.removeprefix("localhost")
    if "\0" in text or not text.strip("/"):
        raise StorageError("open", uri, "file:// needs a folder", "write file:///absolute/path")
    path = Path(text)
    if not path.is_absolute():
        if base is None:
            raise StorageError(
                "open", uri, f"the path is relative (got {text!r})", "write file:///absolute/path, with three slashes"
            )
        path = base.absolute() / path
    return path


def _scheme(uri: str) -> str:
    scheme, separator, _ = uri.partition("://")
    if not separator:
        raise StorageError(
            "open", uri, "this is no uri", f"{_WORKING}; for this path perhaps file://{Path(uri).absolute()}"
        )
    if scheme in _LATER:
        raise StorageError("open", uri, f"{scheme}:// is not supported in this release yet", _WORKING)
    if scheme not in ("file", "memory"):
        raise StorageError("open", uri, f"the scheme {scheme}:// is not known", _WORKING)
    return scheme
