"""The run folder: what the processes of one run are told, and what they leave.

::

    secret, token            0600; the job's secret and the token of the coordinator's API
    coordinator.json         where the current coordinator listens; written by each coordinator
    coordinator.<start>/     its configuration, and how the job ended
    worker-<index>.<start>/  a supervisor's configuration and its task processes' local state
    worker-<index>.local/    the worker's files of the last checkpoint, for its next start
    logs/                    standard error of each process

Every start of a process has a folder of its own, because one that was replaced may still be alive. What lasts from one
start to the next is locked by the one that uses it (`worker.local_files`).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from checkdam.api.entrypoint import INLINE_FOLDER
from checkdam.coordinator.config import Addresses, CoordinatorConfig
from checkdam.core.errors import CheckdamError
from checkdam.local.processes import python_module
from checkdam.spec.streamjob import StreamJob
from checkdam.worker.config import WorkerConfig

_OF_A_PROCESS: Final = re.compile(r"coordinator\.\d+|worker-\d+\.(\d+|local)")


def make_run_folder(path: Path) -> None:
    """Make the folder of a run, for this user alone, or take that of an earlier one.

    Raises:
        CheckdamError: It holds things of somebody else, who may want to read them or to find them again; or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in path.iterdir()}
        if names and not names & {"token", INLINE_FOLDER}:
            raise CheckdamError(
                f"`--run-dir` must be a new or an empty folder, or that of an earlier run (got {path}, which holds {min(names)!r})"
            )
        path.chmod(0o700)
    except OSError as error:
        raise CheckdamError(
            f"`--run-dir` must be a folder that can be made or used (got {path}: {error.strerror})"
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Exists, and belongs to this user alone.
        job: The StreamJob.
        base_folder: The folder of its manifest.
        fresh: Start over.
        restore_from: Uri of a checkpoint to start from; empty for none.
        request: Names this run's wish for `fresh` or `restore_from`: a coordinator that is started again does not repeat it.
    """

    path: Path
    job: StreamJob
    base_folder: Path
    fresh: bool
    restore_from: str
    request: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def address_file(self) -> Path:
        """Where each coordinator writes its addresses."""
        return self.path / "coordinator.json"

    @property
    def token(self) -> str:
        """The token of the coordinator's API."""
        return (self.path / "token").read_text()

    def prepare(self) -> None:
        """Make new secrets, and forget what an earlier run has left."""
        for name, text in (("secret", secrets.token_hex(32)), ("token", secrets.token_urlsafe(32))):
            path = self.path / name
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
        self.address_file.unlink(missing_ok=True)
        lasting = {self._local_folder(index) for index in range(self.job.spec.parallelism)}
        for leftover in {entry for entry in self.path.iterdir() if _OF_A_PROCESS.fullmatch(entry.name)} - lasting:
            shutil.rmtree(leftover, ignore_errors=True)
        (self.path / "logs").mkdir(exist_ok=True)

    def log_file(self, process: str) -> Path:
        """Where a process's standard error goes; all its starts share it."""
        return self.path / "logs" / f"{process}.log"

    def coordinator_command(self, lifeline_fd: int, start: int) -> list[str]:
        """The command line of the `start`-th coordinator, whose configuration is written."""
        folder = self._own_folder(f"coordinator.{start}")
        config = CoordinatorConfig(
            manifest=self.job.to_manifest(),
            base_folder=str(self.base_folder),
            secret_file=str(self.path / "secret"),
            token_file=str(self.path / "token"),
            run_dir=str(folder),
            address_file=str(self.address_file),
            resume=True,
            since_epoch=self._published_epoch(),
            fresh=self.fresh,
            restore_from=self.restore_from,
            request=self.request,
            start_count=start,
            lifeline_fd=lifeline_fd,
            on_signal="end",
        )
        return python_module("checkdam.coordinator", _write(folder, config))

    def worker_command(self, index: int, lifeline_fd: int, start: int) -> list[str]:
        """The command line of the `start`-th supervisor of worker `index`, whose configuration is written."""
        folder = self._own_folder(f"worker-{index}.{start}")
        config = WorkerConfig(
            manifest=self.job.to_manifest(),
            base_folder=str(self.base_folder),
            index=index,
            secret_file=str(self.path / "secret"),
            run_dir=str(folder),
            local_dir=str(self._local_folder(index)),
            address_file=str(self.address_file),
            lifeline_fd=lifeline_fd,
        )
        return python_module("checkdam.worker", _write(folder, config))

    def forget_worker(self, index: int, start: int) -> None:
        """The supervisor is gone, and its task process with it: what they worked on locally is of no use to others."""
        shutil.rmtree(self.path / f"worker-{index}.{start}", ignore_errors=True)

    def forget_checkpoints(self) -> None:
        """The job has finished: nobody will restore from the workers' local files."""
        for index in range(self.job.spec.parallelism):
            shutil.rmtree(self._local_folder(index), ignore_errors=True)

    def outcome(self, start: int) -> dict[str, Any]:
        """How the job ended, in the words of the `start`-th coordinator; empty if it did not say."""
        try:
            found: dict[str, Any] = msgspec.json.decode(
                (self.path / f"coordinator.{start}" / "outcome.json").read_bytes()
            )
            return found
        except (OSError, msgspec.DecodeError):
            return {}

    def _published_epoch(self) -> int:
        """Of the last coordinator of this run that came to have one; 0 before."""
        try:
            return msgspec.json.decode(self.address_file.read_bytes(), type=Addresses).epoch
        except (OSError, msgspec.DecodeError):
            return 0

    def _local_folder(self, index: int) -> Path:
        return self.path / f"worker-{index}.local"

    def _own_folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder


def _write(folder: Path, config: CoordinatorConfig | WorkerConfig) -> str:
    path = folder / "config.json"
    path.write_bytes(msgspec.json.encode(config))
    return str(path)
