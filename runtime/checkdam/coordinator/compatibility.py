"""Whether a checkpoint can be restored into a graph. Pure; every refusal names the thing, and the flag that allows it.

Operators without state come and go freely. Where an operator with state has no counterpart, its state would be dropped,
or it would start empty although the job does not: both need the user's word, since they may be a misspelt name.
What no flag can allow is state that cannot be read, and output that would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, OperatorInfo
from checkdam.coordinator.redistribution import check_key_groups
from checkdam.core.errors import IncompatibleCheckpointError
from checkdam.core.evolution import differences
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
    max_parallelism: int,
    allow_non_restored: bool,
    committed: bool,
) -> None:
    """Check that `manifest` can be restored into `graph`, with any parallelism up to its `maxParallelism`.

    Args:
        manifest: The checkpoint.
        graph: What is to run.
        where: Names the checkpoint in errors.
        job_id: Of the job that is to run.
        max_parallelism: Of the job that is to run.
        allow_non_restored: The user accepts that state is dropped, or that operators start empty.
        committed: Everything that the checkpoint's sinks had prepared is known to be committed.

    Raises:
        IncompatibleCheckpointError: It cannot; the message says why and what to do.
        CorruptCheckpointError: It lacks key groups.
    """
    if manifest.max_parallelism != max_parallelism:
        raise IncompatibleCheckpointError(
            f"{where} was taken with `spec.maxParallelism` {manifest.max_parallelism}, which cannot be changed "
            f"(got {max_parallelism}): its keys lie in {manifest.max_parallelism} key groups"
        )
    check_key_groups(manifest, where)
    if manifest.job_id != job_id and not allow_non_restored:
        raise IncompatibleCheckpointError(
            f"{where} is of job `{manifest.job_id}`, not of `{job_id}`; to start from it all the same, {_FLAG}"
        )
    problems = list(_Judgement(manifest, where, allow_non_restored, committed).of_graph(graph))
    if problems:
        raise IncompatibleCheckpointError("\n".join(problems))


@dataclass(frozen=True)
class _Judgement:
    """Compares a checkpoint with a graph, operator by operator; every problem is one sentence.

    Attributes:
        manifest, where, allow_non_restored, committed: As for `check_compatible`.
    """

    manifest: CheckpointManifest
    where: str
    allow_non_restored: bool
    committed: bool

    def of_graph(self, graph: Graph) -> Iterator[str]:
        """All problems."""
        found = {info.id: info for info in operator_infos(graph)}
        carried = {info.id for info in self.manifest.operators if info.id in found and info.kind == found[info.id].kind}
        for before in self.manifest.operators:
            now = found.get(before.id)
            if now is None:
                yield from self._removed(before)
            elif before.kind == now.kind:
                yield from self._changed_sink(before, now) if before.two_phase else self._changed_state(before, now)
            elif self._has_state(before):
                yield (
                    f"operator `{now.id}` is of the kind `{now.kind}` now but was of the kind `{before.kind}` in {self.where}; give operators names of "
                    f"their own, so that they keep their state when others are added, and to drop the old state {_FLAG} and "
                    "rename it"
                )
        if not self.allow_non_restored:
            for node in graph.nodes.values():
                if (node.keyed or node.source is not None) and node.id not in carried:
                    yield (
                        f"operator `{node.id}` ({node.kind}) has no state in {self.where}; if another one was renamed, give it "
                        f"its old name; to let a new one start empty, {_FLAG}"
                    )

    def _removed(self, before: OperatorInfo) -> Iterator[str]:
        if before.two_phase:
            if self._has_pending(before) and not self.committed:
                yield (
                    f"sink `{before.id}` is not in the pipeline any more, but {self.where} holds output of it that may not be "
                    "committed yet; run the job with the sink and stop it with a checkpoint, then remove the sink"
                )
        elif self._has_state(before) and not self.allow_non_restored:
            yield (
                f"operator `{before.id}` ({before.kind}) has state in {self.where} but is not in the pipeline any more; if it "
                f"was renamed, give it its old name; to drop its state, {_FLAG}"
            )

    def _changed_sink(self, before: OperatorInfo, now: OperatorInfo) -> Iterator[str]:
        """What a sink had prepared must be understood by the one that is there now, or must not be needed any more."""
        same = (before.two_phase, before.state) == (now.two_phase, now.state)
        if not same and self._has_pending(before) and (now.two_phase or not self.committed):
            yield (
                f"sink `{now.id}` is another kind of sink now, but {self.where} holds output of the old one that may not be "
                "committed yet; run the job with the old sink and stop it with a checkpoint, then give the new one another name"
            )

    def _changed_state(self, before: OperatorInfo, now: OperatorInfo) -> Iterator[str]:
        for table, stored in before.state.items():
            declared = now.state.get(table)
            if declared is None:
                if not self.allow_non_restored:
                    yield (
                        f"operator `{now.id}` ({now.kind}) has the state `{table}` in {self.where} but does not declare it any "
                        f"more; if it was renamed, give it its old name; to drop what is stored, {_FLAG}"
                    )
            elif reasons := _reasons(before, now, table):
                yield (
                    f"state `{table}` of operator `{now.id}` is declared as `{_type_name(declared)}` now, but {self.where} has it "
                    f"as `{_type_name(stored)}`: {'; '.join(reasons)}. Otherwise keep the old type, or give the state, or the "
                    f"operator, another name and {_FLAG} to drop what is stored"
                )

    def _has_state(self, info: OperatorInfo) -> bool:
        # An operator with keyed state heads its stage; timers alone are state, too.
        keyed = any(each.stage == info.id and each.key_groups is not None for each in self.manifest.subtasks)
        return keyed or bool(info.state) or info.id in self.manifest.sources or bool(self._own(info))

    def _has_pending(self, sink: OperatorInfo) -> bool:
        return any(_holds_anything(_decoded(data)) for data in self._own(sink))

    def _own(self, info: OperatorInfo) -> list[bytes]:
        """What the operator's subtasks stored beside tables."""
        stored = (snapshot.operators.get(info.id, b"") for snapshot in self.manifest.subtasks)
        return [data for data in stored if data not in _NOTHING]


def _reasons(before: OperatorInfo, now: OperatorInfo, table: str) -> list[str]:
    """Why what is stored in a table cannot be read as what is declared now."""
    stored, declared = before.state[table], now.state[table]
    if not before.schemas.get(table) or table not in now.schemas:
        return [] if stored == declared else ["what is stored as the one cannot be read as the other"]
    kind_before, kind_now = stored.partition(":")[0], declared.partition(":")[0]
    if kind_before != kind_now:
        return [f"a {kind_before} state cannot become a {kind_now} state"]
    found = [reason for schema in before.schemas[table] for reason in differences(schema, now.schemas[table][-1])]
    return list(dict.fromkeys(found))


def _type_name(state: str) -> str:
    """The type out of a table's kind and serde, such as `value:msgpack:int`."""
    return state.partition(":")[2].removeprefix("msgpack:") or state


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
