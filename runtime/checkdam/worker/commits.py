"""Commit work runs beside the task thread: one piece at a time, in the order of submission.

Making output visible may block (a rename on a slow disk, a request), so it belongs to an I/O thread. A commit that fails
is tried again with growing pauses; a crash between tries is harmless, because restored committables are committed first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        fail: Callable[[BaseException], None],
        executor: Executor | None = None,
    ) -> None:
        self._post = post
        self._fail = fail
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._closed = threading.Event()

    def submit(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `work` after all work submitted before; then `done`, in the task thread."""
        self._executor.submit(self._run, work, done)

    def close(self) -> None:
        """Drop what has not begun; does not wait."""
        self._closed.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        try:
            run_with_retries(work, self._closed)
        except Exception as error:
            self._fail(error)
        else:
            self._post(done)


def run_with_retries(work: Callable[[], None], closed: threading.Event | None = None) -> None:
    """Run idempotent work, again after a pause when storage fails.

    Raises:
        StorageError: It still failed after the last pause.
    """
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return work()
        except StorageError:
            if pause_s is None or (closed is not None and closed.is_set()):
                raise
            if closed is None:
                time.sleep(pause_s)
            else:
                closed.wait(pause_s)
    return None
