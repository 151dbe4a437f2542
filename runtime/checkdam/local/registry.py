"""Which jobs run on this machine, for commands in other terminals: where each one's run folder is.

Each `checkdam run` leaves a small file in a folder of this user alone and removes it at its end. One that was killed cannot;
so an entry names its process and when that was started, and counts only while that very process lives. The entry holds no
secret: the token is in the run folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import psutil

from checkdam.core.errors import CheckdamError

_START_TOLERANCE_S: Final = 1.0


class RunningJob(msgspec.Struct, frozen=True):
    """A job that runs on this machine.

    Attributes:
        job_id: Its id.
        storage_uri: Uri of its folder in checkpoint storage: jobs of one id may run side by side in several storages.
        run_folder: Where its coordinator's address and token are.
        pid: Of the `checkdam run`.
        started_s: When that process was started, since the epoch.
    """

    job_id: str
    storage_uri: str
    run_folder: str
    pid: int
    started_s: float

    @property
    def alive(self) -> bool:
        """Whether its process still runs."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started_s) < _START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return False


@contextmanager
def registered(job_id: str, storage_uri: str, run_folder: Path) -> Iterator[None]:
    """Let this process be found as the one that runs a job, for as long as the block lasts.

    Raises:
        CheckdamError: The registry cannot be trusted or written.
    """
    own = psutil.Process()
    entry = RunningJob(job_id, storage_uri, str(run_folder.resolve()), own.pid, own.create_time())
    path = registry_folder() / f"{quote(job_id, safe='')}.{own.pid}.json"
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(msgspec.json.encode(entry))
        temporary.replace(path)
    except OSError as error:
        raise CheckdamError(f"the job cannot be registered in {path.parent}: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_jobs() -> list[RunningJob]:
    """The jobs that run on this machine for this user, by id; what others have left behind is cleared away.

    Raises:
        CheckdamError: The registry cannot be trusted.
    """
    found: list[RunningJob] = []
    for path in sorted(registry_folder().glob("*.json")):
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            entry = msgspec.json.decode(path.read_bytes(), type=RunningJob)
            if entry.alive:
                found.append(entry)
            else:
                path.unlink(missing_ok=True)
    return found


def registry_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the entries, made if it is not there: below `XDG_RUNTIME_DIR`, or else the folder for temporary files.

    Raises:
        CheckdamError: It belongs to somebody else, or others may write it.
    """
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        folder = Path(runtime) / "checkdam"
    else:
        folder = Path(tempfile.gettempdir()) / f"checkdam-runs-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise CheckdamError(f"the folder {folder} of running jobs cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise CheckdamError(
            f"the folder {folder} of running jobs must belong to this user alone (mode 0700); remove it, or set `XDG_RUNTIME_DIR`"
        )
    return folder


__all__ = ["RunningJob", "registered", "registry_folder", "running_jobs"]
