"""The contract between operators and keyed state.

An operator never sees a database. It sees *tables*: maps from (namespace, key) to a value, where the namespace is an
integer that groups keys which live and die together (the start of a window; 0 where there is no such group).
Before it works on a batch it asks the table for the `cells` of the batch's keys, a plain dictionary which it reads and
writes at dictionary speed; afterwards it says which keys `changed`. So the hot path is the same on both backends: the
hashmap backend hands out the dictionary that is the state, the RocksDB backend a write-back cache in which it has
loaded the keys of the batch with one sorted multi-get.

A *keyed backend* holds all tables and timers of one subtask, which owns a contiguous range of key groups. Everything
here is called by the task thread alone, except where a method says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from checkdam.checkpoint.manifest import FileHandle
from checkdam.core.serde import Serde

Key = Any
"""A key that `checkdam.core.keys` can encode."""


@dataclass(frozen=True)
class TableSpec:
    """What a table is, for creating it and for checking it against a checkpoint.

    Attributes:
        operator: The id of the operator that owns it.
        name: Its name, unique within the operator.
        serde: How its values become bytes; whether it pickles must agree with the checkpoint.
        kind: `value` (one value per namespace and key) or `map` (sub-keys and values per key).
        ttl_ms: How long an entry lives after its last update; 0 for ever.
    """

    operator: str
    name: str
    serde: Serde
    kind: str = "value"
    ttl_ms: int = 0

    @property
    def id(self) -> str:
        """`operator/name`, the table's name in a snapshot."""
        return f"{self.operator}/{self.name}"


class Table(Protocol):
    """(namespace, key) → value.

    With a TTL every cell is a tuple `(value, updated_ms)`, and expired cells are absent from what `cells` and `scan`
    return; without one a cell is the value itself.
    """

    spec: TableSpec

    def cells(self, namespace: int, keys: Collection[Key]) -> dict[Key, Any]:
        """A dictionary that holds the cell of each of `keys` that has one (and maybe of other keys, which must not be relied on).

        It may be read, and the cells of `keys` and no others may be set and deleted in it, until the next call on this
        table; what was set or deleted must be announced by `changed` first. Calls on other tables and on timers do it no
        harm.
        """
        ...

    def changed(self, namespace: int, keys: Iterable[Key]) -> None:
        """The cells of `keys` were set in, or deleted from, the dictionary that `cells` returned.

        The last call on this table must have been `cells` of the same namespace. `keys` may hold more of the keys that
        were asked for than those that changed.
        """
        ...

    def namespaces(self) -> list[int]:
        """The namespaces that hold at least one cell, ascending; maybe also some whose cells have all expired."""
        ...

    def scan(self, namespace: int) -> Iterator[list[tuple[Key, Any]]]:
        """All cells of a namespace, a few thousand at a time, key group by key group or in any order.

        Between two portions nothing of the table may be changed or dropped. Without a TTL `cells` may be called, for any
        namespace; with one not even that, since it removes what has expired, and neither may the backend's `maintain`.
        Memory is bounded by a portion, not by the namespace.
        """
        ...

    def drop(self, namespace: int) -> None:
        """Delete all cells of a namespace."""
        ...


class MapTable(Protocol):
    """key → {sub-key: value}, each entry stored on its own, in ascending order of the sub-keys' encoding.

    Sub-keys are ints, strings or anything else that `checkdam.core.keys` encodes; ints sort by value.
    """

    spec: TableSpec

    def load(self, keys: Collection[Key]) -> None:
        """A hint that the entries of these keys are needed next."""
        ...

    def get(self, key: Key, subkey: Key, default: Any = None) -> Any:
        """The value of a live entry; `default` if there is none."""
        ...

    def put(self, key: Key, subkey: Key, value: Any) -> None:
        """Set an entry; its time to live begins anew."""
        ...

    def remove(self, key: Key, subkey: Key) -> None:
        """Delete an entry; that there is none is no error."""
        ...

    def items(self, key: Key, low: int | None = None, high: int | None = None) -> list[tuple[Key, Any]]:
        """The live entries of a key, ordered for int sub-keys; `low` ≤ sub-key < `high` where given (int sub-keys only)."""
        ...

    def clear(self, key: Key) -> None:
        """Delete all entries of a key."""
        ...


class Timers(Protocol):
    """A set of (time, key, namespace), of one operator and one time domain.

    Registering a timer that is there already changes nothing.
    """

    def register(self, time_ms: int, key: Key, namespace: int = 0) -> None:
        """Add a timer."""
        ...

    def register_many(self, time_ms: int, keys: Iterable[Key], namespace: int = 0) -> None:
        """The same time for many keys."""
        ...

    def delete(self, time_ms: int, key: Key, namespace: int = 0) -> None:
        """Remove a timer; that there is none is no error."""
        ...

    def next_time(self) -> int | None:
        """The earliest registered time, or a time before it; `None` if there is none."""
        ...

    def pop_due(self, up_to_ms: int, limit: int = 4096) -> list[tuple[int, Key, int]]:
        """Remove and return up to `limit` timers with time ≤ `up_to_ms`, earliest first; empty when none is left."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file of a snapshot, still on this machine.

    Attributes:
        name: Its name within the snapshot, with `/` as separator.
        path: Where it lies.
        size_bytes: Its size.
        sha256: Hex digest of its bytes.
        key_group_offsets: For files written key group by key group: group → (offset, length) in bytes.
        reusable: It never changes and may be named by later checkpoints too (a RocksDB data file).
    """

    name: str
    path: Path
    size_bytes: int
    sha256: str
    key_group_offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    reusable: bool = False


class StoredSnapshot(Protocol):
    """A snapshot of one subtask's keyed state, in storage. A backend fetches what it needs of it."""

    key_groups: range
    """What it covers."""

    files: Sequence[FileHandle]

    def fetch(self, names: Collection[str]) -> dict[str, Path]:
        """Bring the files of these names to this machine, verified, several at a time; returns where they are. Blocks.

        They stay there until the attempt ends, and must not be changed: others may be links to the same bytes.

        Raises:
            CorruptCheckpointError: A file is missing or not what the checkpoint says.
            StorageError: Storage failed.
        """
        ...


class SnapshotWriter(Protocol):
    """A snapshot that was taken and is now being written; belongs to an I/O thread."""

    def finish(self) -> list[LocalFile]:
        """Wait until all files are written and describe them. Called by an I/O thread.

        Raises:
            CheckpointError: The snapshot could not be written.
        """
        ...

    def cancel(self) -> None:
        """Give up; any thread, any time, also while `finish` waits. The files are deleted."""
        ...


class KeyedBackend(Protocol):
    """The keyed state of one subtask."""

    key_groups: range
    """The key groups that this subtask owns."""

    max_parallelism: int

    def key_group(self, key: Key) -> int:
        """The key group of `key`."""
        ...

    def table(self, spec: TableSpec) -> Table:
        """Create the table, or give back the restored one.

        Raises:
            IncompatibleCheckpointError: The checkpoint holds this table pickled or not pickled, unlike now, or of another kind.
        """
        ...

    def map_table(self, spec: TableSpec) -> MapTable:
        """As `table`, for a table of the kind `map`."""
        ...

    def timers(self, operator: str, domain: str) -> Timers:
        """The timers of an operator in the domain `event` or `processing`."""
        ...

    def prepare(self) -> None:
        """A barrier is on its way: start whatever makes `snapshot` short."""
        ...

    def snapshot(self, directory: Path, *, canonical: bool = False) -> SnapshotWriter:
        """Freeze all tables and timers as they are now; files go into `directory`, which exists and is empty.

        Args:
            directory: Of this snapshot alone.
            canonical: Write the format that every backend restores, for a savepoint; else the one that is quickest here.
        """
        ...

    def restore(self, snapshots: Sequence[StoredSnapshot]) -> None:
        """Load, of the key groups owned here, what `snapshot` wrote in this backend or, canonically, in any.

        Called once, before any `table`.

        Args:
            snapshots: They cover disjoint ranges of key groups, together at least what is owned here. Several, or one that covers
                more, come from another parallelism: what is owned by others is clipped.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
            IncompatibleCheckpointError: A snapshot is of a newer release or of another `maxParallelism`, or of another backend
                and not canonical.
            CheckpointError: Key groups that are owned here are missing.
        """
        ...

    def unclaimed_tables(self) -> list[str]:
        """Ids of restored tables and timers that nobody has asked for: state of an operator that is gone."""
        ...

    def maintain(self) -> None:
        """Called now and then between batches: a bounded step of removing expired entries, collecting garbage."""
        ...

    def size_hint(self) -> int:
        """About how many entries are held, for metrics."""
        ...

    def close(self) -> None:
        """Give back everything but the files; what is in no snapshot is lost."""
        ...
