"""Commit work runs beside the task thread: one piece at a time, in the order of submission.

Making output visible may block (a rename on a slow disk, a request), so it belongs to an I/O thread. A commit that fails
is tried again with growing pauses; a crash between tries is harmless, because restored committables are committed first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

from checkdam.core.errors import StorageError

RETRY_PAUSES_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Pauses between tries; when they are used up, the attempt fails."""


class CommitThread:
    """Runs commit work in one thread.

    Args:
        post: Hands a function over to the task thread.
        fail: Called with the error when work has failed for good.
        executor: Where work runs; one thread of its own by default.
        pauses_s: Pauses between tries.

    When work has failed for good nothing behind it is begun: its order would be broken.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        fail: Callable[[BaseException], None],
        executor: Executor | None = None,
        pauses_s: Sequence[float] = RETRY_PAUSES_S,
    ) -> None:
        self._post = post
        self._fail = fail
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pauses_s = pauses_s
        self._closed = threading.Event()

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `work` after all work submitted before; then `done`, in the task thread."""
        self._executor.submit(self._run, work, done)

    def close(self) -> None:
        """Drop what has not begun; does not wait."""
        self._closed.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        if self._closed.is_set():
            return
        try:
            run_with_retries(work, self._closed, self._pauses_s)
        except Exception as error:
            if not self._closed.is_set():
                self._closed.set()
                self._fail(error)
        else:
            self._post(done)


def run_with_retries(
    work: Callable[[], None],
    closed: threading.Event | None = None,
    pauses_s: Sequence[float] = RETRY_PAUSES_S,
) -> None:
    """Run idempotent work, again after a pause when storage fails, until `closed` is set.

    Raises:
        StorageError: It still failed after the last pause, or when `closed` was set.
    """
    closed = closed or threading.Event()
    for pause_s in pauses_s:
        try:
            return work()
        except StorageError:
            if closed.wait(pause_s):
                raise
    return work()
