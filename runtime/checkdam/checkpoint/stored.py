"""A subtask's snapshot of keyed state, seen by the backend that restores it.

Which files a backend needs is its own business: of a snapshot that covers more key groups than it owns, perhaps only some.
So it is not handed files but this, from which it asks for them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from checkdam.checkpoint.manifest import FileHandle, SubtaskSnapshot
from checkdam.core.errors import CheckpointError

FetchFiles = Callable[[Sequence[tuple[FileHandle, Path]]], None]
"""Brings files to paths that do not exist yet, verified, several at a time."""


class FetchedSnapshot:
    """What is fetched of a subtask's snapshot lies in `directory`, under the files' names.

    Args:
        snapshot: As the manifest describes it; must be of a keyed stage.
        directory: Of this snapshot alone; made when something is fetched.
        fetch: Brings the files.

    Attributes:
        key_groups: What it covers.
        files: All its files.
    """

    def __init__(self, snapshot: SubtaskSnapshot, directory: Path, fetch: FetchFiles) -> None:
        if snapshot.key_groups is None:
            raise CheckpointError(
                f"subtask {snapshot.subtask} of stage `{snapshot.stage}` has no keyed state to restore"
            )
        self.key_groups = range(*snapshot.key_groups)
        self.files: Sequence[FileHandle] = snapshot.files
        self._directory = directory
        self._fetch = fetch
        self._fetched: set[str] = set()

    def fetch(self, names: Collection[str]) -> dict[str, Path]:
        """Bring the files of these names, those that are here already excepted; returns where they are.

        Raises:
            CorruptCheckpointError: A file is missing or not what the checkpoint says.
            StorageError: Storage failed.
        """
        wanted = [handle for handle in self.files if handle.name in names]
        missing = [handle for handle in wanted if handle.name not in self._fetched]
        for handle in missing:
            (self._directory / handle.name).parent.mkdir(parents=True, exist_ok=True)
        self._fetch([(handle, self._directory / handle.name) for handle in missing])
        self._fetched.update(handle.name for handle in missing)
        return {handle.name: self._directory / handle.name for handle in wanted}
