"""The one narrow interface to checkpoint storage.

Everything the job must remember goes through these nine verbs. Names are `/`-separated paths relative to the job's
folder. Nothing is ever overwritten: a name is written once and read or deleted afterwards. The journal's safety rests on
`create` alone, which must let exactly one of any number of callers win.
All methods block and may be called from any thread.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredFile:
    """An entry of a listing: its relative path, size, and when it was written (ms since the epoch, the storage's clock)."""

    path: str
    size_bytes: int
    modified_ms: int


class Storage(Protocol):
    """Checkpoint storage of one job.

    Every method raises `StorageError` (with operation, path, cause and hint) for what retrying did not cure.
    """

    uri: str
    """Where it is, for people: the storage's uri with the job's folder."""

    shared: bool
    """Whether workers can reach it by themselves; if not (memory://), their files travel inline in acknowledgements."""

    def probe(self) -> None:
        """Check that the place exists, can be written, and that a second `create` of a name fails. Called once at start."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write `data` under a name that must be free, durably and atomically.

        Raises:
            AlreadyExistsError: The name is taken; its content is whole.
            UnknownOutcomeError: It may or may not have been written, now or later.
        """
        ...

    def put_file(self, path: str, local: Path) -> None:
        """Store a local file under a new, unique name; the local file stays as it is and is not changed later."""
        ...

    def read(self, path: str) -> bytes:
        """Raises: NotFoundError: there is no such file."""
        ...

    def fetch(self, path: str, local: Path) -> None:
        """Copy a stored file to `local`, which does not exist yet. Raises: NotFoundError."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such a file; a folder is none."""
        ...

    def list(self, prefix: str) -> Iterator[StoredFile]:
        """All files below the folder `prefix` (`""`: all), recursively, in any order."""
        ...

    def folders(self, prefix: str) -> builtins.list[str]:
        """Names of the folders directly below the folder `prefix` (`""`: the top) that hold at least one file at any depth.

        It costs what its answer is long, not what the folders hold: so a job's checkpoints are found without listing its journal.
        """
        ...

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; those that are gone already are no error. Folders left empty may be removed."""
        ...
