"""SIGTERM and SIGINT of a coordinator: what they do depends on who else is there to go on with the job.

A coordinator that somebody started by hand stops its job, with a last checkpoint. In a pod it leaves the job, which goes on under the next
one: a pod may be ended because its node is. Below `checkdam run` it ends at once, since the runner has asked for a stop before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Final, Literal

from checkdam.coordinator.ending import EXIT_OK
from checkdam.coordinator.job import Job

_log = logging.getLogger(__name__)

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Follows both signals, from `install` to `remove`.

    Args:
        meaning: As `CoordinatorConfig.on_signal`.
        patience_s: As `CoordinatorConfig.leave_patience_s`.

    Attributes:
        job: What they are about, while it lives.
        came: Set when one has come.
    """

    def __init__(self, meaning: Literal["stop", "leave", "end"], patience_s: float) -> None:
        self.job: Job | None = None
        self.came = asyncio.Event()
        self._meaning = meaning
        self._patience_s = patience_s
        self._ended = False
        self._installed: list[signal.Signals] = []

    def install(self) -> None:
        """Take over both signals, where this is the main thread."""
        loop = asyncio.get_running_loop()
        for number in _NUMBERS:
            try:
                loop.add_signal_handler(number, self._received, number)
            except (ValueError, RuntimeError, NotImplementedError):
                return  # not the main thread: whoever runs us there handles signals
            self._installed.append(number)

    def remove(self) -> None:
        """Give both signals back."""
        loop = asyncio.get_running_loop()
        for number in self._installed:
            loop.remove_signal_handler(number)

    async def linger(self) -> None:
        """The job has ended: wait until one comes, if none has."""
        self.job, self._ended = None, True
        await self.came.wait()

    def _received(self, number: signal.Signals) -> None:
        if self.came.is_set() or self._meaning == "end":
            os._exit(128 + number)
        self.came.set()
        if self.job is None:
            if not self._ended:
                os._exit(EXIT_OK if self._meaning == "leave" else 128 + number)
        elif self._meaning == "leave":
            _log.info("%s: leaving the job after a last checkpoint", number.name)
            asyncio.get_running_loop().call_later(self._patience_s, self._give_up)
            self.job.leave()
        else:
            _log.info("%s: stopping after a last checkpoint; once more ends at once", number.name)
            self.job.request_stop(checkpoint=True, insist=True)

    def _give_up(self) -> None:
        # Whatever it is that hangs: the next coordinator goes on from the last checkpoint that there is.
        _log.warning("no last checkpoint within %g s; leaving without it", self._patience_s)
        os._exit(EXIT_OK)


__all__ = ["Signals"]
