"""Whether a checkpoint can be restored into a graph. Pure; every refusal names the thing, and the flag that allows it.

Operators without state come and go freely. Where an operator with state has no counterpart, its state would be dropped,
or it would start empty although the job does not: both need the user's word, since they may be a misspelt name.
What no flag can allow is state that cannot be read, and output that would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, OperatorInfo
from checkdam.core.errors import IncompatibleCheckpointError
from checkdam.graph.model import Graph
from checkdam.graph.plan import operator_infos

_FLAG: Final = "set `spec.allowNonRestoredState: true`"
_NOTHING: Final = frozenset({b"", b"\xc0"})
"""An operator's own snapshot where it has none: absent, or MessagePack's nil."""


def check_compatible(
    manifest: CheckpointManifest,
    graph: Graph,
    *,
    where: str,
    job_id: str,
    parallelism: int,
    max_parallelism: int,
    allow_non_restored: bool,
    committed: bool,
) -> None:
    """Check that `manifest` can be restored into `graph`.

    Args:
        manifest: The checkpoint.
        graph: What is to run.
        where: Names the checkpoint in errors.
        job_id: Of the job that is to run.
        parallelism: Of the job that is to run.
        max_parallelism: Of the job that is to run.
        allow_non_restored: The user accepts that state is dropped, or that operators start empty.
        committed: Everything that the checkpoint's sinks had prepared is known to be committed.

    Raises:
        IncompatibleCheckpointError: It cannot; the message says why and what to do.
    """
    if manifest.max_parallelism != max_parallelism:
        raise IncompatibleCheckpointError(
            f"{where} was taken with `spec.maxParallelism` {manifest.max_parallelism}, which cannot be changed "
            f"(got {max_parallelism}): its keys lie in {manifest.max_parallelism} key groups"
        )
    if manifest.parallelism != parallelism:
        raise IncompatibleCheckpointError(
            f"{where} was taken with `spec.parallelism` {manifest.parallelism} (got {parallelism}); this release cannot "
            "redistribute state, so keep the parallelism or start over"
        )
    if manifest.job_id != job_id and not allow_non_restored:
        raise IncompatibleCheckpointError(
            f"{where} is of job `{manifest.job_id}`, not of `{job_id}`; to start from it all the same, {_FLAG}"
        )
    found = {info.id: info for info in operator_infos(graph)}
    stored = {info.id: info for info in manifest.operators}
    for info in stored.values():
        if info.id in found:
            _check_same(info, found[info.id], where)
        else:
            _check_removed(info, manifest, where, allow_non_restored, committed)
    if not allow_non_restored:
        _check_added([info for info in found.values() if info.id not in stored], graph, where)


def _check_same(before: OperatorInfo, now: OperatorInfo, where: str) -> None:
    if before.kind != now.kind:
        raise IncompatibleCheckpointError(
            f"operator `{now.id}` is a {now.kind} now but was a {before.kind} in {where}; give operators names of their own, "
            f"so that they keep their state when others are added, and to drop the old state {_FLAG} and rename it"
        )
    for table, serde in before.state.items():
        if table in now.state and now.state[table] != serde:
            raise IncompatibleCheckpointError(
                f"the state `{table}` of operator `{now.id}` is of type {now.state[table]} now but was {serde} in {where}; "
                f"keep the type, or rename the operator and {_FLAG} to start it empty"
            )


def _check_removed(
    info: OperatorInfo, manifest: CheckpointManifest, where: str, allow_non_restored: bool, committed: bool
) -> None:
    own = [
        snapshot.operators[info.id]
        for snapshot in manifest.subtasks
        if snapshot.operators.get(info.id, b"") not in _NOTHING
    ]
    if info.two_phase and not committed and any(_holds_anything(_decoded(data)) for data in own):
        raise IncompatibleCheckpointError(
            f"sink `{info.id}` is not in the pipeline any more, but {where} holds output of it that may not be committed yet; "
            "run the job with the sink and stop it with a checkpoint, then remove the sink"
        )
    has_state = bool(info.state or own or info.id in manifest.sources)
    if has_state and not allow_non_restored and not (info.two_phase and not info.state):
        raise IncompatibleCheckpointError(
            f"operator `{info.id}` ({info.kind}) has state in {where} but is not in the pipeline any more; "
            f"to drop its state, {_FLAG}"
        )


def _check_added(infos: Sequence[OperatorInfo], graph: Graph, where: str) -> None:
    for info in infos:
        node = graph.nodes[info.id]
        if node.keyed or node.source is not None:
            raise IncompatibleCheckpointError(
                f"operator `{info.id}` ({info.kind}) has no state in {where}; was another one renamed? "
                f"To let it start empty, {_FLAG}"
            )


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return data


def _holds_anything(value: Any) -> bool:
    """Whether a sink's snapshot names any committable: lists and maps of nothing hold nothing."""
    if isinstance(value, dict):
        return any(_holds_anything(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_anything(item) for item in value)
    return value is not None and value != "" and value != b""


__all__ = ["check_compatible"]
