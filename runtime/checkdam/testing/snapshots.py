"""Snapshots that never left this machine, for tests of backends and operators."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from checkdam.checkpoint.manifest import FileHandle
from checkdam.state.base import LocalFile


class LocalSnapshot:
    """What `SnapshotWriter.finish` returned, as a `StoredSnapshot`.

    Args:
        files: The snapshot's.
        key_groups: What it covers.
    """

    def __init__(self, files: Sequence[LocalFile], key_groups: range) -> None:
        self.key_groups = key_groups
        self.files: Sequence[FileHandle] = [
            FileHandle(
                name=file.name,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                path=str(file.path),
                key_group_offsets=dict(file.key_group_offsets),
            )
            for file in files
        ]

    def fetch(self, names: Collection[str]) -> dict[str, Path]:
        """See `StoredSnapshot`: the files are where they were written."""
        return {handle.name: Path(handle.path) for handle in self.files if handle.name in names}
