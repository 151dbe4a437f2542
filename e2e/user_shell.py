"""The shell of somebody who does what a page says: the page's commands as they are written, run where the page wants them run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cluster.cluster import Cluster
from cluster.commands import CommandError, run
from cluster.programs import install
from installation import OPERATOR_NAMESPACE, PROJECT, README_NAMESPACE

WHERE_TESTS_INSTALL: Final = {
    f"namespace {README_NAMESPACE}": f"namespace {OPERATOR_NAMESPACE}",
    f"serviceaccount:{README_NAMESPACE}": f"serviceaccount:{OPERATOR_NAMESPACE}",
}
"""For `UserShell.names`, where a command is about the tests' operator."""
_PATIENCE_S: Final = 120
_TIMEOUT: Final = ("timeout", "--foreground", str(_PATIENCE_S))


@dataclass(frozen=True)
class UserShell:
    """A shell with kubectl and Helm.

    Attributes:
        environment: Of the commands.
        folder: Where they are run.
        names: What pages call something → what it is called here.
    """

    environment: dict[str, str]
    folder: Path = PROJECT
    names: Mapping[str, str] = field(default_factory=dict)

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
        chdir = f"--chdir={self.folder}"
        return run(*_TIMEOUT, "env", chdir, "sh", "-c", self._here(command), environment=self.environment)

    def watch(self, command: str, enough: Callable[[str], bool]) -> None:
        """Run a command that goes on until Ctrl-C, which it gets once it has printed a line that is enough.

        Raises:
            CommandError: It ended before.
        """
        # Not by `timeout`, which forwards no signal that comes before it has noticed what it has started.
        watching = subprocess.Popen(
            ["sh", "-c", f"exec {self._here(command)}"],
            cwd=self.folder,
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

    def _here(self, command: str) -> str:
        if not self.names:
            return command
        names = "|".join(map(re.escape, self.names))
        return re.sub(rf"(?<!\w)(?:{names})(?![\w-])", lambda found: self.names[found[0]], command)


def says_ready(line: str) -> bool:
    """Whether a line of `kubectl get streamjobs` shows a job that is Ready."""
    return "True" in line.split()
