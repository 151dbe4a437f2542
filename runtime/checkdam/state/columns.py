"""Turning the rows of a table into the columns of a block, and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice
from typing import Any, Final

import msgspec

from checkdam.core.keys import decode_keys, encode_keys
from checkdam.state.base import Key, TableSpec
from checkdam.state.blocks import BLOCK_ROWS, Block, pack_ints, unpack_ints

_SAMPLED_CONTAINERS: Final = 1_000

Run = tuple[Any, list[Any]]
"""A head and the keys that share it, in the sense of `blocks`: namespace and keys, or key and sub-keys."""

ChangeRun = tuple[Any, list[Any], list[Any]]
"""A head, and of the keys that share it those that have changed and those that were deleted."""


def cut_runs(group_runs: list[Run]) -> Iterator[list[Run]]:
    """Cut runs into parts of at most BLOCK_ROWS rows."""
    part: list[Run] = []
    room = BLOCK_ROWS
    for head, keys in group_runs:
        at = 0
        while len(keys) - at > room:
            part.append((head, keys[at : at + room]))
            yield part
            at, part, room = at + room, [], BLOCK_ROWS
        part.append((head, keys[at:] if at else keys))
        room -= len(keys) - at
    if part:
        yield part


def encode_rows(part: list[Run], cells: list[Any], spec: TableSpec, now_ms: int) -> Block:
    """The rows of `part` with their cells, in that order; cells without an update time get `now_ms`.

    Raises:
        ValueTypeError: A value does not fit its declared type.
    """
    if spec.ttl_ms:
        times, values = pack_ints([cell[1] for cell in cells]), [cell[0] for cell in cells]
    else:
        times, values = pack_ints([now_ms]) * len(cells), cells
    return msgspec.structs.replace(_heads_and_keys(part), times=times, values=spec.serde.encode_many(values))


def encode_changes(
    group_runs: list[ChangeRun], cells_of: Callable[[Any, list[Any]], list[Any]], spec: TableSpec, now_ms: int
) -> Iterator[Block]:
    """Changes as blocks, then deletions as others; `cells_of` looks up the cells of some keys of a head.

    Raises:
        ValueTypeError: A value does not fit its declared type.
    """
    for part in cut_runs([(head, changed) for head, changed, _ in group_runs if changed]):
        cells: list[Any] = []
        for head, keys in part:
            cells += cells_of(head, keys)
        yield encode_rows(part, cells, spec, now_ms)
    for part in cut_runs([(head, deleted) for head, _, deleted in group_runs if deleted]):
        yield encode_deletions(part)


def encode_deletions(part: list[Run]) -> Block:
    """The rows of `part`, as deleted ones."""
    return msgspec.structs.replace(_heads_and_keys(part), deleted=True)


def _heads_and_keys(part: list[Run]) -> Block:
    return Block(
        encode_keys([head for head, _ in part]),
        pack_ints([len(keys) for _, keys in part]),
        encode_keys(list(chain.from_iterable([keys for _, keys in part]))),
    )


def decode_rows(block: Block, spec: TableSpec) -> Iterator[tuple[Any, list[tuple[Key, Any]]]]:
    """Each head with its keys and cells: the inverse of `encode_rows`.

    Raises:
        ValueTypeError: A value does not fit the declared type.
    """
    values = spec.serde.decode_many(block.values)
    cells = list(zip(values, unpack_ints(block.times), strict=True)) if spec.ttl_ms else values
    return _runs(block, list(zip(decode_keys(block.keys), cells, strict=True)))


def decode_deletions(block: Block) -> Iterator[Run]:
    """Each head with the keys that were deleted: the inverse of `encode_deletions`."""
    return _runs(block, decode_keys(block.keys))


def _runs(block: Block, rows: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    at = 0
    for head, count in zip(decode_keys(block.heads), unpack_ints(block.counts), strict=True):
        yield head, rows[at : at + count]
        at += count


def encode_timers(timers: list[tuple[int, Key, int]], deleted: bool = False) -> Iterator[Block]:
    """Timers as (time, key, namespace)."""
    for start in range(0, len(timers), BLOCK_ROWS):
        times, keys, namespaces = zip(*timers[start : start + BLOCK_ROWS], strict=True)
        yield Block(b"", b"", encode_keys(list(keys)), pack_ints(times), pack_ints(namespaces), deleted)


def decode_timers(block: Block) -> Iterator[tuple[int, Key, int]]:
    """The inverse of `encode_timers`."""
    return zip(unpack_ints(block.times), decode_keys(block.keys), unpack_ints(block.values), strict=True)


def estimated_total(containers: Collection[Any]) -> int:
    """About how many entries the sized containers hold together, judged by the first thousand of them."""
    sizes = [len(container) for container in islice(containers, _SAMPLED_CONTAINERS)]
    return sum(sizes) * len(containers) // len(sizes) if sizes else 0
