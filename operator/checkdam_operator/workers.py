"""Runs turns: takes keys out of the work queue and looks at each of them, several at a time.

One task hands out turns; each turn is a task of its own with a time limit, so a job whose coordinator or storage does not answer cannot keep a worker for
ever. A turn that raises is tried again after the queue's backoff; nothing that a turn raises ends the operator.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic

from checkdam.core.errors import CheckdamError
from checkdam_operator.metrics import (
    QUEUE_DELAYED,
    QUEUE_DEPTH,
    QUEUE_HEAD_AGE,
    QUEUE_WORKING,
    RECONCILE_SECONDS,
    RECONCILES,
    OperatorMetrics,
)
from checkdam_operator.queue import K, WorkQueue

_log = logging.getLogger(__name__)


class WorkerPool(Generic[K]):
    """Looks at keys as the queue hands them out.

    Args:
        queue: Whose turn it is.
        look: Looks at one; returns after how many seconds it is to be called again though nothing happens, `None` for never.
        metrics: Counts turns.
        turn_timeout_s: How long a turn may take.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        look: Callable[[K], Awaitable[float | None]],
        metrics: OperatorMetrics | None = None,
        turn_timeout_s: float = 60.0,
    ) -> None:
        self._queue = queue
        self._look = look
        self._metrics = metrics or OperatorMetrics()
        self._turn_timeout_s = turn_timeout_s
        self._changed = asyncio.Event()
        self._turns: set[asyncio.Task[None]] = set()
        self._stopping = False
        queue.on_change = self._changed.set
        self._metrics.before_render.append(self._show)

    async def run(self) -> None:
        """Hand out turns until `stop` is called. To be called once."""
        while not self._stopping:
            self._changed.clear()
            while (key := self._queue.take()) is not None:
                turn = asyncio.create_task(self._turn(key), name=f"turn of {key}")
                self._turns.add(turn)
                turn.add_done_callback(self._turns.discard)
            try:
                async with asyncio.timeout(self._queue.next_due_in_s()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def stop(self, grace_s: float) -> None:
        """Begin no further turns, and let those under way end for so long before they are cancelled."""
        self._stopping = True
        self._changed.set()
        if not self._turns:
            return
        _, left = await asyncio.wait(self._turns, timeout=grace_s)
        for turn in left:
            turn.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _turn(self, key: K) -> None:
        started = time.monotonic()
        again_after_s, failed = None, True
        try:
            async with asyncio.timeout(self._turn_timeout_s):
                again_after_s = await self._look(key)
            failed = False
        except TimeoutError:
            _log.error("looking at %s took longer than %g s", key, self._turn_timeout_s)
        except CheckdamError as error:
            _log.warning("looking at %s failed and is tried again: %s", key, error)
        except Exception:
            _log.exception("looking at %s failed and is tried again", key)
        finally:
            self._queue.done(key, failed=failed, again_after_s=again_after_s)
            self._metrics.count(RECONCILES, "error" if failed else "ok")
            self._metrics.observe(RECONCILE_SECONDS, time.monotonic() - started)

    def _show(self) -> None:
        self._metrics.set(QUEUE_DEPTH, self._queue.depth)
        self._metrics.set(QUEUE_DELAYED, self._queue.delayed)
        self._metrics.set(QUEUE_WORKING, self._queue.working)
        self._metrics.set(QUEUE_HEAD_AGE, self._queue.head_age_s())
