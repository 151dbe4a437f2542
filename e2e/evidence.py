"""What a test that failed leaves: everything there is to know of its namespace, of the operator, of storage and of the cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cluster.cluster import Cluster
from cluster.commands import CommandError
from cluster.control_plane import ApiError, ControlPlane
from cluster_s3 import s3_listing

_LAST_BYTES: Final = 200_000
_DESCRIBED: Final = ("streamjobs,savepoints", "pods", "services,configmaps,persistentvolumeclaims,poddisruptionbudgets")


def collect(folder: Path, cluster: Cluster, namespaces: Sequence[str]) -> None:
    """Write the evidence into a folder, which is emptied first. What cannot be had is told in its place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write(folder / "cluster.txt", lambda: "\n".join(cluster.status()))
    for log in _logs(cluster, folder / "logs.txt"):
        _write(folder / "cluster" / log.parent.name / log.name, lambda log=log: _end(log))  # type: ignore[misc]
    _write(folder / "volumes.txt", lambda: _listing(cluster.volumes))
    _write(folder / "s3.txt", lambda: s3_listing(cluster))
    try:
        plane = cluster.plane
    except (RuntimeError, OSError) as error:
        (folder / "kubernetes.txt").write_text(str(error))
        return
    _write(folder / "nodes.txt", lambda: plane.kubectl("describe", "nodes"))
    for namespace in namespaces:
        _collect_namespace(folder / namespace, plane, namespace)


def _collect_namespace(folder: Path, plane: ControlPlane, namespace: str) -> None:
    where = f"--namespace={namespace}"
    _write(folder / "events.txt", lambda: plane.kubectl("get", "events", where, "--sort-by=.lastTimestamp"))
    _write(folder / "all.yaml", lambda: plane.kubectl("get", "streamjobs,savepoints,pods", where, "--output=yaml"))
    for kinds in _DESCRIBED:
        _write(folder / f"{kinds.split(',')[0]}.txt", lambda kinds=kinds: plane.kubectl("describe", kinds, where))  # type: ignore[misc]
    try:
        pods: list[dict[str, Any]] = plane.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    except (ApiError, OSError):
        return
    for pod in pods:
        name = pod["metadata"]["name"]
        for kind, flags in {"log": (), "previous.log": ("--previous",)}.items():
            _write(
                folder / f"{name}.{kind}",
                lambda name=name, flags=flags: plane.kubectl("logs", where, name, "--all-containers", *flags),  # type: ignore[misc]
            )


def _write(file: Path, content: Callable[[], str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        file.write_text(content())
    except (CommandError, ApiError, OSError) as error:
        file.write_text(f"cannot be had: {error}\n")


def _logs(cluster: Cluster, complaint: Path) -> Sequence[Path]:
    try:
        return cluster.logs()
    except CommandError as error:
        complaint.write_text(f"cannot be had: {error}\n")
        return ()


def _end(log: Path) -> str:
    with log.open("rb") as content:
        content.seek(max(0, log.stat().st_size - _LAST_BYTES))
        return content.read().decode(errors="replace")


def _listing(folder: Path) -> str:
    """All files, with their sizes: among them the journals of jobs."""
    lines = []
    for below, _, files in os.walk(folder):
        for name in sorted(files):
            path = Path(below) / name
            with suppress(FileNotFoundError):  # jobs that go on remove some
                lines.append(f"{path.stat().st_size:12} {path.relative_to(folder)}")
    return "\n".join(lines)
