"""Checkpoint storage in a folder of a POSIX file system (`file://`): a laptop's disk, a persistent volume, NFS.

`link(2)` is the conditional create: it fails if the name is there, and what it publishes was written and synced under a
temporary name before, so a file that is visible is whole. Temporary names live in one folder of their own, where
leftovers of crashes are found without walking the whole job. Folders are synced after every change that must last.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.storage.deleting import delete_each
from checkdam.checkpoint.storage.naming import TEMPORARY_FOLDER, check_name, check_prefix
from checkdam.checkpoint.storage.probing import probe_conditional_create
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError, UnknownOutcomeError

TEMPORARY_AGE_MS: Final = 600_000
"""A temporary file untouched for ten minutes belongs to no living writer; one that wakes up later fails and writes nothing."""

_FOLDER_TRIES: Final = 100
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_COPY_INSTEAD: Final = _NO_LINKS | {errno.EXDEV, errno.EMLINK, errno.EACCES}
_DEFINITE: Final = _NO_LINKS | {
    errno.EXDEV, errno.EMLINK, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
}  # fmt: skip
_HINTS: Final = {
    errno.ENOSPC: "free space on the volume, or retain fewer checkpoints",
    errno.EDQUOT: "raise the quota, or retain fewer checkpoints",
    errno.EACCES: "give the user that runs the job read and write access to the folder",
    errno.EPERM: "give the user that runs the job read and write access to the folder",
    errno.EROFS: "mount the volume writable",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EISDIR: "a folder has the name of a file; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter path for the storage",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk or its server reports an error; look at the machine's log",
}


class FileStorage:
    """`Storage` in the folder `root`, which is made when something is first written.

    Args:
        root: The job's own folder, absolute.

    Raises:
        ValueError: `root` is relative.
    """

    shared = True

    def __init__(self, root: Path) -> None:
        if not root.is_absolute():
            raise ValueError(f"`root` must be an absolute path (got {str(root)!r})")
        self.root = root
        self.uri = f"file://{quote(str(root))}"
        self._durable: dict[Path, int] = {}
        """Folders known to survive a power failure, with their inode: one that was removed and made again is not known."""

    def probe(self) -> None:
        probe_conditional_create(self)
        self.sweep_temporary()

    def create(self, path: str, data: bytes) -> None:
        check_name("create", path, self.uri)
        temporary = self._write_temporary("create", path, data)
        try:
            self._publish("create", path, temporary)
        finally:
            _unlink_quietly(temporary)

    def put_file(self, path: str, local: Path) -> None:
        """As `Storage.put_file`; a hard link where `local` is on the same file system, else a copy."""
        check_name("put_file", path, self.uri)
        try:
            _sync(local, os.O_RDONLY)
        except OSError as error:
            raise StorageError("put_file", f"{self.uri}/{path}", f"cannot read {local}: {error.strerror}") from error
        try:
            self._publish("put_file", path, local)
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _COPY_INSTEAD:
                raise
        else:
            return
        temporary = self._write_temporary("put_file", path, local)
        try:
            self._publish("put_file", path, temporary)
        finally:
            _unlink_quietly(temporary)

    def read(self, path: str) -> bytes:
        check_name("read", path, self.uri)
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise self._error("read", path, error) from error

    def fetch(self, path: str, local: Path) -> None:
        """As `Storage.fetch`; always a copy, because what is restored may be appended to."""
        check_name("fetch", path, self.uri)
        try:
            with (self.root / path).open("rb") as source, local.open("xb") as target:
                try:
                    shutil.copyfileobj(source, target, 1 << 20)
                except BaseException:
                    _unlink_quietly(local)
                    raise
        except OSError as error:
            if error.filename == str(local):
                raise StorageError("fetch", f"{self.uri}/{path}", f"cannot write {local}: {error.strerror}") from error
            raise self._error("fetch", path, error) from error

    def exists(self, path: str) -> bool:
        check_name("exists", path, self.uri)
        try:
            return stat.S_ISREG((self.root / path).stat().st_mode)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise self._error("exists", path, error) from error

    def list(self, prefix: str) -> Iterator[StoredFile]:
        folder = check_prefix("list", prefix, self.uri)
        pending = [folder]
        while pending:
            current = pending.pop()
            for entry in self._scan(current):
                path = f"{current}/{entry.name}" if current else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue  # deleted since the folder was read
                except OSError as error:
                    raise self._error("list", path, error) from error
                yield StoredFile(path, status.st_size, status.st_mtime_ns // 1_000_000)

    def folders(self, prefix: str) -> builtins.list[str]:
        folder = check_prefix("list", prefix, self.uri)
        names = [entry.name for entry in self._scan(folder) if entry.is_dir(follow_symlinks=False)]
        return sorted(name for name in names if self._holds_a_file(f"{folder}/{name}" if folder else name))

    def delete(self, paths: Iterable[str]) -> None:
        delete_each(paths, self._delete, self._remove_if_empty)

    def sweep_temporary(self, age_ms: int = TEMPORARY_AGE_MS) -> int:
        """Delete what crashed writers left, untouched for `age_ms` by the file system's own clock; returns how many."""
        fresh = self._write_temporary("create", TEMPORARY_FOLDER, b"")
        swept = 0
        try:
            now_ms = fresh.stat().st_mtime_ns // 1_000_000
            for entry in fresh.parent.iterdir():
                try:
                    if now_ms - entry.stat().st_mtime_ns // 1_000_000 > age_ms:
                        entry.unlink()
                        swept += 1
                except FileNotFoundError:
                    continue  # its writer has finished
        except OSError as error:
            raise self._error("delete", TEMPORARY_FOLDER, error) from error
        finally:
            _unlink_quietly(fresh)
        return swept

    def _scan(self, folder: str) -> builtins.list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return [entry for entry in entries if folder or entry.name != TEMPORARY_FOLDER]
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise self._error("list", folder, error) from error

    def _holds_a_file(self, folder: str) -> bool:
        entries = self._scan(folder)
        if any(not entry.is_dir(follow_symlinks=False) for entry in entries):
            return True
        return any(self._holds_a_file(f"{folder}/{entry.name}") for entry in entries)

    def _delete(self, path: str) -> None:
        try:
            (self.root / check_name("delete", path, self.uri)).unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise self._error("delete", path, error) from error

    def _remove_if_empty(self, path: str) -> None:
        folder = self.root / path
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or somebody else was faster
            self._durable.pop(folder, None)
            folder = folder.parent

    def _write_temporary(self, operation: str, path: str, content: bytes | Path) -> Path:
        """A synced temporary file with `content`: bytes, or those of a local file."""
        folder = self.root / TEMPORARY_FOLDER
        temporary = folder / uuid.uuid4().hex
        try:
            try:
                file = temporary.open("xb")
            except FileNotFoundError:
                self._make_folder(folder)  # nobody removes this one
                file = temporary.open("xb")
            with file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            _unlink_quietly(temporary)
            raise self._error(operation, path, error, absent=StorageError) from error
        return temporary

    def _publish(self, operation: str, path: str, source: Path) -> None:
        """Give `source` the name `path` if that is free, durably."""
        where = f"{self.uri}/{path}"
        final = self.root / path
        for _ in range(_FOLDER_TRIES):
            folder = self._open_folder(operation, path, final.parent)
            try:
                linked = self._link(operation, path, source, folder)
                # Also if the name was taken: whoever acts on that must find it after a power failure.
                os.fsync(folder)
            except FileNotFoundError:
                if not source.exists():
                    raise StorageError(operation, where, f"{source} was deleted while it was being stored") from None
                continue  # whoever deleted the last other file of the folder has removed it under us: make it again
            except OSError as error:
                raise UnknownOutcomeError(operation, where, f"the folder cannot be synced: {error.strerror}") from error
            finally:
                os.close(folder)
            if linked:
                return
            raise AlreadyExistsError(operation, where, "the name is taken")
        raise StorageError(operation, where, "its folder is removed as often as it is made")

    def _link(self, operation: str, path: str, source: Path, folder: int) -> bool:
        """Link `source` into the open `folder`; `False` if the name is taken by another file.

        Raises:
            FileNotFoundError: The folder was removed, or `source`.
            UnknownOutcomeError: It cannot be told whether the name was made.
            StorageError: It was not.
        """
        where = f"{self.uri}/{path}"
        try:
            os.link(source, path.rsplit("/", 1)[-1], dst_dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _NO_LINKS:
                hint = "the file system must support hard links; choose another volume"
                raise StorageError(operation, where, str(error.strerror), hint) from error
            if error.errno in _DEFINITE:
                raise self._error(operation, path, error) from error
            # A server may have made the link and lost its reply (NFS does that): then both names are one file.
            try:
                same = os.path.samestat(os.stat(source), os.stat(self.root / path))
            except OSError as unreadable:
                cause = f"{error.strerror}, then {unreadable.strerror}"
                raise UnknownOutcomeError(operation, where, cause) from error
            if not same and error.errno != errno.EEXIST:
                raise UnknownOutcomeError(operation, where, str(error.strerror)) from error
            return same
        return True

    def _open_folder(self, operation: str, path: str, folder: Path) -> int:
        """A descriptor of `folder`, which is made where missing and is durable itself."""
        try:
            for _ in range(_FOLDER_TRIES):
                try:
                    return self._open_durably(folder)
                except FileNotFoundError:
                    self._make_folder(folder)
            raise FileNotFoundError
        except OSError as error:
            raise self._error(operation, path, error, absent=StorageError) from error

    def _open_durably(self, folder: Path) -> int:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            inode = os.fstat(descriptor).st_ino
            if self._durable.get(folder) != inode:
                self._sync_parents(folder)
                self._durable[folder] = inode
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _make_folder(self, folder: Path) -> None:
        """Make `folder` and those above it as far as they are missing; somebody may remove them as empty meanwhile."""
        try:
            folder.mkdir()
        except FileExistsError:
            pass  # by another thread; or it is a file, and opening it as a folder says so
        except FileNotFoundError:
            self._make_folder(folder.parent)
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                folder.mkdir()

    def _sync_parents(self, folder: Path) -> None:
        """Make the name of `folder`, and those of the folders that it is in, durable.

        Not only of those made here: another process may have made one and not have synced it yet.
        """
        if folder == folder.parent or folder.is_mount():
            return
        parent = folder.parent
        inside = parent.is_relative_to(self.root)
        try:
            inode = parent.stat().st_ino
            if self._durable.get(parent) != inode:
                self._sync_parents(parent)
                self._durable[parent] = inode
            _sync(parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            if inside:
                raise
            # Folders above the job's own may be closed to us; then somebody else has made them, long ago.

    def _error(
        self, operation: str, path: str, error: OSError, absent: type[StorageError] = NotFoundError
    ) -> StorageError:
        where = f"{self.uri}/{path}"
        if isinstance(error, FileNotFoundError):
            return absent(operation, where, "no such file")
        return StorageError(operation, where, error.strerror or str(error), _HINTS.get(error.errno or 0, ""))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # swept later
