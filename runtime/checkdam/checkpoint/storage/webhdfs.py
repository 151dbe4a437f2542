"""The few WebHDFS calls that checkpoint storage needs, each with its answer looked at.

A client of its own because those at hand drop what our guarantees rest on: whether a rename took place, which error a
namenode or datanode gave, and whether all bytes arrived. Metadata is asked of a namenode. Content goes to and from the
datanode that the namenode's redirect names, straight from and to a file, and is counted.

Calls that may be made twice are made again after a transient failure, at the next namenode where the uri names several:
a standby says that it is one. Which calls are not, and what their lost answers mean, is for the caller (`hdfs`) to judge.
Connections belong to one thread of one process: a forked child makes its own.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError

DEFAULT_PORT: Final = 9870
"""Where a namenode of Hadoop 3 serves WebHDFS, unless configured otherwise."""

RETRY_DELAYS_S: Final = (0.2, 0.6, 1.8)
"""Pauses between tries, each times a random factor of 0.5 to 1.5: long enough for a reconnect, short enough for a journal entry."""

_TIMEOUTS_S: Final = (5.0, 20.0)
"""A namenode's, to connect and to answer."""

_DATA_TIMEOUTS_S: Final = (10.0, 30.0)
"""A datanode's, for every single send and receive, not for the whole content."""

_CHUNK_BYTES: Final = 1 << 20
_OK: Final = 200
_CREATED: Final = 201
_REDIRECT: Final = 307
_TRANSIENT_STATUSES: Final = frozenset({502, 503, 504})
_TRANSIENT_EXCEPTIONS: Final = frozenset({"RetriableException", "StandbyException", "ObserverRetryOnActiveException"})

T = TypeVar("T")


class HdfsError(Exception):
    """A call failed.

    Attributes:
        kind: The simple name of HDFS's exception, such as `AccessControlException`; `""` if it gave none.
        cause: What went wrong, in one line for people; names servers but carries no token.
        transient: The same call may succeed soon.
    """

    def __init__(self, kind: str, cause: str, *, transient: bool = False) -> None:
        super().__init__(cause)
        self.kind = kind
        self.cause = cause
        self.transient = transient


@dataclass(frozen=True)
class HdfsFile:
    """A file or folder as the namenode describes it.

    Attributes:
        name: Its last segment in a listing; `""` where it was asked for itself.
        file_id: The inode's number, which a rename does not change and which no other file ever has.
        children: Entries of a folder; 0 for a file.
        modified_ms: By the namenode's clock.
    """

    name: str
    is_folder: bool
    file_id: int
    size_bytes: int
    children: int
    modified_ms: int


class WebHdfs:
    """A user's view of one HDFS. Safe for threads and forks; keeps connections open, none of which needs to be closed.

    Args:
        namenodes: `host:port` of each namenode; the active one is found by asking.
        user: Who asks.
        tls: Whether WebHDFS is served by https, with certificates that this machine (or `REQUESTS_CA_BUNDLE`) trusts.
        sleep: For tests.

    All methods take absolute paths and raise `HdfsError`.
    """

    def __init__(
        self, namenodes: Sequence[str], user: str, *, tls: bool = False, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._roots = [f"{'https' if tls else 'http'}://{namenode}/webhdfs/v1" for namenode in namenodes]
        self._user = user
        self._sleep = sleep
        self._active = 0
        """Index of the namenode that answered last. Threads may race on it: a wrong guess costs one call."""
        self._local = _Local()

    def status(self, path: str) -> HdfsFile | None:
        """What lies at `path`; `None` if nothing does."""
        try:
            return _described(self._asked("FileStatus", "GET", "GETFILESTATUS", path))
        except HdfsError as error:
            if _is_absence(error):
                return None
            raise

    def list(self, folder: str) -> list[HdfsFile]:
        """What lies directly in `folder`; nothing if it is a file or not there."""
        try:
            entries = self._asked("FileStatuses", "GET", "LISTSTATUS", folder)["FileStatus"]
        except HdfsError as error:
            if _is_absence(error):
                return []
            raise
        return [_described(entry) for entry in entries if entry["pathSuffix"]]

    def make_folder(self, path: str) -> None:
        """Make `path` and what is above it; nothing happens if it is there."""
        self._ask("PUT", "MKDIRS", path)

    def count_files(self, folder: str) -> int:
        """How many files are below `folder`, at any depth; 0 if it is not there."""
        try:
            return int(self._asked("ContentSummary", "GET", "GETCONTENTSUMMARY", folder)["fileCount"])
        except HdfsError as error:
            if _is_absence(error):
                return 0
            raise

    def delete(self, path: str) -> bool:
        """Delete a file or an empty folder; `False` if it was not there, perhaps because a try before had succeeded."""
        return bool(self._asked("boolean", "DELETE", "DELETE", path))

    def rename(self, path: str, new_path: str) -> None:
        """Give `path` the name `new_path`, whose folder exists, if that is free.

        With `renameoptions`, even of none, the namenode raises what it otherwise answers with `false`, and does not move into a folder of
        that name. After a refusal the rename may have taken place all the same, in a try whose answer was lost.
        """
        answer = self._ask("PUT", "RENAME", path, {"destination": new_path, "renameoptions": "NONE"})
        if answer.content and not _said(answer, "boolean"):
            raise HdfsError("refused", f"{_server(answer.url)} did not rename, and does not say why")

    def place(self, path: str) -> str:
        """Where the content of the new file `path` is to be sent. Nothing is made yet."""
        return self._ask("PUT", "CREATE", path, {"overwrite": "false"}, _REDIRECT).headers["Location"]

    def send(self, place: str, content: bytes | BinaryIO) -> None:
        """Make a file, in one try: after a failure there may be a part of it under its name, now or later."""
        _check(self._request("PUT", place, data=content, timeout=_DATA_TIMEOUTS_S), _CREATED)

    def read(self, path: str, target: BinaryIO) -> None:
        """Append what the file at `path` holds to `target`, in one try: after a failure a part may have been appended."""
        location = self._ask("GET", "OPEN", path, {}, _REDIRECT).headers["Location"]
        with self._request("GET", location, timeout=_DATA_TIMEOUTS_S, stream=True) as answer:
            try:
                _check(answer, _OK)
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    target.write(chunk)
            except requests.RequestException as error:
                raise _no_answer(answer.url, error) from error

    def patiently(self, action: Callable[[], T]) -> T:
        """`action()`, tried again after each transient failure, four times in all."""
        for delay_s in RETRY_DELAYS_S:
            try:
                return action()
            except HdfsError as error:
                if not error.transient:
                    raise
            self._sleep(delay_s * random.uniform(0.5, 1.5))
        return action()

    def _asked(self, key: str, method: str, operation: str, path: str) -> Any:
        return _said(self._ask(method, operation, path), key)

    def _ask(
        self,
        method: str,
        operation: str,
        path: str,
        parameters: Mapping[str, str] = MappingProxyType({}),
        expected: int = _OK,
    ) -> requests.Response:
        """The answer, of the expected status, of a namenode that does not stand by."""
        query = {"op": operation, "user.name": self._user, **parameters}

        def ask() -> requests.Response:
            asked = self._active
            try:
                url = self._roots[asked] + quote(path, safe="/")
                return _check(self._request(method, url, params=query, timeout=_TIMEOUTS_S), expected)
            except HdfsError as error:
                if error.transient:
                    self._active = (asked + 1) % len(self._roots)
                raise

        try:
            return self.patiently(ask)
        except HdfsError as error:
            error.transient = False  # it has had its tries
            raise

    def _request(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            return self._session().request(method, url, allow_redirects=False, **options)
        except (requests.RequestException, HTTPError) as error:
            raise _no_answer(url, error) from error

    def _session(self) -> requests.Session:
        local = self._local
        if local.session is None or local.process != os.getpid():
            local.session, local.process = requests.Session(), os.getpid()
        return local.session


class _Local(threading.local):
    session: requests.Session | None = None
    process = 0


def _described(entry: dict[str, Any]) -> HdfsFile:
    return HdfsFile(
        name=entry["pathSuffix"],
        is_folder=entry["type"] == "DIRECTORY",
        file_id=entry["fileId"],
        size_bytes=entry["length"],
        children=entry.get("childrenNum", 0),
        modified_ms=entry["modificationTime"],
    )


def _is_absence(error: HdfsError) -> bool:
    """Also where a folder of the path is a file: the namenode calls that a lack of access."""
    return error.kind == "FileNotFoundException" or "is not a directory" in error.cause


def _check(answer: requests.Response, expected: int) -> requests.Response:
    """`answer`, if it has the status that says that all went well."""
    if answer.status_code == expected and (expected != _REDIRECT or "Location" in answer.headers):
        return answer
    server = _server(answer.url)
    if answer.status_code < 400:
        raise HdfsError("not WebHDFS", f"{server} answered HTTP {answer.status_code}, which WebHDFS does not do here")
    transient = answer.status_code in _TRANSIENT_STATUSES
    try:
        refusal = answer.json()["RemoteException"]
        kind, message = str(refusal["exception"]), str(refusal["message"])
    except (ValueError, KeyError, TypeError):
        raise HdfsError(
            f"HTTP {answer.status_code}", f"{server} answered HTTP {answer.status_code}", transient=transient
        ) from None
    first_line = (message.splitlines() or [kind])[0]
    raise HdfsError(kind, f"{first_line} ({kind})", transient=transient or kind in _TRANSIENT_EXCEPTIONS)


def _said(answer: requests.Response, key: str) -> Any:
    try:
        return answer.json()[key]
    except (ValueError, KeyError, TypeError):
        raise HdfsError("not WebHDFS", f"{_server(answer.url)} answers, but not as WebHDFS does") from None


def _no_answer(url: str, error: Exception) -> HdfsError:
    """The reason at the bottom of `error`; its own text holds the whole request."""
    server = _server(url)
    if isinstance(error, requests.ConnectTimeout):
        return HdfsError("", f"{server} cannot be reached: no connection in time", transient=True)
    if isinstance(error, requests.Timeout):
        return HdfsError("", f"{server} gave no answer in time", transient=True)
    reason = _system_error(error)
    match reason:
        case ssl.SSLError():
            return HdfsError("TLS", f"no TLS connection to {server}: {reason.reason or type(reason).__name__}")
        case socket.gaierror():
            return HdfsError("no such host", f"the name of {server} cannot be resolved", transient=True)
        case OSError(strerror=str(cause)) if not isinstance(reason, ConnectionResetError | BrokenPipeError):
            return HdfsError("", f"{server} cannot be reached: {cause}", transient=True)
    return HdfsError("", f"the connection to {server} broke", transient=True)


def _system_error(error: BaseException | None) -> OSError | None:
    """The innermost error of the system in a chain; requests' own errors are `OSError`s as well."""
    found: OSError | None = None
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _server(url: str) -> str:
    """`host:port`; the rest of a url may hold a token."""
    return urlsplit(url).netloc.rpartition("@")[2]
