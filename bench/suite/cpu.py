"""How much processor time a run takes, sampled from outside, alike for all systems.

On a machine that does other work as well, wall-clock throughput depends on who gets the cores; the processor time that a
record costs does so much less. So both are measured, over the same part of the run.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final

import psutil

SAMPLE_EVERY_S: Final = 0.1


class CpuWatch:
    """Samples the processor time of a process and all its descendants, in a thread, while the context is open.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> CpuWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def seconds_between(self, start_ms: int, end_ms: int) -> float:
        """Processor seconds used between two moments of the wall clock; interpolated between samples."""
        return self._at(end_ms / 1000) - self._at(start_ms / 1000)

    def _run(self) -> None:
        # A process that has ended keeps what it was last seen with.
        seen: dict[int, float] = {}
        while not self._stop.wait(SAMPLE_EVERY_S):
            try:
                root = psutil.Process(self._pid)
                family = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            for process in family:
                try:
                    times = process.cpu_times()
                except psutil.Error:
                    continue
                seen[process.pid] = times.user + times.system
            self._samples.append((time.time(), sum(seen.values())))

    def _at(self, moment_s: float) -> float:
        before = (moment_s, 0.0)
        for sample in self._samples:
            if sample[0] >= moment_s:
                share = (moment_s - before[0]) / (sample[0] - before[0]) if sample[0] > before[0] else 1.0
                return before[1] + share * (sample[1] - before[1])
            before = sample
        return before[1]
