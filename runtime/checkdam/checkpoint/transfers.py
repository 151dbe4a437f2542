"""Several file transfers at a time, and how such a batch ends when one of them fails.

All of a process's transfers go through one `Transfers`, so that its number of threads bounds connections and memory
however many subtasks store or restore at once. It knows nothing of files: a transfer is a function that blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

from checkdam.core.errors import CheckpointError

T = TypeVar("T")

DEFAULT_PARALLEL: Final = 4


class Transfers:
    """Runs transfers in threads of its own, which start with the first batch. Safe for threads.

    Args:
        parallel: How many run at a time.
    """

    def __init__(self, parallel: int = DEFAULT_PARALLEL) -> None:
        if parallel < 1:
            raise ValueError(f"`parallel` must be at least 1 (got {parallel})")
        self._executor = ThreadPoolExecutor(parallel, thread_name_prefix="transfer")

    def run(self, transfers: Sequence[Callable[[], T]], cancelled: threading.Event | None = None) -> list[T]:
        """Run a batch and return what each transfer returned.

        With the first error no further transfer begins; those under way come to their end before it is raised, so that
        whoever cleans up after the batch finds nothing that still changes.

        Args:
            transfers: They may be called by any thread, and must not run a batch themselves.
            cancelled: Once it is set, no further transfer begins either.

        Raises:
            CheckpointError: It was cancelled.
            Exception: The first error, in the batch's order.
        """

        def begin(transfer: Callable[[], T]) -> T:
            if cancelled is not None and cancelled.is_set():
                raise CheckpointError("the transfer was cancelled")
            return transfer()

        futures = [self._executor.submit(begin, transfer) for transfer in transfers]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also when the waiting thread is interrupted: nothing more is to begin.
            unfinished = [future for future in futures if not future.cancel()]
        wait(unfinished)
        _raise_first(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Begin nothing more; does not wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _raise_first(futures: Sequence[Future[T]]) -> None:
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            raise error
