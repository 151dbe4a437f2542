"""When a subtask may take its snapshot: which inputs' barriers have come, and which inputs are held back for that.

With alignment (ExactlyOnce, AtMostOnce) an input whose barrier has come is held back until all have; without
(AtLeastOnce) nothing is held, and the snapshot is taken at the last barrier. A higher barrier cancels a lower one, and
barriers of aborted checkpoints are dropped. Inputs that have ended still carry barriers.
"""

from __future__ import annotations

from collections.abc import Sequence

from checkdam.core.clock import Clock
from checkdam.worker.channels import Input


class Alignment:
    """The barriers of one subtask. Task thread.

    Args:
        inputs: The subtask's; their `held` is set here and nowhere else.
        holds: Whether inputs are held back.
        clock: For `took_ms`.

    Attributes:
        took_ms: How long the last alignment took, from the first barrier to the last.
    """

    def __init__(self, inputs: Sequence[Input], holds: bool, clock: Clock) -> None:
        self.took_ms = 0
        self._inputs = inputs
        self._holds = holds
        self._clock = clock
        self._void = 0
        self._checkpoint = 0
        self._arrived: set[int] = set()
        self._started_ms = 0

    def arrive(self, number: int, checkpoint: int) -> bool:
        """Input `number` has brought a barrier; True if it was the last: take the snapshot, then call `void`."""
        if self.is_void(checkpoint) or checkpoint < self._checkpoint:
            return False
        if checkpoint > self._checkpoint:
            self._release()
            self._checkpoint, self._started_ms = checkpoint, self._clock.monotonic_ms()
        self._arrived.add(number)
        if self._holds:
            self._inputs[number].held = checkpoint
        if len(self._arrived) < len(self._inputs):
            return False
        self.took_ms = self._clock.monotonic_ms() - self._started_ms
        return True

    def void(self, checkpoint: int) -> None:
        """Checkpoints ≤ `checkpoint` have passed or are aborted: release what is held for them, drop their barriers."""
        self._void = max(self._void, checkpoint)
        if self._checkpoint <= self._void:
            self._release()

    def is_void(self, checkpoint: int) -> bool:
        """Whether `checkpoint` has passed or is aborted."""
        return checkpoint <= self._void

    def _release(self) -> None:
        for channel in self._inputs:
            channel.held = 0
        self._checkpoint = 0
        self._arrived = set()
