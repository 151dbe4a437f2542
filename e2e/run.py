"""`make e2e`: brings the cluster up, runs the tests against it, and takes it down again, however they end.

Tests that take minutes are left out, unless they are asked for: `-m long`, or `-m ""` for all.
A cluster that was up before stays up, which is how to work on a test: `python -m cluster up` once, then this, or pytest alone.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "real_parts"))

from cluster.choice import chosen_cluster
from cluster.requirements import EXIT_UNAVAILABLE, UnavailableError
from turns import brought_up

FOLDER: Final = Path(__file__).resolve().parent
_OPTIONS: Final = ("-v", "-m", "not long", "-n", "3", "--dist", "worksteal", "--durations=0", "--durations-min=5")
"""Three at a time: tests wait more than they work."""


def main(arguments: list[str]) -> int:
    """What pytest ends with, or `EXIT_UNAVAILABLE` where no cluster is possible."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    cluster = chosen_cluster()
    try:
        with brought_up(cluster, _say) as was_up:
            ended = int(pytest.main([str(FOLDER), *_OPTIONS, *arguments]))
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return EXIT_UNAVAILABLE
    left = [] if was_up else cluster.left()
    if left:
        print(f"the cluster has left behind: {', '.join(left)}", file=sys.stderr)
        return 1
    return ended


def _say(what: str) -> None:
    print(what, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    """So that what was started is ended: an exception, as Ctrl-C is one."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
