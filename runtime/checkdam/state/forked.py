"""Writing a snapshot in a forked child, which owns a frozen image of everything.

Users change objects in place, so copying a dictionary is no snapshot of it; a fork is, and it costs the task thread
only the copying of page tables. The rules that make it safe beside threads:

* The fork happens on the task thread with nothing held, and the child runs on in that thread alone.
* The child only encodes and writes local files. It first lets go of what it shares with its parent: it closes every
  inherited file and socket (a peer must notice at once when the parent dies), leaves signals to the parent, switches
  the garbage collector off (a collection would touch, and so copy, every page), and asks the kernel to be killed
  together with its parent.
* It leaves by `os._exit`, so no exit handler, buffer or destructor of the parent runs twice.

What the child has to say, a description of its files or an error, travels through a pipe. The end of the pipe is also
how the parent notices its death, however it died.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from checkdam.core.errors import CheckpointError
from checkdam.state.base import LocalFile

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final[Any] = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded before any fork: the child must not load libraries."""


class _FileReport(msgspec.Struct, array_like=True):
    name: str
    path: str
    size_bytes: int
    sha256: str
    key_group_offsets: dict[int, tuple[int, int]]


class _Report(msgspec.Struct, array_like=True):
    """What the child sends: its files, or why there are none."""

    files: list[_FileReport]
    error: str = ""


# Made once and here: msgspec crashes the process when several threads are the first to use a type.
_report_decoder = msgspec.msgpack.Decoder(_Report)


def delete_contents(directory: Path) -> None:
    """Delete everything below `directory` as far as possible; the directory itself belongs to the caller."""
    for folder, folders, names in os.walk(directory, topdown=False):
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
        for name in folders:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(folder, name))


class WrittenSnapshot:
    """A snapshot that was written, or failed, on the spot; `finish` hands out the result.

    Args:
        directory: Where its files are.
        write: Writes them; called once, here and now.
        write_later: Writes the rest of them; called once, by `finish`.
    """

    def __init__(
        self,
        directory: Path,
        write: Callable[[], list[LocalFile]],
        write_later: Callable[[], list[LocalFile]] = list,
    ) -> None:
        self._directory = directory
        self._write_later = write_later
        self._files: list[LocalFile] = []
        self._failure: Exception | None = None
        try:
            self._files = write()
        except Exception as error:
            # A full disk fails the checkpoint, which `finish` reports, and not the task that goes on.
            self._failure = error

    def finish(self) -> list[LocalFile]:
        """See `SnapshotWriter`."""
        later: list[LocalFile] = []
        try:
            if self._failure is None:
                later = self._write_later()
        except Exception as error:
            self._failure = self._failure or error
        if self._failure is not None:
            delete_contents(self._directory)
            raise CheckpointError(f"cannot write the snapshot in {self._directory}: {self._failure}") from self._failure
        return self._files + later

    def cancel(self) -> None:
        """See `SnapshotWriter`."""
        self._failure = self._failure or CheckpointError("it was cancelled")
        delete_contents(self._directory)


class ChildSnapshot:
    """A snapshot that a child process is writing, forked or started.

    Args:
        directory: Where its files go.
        pid: The child.
        report_fd: The reading end of its pipe; closed here.
        timeout_s: How long `finish` waits for it before it is killed.
    """

    def __init__(self, directory: Path, pid: int, report_fd: int, timeout_s: float) -> None:
        self._directory = directory
        self._pid = pid
        self._report_fd = report_fd
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._reading = False
        self._reaped = False
        self._cancelled = False
        self._status: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the child is gone, with whatever result."""
        return self._reaped

    def finish(self) -> list[LocalFile]:
        """See `SnapshotWriter`. To be called once."""
        with self._lock:
            if not self._reaped:
                self._reading = True
        data, in_time = self._read_report() if self._reading else (b"", True)
        with self._lock:
            self._end(kill=not in_time)
            cancelled, status = self._cancelled, self._status
        try:
            if cancelled:
                raise CheckpointError(f"the snapshot in {self._directory} was cancelled")
            if not in_time:
                raise CheckpointError(
                    f"the snapshot in {self._directory} was not written within {self._timeout_s:g} s; its writer was killed"
                )
            return self._files_of(data, status)
        except CheckpointError:
            delete_contents(self._directory)
            raise

    def cancel(self) -> None:
        """See `SnapshotWriter`."""
        with self._lock:
            self._cancelled = True
            if self._reading and not self._reaped:
                # The thread in `finish` sees the pipe end, and reaps and cleans up.
                self._kill()
            else:
                self._end(kill=True)
                delete_contents(self._directory)

    def _read_report(self) -> tuple[bytes, bool]:
        """Everything the child sends, and whether it came to its end in time."""
        deadline = time.monotonic() + self._timeout_s
        poller = select.poll()
        poller.register(self._report_fd, select.POLLIN | select.POLLHUP)
        parts: list[bytes] = []
        while (left_s := deadline - time.monotonic()) > 0:
            if not poller.poll(left_s * 1000):
                continue
            part = os.read(self._report_fd, 1 << 16)
            if not part:
                return b"".join(parts), True
            parts.append(part)
        return b"".join(parts), False

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _end(self, kill: bool) -> None:
        """Reap the child and close the pipe, once; the lock is held."""
        if self._reaped:
            return
        if kill:
            self._kill()
        with contextlib.suppress(ChildProcessError):
            self._status = os.waitpid(self._pid, 0)[1]
        self._reaped = True
        os.close(self._report_fd)

    def _files_of(self, data: bytes, status: int | None) -> list[LocalFile]:
        try:
            report = _report_decoder.decode(data)
        except msgspec.DecodeError:
            how = "went away" if status is None else f"ended with exit code {os.waitstatus_to_exitcode(status)}"
            raise CheckpointError(
                f"the process that wrote the snapshot in {self._directory} {how} before it was done; "
                f"if the machine is short of memory, give the worker more"
            ) from None
        if report.error:
            raise CheckpointError(f"cannot write the snapshot in {self._directory}: {report.error}")
        return [
            LocalFile(file.name, Path(file.path), file.size_bytes, file.sha256, file.key_group_offsets)
            for file in report.files
        ]


def fork_snapshot(directory: Path, write: Callable[[], list[LocalFile]], timeout_s: float) -> ChildSnapshot:
    """Fork a child that runs `write`. Called by the task thread.

    The child dies with the thread that called this, so that thread has to outlive the snapshot.

    Raises:
        OSError: The kernel refuses to fork, mostly for want of memory.
    """
    report_fd, child_fd = os.pipe()
    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            # The rules above are the answer to this warning of Python 3.12 and later.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
            pid = os.fork()
    except OSError:
        os.close(report_fd)
        os.close(child_fd)
        raise
    if pid == 0:
        _run_child(write, child_fd, parent)
    os.close(child_fd)
    return ChildSnapshot(directory, pid, report_fd, timeout_s)


def _run_child(write: Callable[[], list[LocalFile]], report_fd: int, parent: int) -> NoReturn:
    status = 1
    try:
        _let_go(report_fd, parent)
        report(report_fd, write)
        status = 0
    finally:
        os._exit(status)


def report(fd: int, write: Callable[[], list[LocalFile]]) -> None:
    """Run `write` and send what it returns, or its error, to the `ChildSnapshot` at the other end of a pipe."""
    view = memoryview(msgspec.msgpack.encode(_reported(write)))
    while view:
        view = view[os.write(fd, view) :]


def die_with_parent(parent: int) -> None:
    """Have this process killed when the thread of the process `parent` that started it ends; at once if it has ended."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _reported(write: Callable[[], list[LocalFile]]) -> _Report:
    try:
        return _Report(
            [
                _FileReport(file.name, str(file.path), file.size_bytes, file.sha256, dict(file.key_group_offsets))
                for file in write()
            ]
        )
    except Exception as error:
        return _Report([], "".join(traceback.format_exception_only(error)).strip())


def _let_go(report_fd: int, parent: int) -> None:
    """Give up everything that the child shares with its parent, save its image of memory."""
    gc.disable()
    die_with_parent(parent)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        if fd > 2 and fd != report_fd:
            with contextlib.suppress(OSError):
                os.close(fd)
