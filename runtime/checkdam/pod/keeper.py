"""Process 1 of a coordinator's pod: keeps one child running, and ends when it is told to.

The kubelet would start a container again, too, but after 1, 13, 30 and 52 s; a child is back in a fraction of a second, since it is forked from
a process that has imported everything. Process 1 has one thread and does nothing but wait for signals: it hands SIGTERM on, reaps whatever
the pod's processes leave behind, and writes down why a child has died.

It gives up, and leaves the rest to the kubelet and the operator, only when the child exits again and again soon after its start.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from checkdam.core.errors import CheckdamError
from checkdam.core.exits import describe_exit, write_termination_log
from checkdam.core.lifetime import die_with_parent
from checkdam.core.memory_kills import memory_kills
from checkdam.core.respawn import Respawn

_log = logging.getLogger(__name__)

_STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_WATCHED: Final = _STOPPING | {signal.SIGCHLD}


class Keeper:
    """Keeps a child running.

    Args:
        work: What the child does; returns its exit code.
        last_words: What is to be said of it when it has ended as it was told to.
        termination_log: Where that is left, or the cause of the last failure.
    """

    def __init__(self, work: Callable[[], int], last_words: Callable[[], str], termination_log: Path) -> None:
        self._work = work
        self._last_words = last_words
        self._termination_log = termination_log
        self._told_to_end = False

    def run(self) -> int:
        """Returns the exit code of the pod's container: that of the child if it was told to end, 1 if the child cannot start."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        # A child that looks for garbage among what was imported here would copy all the memory that it shares with this process.
        gc.freeze()
        respawn = Respawn()
        while True:
            began_s, kills = time.monotonic(), memory_kills()
            code = self._wait_for(self._start())
            if self._told_to_end:
                write_termination_log(self._termination_log, self._last_words())
                return max(code, 0)
            end = f"the coordinator {describe_exit(code, for_memory=memory_kills() > kills)}"
            _log.warning("%s", end)
            if code < 0:
                # It could not say so itself.
                write_termination_log(self._termination_log, end)
            pause_s = respawn.pause_s(code, time.monotonic() - began_s)
            if pause_s is None:
                _log.error("the coordinator cannot start")
                return 1
            if self._told_to_end_within(pause_s):
                return 0

    def _start(self) -> int:
        """Fork the child; returns its process id."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(parent)
        return pid

    def _become_child(self, parent: int) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent)
            for number in _WATCHED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = self._work()
        except CheckdamError as error:
            _log.error("%s", error)
            write_termination_log(self._termination_log, str(error))
        except BaseException:
            _log.exception("the coordinator has failed")
            write_termination_log(self._termination_log, traceback.format_exc())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # At once: the threads of a transfer that hangs must not keep alive what has ended.
            os._exit(code)

    def _wait_for(self, child: int) -> int:
        """Reap until the child is gone, and hand on to it what comes; returns its exit code."""
        while True:
            number = signal.sigwaitinfo(_WATCHED).si_signo
            if number in _STOPPING:
                self._told_to_end = True
                os.kill(child, number)
            if (status := _reaped(child)) is not None:
                return os.waitstatus_to_exitcode(status)

    def _told_to_end_within(self, pause_s: float) -> bool:
        deadline_s = time.monotonic() + pause_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            found = signal.sigtimedwait(_WATCHED, left_s)
            if found is not None and found.si_signo in _STOPPING:
                return True
        return False


def _reaped(child: int) -> int | None:
    """Reap all that have ended; the status of the child if it is among them. Process 1 inherits whatever lost its parent."""
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


__all__ = ["Keeper"]
