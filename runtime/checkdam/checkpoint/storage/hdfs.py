"""Checkpoint storage in HDFS (`hdfs://`), through WebHDFS.

The conditional create is a rename: content is written under a name below `.tmp/` that nobody else knows, looked at, and
renamed without overwriting. The namenode lets one of several renames to a name take place, and a file that is visible is
whole. Should a rename's answer be lost, the temporary name is deleted: if it was still there, the rename has not taken place
and never will; if it was not, the number of the inode under the final name says whose file that is.

HDFS acknowledges a file when its datanodes have the content, in memory at least. Whether it survives a power failure of
all of them at once is the cluster's choice (`dfs.datanode.synconclose`).
"""

from __future__ import annotations

import builtins
import contextlib
import getpass
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.storage.deleting import delete_each
from checkdam.checkpoint.storage.naming import TEMPORARY_FOLDER, check_name, check_prefix
from checkdam.checkpoint.storage.probing import probe_conditional_create
from checkdam.checkpoint.storage.webhdfs import DEFAULT_PORT, HdfsError, HdfsFile, WebHdfs
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError, UnknownOutcomeError
from checkdam.spec.checkpoint import HdfsOptions

TEMPORARY_AGE_MS: Final = 86_400_000
"""A temporary file a day old belongs to no living writer; HDFS does not renew the time of a file while it is written."""

_FOLDER_TRIES: Final = 100
_QUOTA: Final = "raise the quota of the folder (hdfs dfsadmin), or retain fewer checkpoints"
_PORT: Final = (
    f"the port must be WebHDFS's (dfs.namenode.http-address, {DEFAULT_PORT} by default), not that of fs.defaultFS"
)
_HINTS: Final = {
    "": f"see whether the servers run and this machine reaches them, datanodes too; {_PORT}",
    "no such host": "correct the host, or make its name known here; datanodes are named by the namenode (dfs.datanode.hostname)",
    "not WebHDFS": _PORT,
    "HTTP 404": _PORT,
    "HTTP 401": "Checkdam does not speak Kerberos; use an HDFS with simple authentication, or other storage",
    "TLS": "set `spec.checkpoint.storage.hdfs.tls` as the server is, and REQUESTS_CA_BUNDLE to the certificates to trust",
    "AccessControlException": "give that user access to the folder (hdfs dfs -chown), or set `spec.checkpoint.storage.hdfs.user`",
    "SecurityException": "set `spec.checkpoint.storage.hdfs.user` to a user that HDFS knows",
    "IllegalArgumentException": "correct the uri, or `spec.checkpoint.storage.hdfs.user`",
    "SafeModeException": "wait until the namenode leaves safe mode; `hdfs dfsadmin -safemode get` tells",
    "StandbyException": f"name the active namenode, or all of them: hdfs://one:{DEFAULT_PORT},two:{DEFAULT_PORT}/folder",
    "ParentNotDirectoryException": "a part of the path is a file; choose another folder",
    "DSQuotaExceededException": _QUOTA,
    "NSQuotaExceededException": _QUOTA,
    "QuotaByStorageTypeExceededException": _QUOTA,
    "IOException": "see whether enough datanodes run and have room (hdfs dfsadmin -report)",
}


@dataclass(frozen=True)
class _Staged:
    """A whole file under a temporary name."""

    path: str
    file: HdfsFile


class HdfsStorage:
    """`Storage` in the folder of `uri`, which is made when something is first written. Safe for threads and forks.

    Args:
        uri: `hdfs://host:port/folder`; several namenodes of one HDFS are separated by commas. A port is WebHDFS's, 9870 by default.
        options: Who asks, and whether by https.
        client: For tests.

    Raises:
        StorageError: The uri names no host, or there is no user to be.
    """

    shared = True

    def __init__(self, uri: str, options: HdfsOptions, *, client: WebHdfs | None = None) -> None:
        namenodes, self._root = _located(uri)
        self.uri = f"hdfs://{','.join(namenodes)}{self._root}"
        self._client = client or WebHdfs(namenodes, options.user or _environments_user(self.uri), tls=options.tls)

    def probe(self) -> None:
        probe_conditional_create(self)
        self.sweep_temporary()

    def create(self, path: str, data: bytes) -> None:
        check_name("create", path, self.uri)
        self._publish("create", path, self._stage("create", path, data))

    def put_file(self, path: str, local: Path) -> None:
        check_name("put_file", path, self.uri)
        try:
            local.open("rb").close()
        except OSError as error:
            raise StorageError("put_file", f"{self.uri}/{path}", f"cannot read {local}: {error.strerror}") from error
        self._publish("put_file", path, self._stage("put_file", path, local))

    def read(self, path: str) -> bytes:
        check_name("read", path, self.uri)
        content = io.BytesIO()
        self._read_into("read", path, content)
        return content.getvalue()

    def fetch(self, path: str, local: Path) -> None:
        check_name("fetch", path, self.uri)
        try:
            with local.open("xb") as target:
                try:
                    self._read_into("fetch", path, target)
                except BaseException:
                    local.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise StorageError("fetch", f"{self.uri}/{path}", f"cannot write {local}: {error.strerror}") from error

    def exists(self, path: str) -> bool:
        check_name("exists", path, self.uri)
        with self._naming("exists", path):
            found = self._client.status(self._absolute(path))
        return found is not None and not found.is_folder

    def list(self, prefix: str) -> Iterator[StoredFile]:
        pending = [check_prefix("list", prefix, self.uri)]
        while pending:
            folder = pending.pop()
            for entry in self._entries("list", folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_folder:
                    pending.append(path)
                else:
                    yield StoredFile(path, entry.size_bytes, entry.modified_ms)

    def folders(self, prefix: str) -> builtins.list[str]:
        """As `Storage.folders`; one call, and one for each folder that is not empty."""
        folder = check_prefix("list", prefix, self.uri)
        names = [entry.name for entry in self._entries("list", folder) if entry.is_folder and entry.children]
        with self._naming("list", folder):
            return [
                name
                for name in names
                if self._client.count_files(self._absolute(f"{folder}/{name}" if folder else name))
            ]

    def delete(self, paths: Iterable[str]) -> None:
        delete_each(paths, self._delete, self._remove_if_empty)

    def sweep_temporary(self, age_ms: int = TEMPORARY_AGE_MS) -> int:
        """Delete what crashed writers left, older than `age_ms` by the namenode's clock; returns how many."""
        fresh = self._stage("create", TEMPORARY_FOLDER, b"")
        folder = self._absolute(TEMPORARY_FOLDER)
        swept = 0
        try:
            with self._naming("delete", TEMPORARY_FOLDER):
                for entry in self._client.list(folder):
                    if fresh.file.modified_ms - entry.modified_ms > age_ms:
                        swept += self._client.delete(f"{folder}/{entry.name}")
        finally:
            self._discard(fresh.path)
        return swept

    def _delete(self, path: str) -> None:
        check_name("delete", path, self.uri)
        with self._naming("delete", path):
            self._client.delete(self._absolute(path))

    def _stage(self, operation: str, path: str, content: bytes | Path) -> _Staged:
        """`content`, or that of a local file, under a temporary name: whole, as far as the namenode has counted.

        After a failure it is another name, because what remains of the failed try may still arrive under the first.
        """
        size_bytes = content.stat().st_size if isinstance(content, Path) else len(content)

        def once() -> _Staged:
            temporary = self._absolute(f"{TEMPORARY_FOLDER}/{uuid.uuid4().hex}")
            place = self._client.place(temporary)
            try:
                with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source:
                    self._client.send(place, source)
                file = self._client.status(temporary)
                if file is None or file.size_bytes != size_bytes:
                    found = file.size_bytes if file else 0
                    raise HdfsError("", f"{found} of {size_bytes} bytes have arrived", transient=True)
            except HdfsError:
                self._discard(temporary)
                raise
            return _Staged(temporary, file)

        with self._naming(operation, path, absent=StorageError):
            return self._client.patiently(once)

    def _publish(self, operation: str, path: str, staged: _Staged) -> None:
        """Give `staged` its final name if that is free."""
        final = self._absolute(path)
        try:
            self._rename(staged.path, final)
        except HdfsError as refusal:
            self._settle(operation, path, staged, refusal)

    def _rename(self, temporary: str, final: str) -> None:
        """Rename; make the folder first if it is missing, again if whoever deleted the last other file in it removes it under us."""
        for _ in range(_FOLDER_TRIES):
            try:
                return self._client.rename(temporary, final)
            except HdfsError as error:
                if error.kind != "FileNotFoundException" or self._client.status(temporary) is None:
                    raise
            self._client.make_folder(final.rpartition("/")[0])
        raise HdfsError("", "its folder is removed as often as it is made")

    def _settle(self, operation: str, path: str, staged: _Staged, refusal: HdfsError) -> None:
        """Find out what has become of a rename that was refused or not answered; return if it took place.

        Raises:
            AlreadyExistsError: Another file has the name.
            UnknownOutcomeError: It cannot be told.
            StorageError: It has not taken place, and never will.
        """
        where = f"{self.uri}/{path}"
        try:
            never_renamed = self._client.delete(staged.path)
            found = self._client.status(self._absolute(path))
        except HdfsError as error:
            raise UnknownOutcomeError(operation, where, f"{refusal.cause}; then {error.cause}") from refusal
        if found is not None and found.file_id == staged.file.file_id:
            return
        if found is not None:
            raise AlreadyExistsError(operation, where, "the name is taken") from refusal
        if never_renamed:
            raise self._error(operation, path, refusal, StorageError) from refusal
        raise UnknownOutcomeError(operation, where, f"{refusal.cause}; then the file was gone") from refusal

    def _read_into(self, operation: str, path: str, target: io.BytesIO | io.BufferedWriter) -> None:
        def once() -> None:
            target.seek(0)
            target.truncate()
            self._client.read(self._absolute(path), target)

        with self._naming(operation, path):
            self._client.patiently(once)

    def _entries(self, operation: str, folder: str) -> builtins.list[HdfsFile]:
        with self._naming(operation, folder):
            entries = self._client.list(self._absolute(folder))
        return [entry for entry in entries if folder or entry.name != TEMPORARY_FOLDER]

    def _remove_if_empty(self, folder: str) -> None:
        while folder:
            try:
                self._client.delete(self._absolute(folder))
            except HdfsError:
                return  # not empty
            folder = folder.rpartition("/")[0]

    def _discard(self, temporary: str) -> None:
        with contextlib.suppress(HdfsError):  # swept later
            self._client.delete(temporary)

    def _absolute(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextlib.contextmanager
    def _naming(self, operation: str, path: str, absent: type[StorageError] = NotFoundError) -> Iterator[None]:
        """Turns an `HdfsError` into the `StorageError` that names the operation and the path."""
        try:
            yield
        except HdfsError as error:
            raise self._error(operation, path, error, absent) from error

    def _error(self, operation: str, path: str, error: HdfsError, absent: type[StorageError]) -> StorageError:
        where = f"{self.uri}/{path}"
        if error.kind == "FileNotFoundException":
            return absent(operation, where, "no such file")
        return StorageError(operation, where, error.cause, _HINTS.get(error.kind, ""))


def _located(uri: str) -> tuple[list[str], str]:
    """The namenodes of a uri as `host:port`, and the absolute path in it."""
    authority, _, path = uri.removeprefix("hdfs://").partition("/")
    form = f"write hdfs://host:port/folder, where {_PORT}"
    if "@" in authority:
        raise StorageError("open", uri, "a user does not belong into it", "set `spec.checkpoint.storage.hdfs.user`")
    namenodes = authority.split(",")
    if not all(namenode.partition(":")[0] for namenode in namenodes):
        raise StorageError("open", uri, "it names no host", form)
    for namenode in namenodes:
        _, colon, port = namenode.rpartition(":")
        if colon and not port.isdecimal():
            raise StorageError("open", uri, f"the port must be a number (got {port!r})", form)
    segments = [segment for segment in path.split("/") if segment]
    if any(segment in (".", "..") or ":" in segment for segment in segments):
        raise StorageError("open", uri, "HDFS allows no `:` and no segments `.` and `..` in a path", form)
    with_ports = [namenode if ":" in namenode else f"{namenode}:{DEFAULT_PORT}" for namenode in namenodes]
    return with_ports, "".join(f"/{segment}" for segment in segments)


def _environments_user(uri: str) -> str:
    try:
        return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()
    except (KeyError, OSError) as error:  # a container whose user has no name
        raise StorageError(
            "open", uri, "the user of this process has no name", "set `spec.checkpoint.storage.hdfs.user`"
        ) from error
