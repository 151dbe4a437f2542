"""The checkpoints of a job in its storage: writing, reading, verifying and deleting them.

The journal decides which checkpoints count; this module looks after their files. It deletes with care: only what the
caller has dropped from the journal before, never a file that a kept checkpoint names, and in a sweep only what attempts
older than the running one have left, because the running one is writing right now.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from checkdam.checkpoint import uploads
from checkdam.checkpoint.folders import (
    METADATA,
    SHARED_FOLDER,
    Attempt,
    CheckpointFolder,
    SavepointFolder,
    number_of,
    writer_of,
)
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, decode_manifest, encode_manifest
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.transfers import Transfers
from checkdam.core.errors import (
    AlreadyExistsError,
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    NotFoundError,
    UnknownOutcomeError,
)

StoredContent = tuple[str, int, str]
"""Path, size and SHA-256 of a file."""

_WRITE_TRIES: Final = 2
"""How often a manifest is written whose outcome is unknown. Storage has tried for itself each time, for half a minute if nothing answers,
and until we give up nobody is told that checkpoints fail."""


@dataclass(frozen=True)
class CheckpointInfo:
    """One line of a list of checkpoints.

    Attributes:
        folder: Its name, relative to the job's folder.
        id: Its number.
        created_ms: When it was taken; 0 if unknown.
        size_bytes: Of all files that it names.
        retained: Whether the journal keeps it; if not, it was dropped or never committed, and its files may go any time.
        latest: Whether it is what the job would restore.
        kind: `checkpoint` or what else its manifest says.
        committed: A savepoint that can be restored where the output of the job is gone: it holds none that waits to be committed.
        problem: Why it cannot be read; empty if it can.
    """

    folder: str
    id: int
    created_ms: int = 0
    size_bytes: int = 0
    retained: bool = False
    latest: bool = False
    kind: str = "checkpoint"
    committed: bool = False
    problem: str = ""


class CheckpointStore:
    """The checkpoints of one job.

    Args:
        storage: The job's folder.
        job_id: Whose checkpoints must be there; empty: anybody's (for looking at them).
        transfers: Moves files; threads of its own by default, as many as a job has by default.
    """

    def __init__(self, storage: Storage, job_id: str = "", transfers: Transfers | None = None) -> None:
        self.storage = storage
        self.job_id = job_id
        self.transfers = transfers or Transfers()

    def write_manifest(self, folder: str, manifest: CheckpointManifest) -> None:
        """Write `_metadata`, the last file of a checkpoint. That is no commit yet: the journal's entry is.

        Raises:
            StorageError: It could not be written; or the name holds another manifest, which the name's try number should rule out.
        """
        path = f"{folder}/{METADATA}"
        data = encode_manifest(manifest)
        unknown: UnknownOutcomeError | None = None
        for _ in range(_WRITE_TRIES):
            try:
                self.storage.create(path, data)
            except UnknownOutcomeError as error:
                unknown = error  # the same bytes under the same name: trying again does no harm
                continue
            except AlreadyExistsError:
                if self.storage.read(path) != data:
                    raise
            return
        if unknown is not None:
            raise unknown

    def read_manifest(self, folder: str) -> CheckpointManifest:
        """The manifest in `folder`.

        Raises:
            CorruptCheckpointError: It is missing or cannot be parsed.
            IncompatibleCheckpointError: It is of a newer format or of another job.
            StorageError: Storage failed.
        """
        where = f"{self.storage.uri}/{folder}/{METADATA}"
        try:
            data = self.storage.read(f"{folder}/{METADATA}")
        except NotFoundError as error:
            raise CorruptCheckpointError(f"{where} is missing: the folder holds no complete checkpoint") from error
        manifest = decode_manifest(data, where)
        if self.job_id and manifest.job_id != self.job_id:
            raise IncompatibleCheckpointError(
                f"{where} is of job `{manifest.job_id}`, not of `{self.job_id}`; to start from it all the same, name it in `restoreFrom`"
            )
        return manifest

    def verify(self, folder: str) -> list[str]:
        """Read every file of a checkpoint and compare it with the manifest.

        Returns:
            One sentence for each problem; empty if there is none.

        Raises:
            StorageError: Storage failed for another reason than a missing file.
        """
        try:
            return self.verify_files(self.read_manifest(folder), {})
        except CheckpointError as error:
            return [str(error)]

    def verify_files(
        self,
        manifest: CheckpointManifest,
        found: dict[StoredContent, str],
        note: Callable[[int], None] = lambda size_bytes: None,
    ) -> list[str]:
        """As `verify`, for a manifest that was read.

        Args:
            manifest: The checkpoint's.
            found: What calls for other checkpoints found of their files: one that several checkpoints name is read once.
            note: Told the size of each file that was read; called by several threads.
        """
        handles = manifest.handles()
        problems = [problem for handle in handles for problem in _offsets_beyond_end(handle)]
        inline = [handle for handle in handles if not handle.path]
        stored: dict[str, FileHandle] = {}
        for handle in handles:
            if handle.path and _content(stored.setdefault(handle.path, handle)) != _content(handle):
                problems.append(f"{handle.path} is named twice, with different sizes or SHA-256")
        unread = [handle for handle in stored.values() if _content(handle) not in found]
        verdicts = self.transfers.run([partial(self._verify_file, handle, note) for handle in (*inline, *unread)])
        found.update(zip(map(_content, unread), verdicts[len(inline) :], strict=True))
        verdicts[len(inline) :] = [found[_content(handle)] for handle in stored.values()]
        return problems + [verdict for verdict in verdicts if verdict]

    def _verify_file(self, handle: FileHandle, note: Callable[[int], None]) -> str:
        """Why a file is not what the checkpoint says, as a sentence; empty if it is."""
        with tempfile.TemporaryDirectory(prefix="checkdam-verify-") as directory:
            try:
                self.fetch_file(handle, Path(directory) / "file")
            except CorruptCheckpointError as error:
                return str(error)
            finally:
                note(handle.size_bytes if handle.path else 0)
        return ""

    def fetch_file(self, handle: FileHandle, local: Path) -> None:
        """Bring a file to `local`, which does not exist yet, and verify it.

        Raises:
            CorruptCheckpointError: It is missing or not what the checkpoint says; `local` does not exist then.
            StorageError: Storage failed.
        """
        uploads.fetch_file(self.storage, handle, local)

    def fetch_files(self, wanted: Sequence[tuple[FileHandle, Path]]) -> None:
        """As `fetch_file`, for many, several at a time; what came before an error stays."""
        uploads.fetch_files(self.storage, wanted, self.transfers)

    def files_of(self, folder: str, uploaded: Iterable[str] = ()) -> set[str]:
        """What may go when nobody needs the checkpoint in `folder` any more: all in there, and all that its manifest names.

        Nothing of a complete savepoint is ever among it.

        Args:
            folder: Of a checkpoint or a savepoint, complete or not.
            uploaded: More files that were uploaded for it.

        Raises:
            StorageError: Storage failed.
        """
        stored = {file.path for file in self.storage.list(folder)}
        if f"{folder}/{METADATA}" not in stored:
            return stored.union(uploaded)
        if SavepointFolder.parse(folder):
            return set()
        try:
            named = self.read_manifest(folder).paths()
        except CheckpointError:
            named = set()  # what it names elsewhere is left to the sweep
        return stored.union(uploaded, (path for path in named if _is_sweepable(path)))

    def delete_files(self, paths: Iterable[str]) -> None:
        """Delete files, manifests first: half a checkpoint must not look like one.

        Raises:
            StorageError: Storage failed; calling again goes on.
        """
        ordered = sorted(paths, key=lambda path: (not path.endswith(f"/{METADATA}"), path))
        manifests = sum(path.endswith(f"/{METADATA}") for path in ordered)
        self.storage.delete(ordered[:manifests])
        self.storage.delete(ordered[manifests:])

    def sweep(self, running: Attempt, keep: Container[str]) -> int:
        """Delete what attempts older than the running one have left.

        Only for a coordinator that owns the journal and has nothing unsettled there.

        Args:
            running: The running attempt.
            keep: Paths of all files of retained checkpoints, their manifests included.

        Returns:
            How many files were deleted.

        Raises:
            StorageError: Storage failed.
        """
        before = (running.epoch, running.attempt)
        doomed: list[str] = []
        for top in self.storage.folders(""):
            savepoint = SavepointFolder.parse(top) is not None
            if not (savepoint or top == SHARED_FOLDER or CheckpointFolder.parse(top)):
                continue
            files = [file.path for file in self.storage.list(top)]
            if savepoint and f"{top}/{METADATA}" in files:
                continue
            for path in files:
                writer = writer_of(path)
                if writer is not None and writer < before and path not in keep:
                    doomed.append(path)
        self.delete_files(doomed)
        return len(doomed)

    def list_checkpoints(self) -> list[CheckpointInfo]:
        """All checkpoints and savepoints in storage and all that the journal names, by number; incomplete ones of nobody are left out.

        Raises:
            CorruptCheckpointError, IncompatibleCheckpointError: The journal's last entry cannot be read.
            StorageError: Storage failed.
        """
        tail = Journal(self.storage).tail()
        latest = tail.checkpoint if tail else ""
        retained = {*tail.retained, latest} - {""} if tail else set()
        stored = {
            name for name in self.storage.folders("") if CheckpointFolder.parse(name) or SavepointFolder.parse(name)
        }
        infos: list[CheckpointInfo] = []
        for folder in stored | retained:
            kept = folder in retained
            try:
                manifest = self.read_manifest(folder)
            except CheckpointError as error:
                if kept or self.storage.exists(f"{folder}/{METADATA}"):
                    infos.append(
                        CheckpointInfo(
                            folder, number_of(folder), retained=kept, latest=folder == latest, problem=str(error)
                        )
                    )
                continue
            infos.append(
                CheckpointInfo(
                    folder,
                    manifest.id,
                    manifest.created_ms,
                    manifest.size_bytes,
                    kept,
                    folder == latest,
                    manifest.kind,
                    manifest.committed,
                )
            )
        return sorted(infos, key=lambda info: (info.id, info.created_ms, info.folder))


def _is_sweepable(path: str) -> bool:
    """Whether a file lies where only checkpoints' files do, not savepoints' or anybody else's."""
    return writer_of(path) is not None and SavepointFolder.parse(path.split("/", 1)[0]) is None


def _content(handle: FileHandle) -> StoredContent:
    return handle.path, handle.size_bytes, handle.sha256


def _offsets_beyond_end(handle: FileHandle) -> list[str]:
    beyond = [
        group
        for group, (offset, length) in handle.key_group_offsets.items()
        if offset < 0 or offset + length > handle.size_bytes
    ]
    if not beyond:
        return []
    return [f"{handle.path or handle.name}: key groups {sorted(beyond)} lie beyond its {handle.size_bytes} bytes"]
