"""The shell of somebody who does what a page says: the page's commands as they are written, run where the page wants them run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.cluster import Cluster
from cluster.commands import CommandError, run
from cluster.programs import install
from installation import PROJECT

_PATIENCE_S: Final = 120
_TIMEOUT: Final = ("timeout", "--foreground", str(_PATIENCE_S))


def commands(page: str, section: str) -> list[str]:
    """The commands of a section that need a cluster, one a line.

    Args:
        page: File of the project.
        section: Its heading, of the second level.
    """
    text = (PROJECT / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh manual\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@dataclass(frozen=True)
class UserShell:
    """A shell in the project's folder, with kubectl and Helm."""

    environment: dict[str, str]

    @classmethod
    def of(cls, cluster: Cluster, namespace: str, folder: Path) -> UserShell:
        """A user of the cluster whose kubeconfig, which is written into `folder`, chooses a namespace."""
        kubeconfig = folder / "kubeconfig"
        shutil.copy(cluster.plane.kubeconfig, kubeconfig)
        choice = ("config", "set-context", "--current", f"--namespace={namespace}")
        cluster.plane.kubectl(f"--kubeconfig={kubeconfig}", *choice)
        path = ":".join([*(str(install(name).parent) for name in ("kubectl", "helm")), os.environ["PATH"]])
        return cls({**os.environ, **cluster.plane.environment(), "KUBECONFIG": str(kubeconfig), "PATH": path})

    def run(self, command: str) -> str:
        """What a command prints.

        Raises:
            CommandError: It failed.
        """
        return run(*_TIMEOUT, "env", f"--chdir={PROJECT}", "sh", "-c", command, environment=self.environment)

    def watch(self, command: str, enough: Callable[[str], bool]) -> None:
        """Run a command that goes on until Ctrl-C, which it gets once it has printed a line that is enough.

        Raises:
            CommandError: It ended before.
        """
        # Not by `timeout`, which forwards no signal that comes before it has noticed what it has started.
        watching = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        too_long = threading.Timer(_PATIENCE_S, watching.kill)
        too_long.start()
        seen = []
        try:
            with watching:
                for line in watching.stdout or ():
                    seen.append(line)
                    if enough(line):
                        watching.send_signal(signal.SIGINT)
                        return
        finally:
            too_long.cancel()
        raise CommandError(f"`{command}` ended: {''.join(seen)}")
