"""Processes of servers that tests start: their log is a file, they are killed when their time is over, and they outlive nobody.

What a server of a test run holds is gone with the run, so there is nothing to shut down in order.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from checkdam.core.lifetime import die_with_parent

_POLL_S: Final = 0.05
_LAST_BYTES: Final = 3000

T = TypeVar("T")


@contextmanager
def server_process(command: Sequence[str], log: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs until the context ends, or the thread that opened it.

    Args:
        command: Program and arguments.
        log: File that its output goes to; what was there before is lost.
        folder: Its working directory.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(ready: Callable[[], T | None], ended: Callable[[], bool], what: str, log: Path, patience_s: float) -> T:
    """What `ready` answers as soon as that is not None.

    Raises:
        RuntimeError: `ended` is true before, or it takes longer than `patience_s`; the message has the end of the log.
    """
    deadline_s = time.monotonic() + patience_s
    while (value := ready()) is None:
        over = ended()
        if over or time.monotonic() > deadline_s:
            reason = "it ended" if over else f"it was not ready after {patience_s:.0f} s"
            end = log.read_text(errors="replace")[-_LAST_BYTES:]
            raise RuntimeError(f"{what} did not start: {reason}; the end of {log}:\n{end}")
        time.sleep(_POLL_S)
    return value
