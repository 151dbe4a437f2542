"""Checkpoints and savepoints as things that people move about: copies that need nothing else, and deleting a savepoint.

A copy has all its files in its own folder, also where the original named shared ones. Each file is verified as it is read,
and `_metadata` is written last, so a copy that was interrupted is no checkpoint; it is cleared away by the next try.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from checkdam.checkpoint import uploads
from checkdam.checkpoint.folders import METADATA
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.manifest import CheckpointManifest, FileHandle
from checkdam.checkpoint.storage.base import Storage
from checkdam.checkpoint.store import CheckpointStore
from checkdam.checkpoint.transfers import Transfers
from checkdam.core.errors import CheckpointError, CorruptCheckpointError


def copy_files(
    source: CheckpointStore,
    manifest: CheckpointManifest,
    target: Storage,
    path_of: Callable[[int, FileHandle], str],
    transfers: Transfers,
) -> CheckpointManifest:
    """Copy all files of a checkpoint, several at a time; what was copied before an error is deleted again.

    Args:
        source: Where they are.
        manifest: Names them.
        target: Where they go; inlined where workers cannot reach it.
        path_of: Running number and file → its path in `target`.
        transfers: Moves them.

    Returns:
        The manifest, naming the copies.

    Raises:
        CorruptCheckpointError: A file is damaged.
        StorageError: Storage failed.
    """
    handles = {handle.path: handle for snapshot in manifest.subtasks for handle in snapshot.files if handle.path}
    paths = {handle.path: path_of(number, handle) for number, handle in enumerate(handles.values())}
    with tempfile.TemporaryDirectory(prefix="checkdam-copy-") as directory:
        work = [
            partial(_copy_file, source, handle, target, paths[handle.path], Path(directory) / str(number))
            for number, handle in enumerate(handles.values())
        ]
        try:
            copies = dict(zip(handles, transfers.run(work), strict=True))
        except BaseException:
            if target.shared:
                uploads.discard(target, paths.values())
            raise
    subtasks = [
        msgspec.structs.replace(snapshot, files=[_renamed(handle, copies) for handle in snapshot.files])
        for snapshot in manifest.subtasks
    ]
    return msgspec.structs.replace(manifest, subtasks=subtasks)


def copy_checkpoint(source: CheckpointStore, folder: str, target: Storage) -> str:
    """Copy a checkpoint or savepoint into a folder of its own name in `target`; returns the copy's uri.

    Raises:
        CheckpointError: There is one of that name already, or the original is damaged.
        StorageError: Storage failed.
    """
    uri = f"{target.uri}/{folder}"
    manifest = source.read_manifest(folder)
    if target.exists(f"{folder}/{METADATA}"):
        raise CheckpointError(f"{uri} exists already; choose another folder, or dispose of what is there")
    target.delete([file.path for file in target.list(folder)])
    prefix = f"{folder}/"

    def path_of(number: int, handle: FileHandle) -> str:
        return handle.path if handle.path.startswith(prefix) else prefix + handle.path

    copied = copy_files(source, manifest, target, path_of, source.transfers)
    CheckpointStore(target).write_manifest(folder, copied)
    return uri


def dispose_savepoint(store: CheckpointStore, folder: str) -> None:
    """Delete a savepoint for good.

    Raises:
        CheckpointError: It is none, or a job beside it restores from it or may come to.
        StorageError: Storage failed; calling again goes on.
    """
    where = f"{store.storage.uri}/{folder}"
    if store.read_manifest(folder).kind != "savepoint":
        raise CheckpointError(
            f"{where} is a checkpoint, not a savepoint: its job deletes it by itself, by `spec.checkpoint.retain`"
        )
    tail = Journal(store.storage).tail()
    if tail is not None and tail.checkpoint == folder:
        state = "was stopped with it and goes on from it" if tail.decision == "stopped" else "restores from it"
        raise CheckpointError(
            f"{where} cannot be disposed of: its job {state}; it can when the job has completed a newer checkpoint"
        )
    for kept in tail.retained if tail is not None else ():
        if kept == folder or any(path.startswith(f"{folder}/") for path in _paths_of(store, kept)):
            raise CheckpointError(
                f"{where} cannot be disposed of: its job keeps it in case newer checkpoints are damaged; it can when the job has "
                f"completed {len(tail.retained) if tail is not None else 0} newer ones"
            )
    metadata = f"{folder}/{METADATA}"
    # First the manifest: half a savepoint must not look like one.
    store.storage.delete([metadata])
    store.storage.delete([file.path for file in store.storage.list(folder)])


def _paths_of(store: CheckpointStore, folder: str) -> set[str]:
    try:
        return store.read_manifest(folder).paths()
    except CorruptCheckpointError:
        return set()


def _copy_file(source: CheckpointStore, handle: FileHandle, target: Storage, path: str, local: Path) -> FileHandle:
    """Bring one file over, by way of `local`."""
    source.fetch_file(handle, local)
    try:
        if not target.shared:
            return msgspec.structs.replace(handle, path="", inline=local.read_bytes())
        target.put_file(path, local)
        return msgspec.structs.replace(handle, path=path)
    finally:
        local.unlink()


def _renamed(handle: FileHandle, copies: dict[str, FileHandle]) -> FileHandle:
    if not handle.path:
        return handle
    copy = copies[handle.path]
    return msgspec.structs.replace(handle, path=copy.path, inline=copy.inline)
