"""What a subtask is put together from: `assemble.py` makes it, `subtask.py` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from checkdam.core.clock import Clock
from checkdam.graph.plan import Stage
from checkdam.operators.base import Operator, OperatorMetrics, WatermarkFloor
from checkdam.operators.source import SourceOperator
from checkdam.state.base import KeyedBackend
from checkdam.worker.channels import Input, Output
from checkdam.worker.partition import Emit

if TYPE_CHECKING:
    from checkdam.worker.subtask import Subtask


@dataclass
class Exit:
    """An edge that leaves the stage after the operator at `position`, for batches tagged `tag`."""

    position: int
    tag: str
    emit: Emit
    outputs: list[Output]


@dataclass
class Parts:
    """What a subtask is put together from."""

    stage: Stage
    index: int
    operators: list[Operator]
    metrics: list[OperatorMetrics]
    source: SourceOperator | None
    backend: KeyedBackend | None
    inputs: list[Input]
    exits: list[Exit]
    clock: Clock
    aligned: bool
    batch_records: int
    on_barrier: Callable[[Subtask, int], None]
    floor: WatermarkFloor = field(default_factory=WatermarkFloor)
    """The watermarks up to which the restored state had been processed."""
