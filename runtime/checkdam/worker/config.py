"""What a worker process is told when it is started: a small JSON file, whose path is its only argument.

Secrets are not in it but in files of mode 0600 that it names, so that neither arguments nor environment show them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from checkdam.core.errors import CheckdamError


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One worker.

    Attributes:
        manifest: The StreamJob, as JSON data.
        base_folder: The folder of the manifest: on the import path, and where relative `file://` paths begin.
        index: The worker's index, from 0.
        secret_file: A file that holds the job's secret.
        run_dir: A folder of this worker alone, for local state and files on their way.
        local_dir: Where files of the last checkpoint are kept for local recovery: a folder of the worker's index alone, which outlives
            its process where the disk does. Empty: in `run_dir`.
        address_file: JSON with the coordinator's current address, read at every connect; or else
        coordinator: `host:port` of the coordinator.
        host: The address on which the task process listens for its peers.
        data_port: The port there; 0 for any.
        name: Of the pod, or another name that people know the worker by: it stands in front of its supervisor's id. Empty for none.
        stays: Never end before SIGTERM comes: whoever started us would only start us again.
        leave_patience_s: After SIGTERM the worker goes on for at most so long, until the coordinator has a last checkpoint and lets it go.
            0: it ends at once.
        lifeline_fd: An inherited pipe; its end of file means that whoever started us is gone. -1 for none.
        termination_log: A file for the cause of a failure; empty for none.
    """

    manifest: dict[str, Any]
    base_folder: str
    index: int
    secret_file: str
    run_dir: str
    local_dir: str = ""
    address_file: str = ""
    coordinator: str = ""
    host: str = "127.0.0.1"
    data_port: int = 0
    name: str = ""
    stays: bool = False
    leave_patience_s: float = 0.0
    lifeline_fd: int = -1
    termination_log: str = ""

    @property
    def local_folder(self) -> Path:
        """Where files are kept for local recovery."""
        return Path(self.local_dir) if self.local_dir else Path(self.run_dir) / "local"

    @property
    def secret(self) -> bytes:
        """The job's secret."""
        return Path(self.secret_file).read_bytes().strip()

    def coordinator_address(self) -> tuple[str, int]:
        """Where the coordinator listens now.

        Raises:
            OSError: The address file is not there (yet).
            CheckdamError: It cannot be read.
        """
        if self.address_file:
            try:
                found = msgspec.json.decode(Path(self.address_file).read_bytes())
                return str(found["control_host"]), int(found["control_port"])
            except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
                raise CheckdamError(f"cannot read the address file {self.address_file}: {error}") from error
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def load_config(path: Path) -> WorkerConfig:
    """Read a config file.

    Raises:
        CheckdamError: It is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckdamError(f"cannot read the worker's config {path}: {error}") from error
