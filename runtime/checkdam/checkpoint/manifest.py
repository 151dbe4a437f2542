"""What a checkpoint is, as data: the contents of its `_metadata` file.

`_metadata` is JSON, so that people and other programs can read it; bytes inside are base64. It is written last, when all
files that it names are in storage, and it alone is no commit: a checkpoint counts when the journal says so.
All paths are relative to the job's folder in storage, so a job's folder can be moved as a whole.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from checkdam.core.errors import CorruptCheckpointError, IncompatibleCheckpointError
from checkdam.core.schema import Schema

FORMAT_VERSION: Final = 1
"""Version of `_metadata`; a newer one is refused."""


class FileHandle(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file in checkpoint storage.

    Attributes:
        name: Its name within the snapshot that it belongs to.
        path: Relative to the job's folder; empty when the bytes are `inline`.
        size_bytes: Its size.
        sha256: Hex digest.
        inline: The bytes themselves, where they are few.
        key_group_offsets: group → (offset, length) for files written key group by key group.
    """

    name: str
    size_bytes: int
    sha256: str
    path: str = ""
    inline: bytes | None = None
    key_group_offsets: dict[int, tuple[int, int]] = {}


class SubtaskSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """One subtask of one stage, at its barrier.

    Attributes:
        stage: The stage's id.
        subtask: Index, from 0.
        key_groups: First key group and the one after the last, of keyed stages.
        watermark_ms: The watermark that the subtask, and so all its key groups, had seen.
        operators: operator id → what `Operator.snapshot` returned, as MessagePack.
        files: Keyed state.
        group_watermarks: Where some key groups had seen more, as they can after a rescale: (first key group, the one after the
            last, their watermark in ms), for all of `key_groups`.
    """

    stage: str
    subtask: int
    key_groups: tuple[int, int] | None = None
    watermark_ms: int = -(2**63)
    operators: dict[str, bytes] = {}
    files: list[FileHandle] = []
    group_watermarks: list[tuple[int, int, int]] = []


class OperatorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What must agree between a checkpoint and the graph that restores it.

    Attributes:
        id: Stable id.
        kind: Such as `map`, `window` or `source`.
        state: table name → its kind and the name of its serde; of a source, what its splits are.
        two_phase: Whether it may hold pending committables.
        schemas: table name → what its values may have been stored as: the types that they had in earlier versions of the
            job, as far as values may not have been written anew since, and last the type that they had now.
    """

    id: str
    kind: str
    state: dict[str, str] = {}
    two_phase: bool = False
    schemas: dict[str, list[Schema]] = {}


class SourceSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """The split enumerator of one source.

    Attributes:
        seen: Ids of all splits ever found.
        unassigned: Splits that no worker had at the barrier, in reading order: (id, payload).
        reserved: AtMostOnce: split id → position up to which reading was reserved.
    """

    seen: list[str] = []
    unassigned: list[tuple[str, Any]] = []
    reserved: dict[str, Any] = {}


class CheckpointManifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole checkpoint.

    Attributes:
        version: FORMAT_VERSION of the writer.
        job_id: Whose it is.
        id: Number, growing over the life of the job; 0 is the one from before anything was read.
        epoch, attempt: Who took it.
        parallelism, max_parallelism: Of the job then.
        mode: ExactlyOnce, AtLeastOnce or AtMostOnce.
        created_ms: Wall clock.
        processing_time_ms: The workers' processing time, for the clock after a restore.
        fingerprint: Of the graph.
        operators: What the graph consisted of.
        sources: source operator id → its enumerator.
        subtasks: All subtask snapshots.
        kind: `checkpoint` or `savepoint`. Keyed state of a savepoint is in the canonical format, whatever the backend, and
            all its files are in its own folder.
        increments: How many checkpoints in a row, this one included, name files of the one before; 0: this one is full.
        final: Taken after all input had ended.
        drained: A savepoint for which all event time had passed: windows have fired that were not complete.
        committed: A savepoint of which all that sinks had prepared was committed before it was completed: it owes nothing.
    """

    version: int
    job_id: str
    id: int
    epoch: int
    attempt: int
    parallelism: int
    max_parallelism: int
    mode: str
    created_ms: int
    fingerprint: str
    operators: list[OperatorInfo]
    sources: dict[str, SourceSnapshot] = {}
    subtasks: list[SubtaskSnapshot] = []
    processing_time_ms: int = 0
    kind: str = "checkpoint"
    increments: int = 0
    final: bool = False
    drained: bool = False
    committed: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, inline ones included."""
        return sum(handle.size_bytes for subtask in self.subtasks for handle in subtask.files)

    def handles(self) -> list[FileHandle]:
        """All files that it names; one that several snapshots share more than once."""
        return [handle for subtask in self.subtasks for handle in subtask.files]

    def paths(self) -> set[str]:
        """Of all files in storage that it names."""
        return {handle.path for subtask in self.subtasks for handle in subtask.files if handle.path}

    def of_subtask(self, index: int) -> list[SubtaskSnapshot]:
        """The snapshots of all stages' subtasks `index`."""
        return [snapshot for snapshot in self.subtasks if snapshot.subtask == index]


def encode_manifest(manifest: CheckpointManifest) -> bytes:
    """`_metadata` as stored."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


class _Version(msgspec.Struct):
    version: int


# Made once and here: msgspec crashes the process when several threads are the first to use a type.
_version_decoder = msgspec.json.Decoder(_Version)
_manifest_decoder = msgspec.json.Decoder(CheckpointManifest)


def decode_manifest(data: bytes, where: str) -> CheckpointManifest:
    """Parse `_metadata`, named `where` in errors.

    Raises:
        CorruptCheckpointError: It is no manifest.
        IncompatibleCheckpointError: It is of a newer format.
    """

    try:
        version = _version_decoder.decode(data).version
        if version > FORMAT_VERSION:
            raise IncompatibleCheckpointError(
                f"{where} has format version {version}, this release reads up to {FORMAT_VERSION}; upgrade Checkdam to read it"
            )
        return _manifest_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptCheckpointError(f"{where} is not a checkpoint's _metadata: {error}") from error
