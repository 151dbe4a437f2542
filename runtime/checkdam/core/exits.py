"""How the end of a process is told."""

from __future__ import annotations

import signal


def describe_exit(code: int) -> str:
    """An exit code in words, negative ones being signals: `exited with 1`, `was killed by SIGKILL`."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
