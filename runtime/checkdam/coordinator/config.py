"""What a coordinator is told when it starts: a JSON file, written by the local runner or by the operator."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Literal

import msgspec

from checkdam.core.errors import CheckdamError


class CoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of one coordinator process.

    Attributes:
        manifest: The StreamJob as JSON data.
        base_folder: The folder that relative paths of the manifest and the user's modules start from.
        secret_file: Holds the job's secret, with which workers prove themselves; readable by its owner alone.
        token_file: Holds the token of the HTTP API; readable by its owner alone.
        run_dir: A folder for what this run leaves: inline files of the program, and `outcome.json` at the end.
        address_file: Where the addresses are written once the job is fenced; empty for nowhere.
        host: The address to listen on.
        control_port: For workers; 0 for any.
        http_port: For the API; 0 for any.
        allowed_hosts: Names that the API may be called by in the Host header, beside loopback and `host`.
        resume: Go on although the job was stopped.
        since_epoch: Of an earlier coordinator that was started with the same wish to resume; 0 if there was none that came to one. A stop
            that was journalled since then is newer than the wish, and stands.
        fresh: Start over, forgetting all checkpoints.
        restore_from: Uri of a checkpoint, or of a job's folder, to start from.
        request: Names the wish of `fresh` or `restore_from`; new for every wish. A coordinator that is started again with the
            same one goes on from the last checkpoint since, instead of starting over once more.
        start_count: Counts the coordinators that were started for this job, from 1. It is the epoch of `memory://`, which has no
            journal that outlives its coordinator. Where the job is a resource of a cluster, one with a lower number leaves the job to one with a
            higher.
        expected_checkpoint: Folder of the checkpoint that the journal must name, or the coordinator does not begin; empty: any will do. Like
            `resume` it holds for the first coordinator with this wish.
        external_schedule: Somebody else triggers checkpoints, and the coordinator only those that are overdue.
        lifeline_fd: An inherited pipe; its end of file means that whoever started us is gone, and ends the process. -1 for none.
        on_signal: What SIGTERM and SIGINT do. `stop`: stop the job with a last checkpoint; it goes on when it is resumed. `leave`: take a
            last checkpoint and end; the next coordinator goes on by itself. `end`: end at once, and the next one goes on. A second
            signal ends the process at once.
        leave_patience_s: How long `leave` may take, whatever hangs.
        linger: Go on answering requests after the end until a signal comes, so that whoever started us can read why it ended. What has ended
            so that nobody should start it again stays ended when the process is started again with the same `run_dir`.
        metrics_token_file: Holds another token, which opens the metrics and nothing else; empty for none.
        group_may_read: Secret files may be readable for a group: Kubernetes mounts them so for a process that does not own them.
    """

    manifest: dict[str, Any]
    base_folder: str
    secret_file: str
    token_file: str
    run_dir: str
    address_file: str = ""
    host: str = "127.0.0.1"
    control_port: int = 0
    http_port: int = 0
    allowed_hosts: list[str] = []
    resume: bool = False
    since_epoch: int = 0
    fresh: bool = False
    restore_from: str = ""
    request: str = ""
    start_count: int = 1
    expected_checkpoint: str = ""
    external_schedule: bool = False
    lifeline_fd: int = -1
    on_signal: Literal["stop", "leave", "end"] = "stop"
    leave_patience_s: float = 55.0
    linger: bool = False
    metrics_token_file: str = ""
    group_may_read: bool = False

    @property
    def origin(self) -> str:
        """Names the wish to start over or from a certain checkpoint, for the journal; empty if there is none."""
        if not self.fresh and not self.restore_from:
            return ""
        return f"{self.request}#{self.restore_from or 'fresh'}"

    @property
    def may_repeat_origin(self) -> bool:
        """Whether the same origin in the journal means the same wish: then it was fulfilled already."""
        return bool(self.request) or self.start_count > 1


class Addresses(msgspec.Struct, frozen=True):
    """Where a coordinator is to be found; the content of the address file."""

    control_host: str
    control_port: int
    http_host: str
    http_port: int
    pid: int
    epoch: int


def load_config(path: Path) -> CoordinatorConfig:
    """Read the configuration file.

    Raises:
        CheckdamError: It cannot be read or is wrong; names the file and the field.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=CoordinatorConfig)
    except OSError as error:
        raise CheckdamError(f"the coordinator's configuration {path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CheckdamError(f"the coordinator's configuration {path} is wrong: {error}") from error


def read_secret(path: Path, *, group_may_read: bool = False) -> bytes:
    """The content of a file that nobody but its owner may read, without surrounding white space.

    Args:
        path: The file.
        group_may_read: A group may read it, too.

    Raises:
        CheckdamError: It cannot be read, is empty, or others may read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise CheckdamError(f"the secret file {path} cannot be read: {error.strerror}") from error
    if mode & (0o037 if group_may_read else 0o077):
        raise CheckdamError(f"the secret file {path} must have mode 0600 (got {mode:04o}): chmod 600 {path}")
    if not secret:
        raise CheckdamError(f"the secret file {path} must not be empty")
    return secret


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that readers see the old content or the new, never a part. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


__all__ = ["Addresses", "CoordinatorConfig", "load_config", "read_secret", "write_atomically"]
