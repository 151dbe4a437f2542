"""How the records of an edge are dealt out to its channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, Final

from checkdam.core.batch import Batch
from checkdam.core.keys import check_key_types, key_group, owner_of
from checkdam.graph.model import Partition
from checkdam.worker.channels import Output

KNOWN_KEYS: Final = 1 << 20
"""How many keys' owners an edge remembers before it forgets them all."""

_COMPRESS_UP_TO: Final = 8
"""With more receivers than this, dealing out by one pass over sorted indices is cheaper than one pass per receiver."""

Emit = Callable[[Batch], None]
"""Sends a batch of an edge on its way."""


class _Owners(dict[Any, int]):
    """key → index of the subtask that owns it, computed on the first look-up."""

    def __init__(self, max_parallelism: int, parallelism: int) -> None:
        super().__init__()
        self._max_parallelism = max_parallelism
        self._owners = [owner_of(group, max_parallelism, parallelism) for group in range(max_parallelism)]

    def __missing__(self, key: Any) -> int:
        owner = self._owners[key_group(key, self._max_parallelism)]
        if len(self) >= KNOWN_KEYS:
            self.clear()
        self[key] = owner
        return owner


def make_emit(partition: Partition, outputs: Sequence[Output], max_parallelism: int) -> Emit:
    """The function that sends batches of an edge to `outputs`, one channel per receiving subtask (one in all for FORWARD)."""
    if partition is Partition.BROADCAST:
        return _broadcast(outputs)
    if partition is Partition.HASH:
        return _hash_to_one(outputs[0]) if len(outputs) == 1 else _hash(outputs, max_parallelism)
    if partition is Partition.REBALANCE and len(outputs) > 1:
        return _rebalance(outputs)
    return outputs[0].send_batch


def _broadcast(outputs: Sequence[Output]) -> Emit:
    def emit(batch: Batch) -> None:
        for output in outputs:
            output.send_batch(batch)

    return emit


def _rebalance(outputs: Sequence[Output]) -> Emit:
    turn = 0

    def emit(batch: Batch) -> None:
        nonlocal turn
        turn = (turn + 1) % len(outputs)
        outputs[turn].send_batch(batch)

    return emit


def _hash_to_one(output: Output) -> Emit:
    def emit(batch: Batch) -> None:
        # A key that cannot be encoded must fail here, where it was made, and not in the first snapshot.
        if not check_key_types(batch.keys or []):
            for key in batch.keys or []:
                key_group(key, 1)
        output.send_batch(batch)

    return emit


def _hash(outputs: Sequence[Output], max_parallelism: int) -> Emit:
    owners = _Owners(max_parallelism, len(outputs))
    owner_of_key = owners.__getitem__
    masks = [bytes(int(owner == index) for owner in range(256)) for index in range(len(outputs))]

    def emit(batch: Batch) -> None:
        keys, values, times = batch.keys, batch.values, batch.times
        assert keys is not None  # noqa: S101
        check_key_types(keys)
        if len(outputs) > _COMPRESS_UP_TO:
            _deal_sorted(batch, list(map(owner_of_key, keys)), outputs)
            return
        owned_by = bytes(map(owner_of_key, keys))
        for index, output in enumerate(outputs):
            mask = owned_by.translate(masks[index])
            part = list(compress(keys, mask))
            if part:
                output.send_batch(
                    Batch(list(compress(values, mask)), None if times is None else list(compress(times, mask)), part)
                )

    return emit


def _deal_sorted(batch: Batch, owned_by: list[int], outputs: Sequence[Output]) -> None:
    order = sorted(range(len(owned_by)), key=owned_by.__getitem__)
    start = 0
    while start < len(order):
        owner = owned_by[order[start]]
        stop = start
        while stop < len(order) and owned_by[order[stop]] == owner:
            stop += 1
        outputs[owner].send_batch(batch.take(order[start:stop]))
        start = stop
