"""What the pods of a job find on their file system.

The root file system is read-only, so everything here is a mount: the manifest, the Secret by which the processes know each other, the user's
files and credentials, the volume of `file://` storage, and two empty folders to write to. A podTemplate may give these two another
source, such as a fast disk; the others belong to Checkdam.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from checkdam.spec import StreamJob
from checkdam.spec.checks import shown
from checkdam_operator.resources import names
from checkdam_operator.resources.config import MANIFEST_KEY, METRICS_TOKEN_KEY, SECRET_KEY, TOKEN_KEY

JOB_FOLDER: Final = "/etc/checkdam/job"
AUTH_FOLDER: Final = "/etc/checkdam/auth"
PROGRAM_FOLDER: Final = "/etc/checkdam/program"
CREDENTIALS_FOLDER: Final = "/var/run/secrets/checkdam"
RUN_FOLDER: Final = "/var/lib/checkdam"
TEMPORARY_FOLDER: Final = "/tmp"

STORAGE_VOLUME: Final = "checkdam-storage"
RUN_VOLUME: Final = "checkdam-run"
TEMPORARY_VOLUME: Final = "checkdam-tmp"

_GROUP_READABLE: Final = 0o440
_OWN_FOLDERS: Final = ("/etc/checkdam", CREDENTIALS_FOLDER, RUN_FOLDER)
_URI: Final = "`spec.checkpoint.storage.uri`"


@dataclass(frozen=True)
class Mount:
    """A volume and where it is mounted.

    Attributes:
        name: Of the volume.
        source: Its source, as in a pod's `volumes`.
        path: Where the container sees it.
        read_only: Whether the container may only read it.
        replaceable: Whether a podTemplate may give it another source.
    """

    name: str
    source: dict[str, Any]
    path: str
    read_only: bool = True
    replaceable: bool = False

    @property
    def volume(self) -> dict[str, Any]:
        """As in a pod's `volumes`."""
        return {"name": self.name, **self.source}

    @property
    def volume_mount(self) -> dict[str, Any]:
        """As in a container's `volumeMounts`."""
        return {"name": self.name, "mountPath": self.path} | ({"readOnly": True} if self.read_only else {})


def mounts(job: StreamJob, role: str, config_map: str) -> list[Mount]:
    """The mounts of a pod.

    Args:
        job: What is deployed.
        role: `coordinator` or `worker`; workers are given no token of the coordinator's HTTP API, which user code could read.
        config_map: Name of the revision's ConfigMap.
    """
    manifest = {"name": config_map, "items": [{"key": MANIFEST_KEY, "path": MANIFEST_KEY}]}
    keys = (SECRET_KEY, TOKEN_KEY, METRICS_TOKEN_KEY) if role == names.COORDINATOR else (SECRET_KEY,)
    made = [
        Mount("checkdam-job", {"configMap": manifest}, JOB_FOLDER),
        Mount("checkdam-auth", _secret(names.auth_secret_name(job.metadata.name, job.metadata.uid), keys), AUTH_FOLDER),
        Mount(RUN_VOLUME, {"emptyDir": {}}, RUN_FOLDER, read_only=False, replaceable=True),
        Mount(TEMPORARY_VOLUME, {"emptyDir": {}}, TEMPORARY_FOLDER, read_only=False, replaceable=True),
    ]
    if job.spec.program.config_map:
        made.append(Mount("checkdam-program", {"configMap": {"name": job.spec.program.config_map}}, PROGRAM_FOLDER))
    storage = job.spec.checkpoint.storage
    if storage.s3 and storage.s3.credentials_secret:
        name = storage.s3.credentials_secret
        made.append(Mount("checkdam-s3", _secret(name), f"{CREDENTIALS_FOLDER}/{name}"))
    if storage.persistent_volume_claim:
        claim = {"persistentVolumeClaim": {"claimName": storage.persistent_volume_claim.claim_name}}
        made.append(Mount(STORAGE_VOLUME, claim, storage_folder(job), read_only=False))
    return made


def storage_folder(job: StreamJob) -> str:
    """The folder of `file://` storage; relative if the uri is, which only a local run can use."""
    path = unquote(job.spec.checkpoint.storage.uri.removeprefix("file://"))
    # Two slashes at the beginning would stay two.
    return posixpath.normpath("/" + path.lstrip("/") if path.startswith("/") else path)


def storage_problems(job: StreamJob) -> list[str]:
    """Why a `file://` folder cannot be used in pods, one sentence each."""
    if job.spec.checkpoint.storage.scheme != "file":
        return []
    folder, got = storage_folder(job), f"(got {shown(job.spec.checkpoint.storage.uri)})"
    if not posixpath.isabs(folder) or folder == "/" or ":" in folder:
        return [f"{_URI} must be an absolute folder without a colon, such as file:///checkpoints, in a cluster {got}"]
    if folder == TEMPORARY_FOLDER or any(_is_below(folder, own) for own in _OWN_FOLDERS):
        taken = ", ".join((TEMPORARY_FOLDER, *_OWN_FOLDERS))
        return [f"{_URI} must be a folder apart from {taken}, which Checkdam needs itself {got}"]
    return []


def volume_problems(job: StreamJob, role: str, container: dict[str, Any]) -> list[str]:
    """Whether the container of a pod, with all of its mounts, lacks the volume of `file://` storage: one sentence if so."""
    if job.spec.checkpoint.storage.scheme != "file":
        return []
    folder = storage_folder(job)
    if any(_is_below(folder, posixpath.normpath(mount["mountPath"])) for mount in container["volumeMounts"]):
        return []
    return [
        f"{_URI} must be a folder on a volume that all pods share (got {shown(job.spec.checkpoint.storage.uri)}): give "
        "`spec.checkpoint.storage.persistentVolumeClaim.claimName`, or mount a volume there by the podTemplate of "
        f"`spec.{role}` too"
    ]


def _secret(name: str, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    source: dict[str, Any] = {"secretName": name, "defaultMode": _GROUP_READABLE}
    if keys:
        source["items"] = [{"key": key, "path": key} for key in keys]
    return {"secret": source}


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
