"""How a program under test says how far it is, alike for all systems, and what follows from it.

Each worker appends lines to one file: how many input lines it has read so far, and how many results have reached its
sink, with the wall clock of the machine. At most one line in some milliseconds is written, so the measurement costs next
to nothing, and the throughput is taken between two moments in the middle of the run: starting processes, compiling
Java's hot code and taking the final checkpoint are not part of it.

Only the standard library is imported here: the module also runs in Bytewax's environment.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READ: Final = "read"
OUT: Final = "out"

WARM_UP_SHARE: Final = 0.25
"""The share of the input that is read before the clock starts."""

_EVERY_S: Final = {READ: 0.010, OUT: 0.002}
_numbers = itertools.count()


class StampWriter:
    """Counts what one worker reads, or what reaches its sink, and writes it down every few milliseconds.

    Args:
        path: The file that all workers of the run append to.
        kind: `READ` for input lines, `OUT` for results.

    The file is opened with the first count, in the process that counts.
    """

    def __init__(self, path: str, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._every_s = _EVERY_S[kind]
        self._count = 0
        self._next_s = 0.0
        self._file = -1

    def add(self, count: int) -> None:
        """`count` more have come."""
        self._count += count
        now_s = time.time()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            self._worker = f"{os.getpid()}.{next(_numbers)}"
        os.write(self._file, f"{self._kind} {self._worker} {self._count} {int(now_s * 1000)}\n".encode())


@dataclass(frozen=True)
class Stamp:
    """One line of the file.

    Attributes:
        kind: `READ` or `OUT`.
        worker: Who counts; each counts for itself.
        count: So far.
        time_ms: Wall clock.
    """

    kind: str
    worker: str
    count: int
    time_ms: int


def read_stamps(path: Path) -> list[Stamp]:
    """All stamps of a run, in order of time; none if the file is not there yet."""
    if not path.exists():
        return []
    rows = (line.split() for line in path.read_text().splitlines())
    stamps = [Stamp(kind, worker, int(count), int(time_ms)) for kind, worker, count, time_ms in rows]
    return sorted(stamps, key=lambda stamp: stamp.time_ms)


@dataclass(frozen=True)
class SteadyState:
    """The part of a run that counts: from when a share of the input had been read until the last result.

    Attributes:
        lines: Lines of input read in it.
        start_ms: Wall clock.
        end_ms: Wall clock.
    """

    lines: int
    start_ms: int
    end_ms: int

    @property
    def lines_per_second(self) -> float:
        """The throughput."""
        return self.lines / (self.end_ms - self.start_ms) * 1000


def steady_state(stamps: list[Stamp], total_lines: int, warm_up_share: float = WARM_UP_SHARE) -> SteadyState:
    """The part of a run that counts.

    Args:
        stamps: Of a run that has read all its input.
        total_lines: How many lines the input has.
        warm_up_share: The share that is left out at the beginning.

    Raises:
        ValueError: The stamps are not those of a complete run, or the run was too short to be measured.
    """
    by_worker: dict[str, int] = {}
    start: tuple[int, int] | None = None
    for stamp in stamps:
        if stamp.kind == READ:
            by_worker[stamp.worker] = stamp.count
            read = sum(by_worker.values())
            if start is None and read >= total_lines * warm_up_share:
                start = read, stamp.time_ms
    outputs = [stamp.time_ms for stamp in stamps if stamp.kind == OUT]
    if start is None or not outputs:
        read = sum(by_worker.values())
        raise ValueError(f"the run must have read its {total_lines} lines and made results (read {read})")
    read, start_ms = start
    if outputs[-1] <= start_ms:
        raise ValueError(f"the run must last longer than its warm-up to be measured (got {total_lines} lines)")
    return SteadyState(total_lines - read, start_ms, outputs[-1])
