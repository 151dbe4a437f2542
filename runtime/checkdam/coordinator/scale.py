"""How many workers a job has, and how many it is to have.

Whoever looks after a job says how many workers are *wanted*. Until as many are connected the job goes on with the *current* number, so a
rescale stops nothing before it can be done: a worker that finds no room costs nobody anything. Numbers change between two attempts and never
within one; what each worker restores then is in `redistribution.py`. Workers that are not needed, or not yet, are connected all the same.

What is wanted is written into the run directory, where the next process of the same coordinator finds it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container
from pathlib import Path
from typing import Final

from checkdam.coordinator.config import write_atomically
from checkdam.core.clock import Clock

PATIENCE_MS: Final = 5_000
"""How long a coordinator that takes over waits for all workers that are wanted before it goes on with those that are there, if as many
wrote the last checkpoint. Workers that run connect again within a second or so."""

_FILE: Final = "parallelism"

_log = logging.getLogger(__name__)


class Scale:
    """Numbers of workers.

    Args:
        workers: How many the job is to have when its coordinator starts.
        run_dir: Where what is wanted is written.
        clock: Its monotonic side is used.

    Attributes:
        current: Of the attempt that runs, or ran last; before the first one, of that.
        wanted: What was asked for last.
    """

    def __init__(self, workers: int, run_dir: Path, clock: Clock) -> None:
        self.current = workers
        self.wanted = workers
        self._run_dir = run_dir
        self._clock = clock
        self._patient_until_ms: int | None = None

    @property
    def places(self) -> int:
        """Indices of workers that run or are wanted are below it."""
        return max(self.current, self.wanted)

    def takes_over(self, workers: int) -> None:
        """The job ran with so many workers before this coordinator: it may do so again, if those that are wanted do not come soon."""
        self.current = workers
        self._patient_until_ms = self._clock.monotonic_ms() + PATIENCE_MS

    def want(self, workers: int) -> None:
        """From now on so many are wanted."""
        _log.info("the job is to have %d workers, and has %d", workers, self.current)
        self.wanted = workers
        try:
            write_atomically(self._run_dir / _FILE, str(workers).encode())
        except OSError as error:
            # Whoever asked asks the next process again.
            _log.warning("how many workers are wanted could not be written to %s: %s", self._run_dir, error)

    def is_due(self, connected: Container[int]) -> bool:
        """Whether the attempt that runs is to give way to one with as many workers as are wanted."""
        return self.current != self.wanted and _all_below(self.wanted, connected)

    async def settle(self, connected: Container[int], changed: asyncio.Event) -> None:
        """Wait until enough workers are connected for another attempt; `current` is how many it is to have.

        Args:
            connected: The indices of those that are, at any time.
            changed: Set when another one is connected, or wanted.
        """
        while not self._enough(connected):
            changed.clear()
            left_ms = self._patience_ms()
            try:
                async with asyncio.timeout(left_ms / 1000 if left_ms > 0 else None):
                    await changed.wait()
            except TimeoutError:
                pass

    def _enough(self, connected: Container[int]) -> bool:
        if _all_below(self.wanted, connected):
            self.current = self.wanted
            return True
        return self._patience_ms() <= 0 and _all_below(self.current, connected)

    def _patience_ms(self) -> int:
        """How long it will be waited for all of those that are wanted, as long as there is another choice."""
        if self._patient_until_ms is None or self.current == self.wanted:
            return 0
        return self._patient_until_ms - self._clock.monotonic_ms()


def _all_below(number: int, connected: Container[int]) -> bool:
    return all(index in connected for index in range(number))


def remembered_wanted(run_dir: Path) -> int | None:
    """What was asked of a coordinator with this run directory before; `None` if nothing was."""
    try:
        return int((run_dir / _FILE).read_text())
    except (OSError, ValueError):
        return None


__all__ = ["PATIENCE_MS", "Scale", "remembered_wanted"]
