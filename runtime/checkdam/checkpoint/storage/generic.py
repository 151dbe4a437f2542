"""Checkpoint storage in whatever fsspec knows (`gs://`, `abfs://`, `sftp://`, …): a best effort, which says so at start.

What it cannot promise, because fsspec's filesystems do not promise it:

* **One winner.** `create` looks whether the name is free and then uses the filesystem's own exclusive create where it has one; where it
  has none, two processes can both win. The probe cannot see that. So run one coordinator of a job at a time, and never the same job
  from two machines or clusters.
* **Whole files.** A writer that dies may leave a part of a file under its final name. A checkpoint's sizes and SHA-256 show that; a
  half journal entry stops the job.
* **Durability**, beyond what the service itself does once a write has returned.

Credentials and options are fsspec's: its configuration files, `FSSPEC_…` variables, or what the filesystem finds by itself.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import fsspec

from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.storage.deleting import delete_each
from checkdam.checkpoint.storage.naming import check_name, check_prefix
from checkdam.checkpoint.storage.probing import probe_conditional_create
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError, UnknownOutcomeError

_log = logging.getLogger(__name__)

_FOLDER_TRIES: Final = 100
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)
_CERTAIN: Final = (*_ABSENT, PermissionError)
_UNSUPPORTED: Final = (NotImplementedError, TypeError, ValueError)
_TIMES: Final = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")
"""What filesystems call the time of the last write in a listing."""


class FsspecStorage:
    """`Storage` in the folder of `uri`, through the fsspec filesystem of its scheme. Safe for threads and forks.

    Args:
        uri: Without a password: it is shown in logs and errors.

    Raises:
        StorageError: No filesystem of this scheme is known or installed, or the uri holds a password.
    """

    shared = True

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        scheme, _, rest = uri.partition("://")
        if urlsplit(uri).password is not None:
            shown = f"{scheme}://{rest.rpartition('@')[2]}"
            raise StorageError(
                "open", shown, "a password does not belong into a uri", "configure fsspec for this scheme"
            )
        try:
            self._root: str = fsspec.get_filesystem_class(scheme)._strip_protocol(self.uri)
        except ImportError as error:
            missing = getattr(error.__cause__, "name", None) or "the package that brings it"
            hint = f"pip install {missing}, also in the image that the job runs in"
            raise StorageError("open", uri, f"no library for {scheme}:// is installed ({error})", hint) from error
        except ValueError as error:
            hint = (
                "use s3://, file://, hdfs:// or memory://, or install a package that makes the scheme known to fsspec"
            )
            raise StorageError("open", uri, f"fsspec does not know the scheme {scheme}://", hint) from error
        self._lock = threading.Lock()
        """Held while a name is created: of this process's threads one wins in any filesystem, and the others find it whole."""
        self._process = 0
        self._opened: Any = None

    def probe(self) -> None:
        _log.warning(
            "%s is used through fsspec as a best effort: where its filesystem has no exclusive create, two coordinators of one job could "
            "both commit; see that only one runs",
            self.uri,
        )
        probe_conditional_create(self)

    def create(self, path: str, data: bytes) -> None:
        where = f"{self.uri}/{check_name('create', path, self.uri)}"
        with self._lock:
            if self.exists(path):
                raise AlreadyExistsError("create", where, "the name is taken")
            try:
                self._into_folder(path, lambda absolute: self._write(absolute, data))
            except FileExistsError as error:
                raise AlreadyExistsError("create", where, "the name is taken") from error
            except _CERTAIN as error:
                raise self._error("create", path, error, StorageError) from error
            except Exception as error:
                raise UnknownOutcomeError("create", where, _cause(error)) from error

    def put_file(self, path: str, local: Path) -> None:
        where = f"{self.uri}/{check_name('put_file', path, self.uri)}"
        try:
            local.open("rb").close()
        except OSError as error:
            raise StorageError("put_file", where, f"cannot read {local}: {error.strerror}") from error
        if self.exists(path):
            raise AlreadyExistsError("put_file", where, "the name is taken")
        with self._naming("put_file", path, StorageError):
            self._into_folder(path, lambda absolute: self._filesystem().put_file(str(local), absolute))

    def read(self, path: str) -> bytes:
        check_name("read", path, self.uri)
        with self._naming("read", path):
            return bytes(self._filesystem().cat_file(self._absolute(path)))

    def fetch(self, path: str, local: Path) -> None:
        check_name("fetch", path, self.uri)
        with self._naming("fetch", path):
            expected_bytes = self._info(path)["size"]
        try:
            local.open("xb").close()
        except OSError as error:
            raise StorageError("fetch", f"{self.uri}/{path}", f"cannot write {local}: {error.strerror}") from error
        try:
            with self._naming("fetch", path):
                self._filesystem().get_file(self._absolute(path), str(local))
                if expected_bytes not in (None, local.stat().st_size):
                    raise OSError(f"{local.stat().st_size} of {expected_bytes} bytes have arrived")
        except BaseException:
            local.unlink(missing_ok=True)
            raise

    def exists(self, path: str) -> bool:
        check_name("exists", path, self.uri)
        try:
            with self._naming("exists", path):
                return bool(self._info(path)["type"] == "file")
        except NotFoundError:
            return False

    def list(self, prefix: str) -> Iterator[StoredFile]:
        now_ms = time.time_ns() // 1_000_000
        pending = [check_prefix("list", prefix, self.uri)]
        while pending:
            folder = pending.pop()
            for name, entry in self._entries(folder):
                path = f"{folder}/{name}" if folder else name
                if entry["type"] == "directory":
                    pending.append(path)
                else:
                    yield StoredFile(path, entry["size"], _modified_ms(entry, now_ms))

    def folders(self, prefix: str) -> builtins.list[str]:
        folder = check_prefix("list", prefix, self.uri)
        names = [name for name, entry in self._entries(folder) if entry["type"] == "directory"]
        return [name for name in names if self._holds_a_file(f"{folder}/{name}" if folder else name)]

    def delete(self, paths: Iterable[str]) -> None:
        delete_each(paths, self._delete, self._remove_if_empty)

    def _delete(self, path: str) -> None:
        check_name("delete", path, self.uri)
        with self._naming("delete", path):
            self._filesystem().rm_file(self._absolute(path))

    def _filesystem(self) -> Any:
        """This process's own, since many hold connections and threads, which a fork does not take along; with an empty cache."""
        if self._process != os.getpid():
            self._opened, _ = fsspec.core.url_to_fs(self.uri, skip_instance_cache=True)
            self._process = os.getpid()
        self._opened.invalidate_cache()
        return self._opened

    def _write(self, absolute: str, data: bytes) -> None:
        """Write a file by the filesystem's exclusive create if there is one.

        Raises:
            FileExistsError: That says that the name is taken.
        """
        filesystem = self._filesystem()
        try:
            if filesystem.async_impl:
                filesystem.pipe_file(absolute, data, mode="create")
            else:
                with filesystem.open(absolute, "xb") as file:
                    file.write(data)
        except _UNSUPPORTED:
            with contextlib.suppress(*_ABSENT):
                filesystem.info(absolute)
                raise FileExistsError(absolute) from None  # perhaps that is what the error meant
            filesystem.pipe_file(absolute, data)

    def _into_folder(self, path: str, write: Callable[[str], None]) -> None:
        """Write; make the folder first if it is missing, again if whoever deleted the last other file in it removes it under us."""
        absolute = self._absolute(path)
        for _ in range(_FOLDER_TRIES):
            try:
                return write(absolute)
            except FileNotFoundError:
                self._filesystem().makedirs(absolute.rpartition("/")[0], exist_ok=True)
        return write(absolute)

    def _info(self, path: str) -> dict[str, Any]:
        info: dict[str, Any] = self._filesystem().info(self._absolute(path))
        return info

    def _entries(self, folder: str) -> builtins.list[tuple[str, dict[str, Any]]]:
        """(name, what is told about it) of all that lies directly in `folder`."""
        absolute = self._absolute(folder)
        try:
            with self._naming("list", folder):
                entries = self._filesystem().ls(absolute, detail=True)
        except NotFoundError:
            return []
        # A service without folders lists the folder itself where an empty object stands for it, and a file for itself.
        own = absolute.strip("/")
        paths = [(entry["name"].strip("/"), entry) for entry in entries]
        return [(path.rpartition("/")[2], entry) for path, entry in paths if path != own]

    def _holds_a_file(self, folder: str) -> bool:
        entries = self._entries(folder)
        return any(entry["type"] != "directory" for _, entry in entries) or any(
            self._holds_a_file(f"{folder}/{name}") for name, _ in entries
        )

    def _remove_if_empty(self, folder: str) -> None:
        # Looked at before, since there are filesystems whose `rmdir` takes what is in it along.
        while folder and not self._entries(folder):
            try:
                self._filesystem().rmdir(self._absolute(folder))
            except Exception:
                return  # not empty any more, gone, or not to be removed
            folder = folder.rpartition("/")[0]

    def _absolute(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else self._root

    @contextlib.contextmanager
    def _naming(self, operation: str, path: str, absent: type[StorageError] = NotFoundError) -> Iterator[None]:
        """Turns whatever a filesystem raises into the `StorageError` that names the operation and the path."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            raise self._error(operation, path, error, absent) from error

    def _error(self, operation: str, path: str, error: Exception, absent: type[StorageError]) -> StorageError:
        where = f"{self.uri}/{path}"
        if isinstance(error, _ABSENT):
            return absent(operation, where, "no such file")
        if isinstance(error, PermissionError):
            return StorageError(
                operation, where, _cause(error), "give the job access, or configure fsspec's credentials"
            )
        return StorageError(operation, where, _cause(error))


def _cause(error: Exception) -> str:
    """One line about an error of a library that may put signed URLs into its messages."""
    lines = str(error).splitlines() or [""]
    text = re.sub(r"\?\S+", "?…", lines[0])[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _modified_ms(entry: dict[str, Any], unknown_ms: int) -> int:
    """When a file was written; `unknown_ms` if its filesystem does not tell."""
    for key in _TIMES:
        value = entry.get(key)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return int(value * 1000)
    return unknown_ms
