"""From the uri in a manifest or on a command line to the `Storage` behind it.

`open_storage` is for a job, which has a manifest with options; `open_folder` is for looking at any folder. Neither touches
the storage: `probe`, or the first operation, says what is wrong there. Each scheme's client library is imported when a uri
of that scheme is opened, so nobody needs, or waits for, what he does not use.

`file://` takes an absolute path (`file:///data/checkpoints`) or one relative to a base folder that the caller names
(`file://checkpoints`, for manifests that run on a laptop); percent-escapes are decoded, in `file://` alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.memory import MemoryStorage
from checkdam.checkpoint.storage.naming import check_job_id
from checkdam.core.clock import Clock
from checkdam.core.errors import StorageError
from checkdam.spec.checkpoint import CheckpointStorage, HdfsOptions, S3Options

_USE: Final = "use s3://bucket/prefix, file:///absolute/path, hdfs://host:port/folder or memory://"


def open_storage(
    storage: CheckpointStorage, job_id: str, *, base: Path | None = None, clock: Clock | None = None
) -> Storage:
    """The storage of one job: its folder `<uri>/<job id>`. Nothing is touched yet; `probe` does that.

    Args:
        storage: `spec.checkpoint.storage`.
        job_id: `name` or `namespace/name`.
        base: What a relative `file://` path is relative to; without it such a path is refused.
        clock: For `memory://`, which is new and empty at every call.

    Raises:
        StorageError: The uri or the job id is not one that can be used, or a library is not installed; the message says what to do.
    """
    check_job_id(job_id)
    match scheme_of(storage.uri):
        case "memory":
            return MemoryStorage(job_id, limit_bytes=storage.memory_limit_bytes, clock=clock)
        case "file":
            return FileStorage(resolve_file_uri(storage.uri, base).joinpath(*job_id.split("/")))
        case _:
            return open_folder(storage.uri_of(job_id), options=storage)


def open_folder(uri: str, *, base: Path | None = None, options: CheckpointStorage | None = None) -> Storage:
    """The storage in the folder that `uri` names, whosever it is. Nothing is touched yet.

    Args:
        uri: Of any scheme but `memory://`.
        base: What a relative `file://` path is relative to; without it such a path is refused.
        options: How storage of this scheme is reached, if `uri` is of the same scheme; otherwise the environment says.

    Raises:
        StorageError: The uri is not one that can be used, or a library is not installed; the message says what to do.
    """
    scheme = scheme_of(uri)
    if options is not None and options.scheme != scheme:
        options = None
    match scheme:
        case "file":
            return FileStorage(resolve_file_uri(uri, base))
        case "memory":
            raise StorageError(
                "open", uri, "memory:// is gone with the process that held it", "use storage that outlives it"
            )
        case "s3":
            from checkdam.checkpoint.storage.s3 import S3Storage

            transfers = {"parallel_transfers": options.parallel_transfers} if options else {}
            return S3Storage(uri, (options and options.s3) or S3Options(), **transfers)
        case "hdfs":
            try:
                from checkdam.checkpoint.storage.hdfs import HdfsStorage
            except ImportError as error:
                raise _not_installed(uri, error, "pip install 'checkdam[hdfs]'") from error
            return HdfsStorage(uri, (options and options.hdfs) or HdfsOptions())
        case _:
            try:
                from checkdam.checkpoint.storage.generic import FsspecStorage
            except ImportError as error:
                hint = f"{_USE}; or pip install 'checkdam[fsspec]' and the package that makes it know {scheme}://"
                raise _not_installed(uri, error, hint) from error
            return FsspecStorage(uri)


def resolve_file_uri(uri: str, base: Path | None = None) -> Path:
    """The absolute path of a `file://` uri.

    Raises:
        StorageError: There is no path in it, or a relative one where there is no `base`.
    """
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


def scheme_of(uri: str) -> str:
    """What is in front of `://`. Raises: StorageError: nothing is, so this is no uri."""
    scheme, separator, _ = uri.partition("://")
    if not separator or not scheme:
        raise StorageError(
            "open", uri, "this is no uri", f"{_USE}; for this path perhaps file://{Path(uri).absolute()}"
        )
    return scheme


def _not_installed(uri: str, error: ImportError, hint: str) -> StorageError:
    return StorageError("open", uri, f"the library `{error.name}` is not installed", hint)
