"""What each worker restores of a checkpoint that was taken with another parallelism. Pure.

* **Keyed state** goes by key groups: a worker is given every snapshot that holds some of its groups, and its backend leaves
  out the others. With them come the watermarks that these groups had reached.
* **Splits** that were being read are dealt out one by one in reading order, so that no worker has two more than another. Each
  keeps its position and the state of its watermark. Splits that nobody had been given are the enumerator's and stay there.
* **Operators' own state** goes as the operator declares (`Redistribution`).

At unchanged parallelism every worker is given what the worker of its index had stored, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, TypedDict

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, SubtaskSnapshot
from checkdam.core.batch import MIN_TIME
from checkdam.core.errors import CorruptCheckpointError
from checkdam.core.keys import key_group_range
from checkdam.graph.model import Graph, Node
from checkdam.operators.base import Redistribution


def redistribute(manifest: CheckpointManifest, graph: Graph, parallelism: int) -> list[list[SubtaskSnapshot]]:
    """The snapshots that each of `parallelism` workers restores. State of operators that `graph` lacks is left out of a rescale.

    Args:
        manifest: A checkpoint whose key groups are complete (`check_key_groups`).
        graph: What is to run.
        parallelism: At most `manifest.max_parallelism`.
    """
    if parallelism == manifest.parallelism:
        return [manifest.of_subtask(index) for index in range(parallelism)]
    parts = [_keyed_part(manifest, parallelism, index) for index in range(parallelism)]
    for node in graph.nodes.values():
        former = [s for s in sorted(manifest.subtasks, key=attrgetter("subtask")) if node.id in s.operators]
        if former:
            for index, states in enumerate(_own_states(node, former, manifest, parallelism)):
                parts[index] += [
                    SubtaskSnapshot(former[0].stage, index, operators={node.id: state}) for state in states
                ]
    return parts


def check_key_groups(manifest: CheckpointManifest, where: str) -> None:
    """Check that for each stage with keyed state the snapshots cover every key group once.

    Raises:
        CorruptCheckpointError: They do not; names the stage and the groups.
    """
    ranges: dict[str, list[tuple[int, int]]] = {}
    for snapshot in manifest.subtasks:
        if snapshot.key_groups is not None:
            ranges.setdefault(snapshot.stage, []).append(snapshot.key_groups)
    for stage, covered in ranges.items():
        reached = 0
        for first, after in [*sorted(covered), (manifest.max_parallelism, manifest.max_parallelism)]:
            if first != reached:
                problem = "lacks the key groups" if first > reached else "holds twice the key groups"
                raise CorruptCheckpointError(
                    f"the keyed state of stage `{stage}` in {where} {problem} {min(first, reached)} to "
                    f"{max(first, reached) - 1}; restore another checkpoint"
                )
            reached = after


def splits_of(part: Iterable[SubtaskSnapshot], source_id: str) -> list[str]:
    """Ids of the splits of a source that a worker reads on when it restores `part`."""
    states = [_decoded(snapshot.operators[source_id]) for snapshot in part if source_id in snapshot.operators]
    return [split_id for state in states for split_id, *_ in state["splits"]]


class _SourceState(TypedDict):
    """What `SourceOperator.snapshot` returns: the splits being read as (id, payload, position, watermark), and where the latest
    split began."""

    splits: list[tuple[str, Any, Any, int]]
    start_ms: int


def _keyed_part(manifest: CheckpointManifest, parallelism: int, index: int) -> list[SubtaskSnapshot]:
    owned = key_group_range(manifest.max_parallelism, parallelism, index)
    return [
        msgspec.structs.replace(snapshot, operators={})
        for snapshot in manifest.subtasks
        if snapshot.key_groups is not None
        and snapshot.key_groups[0] < owned.stop
        and owned.start < snapshot.key_groups[1]
    ]


def _own_states(
    node: Node, former: Sequence[SubtaskSnapshot], manifest: CheckpointManifest, parallelism: int
) -> list[list[bytes]]:
    """The states that each new subtask is given of those that former subtasks of `node` had stored."""
    stored = [snapshot.operators[node.id] for snapshot in former]
    if node.source is not None:
        seen = manifest.sources[node.id].seen if node.id in manifest.sources else []
        return [[_encoded(state)] for state in _dealt_splits(list(map(_decoded, stored)), seen, parallelism)]
    match node.redistribution:
        case Redistribution.UNION:
            return [stored] * parallelism
        case Redistribution.BROADCAST:
            return [[stored[index % len(stored)]] for index in range(parallelism)]
        case Redistribution.SPLIT:
            return _split([snapshot.subtask for snapshot in former], stored, parallelism)


def _split(subtasks: Sequence[int], stored: Sequence[bytes], parallelism: int) -> list[list[bytes]]:
    states = list(map(_decoded, stored))
    if all(isinstance(state, list) for state in states):
        elements = list(chain.from_iterable(states))
        bounds = [len(elements) * index // parallelism for index in range(parallelism + 1)]
        return [[_encoded(elements[bounds[index] : bounds[index + 1]])] for index in range(parallelism)]
    wholes: list[list[bytes]] = [[] for _ in range(parallelism)]
    for subtask, state in zip(subtasks, stored, strict=True):
        # Also the rule by which a sink's subtask knows whose leftovers it discards: `SinkContext.inherits`.
        wholes[subtask % parallelism].append(state)
    return wholes


def _dealt_splits(states: Sequence[_SourceState], seen: Sequence[str], parallelism: int) -> list[_SourceState]:
    place = {split_id: number for number, split_id in enumerate(seen)}
    splits = sorted(
        chain.from_iterable(state["splits"] for state in states), key=lambda split: place.get(split[0], len(place))
    )
    # A former subtask's start bounds the splits that it has not begun, and those that nobody had been given.
    waiting = [s["start_ms"] for s in states if any(watermark_ms == MIN_TIME for *_, watermark_ms in s["splits"])]
    start_ms = min(waiting) if waiting else max(state["start_ms"] for state in states)
    return [{"splits": splits[index::parallelism], "start_ms": start_ms} for index in range(parallelism)]


def _decoded(data: bytes) -> Any:
    return msgspec.msgpack.decode(data)


def _encoded(state: Any) -> bytes:
    return msgspec.msgpack.encode(state)


__all__ = ["check_key_groups", "redistribute", "splits_of"]
