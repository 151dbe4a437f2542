"""A process that must not outlive its parent, whatever becomes of either.

The end of a socket or pipe tells a child that its parent is gone only when it looks: not while it is stopped, and not
while one thread keeps the interpreter to itself inside a library. The kernel asks nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final[Any] = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded before any fork: a forked child should load no libraries."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends; elsewhere than on Linux only look once.

    Args:
        parent: The process that forked this one; if it is gone already, this process ends here.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
