"""A job in one process for the crash tests: writes records through a file sink with a checkpoint after each few.

Run as `sink_job.py FOLDER FORMAT RECORDS KILL_AT`: kills itself with SIGKILL right before its KILL_AT-th call that
changes the file system (0: never). Started again, it goes on from its last checkpoint as a worker would.
Each checkpoint is one file, `checkpoint.json`, replaced atomically: the position of the source and the committables.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkdam.connectors.base import SinkContext
from checkdam.connectors.encoders import FileFormat
from checkdam.connectors.file_sink import FileSink

CALLS = ("open", "write", "fsync", "link", "unlink", "mkdir", "rmdir")


def arm(kill_at: int) -> None:
    calls = 0

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return run

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


def run(base: Path, fmt: FileFormat, records: int) -> None:
    state_file = base / "checkpoint.json"
    state: dict[str, Any] = {"position": 0, "committables": [], "attempt": 0}
    if state_file.exists():
        state = json.loads(state_file.read_text())
    attempts = base / "attempts"
    attempt = int(attempts.read_text()) + 1 if attempts.exists() else 1
    attempts.write_text(str(attempt))
    sink = FileSink(base / "out", fmt, roll_records=40)
    context = SinkContext("my sink", 0, f"1.{attempt}", 2)
    sink.discard(context, state["committables"])
    sink.commit(state["committables"])
    writer = sink.open(context)
    for position in range(state["position"], records, 100):
        writer.write([{"n": n, "text": "x" * 50} for n in range(position, position + 100)], None)
        committables = writer.prepare(position)
        new = {"position": position + 100, "committables": committables}
        (base / "checkpoint.tmp").write_text(json.dumps(new))
        (base / "checkpoint.tmp").rename(state_file)
        sink.commit(committables)
    writer.close()


if __name__ == "__main__":
    arm(int(sys.argv[4]))
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))  # type: ignore[arg-type]
