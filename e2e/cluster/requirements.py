"""What a computer must have for a cluster and for the HDFS beside it, how to tell, and how to get it.

There are two kinds of computers: one where a Docker engine answers, and one where we are root of something like Debian.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cluster.cgroups import CgroupError, cgroups
from cluster.commands import CommandError, run
from cluster.network import address_conflict

EXIT_UNAVAILABLE: Final = 69
"""What a program ends with where no cluster is possible; `EX_UNAVAILABLE` of sysexits.h."""
_GO: Final = "Go must be installed: take it from https://go.dev/dl, or `apt-get install golang-go`"
_PACKAGES: Final = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
    "nsenter": "util-linux",
    "mount": "mount",
    "hostname": "hostname",
    "java": "default-jre-headless",
    "mvn": "maven",
}
"""Program → package of Debian."""
_KERNEL: Final = {
    "overlay": lambda: "\toverlay\n" in Path("/proc/filesystems").read_text(),
    "br_netfilter": Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists,
}
"""Module → whether the kernel has it."""
_DOCKER_S: Final = 10.0


class UnavailableError(Exception):
    """No cluster is possible on this computer; the message names everything that is missing, and what gets it."""


def docker_answers() -> bool:
    """Whether there is a Docker engine that we may use."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=_DOCKER_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def prepare_beside_docker() -> None:
    """Make sure that there is what it takes for a cluster by `kind`, beside a Docker engine that answers.

    Raises:
        UnavailableError: Something is missing.
    """
    problems = [] if platform.system() == "Linux" else [f"the system must be Linux (got {platform.system()})"]
    problems += [_GO] if shutil.which("go") is None else []
    problems += [
        f"{program} must be installed: on Debian `apt-get install {_PACKAGES[program]}`"
        for program in ("java", "mvn")
        if shutil.which(program) is None
    ]
    if problems:
        raise UnavailableError("no Kubernetes can be run here by kind:\n" + _listed(problems))


def prepare(say: Callable[[str], None]) -> None:
    """Get what is missing for a cluster of our own making, as far as that is possible.

    Raises:
        UnavailableError: Something cannot be had.
    """
    problems = _problems()
    packages = sorted({package for program, package in _PACKAGES.items() if shutil.which(program) is None})
    install = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if packages and (problems or shutil.which("apt-get") is None):
        problems.append(f"the programs of these packages must be installed: `{install}`")
    if problems:
        raise UnavailableError(
            "no Kubernetes can be run here: no Docker engine answers (`docker info` says why), and for a cluster without one\n"
            + _listed(problems)
        )
    if packages:
        say(f"installing {', '.join(packages)}")
        _install(install)
    for module, there in _KERNEL.items():
        if not there():
            _load(module)


def _listed(problems: Sequence[str]) -> str:
    return "\n".join(f"  * {problem}" for problem in problems)


def _problems() -> list[str]:
    """What we cannot get by ourselves."""
    found = []
    if os.geteuid() != 0:
        found.append(f"the user must be root (got user {os.geteuid()}): run it with `sudo`")
    if shutil.which("go") is None:
        found.append(_GO)
    try:
        cgroups()
    except CgroupError as error:
        found.append(f"{error}: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`")
    for module, there in _KERNEL.items():
        if not there() and shutil.which("modprobe") is None:
            found.append(f"the kernel must have {module}: `apt-get install kmod && modprobe {module}`")
    if shutil.which("ip") is not None and (conflict := address_conflict()):
        found.append(conflict)
    return found


def _install(command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    program, *arguments = command.split()
    try:
        run(program, "update", environment=environment)
        run(program, *arguments, "--yes", environment=environment)
    except CommandError as error:
        raise UnavailableError(f"Debian's packages cannot be installed: {error}") from None


def _load(module: str) -> None:
    try:
        run("modprobe", module)
    except CommandError as error:
        raise UnavailableError(f"the kernel must have {module}: {error}") from None
