"""How many workers a coordinator of the model has, and how many it is to have."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from world.loop import VirtualLoop

PATIENCE_S = 5.0
"""So long a coordinator that takes over waits for all workers that are wanted, if another number of them wrote the last checkpoint."""

_REMEMBERED = "parallelism"


class Scale:
    """Numbers of workers.

    Args:
        workers: How many its pod was made for.
        run_dir: Where what is wanted is found by the next container of the pod.
        loop: For times.

    Attributes:
        current: Of the attempt that runs, or ran last; before the first one, of that.
        wanted: What was asked for last.
        patient_until_s: Until then all that are wanted are waited for.
    """

    def __init__(self, workers: int, run_dir: dict[str, Any], loop: VirtualLoop) -> None:
        self.wanted: int = run_dir.get(_REMEMBERED, workers)
        self.current = self.wanted
        self.patient_until_s = 0.0
        self._run_dir = run_dir
        self._loop = loop

    def takes_over(self, workers: int) -> None:
        """The job ran with so many workers before."""
        self.current = workers
        self.patient_until_s = self._loop.time() + PATIENCE_S

    def want(self, workers: int) -> None:
        """From now on so many are wanted."""
        self.wanted = self._run_dir[_REMEMBERED] = workers

    def settle(self, connected: Container[int]) -> bool:
        """Whether the workers for an attempt are there: as many as are wanted, or else as many as there were. `current` says which."""
        if all(index in connected for index in range(self.wanted)):
            self.current = self.wanted
            return True
        patient = self._loop.time() < self.patient_until_s - 1e-6
        return not patient and all(index in connected for index in range(self.current))

    def is_due(self, connected: Container[int]) -> bool:
        """Whether the attempt that runs is to give way to one with as many workers as are wanted."""
        return self.current != self.wanted and all(index in connected for index in range(self.wanted))
