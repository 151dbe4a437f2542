"""The model of checkpoint storage: a journal for each job id, and the checkpoints and savepoints that it names.

The conditional create of the next entry is all that keeps two coordinators apart, as in reality. A checkpoint is nothing but the position up to which input had been
read, and who wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Saved:
    """A checkpoint or savepoint.

    Attributes:
        id: Its number.
        folder: Its name below the job's folder.
        position: How much input is in it.
        attempt: `<epoch>.<attempt>` that took it.
        parallelism: How many workers that had.
    """

    id: int
    folder: str
    position: int
    attempt: str = ""
    parallelism: int = 1


@dataclass(frozen=True)
class Entry:
    """An entry of a journal.

    Attributes:
        seq: Its slot.
        epoch: Slot of its writer's fence.
        kind: `fence`, `checkpoint`, `stopped` or `finished`.
        saved: The checkpoint to restore from now on.
        origin: The wish that this line of checkpoints began with.
        decision: Of the last entry that is no fence.
        revision: Of the deployment that wrote it.
        manifest: Hash of its writer's manifest.
        writer: Its writer's pod.
        owner: Uid of the writer's StreamJob.
        rank: The writer's place among the owner's coordinators.
    """

    seq: int
    epoch: int
    kind: str
    saved: Saved | None
    origin: str
    decision: str
    revision: int
    manifest: str
    writer: str
    owner: str
    rank: int


@dataclass
class Journal:
    """The journal of one job."""

    entries: list[Entry] = field(default_factory=list)
    savepoints: dict[str, Saved] = field(default_factory=dict)
    disposed: set[str] = field(default_factory=set)

    @property
    def tail(self) -> Entry | None:
        """The last entry."""
        return self.entries[-1] if self.entries else None


class Storage:
    """All journals, and whether they can be reached.

    Attributes:
        down: Whether nothing can be read or written.
        checkpoints_fail: Whether uploads of checkpoints fail.
        savepoints_fail: Whether those of savepoints do.
        written: Called with each new entry: job id, entry, the one before.
    """

    def __init__(self) -> None:
        self.journals: dict[str, Journal] = {}
        self.down = False
        self.checkpoints_fail = False
        self.savepoints_fail = False
        self.written: list[Callable[[str, Entry, Entry | None], None]] = []

    def journal(self, job_id: str) -> Journal:
        """The journal of a job."""
        return self.journals.setdefault(job_id, Journal())

    def create(self, job_id: str, entry: Entry) -> bool:
        """Write an entry, unless its slot is taken; whether it was written."""
        journal = self.journal(job_id)
        before = journal.tail
        if entry.seq <= (before.seq if before is not None else 0):
            return False
        journal.entries.append(entry)
        for look in self.written:
            look(job_id, entry, before)
        return True
