"""Checkpoint storage in the coordinator's memory (`memory://`): for tests, and for jobs that may start over.

It is bounded, because a coordinator that is killed for its memory would lose more than the checkpoint that did not
fit, and it is lost with its process. Workers cannot reach it, so their files travel inline (`shared` is False).
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from checkdam.checkpoint.storage.base import StoredFile
from checkdam.checkpoint.storage.naming import check_name, check_prefix
from checkdam.checkpoint.storage.probing import probe_conditional_create
from checkdam.core.clock import Clock, SystemClock
from checkdam.core.errors import AlreadyExistsError, NotFoundError, StorageError

DEFAULT_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Enough for a few checkpoints of a small job, little beside a coordinator's own memory."""


class MemoryStorage:
    """`Storage` in a dictionary; safe for threads.

    Args:
        name: The job's id, for the uri.
        limit_bytes: Sum of all files' sizes that may be held.
        clock: For `modified_ms`.
    """

    shared = False

    def __init__(self, name: str = "", *, limit_bytes: int = DEFAULT_LIMIT_BYTES, clock: Clock | None = None) -> None:
        self.uri = f"memory://{name}"
        self._limit_bytes = limit_bytes
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, int]] = {}
        self._used_bytes = 0

    def probe(self) -> None:
        probe_conditional_create(self)

    def create(self, path: str, data: bytes) -> None:
        self._store("create", path, data)

    def put_file(self, path: str, local: Path) -> None:
        try:
            data = local.read_bytes()
        except OSError as error:
            raise StorageError("put_file", f"{self.uri}/{path}", f"cannot read {local}: {error.strerror}") from error
        self._store("put_file", path, data)

    def read(self, path: str) -> bytes:
        check_name("read", path, self.uri)
        with self._lock:
            stored = self._files.get(path)
        if stored is None:
            raise NotFoundError("read", f"{self.uri}/{path}", "no such file")
        return stored[0]

    def fetch(self, path: str, local: Path) -> None:
        data = self.read(path)
        try:
            with local.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise StorageError("fetch", f"{self.uri}/{path}", f"cannot write {local}: {error.strerror}") from error

    def exists(self, path: str) -> bool:
        check_name("exists", path, self.uri)
        with self._lock:
            return path in self._files

    def list(self, prefix: str) -> Iterator[StoredFile]:
        below = self._below("list", prefix)
        with self._lock:
            found = [
                StoredFile(path, len(data), at_ms)
                for path, (data, at_ms) in self._files.items()
                if path.startswith(below)
            ]
        return iter(found)

    def folders(self, prefix: str) -> builtins.list[str]:
        below = self._below("list", prefix)
        with self._lock:
            rests = [path[len(below) :] for path in self._files if path.startswith(below)]
        return sorted({rest.split("/", 1)[0] for rest in rests if "/" in rest})

    def delete(self, paths: Iterable[str]) -> None:
        names = [check_name("delete", path, self.uri) for path in paths]
        with self._lock:
            for name in names:
                stored = self._files.pop(name, None)
                if stored is not None:
                    self._used_bytes -= len(stored[0])

    def _below(self, operation: str, prefix: str) -> str:
        folder = check_prefix(operation, prefix, self.uri)
        return f"{folder}/" if folder else ""

    def _store(self, operation: str, path: str, data: bytes) -> None:
        check_name(operation, path, self.uri)
        where = f"{self.uri}/{path}"
        with self._lock:
            if path in self._files:
                raise AlreadyExistsError(operation, where, "the name is taken")
            if self._used_bytes + len(data) > self._limit_bytes:
                raise StorageError(
                    operation,
                    where,
                    f"{len(data)} bytes do not fit: {self._used_bytes} of {self._limit_bytes} bytes are used",
                    "keep state smaller, retain fewer checkpoints, or use file:// storage",
                )
            self._files[path] = (bytes(data), self._clock.now_ms())
            self._used_bytes += len(data)
