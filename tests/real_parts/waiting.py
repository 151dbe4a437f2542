"""Waiting until servers and other processes of tests have done something."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

PATIENCE_S = 30.0


def wait_until(holds: Callable[[], object]) -> None:
    """Ask until the answer is true.

    Raises:
        AssertionError: It is not within half a minute.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"still not so after {PATIENCE_S:.0f} s"
        time.sleep(0.02)


def is_over(pid: int) -> bool:
    """Whether a process has ended, though perhaps nobody has asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
