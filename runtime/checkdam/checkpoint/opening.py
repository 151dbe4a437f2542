"""From a uri on a command line or in `restoreFrom` to the job or the checkpoint that it names, for looking at it.

A checkpoint, or a savepoint, is named by its own folder, by the `_metadata` in it, or by its job's folder, which stands for
the latest checkpoint there. What is in a folder tells which it is: a checkpoint's holds `_metadata`, a job's holds a journal.
A folder that was copied elsewhere under any name can be opened alike.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from checkdam.checkpoint.folders import METADATA
from checkdam.checkpoint.journal import Journal
from checkdam.checkpoint.storage.locate import open_folder, scheme_of
from checkdam.checkpoint.store import CheckpointStore
from checkdam.core.errors import CheckpointError
from checkdam.spec.checkpoint import CheckpointStorage


def open_job(uri: str, base: Path | None = None, options: CheckpointStorage | None = None) -> CheckpointStore:
    """The checkpoints in a job's folder, `<storage uri>/<job id>`.

    Args:
        uri: Such as `s3://bucket/prefix/namespace/name`.
        base: What a relative `file://` path is relative to; without it such a path is refused.
        options: How storage of this scheme is reached; otherwise the environment says.

    Raises:
        CheckpointError: There is no job's folder.
        StorageError: The uri cannot be used, or storage failed.
    """
    store = CheckpointStore(open_folder(uri, base=base, options=options))
    if Journal(store.storage).tail() is None:
        raise CheckpointError(_no_checkpoint(uri))
    return store


def open_checkpoint(
    uri: str, base: Path | None = None, options: CheckpointStorage | None = None
) -> tuple[CheckpointStore, str]:
    """The checkpoint or savepoint that `uri` names: its own folder, its `_metadata`, or a job's folder and then the latest there.

    Args:
        uri: Such as `s3://bucket/prefix/namespace/name/chk-3-1.1-0` or `s3://bucket/prefix/namespace/name`.
        base, options: As `open_job`.

    Returns:
        The store of the job that it belongs to, and the checkpoint's folder there.

    Raises:
        CheckpointError: There is no checkpoint at `uri`.
        StorageError: The uri cannot be used, or storage failed.
    """
    parent, name = split_uri(uri)
    if name == METADATA:
        uri = parent
        parent, name = split_uri(uri)
    if name:
        beside = CheckpointStore(open_folder(parent, base=base, options=options))
        if beside.storage.exists(f"{name}/{METADATA}"):
            return _named(beside, name)
    store = open_job(uri, base, options)
    tail = Journal(store.storage).tail()
    if tail is None or not tail.checkpoint:
        raise CheckpointError(f"the job in {uri} has no checkpoint yet")
    return _named(store, tail.checkpoint)


def _named(store: CheckpointStore, folder: str) -> tuple[CheckpointStore, str]:
    return CheckpointStore(store.storage, store.read_manifest(folder).job_id), folder


def split_uri(uri: str) -> tuple[str, str]:
    """The uri of the folder that `uri` is in, and its name there; no name where there is no folder around it."""
    scheme = scheme_of(uri)
    parent, _, name = uri.removeprefix(f"{scheme}://").rstrip("/").rpartition("/")
    if not parent:
        return uri, ""
    return f"{scheme}://{parent}", unquote(name) if scheme == "file" else name


def _no_checkpoint(uri: str) -> str:
    return (
        f"{uri} is neither a job's folder (no `journal` in it) nor a checkpoint's (no `{METADATA}` in it); "
        "name a folder such as file:///checkpoints/namespace/name or s3://bucket/prefix/namespace/name/chk-3-1.1-0"
    )
