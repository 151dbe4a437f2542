"""The rows of keyed state as users see them, out of blocks and back.

A block holds its rows by column (`state/blocks.py`). `BlockRows` is a block opened that far, which is what a rewrite works on;
`state_rows` and `timer_rows` make the objects of it that users are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, Final

import msgspec

from checkdam.core.errors import KeyTypeError
from checkdam.core.keys import decode_keys, encode_keys
from checkdam.core.serde import Serde
from checkdam.state.blocks import Block, pack_ints, unpack_ints
from checkdam.state.columns import decode_timers, decode_values
from checkdam.state.record import TableRecord, TimersRecord

WINDOW_KINDS: Final = frozenset({"window", "window_join"})
"""Operators whose tables have a namespace for each pane of their windows."""


class StateRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """One entry of a keyed state.

    Attributes:
        key: The key of the stream.
        window_start_ms: For windows: when the window starts; of sliding windows, the pane, which windows that overlap share.
        subkey: For maps: the key within the map of `key`.
        value: The value; of a window or a running aggregate the accumulator.
        updated_ms: For state with a TTL: when it was last updated, in processing time.
        key_group: The key group that `key` belongs to.
    """

    key: Any
    window_start_ms: int | None = None
    subkey: Any = None
    value: Any
    updated_ms: int | None = None
    key_group: int


class TimerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One timer.

    Attributes:
        key: The key that it was registered for.
        time_ms: When it is due.
        domain: `event` or `processing`.
        namespace: The operator's own mark; 0 unless the operator is an interval join, where it is the side.
        key_group: The key group that `key` belongs to.
    """

    key: Any
    time_ms: int
    domain: str
    namespace: int = 0
    key_group: int


@dataclass(frozen=True)
class BlockRows:
    """The rows of one table in one block.

    Attributes:
        heads: Namespaces in value tables, keys in map tables.
        counts: How many rows each head has.
        keys: Keys, or sub-keys in map tables.
        times: Last updates, in ms of processing time.
        values: The values.
    """

    heads: list[Any]
    counts: list[int]
    keys: list[Any]
    times: list[int]
    values: list[Any]

    @classmethod
    def of(cls, block: Block, serde: Serde, where: str) -> BlockRows:
        """Open the block of a table, named `where` in errors.

        Raises:
            KeyTypeError: A key is of a class that cannot be imported.
            ValueTypeError: Values cannot be decoded.
        """
        try:
            heads, keys = decode_keys(block.heads), decode_keys(block.keys)
        except KeyTypeError as error:
            raise _unreadable_key(where, error) from error
        return cls(heads, unpack_ints(block.counts), keys, unpack_ints(block.times), decode_values(block, serde))

    def row_heads(self) -> Iterator[Any]:
        """The head of each row."""
        return chain.from_iterable(map(repeat, self.heads, self.counts))

    def block(self, serde: Serde) -> Block:
        """The rows as a block, which `of` opens again.

        Raises:
            ValueTypeError: A value does not fit its declared type.
        """
        return Block(
            encode_keys(self.heads),
            pack_ints(self.counts),
            encode_keys(self.keys),
            pack_ints(self.times),
            serde.encode_many(self.values),
        )


@dataclass(frozen=True)
class RowView:
    """How the rows of one table are shown.

    Attributes:
        record: The table.
        windowed: Whether its namespaces are windows.
        now_ms: The processing time of the checkpoint: what had expired by then is not shown.
        keys: Only these keys; `None` for all.
    """

    record: TableRecord
    windowed: bool
    now_ms: int
    keys: Collection[Any] | None = None

    def rows(self, group: int, found: BlockRows) -> Iterator[StateRow]:
        """The rows of a block that are shown, in their order."""
        for head, key, time_ms, value in zip(found.row_heads(), found.keys, found.times, found.values, strict=True):
            row = self.row(group, head, key, time_ms, value)
            if row is not None:
                yield row

    def row(self, group: int, head: Any, key: Any, time_ms: int, value: Any) -> StateRow | None:
        """One row, by its columns; `None` if it is not shown."""
        record = self.record
        if record.ttl_ms and time_ms <= self.now_ms - record.ttl_ms:
            return None
        is_map = record.kind == "map"
        row_key = head if is_map else key
        if self.keys is not None and row_key not in self.keys:
            return None
        return StateRow(
            key=row_key,
            window_start_ms=head if self.windowed else None,
            subkey=key if is_map else None,
            value=value,
            updated_ms=time_ms if record.ttl_ms else None,
            key_group=group,
        )


def timer_rows(
    record: TimersRecord, group: int, block: Block, shown_keys: Collection[Any] | None
) -> Iterator[TimerRow]:
    """The timers of a block, in their order; of `shown_keys` alone, unless these are `None`.

    Raises:
        KeyTypeError: A key is of a class that cannot be imported.
    """
    try:
        timers = list(decode_timers(block))
    except KeyTypeError as error:
        raise _unreadable_key(record.id, error) from error
    for time_ms, key, namespace in timers:
        if shown_keys is None or key in shown_keys:
            yield TimerRow(key=key, time_ms=time_ms, domain=record.domain, namespace=namespace, key_group=group)


def _unreadable_key(where: str, error: KeyTypeError) -> KeyTypeError:
    return KeyTypeError(
        f"{where}: {error}; read it where the module of the class can be imported "
        "(`--entrypoint` on the command line puts the pipeline's folder on the path)"
    )
