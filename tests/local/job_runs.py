"""Running `checkdam run` in a process of its own, and looking at what is left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

HERE = Path(__file__).parent
SLOW = 600
"""Records a second of a job that is to be stopped or killed before its end: ten seconds of work, however slow the machine that looks at it."""

FAST = ("--arg", "rate=null")
"""Options of the run that goes on from there, and need not be slow."""


@dataclass
class JobFolder:
    """A folder with a manifest and the pipelines beside it."""

    path: Path
    spec: dict[str, Any] = field(default_factory=dict)

    def write(self, function: str, **args: Any) -> Path:
        """Write the manifest; `args` become the pipeline's, with `out` added."""
        shutil.copy(HERE / "local_jobs.py", self.path)
        manifest = {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "job"},
            "spec": {
                "program": {"entrypoint": f"local_jobs:{function}", "args": {"out": str(self.path / "out"), **args}},
                "parallelism": 2,
                "checkpoint": {"interval": "200ms", "storage": {"uri": "file://./state"}},
                "restart": {"strategy": "FixedDelay", "delay": "50ms", "attempts": 2},
                **self.spec,
            },
        }
        path = self.path / "job.yaml"
        path.write_text(yaml.safe_dump(manifest))
        return path

    def start(self, *options: str) -> subprocess.Popen[str]:
        """`checkdam run job.yaml` with `options`."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "checkdam", "run", str(self.path / "job.yaml")),
                *("--run-dir", str(self.path / "run"), "--no-progress"),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.path,
        )

    def run(self, *options: str) -> tuple[int, str]:
        """Run to the end: exit code, and what was printed."""
        process = self.start(*options)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def rows(self, folder: str = "out") -> list[Any]:
        """All committed rows."""
        files = sorted((self.path / folder).glob("*.json*"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def ask(self, route: str) -> Any:
        """The coordinator's answer to `GET route`; `None` while there is none."""
        try:
            address = json.loads((self.path / "run" / "coordinator.json").read_text())
            token = (self.path / "run" / "token").read_text()
            url = f"http://{address['http_host']}:{address['http_port']}{route}"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=2) as response:
                return json.load(response)
        except (OSError, ValueError):
            return None

    def wait_for_checkpoint(self, number: int) -> None:
        """Until the running job has completed checkpoint `number`."""
        wait_until(lambda: ((self.ask("/v1/job") or {}).get("lastCheckpoint") or {"id": -1})["id"] >= number)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Poll until `condition()` holds.

    Raises:
        TimeoutError: It did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true in time")
        time.sleep(0.02)


def processes_below(pid: int) -> Iterator[psutil.Process]:
    """All processes that `pid` has started, and theirs."""
    try:
        yield from psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
