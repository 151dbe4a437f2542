"""What a worker's memory is bounded by, as one formula.

::

    receiving channels × credit        batches under way to this worker, unread
    + sending channels × one batch     of each: the batch that found no credit and waits
    + state backend                    rocksdb: `spec.stateBackend.rocksdb.memory`; hashmap: the state itself, twice
                                       where it is written to while a snapshot's child holds the old pages
    + parallelTransfers × 8 MiB        parts of files on their way to storage or back
    + rows since the last checkpoint   of file sinks whose disk is full, up to 64 MiB a writer; else in files

Everything else is the process's base: the interpreter and the user's modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from checkdam.graph.model import Partition
from checkdam.graph.plan import Plan


@dataclass(frozen=True)
class MemoryBound:
    """The parts of the formula for one worker.

    Attributes:
        receiving_channels, sending_channels: How many logical channels end and begin here.
        credit_bytes: Of each channel.
        batch_records: The most records of the batch that may wait in a sending channel.
        backend_bytes: Bound of the state backend; `None` where the state itself is in memory.
    """

    receiving_channels: int
    sending_channels: int
    credit_bytes: int
    batch_records: int
    backend_bytes: int | None

    @property
    def exchange_bytes(self) -> int:
        """Bound of the batches under way to this worker."""
        return self.receiving_channels * self.credit_bytes

    def __str__(self) -> str:
        state = (
            "the state itself" if self.backend_bytes is None else f"{self.backend_bytes / 2**20:.0f} MiB of state cache"
        )
        return (
            f"memory is bounded by {self.receiving_channels} channels × {self.credit_bytes / 1024:.0f} KiB of credit "
            f"= {self.exchange_bytes / 2**20:.1f} MiB, one waiting batch of up to {self.batch_records} records in each of "
            f"{self.sending_channels} outputs, and {state}"
        )


def memory_bound(
    plan: Plan,
    parallelism: int,
    credit_bytes: int,
    batch_records: int,
    backend: Literal["hashmap", "rocksdb"],
    rocksdb_bytes: int,
) -> MemoryBound:
    """The formula's parts for one worker of a job."""
    channels = sum(
        1 if edge.edge.partition is Partition.FORWARD else parallelism for stage in plan.stages for edge in stage.inputs
    )
    keyed = any(stage.keyed for stage in plan.stages)
    bounded = 0 if not keyed else None if backend == "hashmap" else rocksdb_bytes
    # Every edge has as many channels that begin here as end here.
    return MemoryBound(channels, channels, credit_bytes, batch_records, bounded)
