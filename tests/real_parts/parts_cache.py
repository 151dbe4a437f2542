"""Where the real servers that tests run against are kept once they were built or downloaded, and locks between processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """`$CHECKDAM_PARTS_CACHE`, or else a folder in the user's cache; made if missing."""
    folder = Path(os.environ.get("CHECKDAM_PARTS_CACHE") or Path.home() / ".cache" / "checkdam-parts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time; the lock of one that dies is free."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def installed(name: str, install: Callable[[Path], None]) -> Path:
    """The folder `name` in the cache, which `install` fills on first use: one process does, others wait, and none sees a half of it.

    Args:
        name: With the version in it: what is there is never changed.
        install: Given an empty folder to fill.
    """
    folder = cache_folder() / name
    if not folder.exists():
        with locked(cache_folder() / f"{name}.lock"):
            if not folder.exists():
                unfinished = cache_folder() / f"{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                install(unfinished)
                unfinished.rename(folder)
    return folder


def is_installed(name: str) -> bool:
    """Whether the folder `name` is in the cache."""
    return (cache_folder() / name).exists()


def program(name: str, remedy: str) -> str:
    """The path of a program of this machine.

    Raises:
        RuntimeError: It is not installed; the message says `remedy`.
    """
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"the program `{name}` is needed for the tests against real servers; {remedy}")
    return found
