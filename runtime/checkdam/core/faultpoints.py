"""Named places where a test can kill or stop this process, to show that nothing is lost there.

`CHECKDAM_FAULT=<point>` kills the process with SIGKILL when it reaches that point for the first time,
`CHECKDAM_FAULT=<point>:<n>` at the n-th time. With `CHECKDAM_FAULT_SIGNAL=SIGSTOP` it is stopped there instead, until
somebody wakes it: a zombie that goes on in the middle of what its successor has taken over. `CHECKDAM_FAULT_MARKER=<file>` makes the kill happen once over all
processes that share the file, so that a process that is started again with the same environment survives.
Without the variable `hit` is one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


class _Armed:
    """The point that strikes, how many times it has still to be reached, and with which signal it does."""

    def __init__(self, point: str, remaining: int, marker: str, number: signal.Signals) -> None:
        self.point = point
        self.remaining = remaining
        self.marker = marker
        self.number = number

    def reach(self, point: str) -> None:
        if point != self.point:
            return
        self.remaining -= 1
        if self.remaining == 0 and self._first_of_all():
            os.kill(os.getpid(), self.number)

    def _first_of_all(self) -> bool:
        if not self.marker:
            return True
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True


_armed: _Armed | None = None


def arm(environment: Mapping[str, str] = os.environ) -> None:
    """Read the variables; called once when the module is imported.

    Raises:
        ValueError: The number after the colon is none, or less than 1; or the signal is neither SIGKILL nor SIGSTOP.
    """
    global _armed
    value = environment.get("CHECKDAM_FAULT", "")
    if not value:
        _armed = None
        return
    point, _, count = value.partition(":")
    if count and (not count.isdecimal() or int(count) < 1):
        raise ValueError(f"`CHECKDAM_FAULT` must be point or point:n with n ≥ 1 (got {value!r})")
    name = environment.get("CHECKDAM_FAULT_SIGNAL", "SIGKILL")
    if name not in ("SIGKILL", "SIGSTOP"):
        raise ValueError(f"`CHECKDAM_FAULT_SIGNAL` must be SIGKILL or SIGSTOP (got {name!r})")
    _armed = _Armed(point, int(count or 1), environment.get("CHECKDAM_FAULT_MARKER", ""), signal.Signals[name])


def hit(point: str) -> None:
    """The process is at `point`; die here if that was asked for."""
    if _armed is not None:
        _armed.reach(point)


arm()

__all__ = ["arm", "hit"]
