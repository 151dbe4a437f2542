"""What a snapshot of keyed state says about itself: its file `state.json`.

It names the format of the files, the key groups it covers, and every table with its kind and the serde of its values,
so that state of another kind or encoding is refused by name before a single byte of it is decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterable
from pathlib import Path
from typing import Final

import msgspec

from checkdam.core.errors import CorruptCheckpointError, IncompatibleCheckpointError
from checkdam.core.serde import is_joined
from checkdam.state.base import LocalFile, StoredSnapshot, TableSpec

RECORD_VERSION: Final = 1
"""Version of `state.json` and of the files beside it; a newer one is refused."""

RECORD_NAME: Final = "state.json"

BLOCKS_FORMAT: Final = "blocks"
ROCKSDB_FORMAT: Final = "rocksdb"

BLOCKS_NAME: Final = "state.blocks"
"""The file with all rows of a snapshot in the canonical format; missing where there are none."""

CHANGES_NAME: Final = "changes.blocks"
"""The file of a snapshot in RocksDB's own format with what the database lacks; missing where it lacks nothing."""

BLOCK_FILES: Final = {BLOCKS_FORMAT: BLOCKS_NAME, ROCKSDB_FORMAT: CHANGES_NAME}
"""Format → its file of blocks."""


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

    @property
    def column(self) -> str:
        """What tells it from all other tables and timers of a snapshot; the name of its column family in RocksDB."""
        return f"table/{self.id}"


class TimersRecord(msgspec.Struct, frozen=True):
    """The timers of one operator in one time domain."""

    operator: str
    domain: str

    @property
    def id(self) -> str:
        """How people are told about these timers."""
        return f"{self.operator}/{self.domain} timers"

    @property
    def column(self) -> str:
        """As `TableRecord.column`."""
        return f"timers/{self.operator}/{self.domain}"


class SnapshotRecord(msgspec.Struct, frozen=True):
    """The content of `state.json`.

    Attributes:
        version: RECORD_VERSION of the writer.
        format: `blocks`, the canonical format that every backend restores, or `rocksdb`.
        key_groups: First key group and the one after the last.
        max_parallelism: Number of key groups of the job.
        tables, timers: What is in the files; blocks refer to the position in these lists, timers after tables.
        log: The files of the log of changes (`rocksdb_log`), the earliest first.
    """

    version: int
    format: str
    key_groups: tuple[int, int]
    max_parallelism: int
    tables: list[TableRecord]
    timers: list[TimersRecord]
    log: list[str] = []

    @property
    def sections(self) -> list[TableRecord | TimersRecord]:
        """What the sections of a file of blocks are, in their order."""
        return [*self.tables, *self.timers]


def make_record(
    format: str, key_groups: range, max_parallelism: int, tables: Iterable[TableSpec], timers: Iterable[TimersRecord]
) -> SnapshotRecord:
    """What a snapshot that is taken now says about itself; see `SnapshotRecord`."""
    return SnapshotRecord(
        version=RECORD_VERSION,
        format=format,
        key_groups=(key_groups.start, key_groups.stop),
        max_parallelism=max_parallelism,
        tables=list(map(TableRecord.of, tables)),
        timers=list(timers),
    )


def fetch_log(snapshot: StoredSnapshot, record: SnapshotRecord) -> list[Path]:
    """The files of a snapshot's log of changes, the latest first.

    Raises:
        CorruptCheckpointError: The snapshot lacks one, or one is damaged.
        StorageError: Storage failed.
    """
    paths = snapshot.fetch(record.log)
    missing = [name for name in record.log if name not in paths]
    if missing:
        raise CorruptCheckpointError(f"the snapshot lacks {', '.join(missing)}, which its log of changes consists of")
    return [paths[name] for name in reversed(record.log)]


def write_record(directory: Path, record: SnapshotRecord) -> LocalFile:
    """Write `state.json` into `directory`."""
    data = msgspec.json.format(msgspec.json.encode(record), indent=1)
    path = directory / RECORD_NAME
    path.write_bytes(data)
    return LocalFile(RECORD_NAME, path, len(data), hashlib.sha256(data).hexdigest())


class _Version(msgspec.Struct):
    version: int


# Made once and here: msgspec crashes the process when several threads are the first to use a type.
_version_decoder = msgspec.json.Decoder(_Version)
_record_decoder = msgspec.json.Decoder(SnapshotRecord)


def read_record(path: Path) -> SnapshotRecord:
    """Read a `state.json`.

    Raises:
        CorruptCheckpointError: It is missing or unreadable.
        IncompatibleCheckpointError: It is of a newer release.
    """
    try:
        data = path.read_bytes()
        version = _version_decoder.decode(data).version
        if version > RECORD_VERSION:
            raise IncompatibleCheckpointError(
                f"the snapshot's `{RECORD_NAME}` has format version {version}, this release reads up to "
                f"{RECORD_VERSION}; upgrade Checkdam to restore it"
            )
        return _record_decoder.decode(data)
    except (OSError, msgspec.DecodeError) as error:
        raise CorruptCheckpointError(f"{path} is not a snapshot's `{RECORD_NAME}`: {error}") from error


def check_record(record: SnapshotRecord, formats: Collection[str], max_parallelism: int) -> None:
    """See that a backend that reads `formats`, of a job with `max_parallelism` key groups, can restore a snapshot.

    Raises:
        IncompatibleCheckpointError: It is of another backend's own format, or of another `maxParallelism`.
    """
    if record.format not in formats:
        raise IncompatibleCheckpointError(
            f"the snapshot has the format `{record.format}`, which only the state backend of that name reads; set "
            f"`stateBackend.type` to {record.format}, or restore a savepoint instead, which every backend reads"
        )
    if record.max_parallelism != max_parallelism:
        raise IncompatibleCheckpointError(
            f"the snapshot has {record.max_parallelism} key groups, this job {max_parallelism}; set `maxParallelism` to "
            f"{record.max_parallelism}: it cannot change over the life of a job"
        )


def check_table(record: TableRecord, spec: TableSpec) -> None:
    """See that a restored table is of the kind that the operator now asks for, and encoded in the same way.

    How types may change within an encoding was judged before: that takes what the whole checkpoint says of them.

    Raises:
        IncompatibleCheckpointError: Its kind differs, or one of the two is pickled.
    """
    if record.kind != spec.kind or is_joined(record.serde) != is_joined(spec.serde.name):
        raise IncompatibleCheckpointError(
            f"operator `{spec.operator}`: the checkpoint holds state `{spec.name}` as {record.kind} of `{record.serde}`, the "
            f"pipeline now declares {spec.kind} of `{spec.serde.name}`, which cannot read it: go back to the old declaration, "
            f"or give the new state another name and drop the old one with `allowNonRestoredState`"
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
