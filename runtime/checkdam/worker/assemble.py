"""Wires up a worker: from a plan to subtasks whose channels are connected.

Where the other ends of channels live is the network's business: `exchange.Exchange` in a job, a loopback in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, SubtaskSnapshot
from checkdam.core.batch import MIN_TIME
from checkdam.core.clock import Clock
from checkdam.core.keys import key_group_range
from checkdam.graph.model import Partition
from checkdam.graph.plan import Plan, Stage, StageInput, StageOutput
from checkdam.operators.base import OperatorContext, OperatorMetrics, WatermarkFloor
from checkdam.operators.source import SourceOperator, SourcePort
from checkdam.state.base import KeyedBackend, StoredSnapshot
from checkdam.worker.channels import Input, Link, LocalLink, Output
from checkdam.worker.partition import make_emit
from checkdam.worker.parts import Exit, Parts
from checkdam.worker.subtask import Subtask


class Network(Protocol):
    """Where the other ends of channels are."""

    def add_input(self, edge: int, sender: int, channel: Input) -> None: ...

    def add_output(self, edge: int, receiver: int, output: Output) -> None: ...

    def link(self, edge: int, receiver: int) -> Link: ...

    def granter(self, edge: int, sender: int, credit_bytes: int) -> Callable[[int], None]: ...


@dataclass(frozen=True)
class WorkerSettings:
    """What all subtasks of a worker share.

    Attributes:
        index, parallelism, max_parallelism: The worker's place in the job.
        attempt: `<epoch>.<attempt>`.
        mode: ExactlyOnce, AtLeastOnce or AtMostOnce.
        credit_bytes: Of each channel.
        batch_records: The most records of a batch.
    """

    index: int
    parallelism: int
    max_parallelism: int
    attempt: str
    mode: str
    credit_bytes: int
    batch_records: int


@dataclass(frozen=True)
class Surroundings:
    """What a worker is connected to.

    Attributes:
        network: The other workers.
        clock: Its clocks.
        port: The way of sources to the coordinator.
        make_backend: Stage id and key groups → an empty keyed backend.
        stored: A snapshot of a keyed stage → what a backend restores from.
        wake: Makes the task loop look again; thread-safe.
        on_barrier: Called with an aligned subtask and the checkpoint.
    """

    network: Network
    clock: Clock
    port: SourcePort
    make_backend: Callable[[str, range], KeyedBackend]
    stored: Callable[[SubtaskSnapshot], StoredSnapshot]
    wake: Callable[[], None]
    on_barrier: Callable[[Subtask, int], None]


def assemble(
    plan: Plan, settings: WorkerSettings, around: Surroundings, restore: CheckpointManifest | None
) -> list[Subtask]:
    """All subtasks of one worker, restored and connected, sources first.

    Raises:
        IncompatibleCheckpointError: The checkpoint holds state that the graph cannot take.
        CorruptCheckpointError: A file of it is damaged.
    """
    inputs = {edge.index: _inputs(edge, settings, around) for stage in plan.stages for edge in stage.inputs}
    return [_subtask(stage, inputs, settings, around, restore) for stage in plan.stages]


def _senders(partition: Partition, settings: WorkerSettings) -> list[int]:
    return [settings.index] if partition is Partition.FORWARD else list(range(settings.parallelism))


def _inputs(stage_input: StageInput, settings: WorkerSettings, around: Surroundings) -> dict[int, Input]:
    edge, number = stage_input.edge, stage_input.index
    channels = {}
    for sender in _senders(edge.partition, settings):
        local = sender == settings.index
        grant = _no_grant if local else around.network.granter(number, sender, settings.credit_bytes)
        channels[sender] = Input(edge.port, edge.serde, grant)
        if not local:
            around.network.add_input(number, sender, channels[sender])
    return channels


def _no_grant(count_bytes: int) -> None:
    """Replaced when the local sender is made."""


def _exit(
    stage_output: StageOutput, inputs: dict[int, dict[int, Input]], settings: WorkerSettings, around: Surroundings
) -> Exit:
    edge, number = stage_output.edge, stage_output.index
    outputs = []
    for receiver in _senders(edge.partition, settings):
        if receiver == settings.index:
            channel = inputs[number][settings.index]
            output = Output(LocalLink(channel), settings.credit_bytes, edge.serde)
            channel.grant = output.grant
        else:
            output = Output(around.network.link(number, receiver), settings.credit_bytes, edge.serde)
            around.network.add_output(number, receiver, output)
        outputs.append(output)
    emit = make_emit(edge.partition, outputs, settings.max_parallelism)
    return Exit(stage_output.position, edge.tag, emit, outputs)


def _subtask(
    stage: Stage,
    inputs: dict[int, dict[int, Input]],
    settings: WorkerSettings,
    around: Surroundings,
    restore: CheckpointManifest | None,
) -> Subtask:
    everything = restore.subtasks if restore is not None else []
    snapshots = [s for s in everything if s.stage == stage.id]
    metrics = [OperatorMetrics() for _ in stage.nodes]
    groups = key_group_range(settings.max_parallelism, settings.parallelism, settings.index)
    backend = _backend(stage, groups, snapshots, around) if stage.keyed else None
    source = _source(stage, metrics[0], everything, settings, around, restore)
    floor = _floor(snapshots, groups)
    operators = [node.factory() for node in stage.nodes if node.factory is not None]
    subtask = Subtask(
        Parts(
            stage=stage,
            index=settings.index,
            operators=operators,
            metrics=metrics,
            source=source,
            backend=backend,
            inputs=[channel for edge in stage.inputs for channel in inputs[edge.index].values()],
            exits=[_exit(output, inputs, settings, around) for output in stage.outputs],
            clock=around.clock,
            aligned=settings.mode != "AtLeastOnce",
            batch_records=settings.batch_records,
            on_barrier=around.on_barrier,
            floor=floor,
        )
    )

    def wake() -> None:
        subtask.woken = True
        around.wake()

    first = len(stage.nodes) - len(operators)
    for number, operator in enumerate(operators):
        node = stage.nodes[number + first]
        context = OperatorContext(
            operator_id=node.id,
            subtask=settings.index,
            parallelism=settings.parallelism,
            backend=backend,  # type: ignore[arg-type]  # operators of unkeyed stages never touch it
            clock=around.clock,
            metrics=metrics[number + first],
            attempt=settings.attempt,
            floor=floor,
            wake=wake,
        )
        operator.open(context, _restored(everything, node.id))
    return subtask


def _restored(snapshots: list[SubtaskSnapshot], operator_id: str) -> list[Any]:
    """What the operator had stored, in whatever stage it was: a changed graph may have cut its stages otherwise."""
    return [msgspec.msgpack.decode(s.operators[operator_id]) for s in snapshots if operator_id in s.operators]


def _floor(snapshots: list[SubtaskSnapshot], groups: range) -> WatermarkFloor:
    """What the key groups `groups` had reached; of snapshots that cover more, no more than that."""
    stored: dict[int, int] = {}
    for snapshot in snapshots:
        if snapshot.key_groups is not None:
            alike = [(*snapshot.key_groups, snapshot.watermark_ms)]
            for first, after, watermark_ms in snapshot.group_watermarks or alike:
                stored.update(dict.fromkeys(range(first, after), watermark_ms))
    return WatermarkFloor({group: stored.get(group, MIN_TIME) for group in groups} if stored else {})


def _backend(stage: Stage, groups: range, snapshots: list[SubtaskSnapshot], around: Surroundings) -> KeyedBackend:
    backend = around.make_backend(stage.id, groups)
    keyed = [snapshot for snapshot in snapshots if snapshot.key_groups is not None]
    if keyed:
        backend.restore([around.stored(snapshot) for snapshot in keyed])
    return backend


def _source(
    stage: Stage,
    metrics: OperatorMetrics,
    snapshots: list[SubtaskSnapshot],
    settings: WorkerSettings,
    around: Surroundings,
    restore: CheckpointManifest | None,
) -> SourceOperator | None:
    head = stage.nodes[0]
    if head.source is None:
        return None
    source = SourceOperator(
        head.id,
        head.source.source,
        head.source.watermarks,
        around.clock,
        metrics,
        around.port,
        at_most_once=settings.mode == "AtMostOnce",
    )
    enumerator = None if restore is None else restore.sources.get(head.id)
    source.restore(_restored(snapshots, head.id), {} if enumerator is None else enumerator.reserved)
    return source
