"""How the end of a process is told."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Final

_TERMINATION_LOG_BYTES: Final = 4096
"""Kubernetes keeps no more of it."""


def describe_exit(code: int, *, for_memory: bool = False) -> str:
    """An exit code in words, negative ones being signals: `exited with 1`, `was killed by SIGKILL`.

    Args:
        code: The code.
        for_memory: The kernel has killed a process meanwhile, because the container had used up its memory.
    """
    if code == -signal.SIGKILL and for_memory:
        return "was killed because its container had used up its memory"
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def write_termination_log(path: str | Path, text: str) -> None:
    """Leave the cause of a failure where Kubernetes looks for it, as much of it as it keeps: the beginning names the cause, the end of a
    traceback where it was.

    Args:
        path: The file; empty for none. One that cannot be written is no reason to fail once more.
        text: The cause.
    """
    if not path:
        return
    data = text.encode()
    if len(data) > _TERMINATION_LOG_BYTES:
        kept = _TERMINATION_LOG_BYTES - 64
        data = data[: kept // 4] + b"\n...\n" + data[-(kept - kept // 4) :]
        data = data.decode(errors="ignore").encode()
    with contextlib.suppress(OSError):
        Path(path).write_bytes(data)
