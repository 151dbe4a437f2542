"""Makes the stored checkpoints that all later releases must restore: `python tests/checkpoint/make_released.py`.

Run once for each release, before it goes out; what an earlier release made is never made again. The job of `released_job` runs for
real on both backends: some checkpoints, then more records, a savepoint, and the checkpoint that follows it, on top of the others. Then
all processes are killed, and the job's folder is kept as it lies in storage, packed, beside what the job's output must be from
there on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import released_job
import yaml

from checkdam.checkpoint.folders import METADATA
from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.checkpoint.opening import open_checkpoint
from checkdam.testing import Harness, ManualClock

RELEASE: Final = "0.1"
HERE: Final = Path(__file__).parent
RELEASED: Final = HERE / "released"
EXPECTED: Final = "expected.json"

PARALLELISM: Final = {"hashmap": 2, "rocksdb": 1}
"""Backend → workers; each database of RocksDB takes some space."""

MEMORY: Final = "1Mi"
"""So little that caches overflow: a part of the state must be in RocksDB's own files, and another in the log of changes."""

FIRST_GATE: Final = 30
TIMEOUT_S: Final = 60.0


RUN: Final = (sys.executable, "-m", "checkdam", "run", "job.yaml", "--run-dir", "run", "--no-progress")


def write_job(folder: Path, backend: str) -> None:
    """Write the job's module, and its manifest as `job.yaml`; the gate is the file `gate`, output goes to `out`."""
    shutil.copy(HERE / "released_job.py", folder)
    args = {"gate": str(folder / "gate"), "out": str(folder / "out")}
    spec = {
        "program": {"entrypoint": "released_job:build", "args": args},
        "parallelism": PARALLELISM[backend],
        "stateBackend": {"type": backend, "rocksdb": {"memory": MEMORY}},
        "checkpoint": {"interval": "1h", "retain": 2, "storage": {"uri": "file://./state"}},
        "restart": {"strategy": "Never"},
    }
    kind = {"apiVersion": "checkdam.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "released"}}
    (folder / "job.yaml").write_text(yaml.safe_dump({**kind, "spec": spec}))


@dataclass
class RunningJob:
    """`checkdam run` in a process group of its own."""

    folder: Path
    backend: str

    def __post_init__(self) -> None:
        self.open_gate(FIRST_GATE)
        write_job(self.folder, self.backend)
        self.process = subprocess.Popen(RUN, cwd=self.folder, start_new_session=True)

    @property
    def storage(self) -> Path:
        """The job's folder in storage."""
        return self.folder / "state" / "default" / "released"

    def open_gate(self, number: int) -> None:
        """Let the source read up to `number`; with a whole file at any moment."""
        (self.folder / "gate.new").write_text(str(number))
        (self.folder / "gate.new").rename(self.folder / "gate")

    def ask(self, route: str, body: Any = None) -> bytes:
        """The coordinator's answer; nothing while there is none, or while it refuses."""
        try:
            address = json.loads((self.folder / "run" / "coordinator.json").read_text())
            headers = {"Authorization": f"Bearer {(self.folder / 'run' / 'token').read_text()}"}
            url = f"http://{address['http_host']}:{address['http_port']}{route}"
            data = None if body is None else json.dumps(body).encode()
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=5) as response:
                return bytes(response.read())
        except (OSError, ValueError):
            return b""

    def wait_for_records(self, number: int) -> None:
        """Until both splits have been read up to `number`."""
        wanted = (
            f'checkdam_job_operator_records_out_total{{job_id="default/released",operator="orders"}} {2 * number:.1f}'
        )
        wait_until(lambda: wanted in self.ask("/metrics").decode())

    def checkpoint(self, route: str = "/v1/checkpoints") -> CheckpointManifest:
        """Take a checkpoint, or a savepoint and the checkpoint that follows it, and wait until its sinks have committed."""
        before = self.last()
        wait_until(lambda: bool(self.ask(route, {})))
        wait_until(lambda: self.last() > before)
        manifest = manifest_of(self.storage)
        wait_until(lambda: all((self.folder / "out" / name).exists() for name, _ in pending_of(manifest)))
        return manifest

    def last(self) -> int:
        """Number of the journal's last checkpoint."""
        return manifest_of(self.storage).id

    def kill(self) -> None:
        """Kill all processes of the job."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until `condition()` holds. Raises TimeoutError if it does not in time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the job did not get there in time; is what it printed above an error?")
        time.sleep(0.05)


def manifest_of(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, or of a job's latest one."""
    store, name = open_checkpoint(folder.as_uri())
    return store.read_manifest(name)


def pending_of(manifest: CheckpointManifest) -> list[tuple[str, list[str]]]:
    """The committables of all sinks: name and lines."""
    sinks = [
        msgspec.msgpack.decode(state)
        for snapshot in manifest.subtasks
        for operator, state in snapshot.operators.items()
        if operator.startswith("out-")
    ]
    return [(name, lines) for sink in sinks for _, items in sink["pending"] for name, lines in items]


def suffixes_of(manifest: CheckpointManifest) -> dict[str, str]:
    """Path in storage → what kind of file it is, of those that are no part of `_metadata`."""
    return {file.path: Path(file.name).suffix for subtask in manifest.subtasks for file in subtask.files if file.path}


def lines_of(folder: Path) -> list[str]:
    """What sinks have committed."""
    return [line for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]


def whole_output() -> Counter[str]:
    """What the job yields in all, by this release."""
    with tempfile.TemporaryDirectory() as name:
        gate, out = Path(name) / "gate", Path(name) / "out"
        gate.write_text(str(released_job.GATE))
        clock = ManualClock(int(time.time() * 1000))
        with Harness(released_job.build, args={"gate": str(gate), "out": str(out)}, clock=clock) as harness:
            harness.run()
            harness.checkpoint()
            harness.advance(released_job.FAR_FUTURE_MS - clock.now_ms())
            gate.write_text(str(released_job.END))
            harness.finish()
        return Counter(lines_of(out))


def make(backend: str, target: Path) -> Counter[str]:
    """Run the job and keep its folder; returns the output that was committed before its last checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        job = RunningJob(Path(name), backend)
        try:
            job.wait_for_records(FIRST_GATE)
            base = job.checkpoint()
            job.open_gate(released_job.GATE)
            job.wait_for_records(released_job.GATE)
            manifest = job.checkpoint("/v1/savepoints")
            [savepoint] = job.storage.glob("savepoint-*")
            wait_until((savepoint / METADATA).exists)
        finally:
            job.kill()
        pending = pending_of(manifest)
        same = sorted(line for _, lines in pending_of(manifest_of(savepoint)) for line in lines)
        if not pending or same != sorted(line for _, lines in pending for line in lines):
            raise SystemExit(
                "the checkpoint must hold output that is pending, and the savepoint the same; run it again"
            )
        if backend == "rocksdb":
            shared = {suffix for path, suffix in suffixes_of(manifest).items() if path in base.paths()}
            if shared != {".sst", ".blocks"}:
                raise SystemExit("the checkpoint must name a data file and a log of the one before; run it again")
        shutil.make_archive(str(target), "xztar", job.storage)
        committed = Counter(lines_of(job.folder / "out"))
        committed.subtract(line for _, lines in pending for line in lines)
        return +committed


def main() -> None:
    target = RELEASED / RELEASE
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    before = {backend: make(backend, target / backend) for backend in PARALLELISM}
    if before["hashmap"] != before["rocksdb"]:
        raise SystemExit("the two backends must have come equally far; run it again")
    output = sorted((whole_output() - before["hashmap"]).elements())
    (target / EXPECTED).write_text(json.dumps(output, indent=0) + "\n")
    size_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size_bytes / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
