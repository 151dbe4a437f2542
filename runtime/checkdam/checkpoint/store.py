"""The checkpoints of a job in its storage: writing, reading, verifying and deleting them.

The journal decides which checkpoints count; this module looks after their files. It deletes with care: only what the
caller has dropped from the journal before, never a file that a kept checkpoint names, and in a sweep only what attempts
older than the running one have left, because the running one is writing right now.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from checkdam.checkpoint import uploads
from checkdam.checkpoint.folders import METADATA, SHARED_FOLDER, Attempt, CheckpointFolder, number_of, writer_of
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle, decode_manifest, encode_manifest
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.storage.file import FileStorage
from checkdam.checkpoint.storage.locate import resolve_file_uri
from checkdam.core.errors import (
    AlreadyExistsError,
    CheckpointError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    NotFoundError,
    UnknownOutcomeError,
)

_WRITE_TRIES: Final = 5


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
        problem: Why it cannot be read; empty if it can.
    """

    folder: str
    id: int
    created_ms: int = 0
    size_bytes: int = 0
    retained: bool = False
    latest: bool = False
    kind: str = "checkpoint"
    problem: str = ""


class CheckpointStore:
    """The checkpoints of one job.

    Args:
        storage: The job's folder.
        job_id: Whose checkpoints must be there; empty: anybody's (for looking at them).
    """

    def __init__(self, storage: Storage, job_id: str = "") -> None:
        self.storage = storage
        self.job_id = job_id

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
            manifest = self.read_manifest(folder)
        except CheckpointError as error:
            return [str(error)]
        problems: list[str] = []
        named: dict[str, FileHandle] = {}
        with tempfile.TemporaryDirectory(prefix="checkdam-verify-") as directory:
            local = Path(directory) / "file"
            for handle in _handles(manifest):
                problems.extend(_offsets_beyond_end(handle))
                first = named.setdefault(handle.path, handle) if handle.path else handle
                if first is not handle:
                    if (first.size_bytes, first.sha256) != (handle.size_bytes, handle.sha256):
                        problems.append(f"{handle.path} is named twice, with different sizes or SHA-256")
                    continue
                try:
                    self.fetch_file(handle, local)
                except CorruptCheckpointError as error:
                    problems.append(str(error))
                local.unlink(missing_ok=True)
        return problems

    def fetch_file(self, handle: FileHandle, local: Path) -> None:
        """Bring a file to `local`, which does not exist yet, and verify it.

        Raises:
            CorruptCheckpointError: It is missing or not what the checkpoint says; `local` does not exist then.
            StorageError: Storage failed.
        """
        uploads.fetch_file(self.storage, handle, local)

    def fetch_files(self, wanted: Sequence[tuple[FileHandle, Path]]) -> None:
        """As `fetch_file`, for many."""
        for handle, local in wanted:
            self.fetch_file(handle, local)

    def delete_checkpoint(self, folder: str, keep: Iterable[CheckpointManifest]) -> None:
        """Delete a checkpoint that the journal has dropped: what is in its folder or named by it, but nothing that `keep` names.

        Args:
            folder: Not one of the retained ones.
            keep: Manifests of all retained checkpoints.

        Raises:
            StorageError: Storage failed; calling again goes on.
        """
        kept = _paths(keep)
        doomed = {file.path for file in self.storage.list(folder)}
        metadata = f"{folder}/{METADATA}"
        if metadata in doomed:
            try:
                doomed |= {path for path in _paths([self.read_manifest(folder)]) if writer_of(path) is not None}
            except CheckpointError:
                pass  # what it names elsewhere is left to the sweep
        doomed -= kept
        # First the manifest: half a checkpoint must not look like one.
        self.storage.delete([metadata])
        self.storage.delete(sorted(doomed - {metadata}))

    def sweep(self, running: Attempt, retained: Iterable[str]) -> int:
        """Delete what attempts older than the running one have left and no retained checkpoint names.

        Only for a coordinator that owns the journal and has nothing unsettled there.

        Args:
            running: The running attempt.
            retained: Folders of all retained checkpoints, by the journal's last entry.

        Returns:
            How many files were deleted.

        Raises:
            CheckpointError: A retained checkpoint cannot be read; nothing was deleted, since nobody knows what it names.
            StorageError: Storage failed.
        """
        folders = list(retained)
        kept = _paths(self.read_manifest(folder) for folder in folders) | {f"{folder}/{METADATA}" for folder in folders}
        before = (running.epoch, running.attempt)
        tops = [name for name in self.storage.folders("") if name == SHARED_FOLDER or CheckpointFolder.parse(name)]
        doomed: list[str] = []
        for top in tops:
            for file in self.storage.list(top):
                writer = writer_of(file.path)
                if writer is not None and writer < before and file.path not in kept:
                    doomed.append(file.path)
        self.storage.delete(doomed)
        return len(doomed)

    def list_checkpoints(self) -> list[CheckpointInfo]:
        """All checkpoints in storage and all that the journal names, by number; incomplete ones of nobody are left out.

        Raises:
            CorruptCheckpointError, IncompatibleCheckpointError: The journal's last entry cannot be read.
            StorageError: Storage failed.
        """
        tail = Journal(self.storage).tail()
        latest = tail.checkpoint if tail else ""
        retained = {*tail.retained, latest} - {""} if tail else set()
        stored = {name for name in self.storage.folders("") if CheckpointFolder.parse(name)}
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
                    folder, manifest.id, manifest.created_ms, manifest.size_bytes, kept, folder == latest, manifest.kind
                )
            )
        return sorted(infos, key=lambda info: (info.id, info.created_ms, info.folder))


def open_job(uri: str, base: Path | None = None) -> CheckpointStore:
    """The checkpoints in a job's folder, `file:///…/namespace/name`, for looking at them.

    Raises:
        CheckpointError: There is no job's folder.
        StorageError: The uri cannot be used.
    """
    root = resolve_file_uri(uri, base)
    store = CheckpointStore(FileStorage(root))
    if Journal(store.storage).tail() is None:
        raise CheckpointError(_no_checkpoint(uri))
    return store


def open_checkpoint(uri: str, base: Path | None = None) -> tuple[CheckpointStore, str]:
    """The checkpoint that `uri` names: its own folder, or a job's folder and then the latest checkpoint there.

    Args:
        uri: `file:///…/namespace/name/chk-3-1.1-0` or `file:///…/namespace/name`.
        base: What a relative path is relative to; without it such a path is refused.

    Returns:
        The store of the job that it belongs to, and the checkpoint's folder there.

    Raises:
        CheckpointError: There is no checkpoint at `uri`.
        StorageError: The uri cannot be used, or storage failed.
    """
    root = resolve_file_uri(uri, base)
    if root.name == METADATA:
        root = root.parent
    inner = FileStorage(root.parent)
    if inner.exists(f"{root.name}/{METADATA}"):
        store, folder = CheckpointStore(inner), root.name
    else:
        store = open_job(uri, base)
        tail = Journal(store.storage).tail()
        folder = tail.checkpoint if tail else ""
        if not folder:
            raise CheckpointError(f"the job in {uri} has no checkpoint yet")
    return CheckpointStore(store.storage, store.read_manifest(folder).job_id), folder


def _no_checkpoint(uri: str) -> str:
    return (
        f"{uri} is neither a job's folder (no `journal` in it) nor a checkpoint's (no `{METADATA}` in it); "
        "name a folder such as file:///checkpoints/namespace/name or file:///checkpoints/namespace/name/chk-3-1.1-0"
    )


def _handles(manifest: CheckpointManifest) -> list[FileHandle]:
    return [handle for subtask in manifest.subtasks for handle in subtask.files]


def _paths(manifests: Iterable[CheckpointManifest]) -> set[str]:
    return {handle.path for manifest in manifests for handle in _handles(manifest) if handle.path}


def _offsets_beyond_end(handle: FileHandle) -> list[str]:
    beyond = [
        group
        for group, (offset, length) in handle.key_group_offsets.items()
        if offset < 0 or offset + length > handle.size_bytes
    ]
    if not beyond:
        return []
    return [f"{handle.path or handle.name}: key groups {sorted(beyond)} lie beyond its {handle.size_bytes} bytes"]
