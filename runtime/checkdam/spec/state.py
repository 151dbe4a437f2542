"""Where keyed state lives while a job runs: `spec.stateBackend`."""

from __future__ import annotations

from typing import Literal

from checkdam.spec.fields import Model, Quantity, quantity_bytes

BackendType = Literal["hashmap", "rocksdb"]


class RocksDBOptions(Model):
    """Options of the backend `rocksdb`; without effect for `hashmap`, so that one word changes the backend."""

    memory: Quantity = "256Mi"
    """Upper bound, for each worker, of what RocksDB state takes of its memory, whatever its size: three fifths are caches, which save reads
    from disk, and the rest is for compactions and memory that the allocator keeps. The container's memory limit must leave room for it."""

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        return quantity_bytes(self.memory)


class StateBackend(Model):
    """How workers hold keyed state."""

    type: BackendType = "hashmap"
    """`hashmap`: objects in memory, the fastest, for state that fits there. `rocksdb`: on local disk with a bounded cache, for
    state larger than memory."""

    rocksdb: RocksDBOptions = RocksDBOptions()
    """Options of the backend `rocksdb`."""
