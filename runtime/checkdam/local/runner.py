"""`checkdam run`: starts a job's coordinator and workers as processes and keeps them running until the job ends.

The runner plays the part of Kubernetes: it restarts what dies and puts another process beside one that no longer answers.
All state is elsewhere, so the runner may be killed as well: its processes end when their lifeline does, and the next
`checkdam run` goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from checkdam.api.entrypoint import load_graph
from checkdam.coordinator.config import CoordinatorConfig
from checkdam.local.api import CoordinatorApi
from checkdam.local.processes import Kept, python_module
from checkdam.local.progress import Display, make_display
from checkdam.spec.streamjob import StreamJob
from checkdam.worker.config import WorkerConfig

log = logging.getLogger(__name__)

WATCH_EVERY_S: Final = 0.5
GRACE_S: Final = 5.0
"""How long processes may take to end by themselves."""

STOP_TIMEOUT_S: Final = 60.0
"""How long a last checkpoint may take after Ctrl-C before the job is left as it is."""

FINAL_CODES: Final = frozenset({0, 1, 2, 3})
"""Exit codes of a coordinator that is not started again: the job finished or was stopped, it failed, it cannot begin, or
another run of the same job has taken it over."""


def run_local(
    job: StreamJob,
    base_folder: Path,
    *,
    fresh: bool = False,
    restore_from: str | None = None,
    run_dir: Path | None = None,
    progress: bool = True,
) -> int:
    """Run a job on this machine until it ends.

    Args:
        job: The StreamJob.
        base_folder: The folder of its manifest.
        fresh: Start over.
        restore_from: Uri of a checkpoint to start from.
        run_dir: Where logs and local state go; a temporary folder by default, removed after a job that did not fail.
        progress: Whether to show live progress where there is a terminal.

    Returns:
        0 if the job finished or was stopped, 1 if it failed or was killed.

    Raises:
        CheckdamError: The entrypoint or the pipeline is wrong: nothing was started.
    """
    temporary = run_dir is None
    folder = Path(tempfile.mkdtemp(prefix="checkdam-")) if run_dir is None else run_dir
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    load_graph(job, base_folder, folder / "inline")
    display = make_display(job, progress and sys.stderr.isatty())
    code = asyncio.run(_Run(job, base_folder, folder, fresh, restore_from or "", display).run())
    if temporary and code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    elif code:
        display.say(f"logs are in {folder / 'logs'}")
    return code


@dataclass
class _Run:
    """One run of one job."""

    job: StreamJob
    base_folder: Path
    folder: Path
    fresh: bool
    restore_from: str
    display: Display
    interrupts: int = 0
    stopping: asyncio.Task[None] | None = None
    workers: list[Kept] = field(default_factory=list)

    async def run(self) -> int:
        """Start everything, wait for the job's end, and end everything."""
        self._write_secrets()
        lifeline, keep_open = os.pipe()
        self.api = CoordinatorApi(self.folder / "coordinator.json", self.token)
        self.coordinator = self._keep("coordinator", self._coordinator_command(lifeline), lifeline, FINAL_CODES.__contains__)
        self.workers = [
            self._keep(
                f"worker {index}",
                self._worker_command(index, lifeline),
                lifeline,
                is_final=lambda code: False,
                on_exit=partial(self._remove_worker_folder, index),
            )
            for index in range(self.job.spec.parallelism)
        ]
        loop = asyncio.get_running_loop()
        job_ended = asyncio.create_task(self.coordinator.keep())
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(worker.keep()) for worker in self.workers]
        tasks.append(asyncio.create_task(self._watch()))
        self.killed = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_interrupt)
        killed = asyncio.create_task(self.killed.wait())
        try:
            with self.display:
                await asyncio.wait({job_ended, killed, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                while not job_ended.done() and not killed.done():
                    broken = next((task for task in tasks if task.done()), None)
                    if broken is not None:
                        broken.result()
                    await asyncio.wait({job_ended, killed}, timeout=WATCH_EVERY_S)
                await self.display.update(self.api)
            code = job_ended.result() if job_ended.done() else 1
        finally:
            for task in (job_ended, killed, *tasks):
                task.cancel()
            grace_s = 0.0 if self.killed.is_set() else GRACE_S
            await asyncio.gather(*(kept.end(grace_s) for kept in (self.coordinator, *self.workers)))
            await self.api.close()
            os.close(lifeline)
            os.close(keep_open)
        self._report(code)
        return min(code, 1)

    def _report(self, code: int) -> None:
        outcome = self.folder / "outcome.json"
        told = msgspec.json.decode(outcome.read_bytes()) if outcome.exists() else {}
        self.display.finish(code, told, killed=self.killed.is_set())

    # What the kubelet and the operator do in a cluster

    async def _watch(self) -> None:
        """Show what happens, and put a process beside one that no longer answers."""
        timeout_s = self.job.spec.runtime.heartbeat_timeout_ms / 1000
        loop = asyncio.get_running_loop()
        answered_at = loop.time()
        missing_since: dict[int, float] = {}
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            await self.display.update(self.api)
            now = loop.time()
            if await self.api.get("/healthz") is not None or now - self.coordinator.started_at < timeout_s:
                answered_at = now
            elif now - answered_at > timeout_s:
                self.coordinator.replace()
                answered_at = now
            self._replace_lost_workers(await self.api.get("/v1/workers"), missing_since, now, timeout_s)

    def _replace_lost_workers(
        self, answer: object, missing_since: dict[int, float], now: float, timeout_s: float
    ) -> None:
        workers = answer if isinstance(answer, list) else []
        connected = {worker["index"] for worker in workers if worker.get("connected")}
        for index, kept in enumerate(self.workers):
            if not workers or index in connected or kept.pid is None or now - kept.started_at < timeout_s:
                missing_since.pop(index, None)
            elif now - missing_since.setdefault(index, now) > max(1.0, timeout_s / 4):
                kept.replace()
                missing_since.pop(index, None)

    # Ctrl-C

    def _on_interrupt(self) -> None:
        self.interrupts += 1
        if self.interrupts > 1:
            self.killed.set()
            return
        self.display.say("stopping after a last checkpoint; press Ctrl-C again to kill the job")
        self.stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """Ask for the stop until the coordinator has heard it; give up after a while."""
        deadline = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            await self.api.post("/v1/stop", {"checkpoint": True})
            await asyncio.sleep(1)
        self.display.say(f"the last checkpoint did not succeed within {STOP_TIMEOUT_S:g} s; the job ends without it")
        self.killed.set()

    # Configuration

    def _write_secrets(self) -> None:
        self.token = secrets.token_urlsafe(32)
        for name, text in (("secret", secrets.token_hex(32)), ("token", self.token)):
            path = self.folder / name
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
        (self.folder / "coordinator.json").unlink(missing_ok=True)
        (self.folder / "outcome.json").unlink(missing_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        self.request = secrets.token_hex(8)

    def _keep(
        self,
        name: str,
        command: Callable[[int], list[str]],
        lifeline: int,
        is_final: Callable[[int], bool],
        on_exit: Callable[[int], None] = lambda start: None,
    ) -> Kept:
        log_file = self.folder / "logs" / f"{name.replace(' ', '-')}.log"
        return Kept(name, command, log_file, lifeline, is_final, self.display.output, on_exit)

    def _coordinator_command(self, lifeline: int) -> Callable[[int], list[str]]:
        def command(start: int) -> list[str]:
            config = CoordinatorConfig(
                manifest=self.job.to_manifest(),
                base_folder=str(self.base_folder),
                secret_file=str(self.folder / "secret"),
                token_file=str(self.folder / "token"),
                run_dir=str(self.folder),
                address_file=str(self.folder / "coordinator.json"),
                resume=True,
                fresh=self.fresh,
                restore_from=self.restore_from,
                request=self.request,
                start_count=start,
                lifeline_fd=lifeline,
                stop_on_signal=False,
            )
            path = self.folder / "coordinator-config.json"
            path.write_bytes(msgspec.json.encode(config))
            return python_module("checkdam.coordinator", str(path))

        return command

    def _worker_folder(self, index: int, start: int) -> Path:
        return self.folder / f"worker-{index}.{start}"

    def _remove_worker_folder(self, index: int, start: int) -> None:
        """The supervisor is gone, and its task process with it; what they held locally is of no use to others."""
        shutil.rmtree(self._worker_folder(index, start), ignore_errors=True)

    def _worker_command(self, index: int, lifeline: int) -> Callable[[int], list[str]]:
        def command(start: int) -> list[str]:
            # A folder of its own for each start: a replaced worker may still be alive.
            run_dir = self._worker_folder(index, start)
            run_dir.mkdir(exist_ok=True)
            config = WorkerConfig(
                manifest=self.job.to_manifest(),
                base_folder=str(self.base_folder),
                index=index,
                secret_file=str(self.folder / "secret"),
                run_dir=str(run_dir),
                address_file=str(self.folder / "coordinator.json"),
                lifeline_fd=lifeline,
            )
            path = run_dir / "config.json"
            path.write_bytes(msgspec.json.encode(config))
            return python_module("checkdam.worker", str(path))

        return command
