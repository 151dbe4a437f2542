"""Subtasks that are wired up by hand: the test plays their inputs, outputs and coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from checkdam.core.batch import Batch
from checkdam.core.clock import ManualClock
from checkdam.core.serde import serde_for
from checkdam.graph.model import Node
from checkdam.graph.plan import Stage
from checkdam.operators.base import Operator, OperatorContext, OperatorMetrics, WatermarkFloor
from checkdam.operators.source import SourceOperator
from checkdam.worker.channels import BARRIER, DATA, END, IDLE, WATERMARK, Input, LocalLink, Output
from checkdam.worker.parts import Exit, Parts
from checkdam.worker.subtask import Subtask

SERDE = serde_for(None, "a test", True)
PLENTY = 1 << 40
NAMES = {DATA: "data", WATERMARK: "watermark", IDLE: "idle", BARRIER: "barrier", END: "end"}


class Recorder(Operator):
    """Passes records on and notes what it was told; `fire` are the values that it yields for each watermark."""

    def __init__(self, fire: Iterable[Any] = ()) -> None:
        self.seen: list[Any] = []
        self.fire = list(fire)
        self.in_flight = False

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        self.seen.append((port, list(batch.values)))
        yield Batch(list(batch.values), batch.times)

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        self.seen.append(("watermark", watermark_ms))
        for value in self.fire:
            yield Batch([value])

    def on_end(self) -> Iterable[Batch]:
        self.seen.append("end")
        return ()

    def snapshot(self, checkpoint: int) -> Any:
        return {"seen": len(self.seen)}


class Slow(Operator):
    """Takes up to `room` records, and hands them out only when the test says so."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: list[Any] = []
        self.most_held = 0
        self.ready = 0
        self.watermark = -(2**63)
        self.released = self.watermark

    def open(self, context: Any, restored: list[Any]) -> None:
        self._wake = context.wake

    @property
    def accepts_input(self) -> bool:
        return len(self.held) < self.room

    def process(self, batch: Batch, port: int) -> Iterable[Batch]:
        self.held += batch.values
        self.most_held = max(self.most_held, len(self.held))
        return ()

    def on_watermark(self, watermark_ms: int) -> Iterable[Batch]:
        self.watermark = watermark_ms
        if not self.held:
            self.released = watermark_ms
        return ()

    def output_watermark(self, watermark_ms: int) -> int:
        return self.released

    def poll(self) -> Iterable[Batch]:
        while self.ready and self.held:
            self.ready -= 1
            yield Batch([self.held.pop(0)])
        if not self.held:
            self.released = self.watermark

    def has_pending(self) -> bool:
        return bool(self.held)

    def finish(self, count: int) -> None:
        """`count` more records are ready."""
        self.ready += count
        self._wake()


class Wired:
    """A subtask with `inputs` inputs, whose output is read only by `take`."""

    def __init__(
        self,
        operators: list[Operator],
        *,
        inputs: int = 1,
        ports: list[int] | None = None,
        aligned: bool = True,
        credit_bytes: int = PLENTY,
        batch_records: int = 4096,
        source: SourceOperator | None = None,
        side: tuple[int, str] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.barriers: list[int] = []
        self.wakes = 0
        self.inputs = [
            Input((ports or [0] * inputs)[number], SERDE, lambda count: None)
            for number in range(0 if source else inputs)
        ]
        self.target, exits = self._exit(len(operators) - (0 if source else 1), "", credit_bytes)
        exits = [exits]
        if side is not None:
            self.side_target, exit_ = self._exit(side[0], side[1], credit_bytes)
            exits.append(exit_)
        nodes = [Node("head", "source", None)] if source else []
        nodes += [Node(f"op{n}", "map", lambda: Operator()) for n in range(len(operators))]
        metrics = [OperatorMetrics() for _ in nodes]
        self.subtask = Subtask(
            Parts(
                stage=Stage(nodes[0].id, tuple(nodes), (), ()),
                index=0,
                operators=operators,
                metrics=metrics,
                source=source,
                backend=None,
                inputs=self.inputs,
                exits=exits,
                clock=self.clock,
                aligned=aligned,
                batch_records=batch_records,
                on_barrier=lambda subtask, checkpoint: self.barriers.append(checkpoint),
            )
        )
        for number, operator in enumerate(operators):
            operator.open(self._context(number, metrics[number]), [])

    def data(self, channel: int, *values: Any) -> None:
        self.inputs[channel].queue.append((DATA, Batch(list(values)), 10))

    def control(self, channel: int, kind: int, value: int = 0) -> None:
        self.inputs[channel].queue.append((kind, value, 0))

    def run(self, most_steps: int = 10_000) -> int:
        """Step until nothing is to be done; returns the number of steps."""
        for steps in range(most_steps):
            if not self.subtask.step():
                return steps
        raise AssertionError(f"still busy after {most_steps} steps")

    def take(self, most: int | None = None, side: bool = False) -> list[Any]:
        """What has come out, in order: `[value]` for records, (name, value) for control; gives the credit back."""
        found: list[Any] = []
        target = self.side_target if side else self.target
        while target.queue and (most is None or len(found) < most):
            kind, value, _ = target.queue[0]
            if kind == DATA:
                found += [[value] for value in target.take_batch(1).values]
            else:
                target.queue.popleft()
                found.append((NAMES[kind], value))
        return found

    def close(self) -> None:
        self.subtask.close()

    def _exit(self, position: int, tag: str, credit_bytes: int) -> tuple[Input, Exit]:
        target = Input(0, SERDE, lambda count: None)
        output = Output(LocalLink(target), credit_bytes, SERDE)
        target.grant = output.grant
        return target, Exit(position, tag, output.send_batch, [output])

    def _context(self, number: int, metrics: OperatorMetrics) -> OperatorContext:
        return OperatorContext(
            operator_id=f"op{number}",
            subtask=0,
            parallelism=1,
            backend=None,  # type: ignore[arg-type]  # these operators have no state
            clock=self.clock,
            metrics=metrics,
            attempt="1.1",
            floor=WatermarkFloor(),
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.wakes += 1
        self.subtask.woken = True


def write_file(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def poll_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for other threads, with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)
