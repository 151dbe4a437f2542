"""Servers that all processes of a test run share.

The first user starts a *keeper*, this file as a program, which owns the servers. Every user holds a shared lock on a file
for as long as he lives, and the keeper stops the servers when it gets that lock for itself. So they end with the last user,
however he ends. The kernel ends them if it is the keeper that is killed.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Final, TypeVar

from parts_cache import locked
from pydantic import TypeAdapter
from server_process import until

_PATIENCE_S: Final = 120.0
_POLL_S: Final = 0.1
_ANSWER: Final = "keeper.json"
_LIFE: Final = "keeper"
"""A file that the keeper holds a lock on as long as it lives."""

T = TypeVar("T")


@contextmanager
def shared(
    run: Callable[..., AbstractContextManager[T]], description: type[T], folder: Path, *arguments: str
) -> Iterator[T]:
    """The servers that live in `folder`, shared with all other processes that name the same one; started if they do not run.

    Args:
        run: A function of a module: given the folder and the arguments, a context in which the servers run.
        description: The type of what `run` says about its servers: a data class.
        folder: Made if missing.
        arguments: Those of the first user count.

    Raises:
        RuntimeError: They do not start; the message has the end of the keeper's log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users").open("a") as users:
        with locked(folder / "start"):
            fcntl.flock(users, fcntl.LOCK_SH)  # waits while a keeper stops what it owns
            servers = _running(description, folder) or _start_keeper(run, description, folder, arguments)
        yield servers


def _running(description: type[T], folder: Path) -> T | None:
    with (folder / _LIFE).open("a") as life:
        if _alone(life):
            (folder / _ANSWER).unlink(missing_ok=True)  # by a keeper that was killed
            return None
    try:
        return TypeAdapter(description).validate_json((folder / _ANSWER).read_bytes())
    except FileNotFoundError:
        return None


def _start_keeper(
    run: Callable[..., AbstractContextManager[T]], description: type[T], folder: Path, arguments: tuple[str, ...]
) -> T:
    log = folder / "keeper.log"
    # No `Popen`, which is for a process that ends before its parent, and warns otherwise.
    keeper = os.posix_spawn(
        sys.executable,
        [sys.executable, __file__, run.__module__, run.__qualname__, str(folder), *arguments],
        {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,  # Ctrl-C is for the users; the keeper notices when they are gone
    )
    return until(
        lambda: _running(description, folder),
        lambda: os.waitpid(keeper, os.WNOHANG)[0] != 0,
        f"`{run.__module__}.{run.__qualname__}`",
        log,
        _PATIENCE_S,
    )


def _keep(module: str, name: str, folder: Path, arguments: list[str]) -> None:
    """The keeper's life: start the servers, tell where they are, wait until nobody uses them, stop them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run = getattr(importlib.import_module(module), name)
    answer = folder / _ANSWER
    with locked(folder / _LIFE), (folder / "users").open("a") as users, run(folder, *arguments) as servers:
        try:
            unfinished = answer.with_suffix(".unfinished")
            unfinished.write_bytes(TypeAdapter(type(servers)).dump_json(servers))
            unfinished.rename(answer)
            while not _alone(users):
                time.sleep(_POLL_S)
        finally:
            # The servers stop before the lock is free, so that whoever comes now starts new ones.
            answer.unlink(missing_ok=True)


def _alone(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    _keep(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
