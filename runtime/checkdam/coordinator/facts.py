"""What must be known of retained checkpoints beside their names: when each was taken, and which files it names.

That is in their manifests, each of which is read once. Commits ask for ages and cleaning for files, in threads of their own. Both may read
the same manifest at the same time and come to the same, so nothing is locked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from checkdam.checkpoint.folders import METADATA
from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.store import CheckpointStore

T = TypeVar("T")


@dataclass(frozen=True)
class Fact:
    """A checkpoint's `created_ms` and the paths of all its files, the manifest included.

    Many checkpoints name the same files, so a path is held once.
    """

    created_ms: int
    paths: tuple[str, ...]


class Facts:
    """The facts of one job's checkpoints. Safe for threads.

    Args:
        store: Where the manifests are.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._known: dict[str, Fact] = {}

    def note(self, folder: str, manifest: CheckpointManifest) -> Fact:
        """Remember the checkpoint in `folder`."""
        paths = (*manifest.paths(), f"{folder}/{METADATA}")
        fact = self._known[folder] = Fact(manifest.created_ms, tuple(map(sys.intern, paths)))
        return fact

    def forget(self, folder: str) -> None:
        """The checkpoint is gone."""
        self._known.pop(folder, None)

    def of(self, folder: str) -> Fact:
        """Of the checkpoint in `folder`, whose manifest is read where it is not known yet.

        Raises:
            CheckpointError: It cannot be read.
            StorageError: Storage failed.
        """
        return self._known.get(folder) or self.note(folder, self._store.read_manifest(folder))

    def each(self, read: Callable[[str], T], folders: Sequence[str]) -> list[T]:
        """`read`, which asks for the facts of a folder, for each of them; several at a time where storage must be asked."""
        if all(folder in self._known for folder in folders):
            return [read(folder) for folder in folders]
        return self._store.transfers.run([partial(read, folder) for folder in folders])


__all__ = ["Fact", "Facts"]
