"""What operators keep beside keyed state, as users see it: positions of sources, broadcast state, calls that are under way.

A checkpoint holds it once for each subtask, as MessagePack of the operator's own making (`Operator.snapshot`). Values of users'
types inside are bytes, encoded as `Operator.own_serdes` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, OperatorInfo
from checkdam.core.batch import MIN_TIME
from checkdam.core.serde import Serde


class SplitRow(msgspec.Struct, frozen=True, kw_only=True):
    """One split of a source.

    Attributes:
        split: Its id.
        progress: `reading`, `waiting` (nobody has begun it) or `finished`.
        position: Where reading goes on, as the source says it; `None` unless it is being read.
        watermark_ms: What its records have reached in event time; `None` if nothing.
        payload: What the source needs to find it; `None` of a finished one, which is known by its id alone.
    """

    split: str
    progress: Literal["reading", "waiting", "finished"]
    position: Any = None
    watermark_ms: int | None = None
    payload: Any = None


class OwnRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one subtask of an operator keeps beside tables and timers.

    Attributes:
        subtask: Its index.
        value: As the operator made it; see `Savepoint.own_state`.
    """

    subtask: int
    value: Any


def split_rows(manifest: CheckpointManifest, source: str) -> Iterator[SplitRow]:
    """All splits that a source ever found, those that are being read first."""
    known = manifest.sources[source]
    left = dict.fromkeys(known.seen)
    for _, state in own_states(manifest, source):
        for split, payload, position, watermark_ms in state["splits"]:
            reached_ms = watermark_ms if watermark_ms > MIN_TIME else None
            left.pop(split, None)
            yield SplitRow(split=split, progress="reading", position=position, watermark_ms=reached_ms, payload=payload)
    for split, payload in known.unassigned:
        left.pop(split, None)
        yield SplitRow(split=split, progress="waiting", payload=payload)
    for split in left:
        yield SplitRow(split=split, progress="finished")


def own_states(manifest: CheckpointManifest, operator: str) -> Iterator[tuple[int, Any]]:
    """Each subtask of an operator with what it stored beside tables, in order of subtasks."""
    for snapshot in sorted(manifest.subtasks, key=lambda each: each.subtask):
        if operator in snapshot.operators:
            yield snapshot.subtask, msgspec.msgpack.decode(snapshot.operators[operator])


def own_rows(manifest: CheckpointManifest, info: OperatorInfo, serdes: dict[str, Serde]) -> Iterator[OwnRow]:
    """`own_states` with users' values decoded by `serdes`, by the names of `Operator.own_serdes`."""
    for subtask, state in own_states(manifest, info.id):
        match info.kind:
            case "broadcast_join":
                keys, values = serdes["keys"].decode_many(state["keys"]), serdes["values"].decode_many(state["values"])
                state = dict(zip(keys, values, strict=True))
            case "map_async":
                state = [(serdes["records"].decode(value), time_ms) for value, time_ms in state]
        yield OwnRow(subtask=subtask, value=state)
