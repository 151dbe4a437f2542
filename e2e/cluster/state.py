"""What a cluster has made on this computer, written down before it is made, so that whoever comes next can take it away.

Processes are known by number and time of start, since numbers are used again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Process:
    """A process that was started.

    Attributes:
        started_s: When, in seconds since 1970.
    """

    pid: int
    started_s: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """The one that has this number now; its parent asks, so it cannot be another."""
        return cls(pid, psutil.Process(pid).create_time())

    def lives(self) -> bool:
        """Whether it is there, and not only its entry because nobody asked how it ended."""
        try:
            found = psutil.Process(self.pid)
            return found.create_time() == self.started_s and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def is_stopped(self) -> bool:
        """Whether it lives, and stands still because of a signal."""
        return self.lives() and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def send(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.lives():
            os.kill(self.pid, number)


@dataclass
class ClusterState:
    """Attributes:
    cgroup: Control group with all processes; empty if none was made.
    link: Network link in the namespace of the computer; empty if none was made.
    holders: Machine → process that holds its namespaces.
    daemons: `machine/program` → process.
    images: Archives of images that the nodes have.
    complete: It was brought up to the end.
    """

    cgroup: str = ""
    link: str = ""
    holders: dict[str, Process] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    complete: bool = False

    def processes(self) -> dict[str, Process]:
        """`machine/program` → process, those that hold namespaces among them."""
        return {**{f"{name}/namespaces": holder for name, holder in self.holders.items()}, **self.daemons}

    def save(self, file: Path) -> None:
        """Replace the file, whole or not at all."""
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.rename(file)


def load(file: Path) -> ClusterState | None:
    """What was saved last; `None` if nothing was."""
    try:
        stored = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    for kind in ("holders", "daemons"):
        stored[kind] = {name: Process(**process) for name, process in stored[kind].items()}
    return ClusterState(**stored)
