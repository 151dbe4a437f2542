"""`checkdam run`: starts a job's coordinator and workers as processes and keeps them running until the job ends.

The runner plays the part of Kubernetes: it restarts what dies and puts another process beside one that no longer answers.
All state is elsewhere, so the runner may be killed as well: its processes end when their lifeline does, and the next
`checkdam run` goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from checkdam.api.entrypoint import INLINE_FOLDER, load_graph
from checkdam.checkpoint.storage.locate import open_storage
from checkdam.core.errors import CheckdamError, ManifestError, StorageError
from checkdam.local.api import CoordinatorApi
from checkdam.local.folder import RunFolder, make_run_folder
from checkdam.local.processes import Kept
from checkdam.local.progress import Display, make_display
from checkdam.local.registry import registered
from checkdam.spec.streamjob import StreamJob

WATCH_EVERY_S: Final = 0.5
START_PATIENCE_S: Final = 20.0
"""How long a coordinator may take at least until it first answers: it imports the user's modules and takes the journal over, however
slow storage is. What ends meanwhile is noticed at once; this is for what is stopped."""

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
        CheckdamError: The storage cannot be used or reached, or the entrypoint or the pipeline is wrong: nothing was started.
    """
    storage_uri = _check_storage(job, base_folder)
    path = Path(tempfile.mkdtemp(prefix="checkdam-")) if run_dir is None else run_dir
    make_run_folder(path)
    try:
        load_graph(job, base_folder, path / INLINE_FOLDER)
    except CheckdamError:
        if run_dir is None:
            shutil.rmtree(path, ignore_errors=True)
        raise
    folder = RunFolder(path, job, base_folder, fresh, restore_from or "")
    folder.prepare()
    display = make_display(job, progress and sys.stderr.isatty())
    with ExitStack() as findable:
        try:
            findable.enter_context(registered(job.job_id, storage_uri, path))
        except CheckdamError as error:
            display.say(f"other commands cannot find this run: {error}")
        code = asyncio.run(_run(folder, display))
    if code:
        display.say(f"logs are in {path / 'logs'}")
    elif run_dir is None:
        shutil.rmtree(path, ignore_errors=True)
    return code


def _check_storage(job: StreamJob, base_folder: Path) -> str:
    """The uri of the job's folder in storage. Refuses storage of which the coordinator would say the same, but only in its log.

    Raises:
        ManifestError: The uri is not one that can be used.
        StorageError: The storage cannot be reached, read or written, or two creates of one name succeed there.
    """
    try:
        storage = open_storage(job.spec.checkpoint.storage, job.job_id, base=base_folder)
    except StorageError as error:
        raise ManifestError([f"`spec.checkpoint.storage.uri`: {error}"], job.job_id) from error
    storage.probe()
    return storage.uri


async def _run(folder: RunFolder, display: Display) -> int:
    return await _Run(folder, display).run()


class _Run:
    """One run of one job."""

    def __init__(self, folder: RunFolder, display: Display) -> None:
        spec = folder.job.spec
        self._folder = folder
        self._display = display
        self._api = CoordinatorApi(folder.address_file, folder.token)
        self._heartbeat_timeout_s = spec.runtime.heartbeat_timeout_ms / 1000
        self._killed = asyncio.Event()
        self._interrupts = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._lifeline, self._keep_open = os.pipe()
        self._coordinator = Kept(
            "coordinator",
            partial(folder.coordinator_command, self._lifeline),
            folder.log_file("coordinator"),
            self._lifeline,
            FINAL_CODES.__contains__,
            display.output,
        )
        self._workers = [
            Kept(
                f"worker {index}",
                partial(folder.worker_command, index, self._lifeline),
                folder.log_file(f"worker-{index}"),
                self._lifeline,
                lambda code: False,
                display.output,
                on_exit=partial(folder.forget_worker, index),
            )
            for index in range(spec.parallelism)
        ]

    async def run(self) -> int:
        """Start everything, wait for the job's end, and end everything; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_interrupt)
        ended = asyncio.create_task(self._coordinator.keep())
        killed = asyncio.create_task(self._killed.wait())
        self._start(self._watch())
        for worker in self._workers:
            self._start(worker.keep())
        try:
            with self._display:
                await asyncio.wait({ended, killed, *self._background}, return_when=asyncio.FIRST_COMPLETED)
                await self._display.update(self._api)
            for task in self._background:
                if task.done() and not task.cancelled():
                    task.result()
            code = ended.result() if ended.done() else 1
        finally:
            for task in (ended, killed, *self._background):
                task.cancel()
            grace_s = 0.0 if self._killed.is_set() else GRACE_S
            await asyncio.gather(*(kept.end(grace_s) for kept in (self._coordinator, *self._workers)))
            await self._api.close()
            os.close(self._lifeline)
            os.close(self._keep_open)
        outcome = self._folder.outcome(self._coordinator.starts)
        if outcome.get("state") == "FINISHED":
            self._folder.forget_checkpoints()
        self._display.finish(code, outcome, killed=self._killed.is_set())
        return min(code, 1)

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` beside everything else; that it ends at all ends the run."""
        self._background.add(asyncio.create_task(work))

    # What the kubelet and the operator do in a cluster

    async def _watch(self) -> None:
        """Show what happens, and put a process beside one that no longer answers."""
        timeout_s = self._heartbeat_timeout_s
        loop = asyncio.get_running_loop()
        answered_at = 0.0
        missing_since: dict[int, float] = {}
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            await self._display.update(self._api)
            now = loop.time()
            if await self._api.get("/healthz") is not None:
                answered_at = now
            else:
                started_at = self._coordinator.started_at
                patience_s = timeout_s if answered_at > started_at else max(timeout_s, START_PATIENCE_S)
                if now - max(answered_at, started_at) > patience_s:
                    self._coordinator.replace()
            self._replace_lost_workers(await self._api.get("/v1/workers") or [], missing_since, now)

    def _replace_lost_workers(self, workers: list[Any], missing_since: dict[int, float], now: float) -> None:
        """Replace workers that run but have not been connected for a while, as far as the coordinator answers at all."""
        timeout_s = self._heartbeat_timeout_s
        connected = {worker["index"] for worker in workers if worker["connected"]}
        for index, kept in enumerate(self._workers):
            if not workers or index in connected or kept.pid is None or now - kept.started_at < timeout_s:
                missing_since.pop(index, None)
            elif now - missing_since.setdefault(index, now) > max(1.0, timeout_s / 4):
                kept.replace()
                missing_since.pop(index, None)

    # Ctrl-C

    def _on_interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._killed.set()
            return
        self._display.say("stopping after a last checkpoint; press Ctrl-C again to kill the job")
        self._start(self._stop())

    async def _stop(self) -> None:
        """Ask for the stop again and again, since coordinators may come and go meanwhile; give up after a while."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_TIMEOUT_S
        while loop.time() < deadline:
            job = await self._api.get("/v1/job")
            # Between attempts there is nothing newer than the last checkpoint, and nobody who could take another.
            between = job is not None and job["state"] in ("STARTING", "DEPLOYING", "RESTARTING")
            await self._api.post("/v1/stop", {"checkpoint": not between})
            await asyncio.sleep(1)
        self._display.say(f"the last checkpoint did not succeed within {STOP_TIMEOUT_S:g} s; the job ends without it")
        self._killed.set()
