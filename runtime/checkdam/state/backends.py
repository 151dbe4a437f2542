"""The backends that a StreamJob can name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from checkdam.core.clock import Clock
from checkdam.core.keys import KeyGroups
from checkdam.state.base import KeyedBackend
from checkdam.state.hashmap import HashMapBackend

BackendKind = Literal["hashmap", "rocksdb"]


def writes_anew(kind: BackendKind) -> bool:
    """Whether every snapshot holds all values as they are encoded now; RocksDB keeps them as they once were written."""
    return kind == "hashmap"


def make_backend(
    kind: BackendKind,
    key_groups: range,
    max_parallelism: int,
    directory: Path,
    clock: Clock,
    memory_bytes: int,
    groups: KeyGroups | None = None,
) -> KeyedBackend:
    """Make the keyed state of one subtask.

    Args:
        kind: Which backend.
        key_groups: The key groups that the subtask owns.
        max_parallelism: Number of key groups of the job.
        directory: A folder of its own for local files; emptied by nobody else.
        clock: Processing time.
        memory_bytes: What the RocksDB backend may use; the hashmap backend has no bound.
        groups: Key → key group, where the process has such a cache already.

    Raises:
        ValueError: There is no such backend.
    """
    if kind == "hashmap":
        return HashMapBackend(key_groups, max_parallelism, directory, clock=clock, groups=groups)
    if kind == "rocksdb":
        # Imported here: a job on the hashmap backend neither needs nor loads RocksDB.
        from checkdam.state.rocksdb import RocksDbBackend

        return RocksDbBackend(
            key_groups, max_parallelism, directory, clock=clock, memory_bytes=memory_bytes, groups=groups
        )
    raise ValueError(f"the state backend must be hashmap or rocksdb (got {kind!r})")
