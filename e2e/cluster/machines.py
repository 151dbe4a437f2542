"""Machines of the cluster: for each a process that holds its namespaces, and the programs that run in them.

A machine has its own network, host name and mounts, and of the computer's folders its own `/run`, `/var/lib` and `/var/log`:
so two nodes may use the places that kubelet and containerd use everywhere, and whatever they mount is gone with the last
process of the machine. Nothing is mounted, and no interface but one is made, outside of these namespaces.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from server_process import until

from cluster.cgroups import Cgroups
from cluster.commands import run
from cluster.layout import Layout, Machine
from cluster.state import ClusterState, Process

_JOIN: Final = 'echo $$ > "$0" && exec "$@"'
_HOLD: Final = """
set -e
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock
mount --bind "$2/lib" /var/lib
mount --bind "$2/log" /var/log
mount --make-rshared /
ip link set lo up
: > "$2/holder.ready"
exec sleep infinity
"""
_PATIENCE_S: Final = 20.0


class Machines:
    """Starts machines and what runs on them, and writes down what it started.

    Args:
        state: Changed, and saved, with each process.
    """

    def __init__(self, layout: Layout, groups: Cgroups, state: ClusterState) -> None:
        self._layout = layout
        self._groups = groups
        self._state = state

    def start(self, machine: Machine) -> None:
        """Make the namespaces.

        Raises:
            RuntimeError: They cannot be made; the message says what was printed.
        """
        folder = self._layout.of(machine)
        for name in ("lib", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        ready = folder / "holder.ready"
        ready.unlink(missing_ok=True)
        namespaces = ("unshare", "--net", "--mount", "--uts", "--propagation", "slave")
        command = (*namespaces, "sh", "-c", _HOLD, "sh", machine.name, str(folder))
        log = self._layout.log(machine, "holder")
        holder = self._spawn(machine, command, log)
        self._state.holders[machine.name] = holder
        self._state.save(self._layout.state)
        until(
            lambda: True if ready.exists() else None,
            lambda: not holder.lives(),
            f"the namespaces of {machine.name}",
            log,
            _PATIENCE_S,
        )

    def pid(self, machine: Machine) -> int:
        """The process that holds the machine's namespaces."""
        return self._state.holders[machine.name].pid

    def run(self, machine: Machine, *command: str) -> str:
        """What a program on the machine prints, which is run to its end.

        Raises:
            CommandError: It failed.
        """
        return run(*self._enter(machine), *command)

    def daemon(
        self, machine: Machine, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program on the machine that stays when we have ended; its log is `layout.log(machine, name)`.

        Args:
            environment: Added to ours.
        """
        log = self._layout.log(machine, name)
        process = self._spawn(machine, (*self._enter(machine), *command), log, environment)
        self._state.daemons[f"{machine.name}/{name}"] = process
        self._state.save(self._layout.state)
        return process

    def stop(self, machine: Machine, name: str) -> None:
        """End a program of the machine, which may take leave first; come back when it is gone.

        Raises:
            RuntimeError: It does not end.
        """
        process = self._state.daemons[f"{machine.name}/{name}"]
        process.send(signal.SIGTERM)
        until(
            lambda: None if process.lives() else True,
            lambda: False,
            f"the end of {name} on {machine.name}",
            self._layout.log(machine, name),
            _PATIENCE_S,
        )

    def lives(self, machine: Machine, name: str) -> bool:
        """Whether a program that was started on the machine still runs."""
        return self._state.daemons[f"{machine.name}/{name}"].lives()

    def _enter(self, machine: Machine) -> tuple[str, ...]:
        return ("nsenter", f"--target={self.pid(machine)}", "--net", "--mount", "--uts", "--wd=/", "--")

    def _spawn(
        self, machine: Machine, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Every program replaces the one before under the same number: shell, nsenter, daemon."""
        entrance = self._groups.entrance(f"{self._state.cgroup}/{machine.name}")
        # No `Popen`, which is for a process that ends before its parent, and warns otherwise.
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _JOIN, str(entrance), *command],
            {**os.environ, **(environment or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C is not for them
        )
        return Process.of(pid)
