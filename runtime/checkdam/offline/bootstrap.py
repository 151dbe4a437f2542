"""Writing a savepoint that no job has taken, for a job to start from.

The pipeline that will restore it is at hand, so the savepoint has the pipeline's own names and types, and a wrong one is found
here and not by the job. Everything is collected first and stored at the end, the manifest last.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from checkdam.checkpoint.manifest import FORMAT_VERSION, CheckpointManifest, SourceSnapshot, SubtaskSnapshot
from checkdam.core.batch import MIN_TIME
from checkdam.core.errors import CheckpointError
from checkdam.core.keys import MAX_KEY_GROUPS
from checkdam.core.names import shown
from checkdam.graph.model import Graph, Node
from checkdam.graph.plan import fingerprint, operator_infos
from checkdam.offline.keyed_writer import KeyedRow, KeyedWriter
from checkdam.offline.rewriting import Rewrite
from checkdam.offline.rows import WINDOW_KINDS, StateRow
from checkdam.offline.savepoint import Build, Savepoint, as_uri, graph_of
from checkdam.offline.target import SavepointTarget
from checkdam.operators.assigners import Panes
from checkdam.operators.joins import WindowJoinOperator
from checkdam.operators.windows import WindowOperator
from checkdam.state.base import TableSpec

Row = StateRow | tuple[Any, Any] | tuple[Any, Any, Any]
"""(key, value); of maps (key, sub-key, value); of windows (key, start of the window in ms, value); or a row that was read."""

DEFAULT_MAX_PARALLELISM: Final = 128
"""As that of a StreamJob."""

_ADDABLE: Final = frozenset({"process", "aggregate", *WINDOW_KINDS})
"""Operators whose state is what their tables hold; others need timers of their own making beside it."""


class NewSavepoint:
    """A savepoint under construction; made by `new_savepoint`, which writes it when its context ends."""

    def __init__(
        self, folder: Path, graph: Graph, draft: CheckpointManifest, base: Savepoint | None, watermark_ms: int
    ) -> None:
        self._folder = folder
        self._graph = graph
        self._draft = draft
        self._base = base
        self._watermark_ms = watermark_ms
        self._keyed: dict[str, KeyedWriter] = {}
        self._own: dict[str, list[Any]] = {}
        self._sources: dict[str, SourceSnapshot] = {}

    def add(self, operator: str, rows: Iterable[Row], *, state: str | None = None) -> None:
        """Set entries of a keyed state.

        Args:
            operator: The operator's name: a process function, a running aggregate, or tumbling or sliding windows.
            rows: (key, value); of a `MapState` (key, sub-key, value); of windows (key, start of the window in ms, value), and of
                sliding ones the start of a pane. Of aggregates and windows the value is the accumulator. Rows of `Savepoint.read`
                do as well. In any order; a later one of the same place replaces an earlier one.
            state: The state's name; may be left out where the operator has one.

        Raises:
            CheckpointError: The pipeline has no such operator or state, its state cannot be made here, or a row is none.
            KeyTypeError: A key has no stable encoding.
            ValueTypeError: A value does not fit the declared type.
        """
        node = self._node(
            operator, _ADDABLE, "its state cannot be made by rows alone; let the job read the records again"
        )
        made = node.factory() if node.factory is not None else None
        spec = _chosen(made.tables() if made is not None else [], operator, state)
        panes = made.panes if isinstance(made, WindowOperator | WindowJoinOperator) else None
        self._writer(operator).put(spec, _keyed_rows(rows, spec, panes, self._draft.created_ms))

    def add_timers(self, operator: str, timers: Iterable[tuple[Any, int]], *, domain: str = "event") -> None:
        """Register timers of a process function.

        Args:
            operator: The operator's name.
            timers: (key, time in ms).
            domain: `event` or `processing`.

        Raises:
            CheckpointError: The pipeline has no such process function, or there is no such domain.
            KeyTypeError: A key has no stable encoding.
        """
        self._node(operator, {"process"}, "it has no timers of the user's")
        if domain not in ("event", "processing"):
            raise CheckpointError(f"`domain` of timers must be event or processing (got {domain!r})")
        self._writer(operator).register(operator, domain, timers)

    def set_broadcast(self, operator: str, state: Mapping[Any, Any]) -> None:
        """Set the broadcast state of a broadcast join.

        Raises:
            CheckpointError: The pipeline has no such broadcast join.
            ValueTypeError: Keys or values do not fit the declared types.
        """
        node = self._node(operator, {"broadcast_join"}, "it has no broadcast state")
        serdes = node.factory().own_serdes() if node.factory is not None else {}
        encoded = {
            "keys": serdes["keys"].encode_many(list(state)),
            "values": serdes["values"].encode_many(list(state.values())),
        }
        self._own[operator] = [encoded] * self._draft.parallelism

    def set_positions(self, source: str, positions: Mapping[str, Any], *, finished: Collection[str] = ()) -> None:
        """Say where reading a source begins. A source that nothing is said about is read from its start.

        Args:
            source: The source's name.
            positions: Split id → position, as `Savepoint.splits` shows them; splits that are not named are read from their start.
            finished: Ids of splits that are not to be read.

        Raises:
            CheckpointError: The pipeline has no such source, or the source no such split.
        """
        node = self._node(source, {"source"}, "it has no splits")
        parallelism = self._draft.parallelism
        found = {} if node.source is None else {each.id: each for each in node.source.source.splits(parallelism)}
        for split in (*positions, *finished):
            if split not in found:
                raise CheckpointError(f"source `{source}` has no split `{split}`; it has: {', '.join(found) or 'none'}")
        read_on = [
            (split, found[split].payload, position, self._watermark_ms)
            for split, position in positions.items()
            if split not in finished
        ]
        waiting = [(each.id, each.payload) for each in found.values() if each.id not in {*positions, *finished}]
        self._sources[source] = SourceSnapshot(seen=list(found), unassigned=waiting)
        self._own[source] = [
            {"splits": read_on[part::parallelism], "start_ms": MIN_TIME} for part in range(parallelism)
        ]

    def _node(self, operator: str, kinds: Collection[str], remedy: str) -> Node:
        node = self._graph.nodes.get(operator)
        if node is None:
            fitting = ", ".join(f"`{each.id}`" for each in self._graph.nodes.values() if each.kind in kinds)
            raise CheckpointError(
                f"the pipeline has no operator `{operator}`; of this kind it has: {fitting or 'none'}"
            )
        if node.kind not in kinds:
            raise CheckpointError(f"operator `{operator}` is a {node.kind}: {remedy}")
        return node

    def _writer(self, operator: str) -> KeyedWriter:
        writer = self._keyed.get(operator)
        if writer is None:
            draft = self._draft
            writer = KeyedWriter(self._folder / operator, draft.max_parallelism, draft.parallelism, draft.created_ms)
            self._keyed[operator] = writer
        return writer

    def _store(self, target: SavepointTarget) -> CheckpointManifest:
        """Store all files; returns the manifest, which is still to be written."""
        draft = self._draft
        made = {*self._keyed, *self._own}
        if self._base is not None:
            held = {info.id: info for info in self._base.manifest.operators}
            copy = Rewrite.of(self._base, {}, made & set(held), {}).copy(target)
            kept = {info.id: info for info in copy.operators}
            infos = {info.id: info for info in draft.operators}
            draft = msgspec.structs.replace(
                draft, operators=list((infos | kept).values()), sources=copy.sources, subtasks=copy.subtasks
            )
        return msgspec.structs.replace(
            draft,
            sources=draft.sources | self._sources,
            subtasks=[*draft.subtasks, *self._keyed_snapshots(target), *self._own_snapshots()],
        )

    def _keyed_snapshots(self, target: SavepointTarget) -> Iterator[SubtaskSnapshot]:
        # A keyed operator is the first of its stage, so the stage has its name.
        for operator, writer in self._keyed.items():
            for part, (groups, files) in enumerate(writer.finish()):
                handles = target.store(files, operator, part)
                yield SubtaskSnapshot(operator, part, groups, self._watermark_ms, files=handles)

    def _own_snapshots(self) -> Iterator[SubtaskSnapshot]:
        for operator, states in self._own.items():
            for part, state in enumerate(states):
                yield SubtaskSnapshot(operator, part, operators={operator: msgspec.msgpack.encode(state)})

    def _close(self) -> None:
        for writer in self._keyed.values():
            writer.close()


@contextmanager
def new_savepoint(
    uri: str,
    *,
    pipeline: Build | Graph,
    args: Mapping[str, Any] | None = None,
    job_id: str | None = None,
    max_parallelism: int | None = None,
    parallelism: int | None = None,
    watermark_ms: int | None = None,
    base: Savepoint | None = None,
) -> Iterator[NewSavepoint]:
    """Write a savepoint: a context, at whose end it is stored; where that is by an exception, nothing is left::

        with new_savepoint("savepoints/words", pipeline=build, job_id="default/words") as savepoint:
            savepoint.add("counts", [("to", 2), ("be", 2)])

    A job restores it with `restoreFrom`, like one that a job has taken.

    Args:
        uri: Where to: a new folder, by uri or path.
        pipeline: The build function of the job that will restore it, whose names and types are used.
        args: The build function's arguments.
        job_id: That of the job; of `base` by default.
        max_parallelism: `spec.maxParallelism` of the job, which can never change; of `base`, or 128, by default.
        parallelism: Into how many parts keyed state is cut, best `spec.parallelism` of the job; of `base`, or 1, by default.
        watermark_ms: The event time that counts as reached: windows before it have fired. By default none has been.
        base: A savepoint to start from: everything is copied that is not set here. Of an operator or source that is set here
            nothing is copied.

    Raises:
        CheckpointError: Something is at `uri`, or an argument is missing or does not fit `base`.
        StorageError: The uri cannot be used, or storage failed.
        EntrypointError, PipelineError: The pipeline cannot be built.
    """
    graph = graph_of(pipeline, args)
    draft = _draft(graph, job_id, max_parallelism, parallelism, base.manifest if base is not None else None)
    watermark_ms = MIN_TIME if watermark_ms is None else watermark_ms
    with SavepointTarget(as_uri(uri)) as target, tempfile.TemporaryDirectory(prefix="checkdam-savepoint-") as folder:
        savepoint = NewSavepoint(Path(folder), graph, draft, base, watermark_ms)
        try:
            yield savepoint
            target.finish(savepoint._store(target))
        finally:
            savepoint._close()


def _draft(
    graph: Graph,
    job_id: str | None,
    max_parallelism: int | None,
    parallelism: int | None,
    base: CheckpointManifest | None,
) -> CheckpointManifest:
    """The manifest of a savepoint of a pipeline, without any state."""
    if base is not None and max_parallelism not in (None, base.max_parallelism):
        raise CheckpointError(
            f"`max_parallelism` must be that of the base, {base.max_parallelism} (got {max_parallelism}): it never changes"
        )
    if base is not None and parallelism not in (None, base.parallelism):
        raise CheckpointError(
            f"`parallelism` must be that of the base, {base.parallelism} (got {parallelism}), whose state is copied as it is cut; "
            "a job can restore it with any other"
        )
    job_id = job_id or (base.job_id if base is not None else "")
    if not job_id:
        raise CheckpointError("`job_id` must be given where there is no `base`, such as default/words")
    max_parallelism = max_parallelism or (base.max_parallelism if base is not None else DEFAULT_MAX_PARALLELISM)
    parallelism = parallelism or (base.parallelism if base is not None else 1)
    if not 1 <= parallelism <= max_parallelism <= MAX_KEY_GROUPS:
        raise CheckpointError(
            f"`parallelism` and `max_parallelism` must be 1 ≤ parallelism ≤ max_parallelism ≤ {MAX_KEY_GROUPS} "
            f"(got {parallelism} and {max_parallelism})"
        )
    now_ms = time.time_ns() // 1_000_000
    return CheckpointManifest(
        version=FORMAT_VERSION,
        job_id=job_id,
        id=0 if base is None else base.id,
        epoch=0,
        attempt=0,
        parallelism=parallelism,
        max_parallelism=max_parallelism,
        mode="ExactlyOnce" if base is None else base.mode,
        created_ms=now_ms,
        fingerprint=fingerprint(graph),
        operators=operator_infos(graph),
        processing_time_ms=now_ms if base is None else base.processing_time_ms,
        kind="savepoint",
        drained=base is not None and base.drained,
    )


def _chosen(specs: list[TableSpec], operator: str, state: str | None) -> TableSpec:
    named = {spec.name: spec for spec in specs}
    listed = ", ".join(f"`{name}`" for name in named) or "none"
    if state is None and len(specs) != 1:
        raise CheckpointError(f"operator `{operator}` has several states or none; name one of: {listed}")
    chosen = specs[0] if state is None else named.get(state)
    if chosen is None:
        raise CheckpointError(f"operator `{operator}` has no state `{state}`; it has: {listed}")
    return chosen


def _keyed_rows(rows: Iterable[Row], spec: TableSpec, panes: Panes | None, now_ms: int) -> Iterator[KeyedRow]:
    """Rows as users give them → as the table takes them."""
    expected = (
        "(key, sub-key, value)"
        if spec.kind == "map"
        else "(key, start of the window in ms, value)"
        if panes
        else "(key, value)"
    )
    for row in rows:
        match row:
            case StateRow():
                head = row.subkey if spec.kind == "map" else row.window_start_ms if panes else 0
                found = KeyedRow(row.key, head, row.value, now_ms if row.updated_ms is None else row.updated_ms)
            case (key, head, value) if spec.kind == "map" or panes:
                found = KeyedRow(key, head, value, now_ms)
            case (key, value) if spec.kind != "map" and not panes:
                found = KeyedRow(key, 0, value, now_ms)
            case _:
                raise CheckpointError(f"a row of state `{spec.id}` must be {expected} (got {shown(row)})")
        if panes and (type(found.head) is not int or panes.start_of(found.head) != found.head):
            raise CheckpointError(
                f"no window of `{spec.operator}` starts at {shown(found.head)}: a row must be {expected}"
            )
        yield found
