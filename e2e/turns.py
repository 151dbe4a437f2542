"""Tests that share one cluster: most run beside others, those that break the cluster itself run alone.

A file lock serves all pytest processes of the machine, whether they are one run's workers or several people's.
Who waits to be alone holds back those that come after, or it might wait for ever.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.cluster import Cluster, Say


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the cluster, alone or together with others.

    Args:
        folder: Where the locks are kept; made if it is missing.
        alone: Wait until nobody else has a turn, and let nobody else have one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "tests.lock").open("a") as tests, (folder / "next-test.lock").open("a") as following:
        fcntl.flock(following, fcntl.LOCK_EX)
        fcntl.flock(tests, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(following, fcntl.LOCK_UN)
        yield


@contextmanager
def brought_up(cluster: Cluster, say: Say) -> Iterator[bool]:
    """Have the cluster up while the context is open, and take it down however that ends, unless it was up before; gives whether it was.

    A test that has broken it for a moment is waited for.

    Raises:
        UnavailableError, CommandError: As `Cluster.up`.
    """
    locks = cluster.volumes.parent
    with turn(locks, alone=False):
        was_up = cluster.is_up()
    try:
        with turn(locks, alone=False):
            cluster.up(say)
        yield was_up
    finally:
        if not was_up:
            cluster.down(say)
