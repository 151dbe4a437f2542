"""What a snapshot of keyed state says about itself: its file `state.json`.

It names the backend that wrote it, the key groups it covers, and every table with its kind and the serde of its values,
so that a job whose state has changed its type is refused by name before a single byte of the state is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Final

import msgspec

from checkdam.core.errors import CheckpointError, CorruptCheckpointError, IncompatibleCheckpointError
from checkdam.state.base import LocalFile, TableSpec

RECORD_VERSION: Final = 1
"""Version of `state.json` and of the files beside it; a newer one is refused."""

RECORD_NAME: Final = "state.json"


class TableRecord(msgspec.Struct, frozen=True):
    """A table of the snapshot; the fields are those of `TableSpec`, with the serde's name."""

    operator: str
    name: str
    kind: str
    serde: str
    ttl_ms: int = 0

    @classmethod
    def of(cls, spec: TableSpec) -> TableRecord:
        """The record of a table that is described by `spec`."""
        return cls(spec.operator, spec.name, spec.kind, spec.serde.name, spec.ttl_ms)

    @property
    def id(self) -> str:
        """As `TableSpec.id`."""
        return f"{self.operator}/{self.name}"


class TimersRecord(msgspec.Struct, frozen=True):
    """The timers of one operator in one time domain."""

    operator: str
    domain: str

    @property
    def id(self) -> str:
        """How people are told about these timers."""
        return f"{self.operator}/{self.domain} timers"


class SnapshotRecord(msgspec.Struct, frozen=True):
    """The content of `state.json`.

    Attributes:
        version: RECORD_VERSION of the writer.
        backend: `hashmap` or `rocksdb`.
        key_groups: First key group and the one after the last.
        max_parallelism: Number of key groups of the job.
        tables, timers: What is in the files; the hashmap backend's blocks refer to the position in these lists.
    """

    version: int
    backend: str
    key_groups: tuple[int, int]
    max_parallelism: int
    tables: list[TableRecord]
    timers: list[TimersRecord]


def make_record(
    backend: str, key_groups: range, max_parallelism: int, tables: Iterable[TableSpec], timers: Iterable[TimersRecord]
) -> SnapshotRecord:
    """What a snapshot that is taken now says about itself; see `SnapshotRecord`."""
    return SnapshotRecord(
        version=RECORD_VERSION,
        backend=backend,
        key_groups=(key_groups.start, key_groups.stop),
        max_parallelism=max_parallelism,
        tables=list(map(TableRecord.of, tables)),
        timers=list(timers),
    )


def write_record(directory: Path, record: SnapshotRecord) -> LocalFile:
    """Write `state.json` into `directory`."""
    data = msgspec.json.format(msgspec.json.encode(record), indent=1)
    path = directory / RECORD_NAME
    path.write_bytes(data)
    return LocalFile(RECORD_NAME, path, len(data), hashlib.sha256(data).hexdigest())


class _Version(msgspec.Struct):
    version: int


def read_record(files: list[LocalFile], backend: str, max_parallelism: int) -> SnapshotRecord:
    """Read the `state.json` among `files`, for a backend of this kind and job.

    Raises:
        CorruptCheckpointError: It is missing or unreadable.
        IncompatibleCheckpointError: It is of a newer release, of another backend or of another `maxParallelism`.
    """
    path = next((file.path for file in files if file.name == RECORD_NAME), None)
    if path is None:
        names = ", ".join(sorted(file.name for file in files)) or "none"
        raise CorruptCheckpointError(f"the snapshot has no `{RECORD_NAME}` (its files: {names})")
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).version
        if version > RECORD_VERSION:
            raise IncompatibleCheckpointError(
                f"the snapshot's `{RECORD_NAME}` has format version {version}, this release reads up to "
                f"{RECORD_VERSION}; upgrade Checkdam to restore it"
            )
        record = msgspec.json.decode(data, type=SnapshotRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise CorruptCheckpointError(f"{path} is not a snapshot's `{RECORD_NAME}`: {error}") from error
    if record.backend != backend:
        raise IncompatibleCheckpointError(
            f"the snapshot was written by the state backend `{record.backend}`, this job uses `{backend}`; set "
            f"`stateBackend.type` to {record.backend} to restore it"
        )
    if record.max_parallelism != max_parallelism:
        raise IncompatibleCheckpointError(
            f"the snapshot has {record.max_parallelism} key groups, this job {max_parallelism}; set `maxParallelism` to "
            f"{record.max_parallelism}: it cannot change over the life of a job"
        )
    return record


def check_table(record: TableRecord, spec: TableSpec) -> None:
    """See that a restored table is what the operator now asks for.

    Raises:
        IncompatibleCheckpointError: Its kind or its serde differs.
    """
    stored, wanted = f"{record.kind} of `{record.serde}`", f"{spec.kind} of `{spec.serde.name}`"
    if stored != wanted:
        raise IncompatibleCheckpointError(
            f"operator `{spec.operator}`: the checkpoint holds state `{spec.name}` as {stored}, the pipeline now declares "
            f"{wanted}; a type cannot change on restore: go back to the old type, or give the new state another name and "
            f"drop the old one with `allowNonRestoredState`"
        )


def check_covers(record: SnapshotRecord, key_groups: range) -> None:
    """See that a snapshot has all the key groups that a subtask owns.

    Raises:
        CheckpointError: It has not.
    """
    start, stop = record.key_groups
    if key_groups.start < start or key_groups.stop > stop:
        raise CheckpointError(
            f"the snapshot holds key groups {start}..{stop - 1}, this subtask owns {key_groups.start}.."
            f"{key_groups.stop - 1}; restore with the parallelism that the checkpoint was taken with"
        )


def check_spec(spec: TableSpec, kind: str, of_other_kind: Container[str]) -> None:
    """See that a table is asked for by the method of its kind, and that its id is not taken by one of the other kind.

    Raises:
        ValueError: It is not, or the id is.
    """
    if spec.kind != kind:
        raise ValueError(f"`kind` of table `{spec.id}` must be {kind!r} here (got {spec.kind!r})")
    if spec.id in of_other_kind:
        raise ValueError(f"table `{spec.id}` was declared twice, once of kind {kind!r}; give one of them another name")


def check_same(existing: TableSpec, spec: TableSpec) -> None:
    """See that a table which is asked for again is asked for as the same.

    Raises:
        ValueError: Kind, serde or TTL differ from the first time.
    """
    if TableRecord.of(existing) != TableRecord.of(spec):
        raise ValueError(
            f"table `{spec.id}` was declared twice, as {TableRecord.of(existing)} and as {TableRecord.of(spec)}; "
            f"give one of them another name"
        )
