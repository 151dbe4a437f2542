"""Control groups of the cluster: which processes are its own, stopping them all as one, and ending them.

There are two generations. In the first every controller has a tree of its own, and `freezer` is the one that knows how to
stop processes; in the second there is one tree. The kubelet wants its part to be there in all of them. It puts pods below
`<group>/<machine>`, and so do we with what else runs on that machine: a machine is stopped with everything on it, as one
whose computer hangs. A process cannot leave its group by forking, so whoever is in the group was started by the cluster.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mountinfo")
_POLL_S: Final = 0.02
_PATIENCE_S: Final = 30.0
_WANTED: Final = ("cpu", "cpuset", "hugetlb", "memory", "pids")
"""Controllers without which the kubelet does not accept a group, if the computer has them."""


class CgroupError(Exception):
    """The kernel's control groups do not do what the cluster needs."""


@dataclass(frozen=True)
class Cgroups:
    """The trees of this computer.

    Attributes:
        trees: Where each is mounted.
        unified: There is one tree, of the second generation, with all controllers.
        freezer: The tree that our own processes are kept in.
    """

    trees: tuple[Path, ...]
    unified: bool
    freezer: Path

    def make(self, group: str) -> None:
        """Make the group in all trees, such that groups below may have processes and limits.

        Raises:
            CgroupError: The kernel refuses.
        """
        for tree in self.trees:
            made = tree
            for part in Path(group).parts:
                made /= part
                made.mkdir(exist_ok=True)
                _fill_cpuset(made)
                if self.unified:
                    _pass_on_controllers(made.parent)
                    _pass_on_controllers(made)

    def entrance(self, group: str) -> Path:
        """The file into which a process writes its number to join the group, made on demand.

        In the second generation no process may be where groups with limits are below, so it is one further down.
        """
        folder = self.freezer / group / "daemons" if self.unified else self.freezer / group
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "cgroup.procs"

    def processes(self, group: str) -> set[int]:
        """All in the group and below, in any tree."""
        return {int(pid) for tree in self.trees for file in _files(tree / group) for pid in _lines(file)}

    def freeze(self, group: str) -> None:
        """Stop all processes of the group where they are.

        Raises:
            CgroupError: Some cannot be stopped.
        """
        self._set_frozen(group, True)

    def thaw(self, group: str) -> None:
        """Let all processes of the group go on.

        Raises:
            CgroupError: Some do not.
        """
        self._set_frozen(group, False)

    def is_frozen(self, group: str) -> bool:
        """Whether the processes of the group, which is there, stand still, or are about to."""
        folder = self.freezer / group
        if self.unified:
            return "frozen 1" in (folder / "cgroup.events").read_text()
        return (folder / "freezer.state").read_text().strip() != "THAWED"

    def kill(self, group: str) -> None:
        """End all processes of the group, frozen ones too; those that they start meanwhile as well.

        Raises:
            CgroupError: Some do not end.
        """
        if not self._exists(group):
            return
        self.thaw(group)

        def none_left() -> bool:
            left = self.processes(group) - {os.getpid()}
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended meanwhile
            return not left

        _until(none_left, lambda: f"processes of the control group {group} do not end: {self.processes(group)}")

    def remove(self, group: str) -> None:
        """Remove the group, which must have no processes any more, from all trees.

        Raises:
            CgroupError: It cannot be removed.
        """
        folders = [folder for tree in self.trees for folder, _, _ in os.walk(tree / group, topdown=False)]
        # A process that was killed is there for a moment longer.
        _until(
            lambda: all(_removed(folder) for folder in folders),
            lambda: f"these control groups cannot be removed: {', '.join(filter(os.path.exists, folders))}",
        )

    def _exists(self, group: str) -> bool:
        return any((tree / group).exists() for tree in self.trees)

    def _set_frozen(self, group: str, frozen: bool) -> None:
        folder = self.freezer / group
        name, words = ("cgroup.freeze", ("0", "1")) if self.unified else ("freezer.state", ("THAWED", "FROZEN"))
        # Groups below that were frozen by themselves stay so when the one above thaws.
        for below in [folder] if frozen else [Path(found) for found, _, _ in os.walk(folder)]:
            with suppress(FileNotFoundError):  # a group of a pod may be removed meanwhile
                (below / name).write_text(words[frozen])
        wanted = f"frozen {words[frozen]}" if self.unified else words[frozen]
        seen = folder / ("cgroup.events" if self.unified else name)
        _until(lambda: wanted in seen.read_text(), lambda: f"{folder} did not become {words[frozen]}")


def cgroups() -> Cgroups:
    """What is mounted on this computer.

    Raises:
        CgroupError: There is nothing to stop processes with.
    """
    first: dict[str, Path] = {}
    second: Path | None = None
    for line in _MOUNTS.read_text().splitlines():
        fields = line.split()
        kind, options, folder = fields[fields.index("-") + 1], fields[-1].split(","), Path(fields[4])
        if kind == "cgroup":
            first.setdefault("freezer" if "freezer" in options else fields[-1], folder)
        elif kind == "cgroup2":
            second = second or folder
    if second is not None and not first:
        return Cgroups((second,), True, second)
    if "freezer" in first:
        return Cgroups((*first.values(), *filter(None, [second])), False, first["freezer"])
    raise CgroupError("control groups must be mounted in /sys/fs/cgroup, with `freezer` if they are of version 1")


def _fill_cpuset(folder: Path) -> None:
    """In the first generation a new group may use no processor until somebody says which."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if file.exists() and "cpuset.effective_cpus" in os.listdir(folder) and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())


def _pass_on_controllers(folder: Path) -> None:
    there = (folder / "cgroup.controllers").read_text().split()
    wanted = " ".join(f"+{name}" for name in _WANTED if name in there)
    try:
        (folder / "cgroup.subtree_control").write_text(wanted)
    except OSError as error:
        raise CgroupError(
            f"the groups in {folder} must be able to have limits (got: {error}). In a container, nothing may run in the uppermost "
            "group: `mkdir /sys/fs/cgroup/init` and write the number of each process in /sys/fs/cgroup/cgroup.procs "
            "into /sys/fs/cgroup/init/cgroup.procs"
        ) from None


def _files(folder: Path) -> Iterator[Path]:
    for below, _, _ in os.walk(folder):
        yield Path(below) / "cgroup.procs"


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the group was removed meanwhile
        return []


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _until(done: Callable[[], bool], complaint: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > deadline_s:
            raise CgroupError(complaint())
        time.sleep(_POLL_S)
