"""Rows of the database as blocks, and blocks as rows, without the types of keys and values.

Both hold keys and values encoded by the same functions, so that state moves from a database into the canonical format, and
back, by cutting and joining bytes: in a process that cannot import the user's classes, and several times faster than by way
of objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, repeat
from operator import itemgetter
from typing import Any

from checkdam.core.keys import decode_keys, encode_keys, join_keys, key_hash, split_keys
from checkdam.core.serde import Serde
from checkdam.state.blocks import Block, pack_ints, unpack_ints
from checkdam.state.columns import join_values, split_values
from checkdam.state.record import TableRecord, TimersRecord
from checkdam.state.rocksdb_log import LogReader
from checkdam.state.rocksdb_rows import (
    GROUP_BYTES,
    LENGTH_BYTES,
    SPACE_BYTES,
    STAMP_BYTES,
    pack_group,
    pack_number,
    unpack_number,
)
from checkdam.state.rocksdb_store import Change, Row


def to_rows(block: Block, group: int, section: TableRecord | TimersRecord, serde: Serde | None = None) -> list[Change]:
    """The rows of a block, in its order; deleted ones without a value.

    Args:
        block: Of that key group and table.
        group: Its key group.
        section: Its table, or timers.
        serde: The table's; not needed where values can be taken apart without it, as in the changes of a database.

    Raises:
        ValueTypeError: A value does not fit the declared type.
        ValueError: The values cannot be taken apart without the serde.
    """
    head = pack_group(group)
    if isinstance(section, TimersRecord):
        times, namespaces = unpack_ints(block.times), unpack_ints(block.values)
        rows = [
            head + pack_number(time_ms) + key + pack_number(namespace)
            for time_ms, key, namespace in zip(times, split_keys(block.keys), namespaces, strict=True)
        ]
        return list(zip(rows, repeat(None if block.deleted else b"")))
    if section.kind == "map":
        prefixes = [head + len(key).to_bytes(LENGTH_BYTES, "big") + key for key in split_keys(block.heads)]
    else:
        prefixes = [head + pack_number(namespace) for namespace in decode_keys(block.heads)]
    counts = unpack_ints(block.counts)
    rows = list(map(bytes.__add__, chain.from_iterable(map(repeat, prefixes, counts)), split_keys(block.keys)))
    if block.deleted:
        return list(zip(rows, repeat(None)))
    stamps = map(pack_number, unpack_ints(block.times))
    return list(zip(rows, map(bytes.__add__, stamps, _values(block, section, serde)), strict=True))


def log_changes(
    blocks: Iterable[Block], table: TableRecord, key_groups: range, max_parallelism: int
) -> Iterator[list[Change]]:
    """The changes that one log has of a value table, each row once.

    Args:
        blocks: Of that table, the latest first.
        table: Its record.
        key_groups: Others are left out.
        max_parallelism: Number of key groups of the job.
    """

    def groups_of(keys: list[Any]) -> list[int]:
        return [key_hash(key) % max_parallelism for key in keys]

    reader = LogReader(groups_of, key_groups)
    for block in reader.read(blocks, split_keys):
        changes: list[Change] = []
        keys = split_keys(block.keys)
        stored: list[bytes | None] = [None] * len(keys)
        if not block.deleted:
            stamps = map(pack_number, unpack_ints(block.times))
            stored = list(map(bytes.__add__, stamps, _values(block, table, None)))
        at = 0
        for namespace, count in zip(decode_keys(block.heads), unpack_ints(block.counts), strict=True):
            run = dict(zip(keys[at : at + count], stored[at : at + count], strict=True))
            wanted = reader.wanted(namespace, run)
            space = pack_number(namespace)
            changes += [
                (pack_group(group) + space + key, run[key])
                for key, group in zip(wanted, groups_of(wanted), strict=True)
            ]
            at += count
        yield changes


def _values(block: Block, table: TableRecord, serde: Serde | None) -> list[bytes]:
    values = split_values(block, table.serde)
    if values is not None:
        return values
    if serde is None:
        raise ValueError(f"the values of `{table.id}` can only be read with their type")
    return list(map(serde.encode, serde.decode_many(block.values)))


def to_block(rows: list[Row], section: TableRecord | TimersRecord) -> Block:
    """A block of rows of one key group of a table, or of timers, which are sorted."""
    if isinstance(section, TimersRecord):
        return Block(
            b"",
            b"",
            join_keys([row[SPACE_BYTES:-8] for row, _ in rows]),
            pack_ints([unpack_number(row[GROUP_BYTES:SPACE_BYTES]) for row, _ in rows]),
            pack_ints([unpack_number(row[-8:]) for row, _ in rows]),
        )
    heads, keys = zip(*(_parts_of_map if section.kind == "map" else _parts_of_value)(rows), strict=True)
    runs = [(head, sum(1 for _ in run)) for head, run in groupby(heads)]
    distinct = [head for head, _ in runs]
    values, apart = join_values([stored[STAMP_BYTES:] for _, stored in rows], section.serde)
    return Block(
        join_keys(distinct) if section.kind == "map" else encode_keys(list(map(unpack_number, distinct))),
        pack_ints(map(itemgetter(1), runs)),
        join_keys(list(keys)),
        pack_ints([unpack_number(stored[:STAMP_BYTES]) for _, stored in rows]),
        values,
        values_apart=apart,
    )


def _parts_of_value(rows: list[Row]) -> Iterator[tuple[bytes, bytes]]:
    """Packed namespace and key of each row of a value table."""
    return ((row[GROUP_BYTES:SPACE_BYTES], row[SPACE_BYTES:]) for row, _ in rows)


def _parts_of_map(rows: list[Row]) -> Iterator[tuple[bytes, bytes]]:
    """Key and sub-key of each row of a map table."""
    start = GROUP_BYTES + LENGTH_BYTES
    for row, _ in rows:
        end = start + int.from_bytes(row[GROUP_BYTES:start], "big")
        yield row[start:end], row[end:]
