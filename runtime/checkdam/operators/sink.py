"""Sinks as operators: direct ones write as records come, two-phase ones make their output visible by checkpoints.

What a two-phase writer prepared stays in the operator's snapshots until a checkpoint that holds it has completed. An
aborted checkpoint therefore discards nothing: its committables go into the next one, and the completion of checkpoint M
commits everything prepared for checkpoints ≤ M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from checkdam.connectors.base import Sink, SinkContext, SinkWriter, TwoPhaseWriter
from checkdam.core.batch import Batch
from checkdam.operators.base import CommittingOperator, Operator, OperatorContext


class DirectSinkOperator(Operator):
    """Writes at once; after a failure, output since the last checkpoint is repeated (AtLeastOnce)."""

    def __init__(self, operator_id: str, sink: Sink[Any]) -> None:
        self.operator_id = operator_id
        self.sink = sink
        self._writer: SinkWriter[Any] | None = None

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        self._writer = self.sink.open(_sink_context(context))

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        assert self._writer is not None  # noqa: S101
        self._writer.write(batch.values, batch.times)
        return ()

    def snapshot(self, checkpoint: int) -> Any:
        assert self._writer is not None  # noqa: S101
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class TwoPhaseSinkOperator(CommittingOperator):
    """Prepares at barriers and commits when the journal holds the checkpoint (ExactlyOnce).

    After a rescale, what former subtask *i* had prepared comes to subtask *i* modulo the new parallelism
    (`Redistribution.SPLIT`), the same that discards its leftovers: so nothing is discarded that another would commit.
    """

    def __init__(self, operator_id: str, sink: Sink[Any]) -> None:
        self.operator_id = operator_id
        self.sink = sink
        self._writer: TwoPhaseWriter[Any] | None = None
        self._sink_context: SinkContext | None = None
        self._pending: dict[int, list[Any]] = {}

    def open(self, context: OperatorContext, restored: list[Any]) -> None:
        self._sink_context = _sink_context(context)
        writer = self.sink.open(self._sink_context)
        if not isinstance(writer, TwoPhaseWriter):
            raise TypeError(f"sink `{self.operator_id}` is two-phase, so its writer must be a TwoPhaseWriter")
        self._writer = writer
        for snapshot in restored:
            for checkpoint, committables in snapshot["pending"]:
                self._pending.setdefault(checkpoint, []).extend(committables)

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        assert self._writer is not None  # noqa: S101
        self._writer.write(batch.values, batch.times)
        return ()

    def snapshot(self, checkpoint: int) -> Any:
        assert self._writer is not None  # noqa: S101
        prepared = self._writer.prepare(checkpoint)
        if prepared:
            self._pending[checkpoint] = self._pending.get(checkpoint, []) + prepared
        return {"pending": sorted(self._pending.items())}

    def commit(self, up_to: int) -> Callable[[], None]:
        due = [item for number, items in sorted(self._pending.items()) if number <= up_to for item in items]
        return lambda: self.sink.commit(due) if due else None

    def committed(self, up_to: int) -> None:
        self._pending = {number: items for number, items in self._pending.items() if number > up_to}

    def restored_commit(self) -> Callable[[], None]:
        due = [item for _, items in sorted(self._pending.items()) for item in items]
        context = self._sink_context
        assert context is not None  # noqa: S101
        self._pending = {}

        def work() -> None:
            # Leftovers go first: everything in `due` is kept until it is committed.
            self.sink.discard(context, due)
            if due:
                self.sink.commit(due)

        return work

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def sink_operator(operator_id: str, sink: Sink[Any]) -> Operator:
    """The operator that fits `sink`."""
    return TwoPhaseSinkOperator(operator_id, sink) if sink.two_phase else DirectSinkOperator(operator_id, sink)


def _sink_context(context: OperatorContext) -> SinkContext:
    return SinkContext(context.operator_id, context.subtask, context.attempt, context.parallelism)
