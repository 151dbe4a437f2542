"""Restored state that waits for the operators that it belongs to; the same for both backends.

What a snapshot holds in blocks stays undecoded until an operator asks for its table, since only the operator's spec
knows the type of the values. What nobody has asked for by the next snapshot is forgotten: its operator is gone.
"""

from __future__ import annotations

from checkdam.state.base import LocalFile, StoredSnapshot, TableSpec
from checkdam.state.record import SnapshotRecord, TableRecord, TimersRecord, check_covers, check_table, read_record
from checkdam.state.sections import SectionWriter


class RestoredState:
    """The tables and timers of a snapshot that nobody has asked for yet, with their blocks; at first there are none."""

    def __init__(self) -> None:
        self._tables: dict[str, tuple[TableRecord, list[bytes]]] = {}
        self._timers: dict[TimersRecord, list[bytes]] = {}

    def read(
        self, files: list[LocalFile], backend: str, key_groups: range, max_parallelism: int, writer: SectionWriter
    ) -> SnapshotRecord:
        """Take what a snapshot of `backend` holds for a subtask that owns `key_groups`; returns its `state.json`.

        Args:
            files: The snapshot's.
            backend: The name of the backend that reads.
            key_groups: The key groups that the subtask owns.
            max_parallelism: Number of key groups of the job.
            writer: What writes the backend's blocks, and reads them.

        Raises:
            CorruptCheckpointError: A file is missing or damaged.
            IncompatibleCheckpointError: The snapshot is of another backend, release or `maxParallelism`.
            CheckpointError: It lacks key groups that are owned here.
        """
        record = read_record(files, backend, max_parallelism)
        check_covers(record, key_groups)
        bodies = iter(writer.read(files, len(record.tables) + len(record.timers)))
        self._tables = {table.id: (table, next(bodies)) for table in record.tables}
        self._timers = {timers: next(bodies) for timers in record.timers}
        return record

    def take_table(self, spec: TableSpec) -> list[bytes]:
        """The blocks of a table that an operator asks for; none if it was not restored.

        Raises:
            IncompatibleCheckpointError: It was restored as another than `spec` says; it stays here then.
        """
        restored = self._tables.get(spec.id)
        if restored is None:
            return []
        record, bodies = restored
        check_table(record, spec)
        del self._tables[spec.id]
        return bodies

    def take_timers(self, timers: TimersRecord) -> list[bytes]:
        """The blocks of timers that an operator asks for; none if they were not restored."""
        return self._timers.pop(timers, [])

    def unclaimed(self) -> list[TableRecord | TimersRecord]:
        """What nobody has asked for yet."""
        return [*(record for record, _ in self._tables.values()), *self._timers]

    def clear(self) -> None:
        """Forget what nobody has asked for."""
        self._tables.clear()
        self._timers.clear()


def fetch_all(snapshot: StoredSnapshot) -> list[LocalFile]:
    """All files of a snapshot, on this machine."""
    paths = snapshot.fetch([handle.name for handle in snapshot.files])
    return [
        LocalFile(handle.name, paths[handle.name], handle.size_bytes, handle.sha256, handle.key_group_offsets)
        for handle in snapshot.files
    ]
