"""The demo: runs `job.yaml` from the start, kills a worker's task process on the way, and prints the busiest rows.

Everything it knows of the running job comes from the coordinator's HTTP API.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
OUT = Path("out/flight-delays")
KILL_AFTER_CHECKPOINT = 3


def main() -> int:
    """Run the demo; returns the job's exit code."""
    shutil.rmtree(OUT, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="checkdam-demo-") as folder:
        command = [sys.executable, "-m", "checkdam", "run", str(HERE / "job.yaml"), "--fresh", "--run-dir", folder]
        job = subprocess.Popen(command)
        threading.Thread(target=kill_a_worker, args=(Path(folder), job), daemon=True).start()
        try:
            code = job.wait()
        except KeyboardInterrupt:
            code = job.wait()
    if code == 0:
        show(
            "The busiest hours", OUT / "hourly", "flights", ("carrier", "hour", "flights", "mean_delay", "worst_delay")
        )
        show("The busiest airports", OUT / "airports", "flights", ("airport", "from", "to", "flights"))
        print(f"all results are in {OUT}/")
    return code


def kill_a_worker(folder: Path, job: subprocess.Popen[bytes], worker: int = 1) -> int | None:
    """Wait for a few checkpoints, then kill the task process of a worker as a crash would.

    Args:
        folder: The job's `--run-dir`.
        job: The running `checkdam run`.
        worker: The worker's index.

    Returns:
        The id of the process, or `None` if the job ended before.
    """
    while job.poll() is None:
        time.sleep(0.2)
        try:
            last = ask(folder, "/v1/job")["lastCheckpoint"]
            pid = next(found["taskPid"] for found in ask(folder, "/v1/workers") if found["index"] == worker)
            # Between two attempts there is no task process, and 0 would mean our own process group.
            if last is None or last["id"] < KILL_AFTER_CHECKPOINT or pid <= 0:
                continue
            os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError, KeyError, StopIteration):
            continue
        print(f"demo: killed the task process of worker {worker} (pid {pid}) with SIGKILL", file=sys.stderr)
        return int(pid)
    return None


def ask(folder: Path, path: str) -> Any:
    """The coordinator's answer to `GET path`."""
    address = json.loads((folder / "coordinator.json").read_text())
    request = urllib.request.Request(
        f"http://{address['http_host']}:{address['http_port']}{path}",
        headers={"Authorization": f"Bearer {(folder / 'token').read_text()}"},
    )
    with urllib.request.urlopen(request, timeout=2) as response:
        return json.load(response)


def show(title: str, folder: Path, by: str, columns: tuple[str, ...]) -> None:
    """Print the five rows with the largest `by`."""
    rows = [json.loads(line) for file in sorted(folder.glob("*.json*")) for line in file.read_text().splitlines()]
    table = Table(title=f"{title} ({len(rows):,} rows)", title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in sorted(rows, key=lambda row: row[by], reverse=True)[:5]:
        values = (row[column] for column in columns)
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in values))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
