"""Local recovery: files of the last checkpoint that stay on the worker's own disk, so that a restart need not fetch them.

They are hard links, so a file that the backend or `file://` storage has on the same disk takes no room again. A file's name
here is its SHA-256 with its identity when it was hashed: size, inode and time of its last change. So the folder needs no
index that could disagree with it, and whoever finds a file can tell without reading it whether it is what was hashed:
same boot (what was not yet on disk when the machine lost power is gone, whatever sizes say), same volume, same identity.
Anything else is fetched from storage as if there were nothing here.

The folder outlives attempts and processes, and belongs to one process at a time: the task process that holds the lock on
it. A process that finds it locked works without. That happens when a supervisor was replaced because it did not
answer and its task process is still there: it may wake up and go on using the folder, which its successor never touches
before it is gone; the kernel lets go of the lock then, however it went.

Concurrency: the methods may be called by any thread; `_uses` and `_names` are guarded by the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Final

from checkdam.checkpoint.manifest import FileHandle

log = logging.getLogger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LOCK_NAME: Final = "lock"
_FOLDER: Final = re.compile(r"[0-9a-f]{32}")
_FILE: Final = re.compile(r"([0-9a-f]{64})\.\d+\.\d+\.\d+")


class LocalFiles:
    """The files that a worker keeps for itself; made by `open_local_files`.

    Args:
        folder: Of this job, boot and volume; exists.
        lock_fd: Holds the lock on it, for as long as this object is used.
    """

    def __init__(self, folder: Path, lock_fd: int) -> None:
        self._folder = folder
        self._lock_fd = lock_fd
        self._lock = threading.Lock()
        self._names = {match[1]: name for name in os.listdir(folder) if (match := _FILE.fullmatch(name))}
        self._uses: dict[int, set[str]] = {}

    def add(self, checkpoint: int, sha256: str, path: Path) -> None:
        """Keep a file, just hashed, for `checkpoint`. What cannot be linked here is not kept."""
        with self._lock:
            self._uses.setdefault(checkpoint, set()).add(sha256)
            if sha256 in self._names:
                return
        try:
            name = f"{sha256}.{_identity(path)}"
            with contextlib.suppress(FileExistsError):
                os.link(path, self._folder / name)
        except OSError as error:
            log.info("%s is not kept for local recovery: %s", path, error.strerror)
            return
        with self._lock:
            self._names[sha256] = name

    def link(self, handle: FileHandle, target: Path) -> bool:
        """Put a file of a checkpoint at `target`, which does not exist yet, if it is here and unchanged; says whether."""
        with self._lock:
            name = self._names.get(handle.sha256)
        if name is None:
            return False
        kept = self._folder / name
        try:
            identity = _identity(kept)
            if name == f"{handle.sha256}.{identity}" and identity.startswith(f"{handle.size_bytes}."):
                os.link(kept, target)
                return True
            log.warning("%s has changed since it was hashed; it is fetched from storage", kept)
        except OSError as error:
            log.info("%s cannot be used for local recovery: %s", kept, error.strerror)
        with self._lock:
            self._names.pop(handle.sha256, None)
        with contextlib.suppress(OSError):
            kept.unlink()
        return False

    def needed_from(self, checkpoint: int) -> None:
        """Checkpoints below this one need nothing here any more."""
        with self._lock:
            self._uses = {number: used for number, used in self._uses.items() if number >= checkpoint}

    def not_needed(self, checkpoint: int) -> None:
        """This checkpoint came to nothing."""
        with self._lock:
            self._uses.pop(checkpoint, None)

    def tidy(self) -> None:
        """Delete what no checkpoint needs. May take a while."""
        with self._lock:
            needed = set().union(*self._uses.values())
            doomed = [self._names.pop(sha256) for sha256 in list(self._names) if sha256 not in needed]
            for name in doomed:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock_fd)


def open_local_files(directory: Path, job_id: str, storage_uri: str) -> LocalFiles | None:
    """The files that are kept in `directory` for a job; `None` where there can be none now. Others' are deleted.

    Args:
        directory: For local recovery alone; made where it is missing.
        job_id, storage_uri: Whose files they are.
    """
    lock_fd = -1
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        boot = _BOOT_ID.read_text().strip()
        facts = json.dumps([job_id, storage_uri, boot, directory.stat().st_dev])
        name = hashlib.sha256(facts.encode()).hexdigest()[:32]
        for entry in directory.iterdir():
            if _FOLDER.fullmatch(entry.name) and entry.name != name:
                shutil.rmtree(entry, ignore_errors=True)
        (directory / name).mkdir(mode=0o700, exist_ok=True)
        return LocalFiles(directory / name, lock_fd)
    except OSError as error:
        reason = "another process uses it" if isinstance(error, BlockingIOError) else error
        log.info("no local recovery in %s: %s", directory, reason)
        if lock_fd >= 0:
            os.close(lock_fd)
        return None


def _identity(path: Path) -> str:
    """What changes whenever the bytes of a file do, under all of its links."""
    status = path.stat()
    return f"{status.st_size}.{status.st_ino}.{status.st_mtime_ns}"


__all__ = ["LocalFiles", "open_local_files"]
