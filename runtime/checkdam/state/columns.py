"""Turning the rows of a table into the columns of a block, and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final

import msgspec

from checkdam.core.keys import decode_keys, encode_keys
from checkdam.core.serde import Serde, is_joined
from checkdam.state.base import Key, TableSpec
from checkdam.state.blocks import BLOCK_BYTES, BLOCK_ROWS, Block, pack_ints, unpack_ints

_FIRST_BLOCK_ROWS: Final = 1_024
_SAMPLED_CONTAINERS: Final = 1_000

_apart_decoder = msgspec.msgpack.Decoder(list[bytes])
_joined_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])

Run = tuple[Any, list[Any]]
"""A head and the keys that share it, in the sense of `blocks`: namespace and keys, or key and sub-keys."""

ChangeRun = tuple[Any, list[Any], list[Any]]
"""A head, and of the keys that share it those that have changed and those that were deleted."""


class BlockSize:
    """How many rows the next block may have, judged by the last one: its values should come to about BLOCK_BYTES."""

    def __init__(self) -> None:
        self.rows = _FIRST_BLOCK_ROWS

    def learn(self, block: Block, rows: int) -> None:
        """A block with that many rows was made."""
        mean_bytes = len(block.values) // max(rows, 1) + 1
        self.rows = min(max(BLOCK_BYTES // mean_bytes, 1), BLOCK_ROWS)


def cut_runs(group_runs: list[Run], size: BlockSize) -> Iterator[list[Run]]:
    """Cut runs into parts of as many rows as `size` says when a part is begun."""
    part: list[Run] = []
    room = size.rows
    for head, keys in group_runs:
        at = 0
        while len(keys) - at > room:
            part.append((head, keys[at : at + room]))
            at += room
            yield part
            part, room = [], size.rows
        part.append((head, keys[at:] if at else keys))
        room -= len(keys) - at
    if part:
        yield part


def encode_runs(
    group_runs: list[Run],
    cells_of: Callable[[Any, list[Any]], Iterable[Any]],
    spec: TableSpec,
    now_ms: int,
    apart: bool = False,
) -> Iterator[Block]:
    """The rows of one key group as blocks.

    Args:
        group_runs: Which rows.
        cells_of: Looks up the cells of some keys of a head.
        spec: The table.
        now_ms: The update time of cells that have none.
        apart: Values are to be readable one by one, without their type.

    Raises:
        ValueTypeError: A value does not fit its declared type.
    """
    size = BlockSize()
    for part in cut_runs(group_runs, size):
        cells: list[Any] = []
        for head, keys in part:
            cells += cells_of(head, keys)
        block = encode_rows(part, cells, spec, now_ms, apart)
        size.learn(block, len(cells))
        yield block


def encode_rows(part: list[Run], cells: list[Any], spec: TableSpec, now_ms: int, apart: bool = False) -> Block:
    """The rows of `part` with their cells, in that order; see `encode_runs`.

    Raises:
        ValueTypeError: A value does not fit its declared type.
    """
    if spec.ttl_ms:
        times, values = pack_ints([cell[1] for cell in cells]), [cell[0] for cell in cells]
    else:
        times, values = pack_ints([now_ms]) * len(cells), cells
    apart = apart and not is_joined(spec.serde.name)
    data = msgspec.msgpack.encode(list(map(spec.serde.encode, values))) if apart else spec.serde.encode_many(values)
    return msgspec.structs.replace(_heads_and_keys(part), times=times, values=data, values_apart=apart)


def encode_changes(
    group_runs: list[ChangeRun], cells_of: Callable[[Any, list[Any]], Iterable[Any]], spec: TableSpec, now_ms: int
) -> Iterator[Block]:
    """Changes as blocks, whose values are apart, then deletions as others; see `encode_runs`.

    Raises:
        ValueTypeError: A value does not fit its declared type.
    """
    changed = [(head, keys) for head, keys, _ in group_runs if keys]
    yield from encode_runs(changed, cells_of, spec, now_ms, apart=True)
    for part in cut_runs([(head, deleted) for head, _, deleted in group_runs if deleted], BlockSize()):
        yield encode_deletions(part)


def encode_deletions(part: list[Run]) -> Block:
    """The rows of `part`, as deleted ones."""
    return msgspec.structs.replace(_heads_and_keys(part), deleted=True)


def encode_gone(part: list[Run]) -> Block:
    """The rows of `part`, as those of which earlier blocks are void; see `Block.gone`."""
    return msgspec.structs.replace(_heads_and_keys(part), gone=True)


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
    values = decode_values(block, spec.serde)
    cells = list(zip(values, unpack_ints(block.times), strict=True)) if spec.ttl_ms else values
    return _runs(block, list(zip(decode_keys(block.keys), cells, strict=True)))


def decode_values(block: Block, serde: Serde) -> list[Any]:
    """The values of a table's block.

    Raises:
        ValueTypeError: A value does not fit the declared type.
    """
    if block.values_apart:
        return list(map(serde.decode, _apart_decoder.decode(block.values)))
    return serde.decode_many(block.values)


def split_values(block: Block, serde_name: str) -> list[bytes] | None:
    """What `Serde.encode` made, or would have made, of each value; None if that takes decoding them.

    Args:
        block: Of a table.
        serde_name: The name of the serde that encoded it.
    """
    if block.values_apart:
        return _apart_decoder.decode(block.values)
    return list(map(bytes, _joined_decoder.decode(block.values))) if is_joined(serde_name) else None


def join_values(values: list[bytes], serde_name: str) -> tuple[bytes, bool]:
    """What `Serde.encode` made of each value, as `values` and `values_apart` of a block."""
    if is_joined(serde_name):
        return msgspec.msgpack.encode(list(map(msgspec.Raw, values))), False
    return msgspec.msgpack.encode(values), True


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
