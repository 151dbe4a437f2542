"""Processes that are kept running, as the kubelet keeps containers running.

A process that dies is started again, at once the first time and then after growing pauses; one that has lived for a while
counts as new again. One that is alive but does not answer is never killed to make room: another is put beside it, and the
journal and the attempts' numbers make sure that the old one can do no harm when it wakes up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from checkdam.coordinator.ending import EXIT_DEPOSED
from checkdam.core.errors import CheckdamError
from checkdam.core.exits import describe_exit
from checkdam.core.respawn import Respawn

log = logging.getLogger(__name__)

LAST_WORDS: Final = 10
"""How many lines of the log of a process that cannot start are shown."""


class Kept:
    """One process that is kept running.

    Args:
        name: For logs: `coordinator`, `worker 0`.
        command: Number of the start, from 1 → the command line.
        log_file: Where its standard error goes.
        lifeline_fd: A pipe that the process inherits; its end of file tells that we are gone.
        is_final: Exit code → whether the process has done its work and is not started again.
        on_output: Called with each line of its standard output.
        on_exit: Called with the number of a start whose process is gone for good.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        log_file: Path,
        lifeline_fd: int,
        is_final: Callable[[int], bool],
        on_output: Callable[[str], None],
        on_exit: Callable[[int], None] = lambda start: None,
    ) -> None:
        self.name = name
        self.starts = 0
        self.exit_code: int | None = None
        self.started_at = 0.0
        self._command = command
        self._log_file = log_file
        self._lifeline_fd = lifeline_fd
        self._is_final = is_final
        self._on_output = on_output
        self._on_exit = on_exit
        self._respawn = Respawn()
        self._current: asyncio.subprocess.Process | None = None
        self._replaced: list[asyncio.subprocess.Process] = []
        self._replacing = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of the process that counts, if it runs."""
        return None if self._current is None else self._current.pid

    async def keep(self) -> int:
        """Run until the process has done its work; returns its exit code.

        Raises:
            CheckdamError: It has exited with an error again and again, soon after each start.
        """
        pause_s = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause_s)
            self.started_at = loop.time()
            self._replacing.clear()
            process = await self._start()
            output = asyncio.create_task(self._read_output(process))
            exited = asyncio.create_task(process.wait())
            replaced = asyncio.create_task(self._replacing.wait())
            await asyncio.wait({exited, replaced}, return_when=asyncio.FIRST_COMPLETED)
            replaced.cancel()
            if not exited.done():
                log.warning("%s (pid %d) does not answer; starting another beside it", self.name, process.pid)
                self._replaced.append(process)
                self._respawn.at_once()
                pause_s = 0.0
                continue
            await output
            code = exited.result()
            self._current = None
            self._on_exit(self.starts)
            if self._is_final(code) and not self._was_deposed_by_its_predecessor(code):
                self.exit_code = code
                return code
            pause = self._respawn.pause_s(code, loop.time() - self.started_at)
            if pause is None:
                raise CheckdamError(f"{self.name} cannot start: {self._last_words()}")
            pause_s = pause
            if code:
                log.warning("%s %s; starting it again", self.name, describe_exit(code))

    def _was_deposed_by_its_predecessor(self, code: int) -> bool:
        """Whether a process that was replaced woke up and took over: then the next start takes back what it holds."""
        return code == EXIT_DEPOSED and any(process.returncode is None for process in self._replaced)

    def replace(self) -> None:
        """Put another process beside the one that runs, which does not answer."""
        self._replacing.set()

    def _last_words(self) -> str:
        """The last lines that the process wrote to its log."""
        lines = [line for line in self._log_file.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-LAST_WORDS:]) or "it says nothing in its log"

    async def end(self, grace_s: float) -> None:
        """Ask every process of ours to end, and kill what is left after `grace_s`."""
        processes = [*self._replaced, *([self._current] if self._current is not None else [])]
        for process in processes:
            _signal(process, signal.SIGTERM)
        waits = [asyncio.create_task(process.wait()) for process in processes]
        if waits:
            await asyncio.wait(waits, timeout=grace_s)
        for process in processes:
            # A stopped process takes SIGKILL, too.
            _signal(process, signal.SIGKILL)
        if waits:
            await asyncio.wait(waits)

    async def _start(self) -> asyncio.subprocess.Process:
        self.starts += 1
        with self._log_file.open("ab") as log_file:
            self._current = await asyncio.create_subprocess_exec(
                *self._command(self.starts),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                pass_fds=(self._lifeline_fd,),
                # A session of its own: Ctrl-C on the terminal is for us alone.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                limit=1 << 20,
            )
        return self._current

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line beyond the limit: its beginning is lost, the rest follows
            if not line:
                return
            self._on_output(line.decode(errors="replace").rstrip("\n"))


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        try:
            process.send_signal(number)
        except ProcessLookupError:
            pass


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
