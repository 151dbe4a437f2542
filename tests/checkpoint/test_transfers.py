"""Several transfers at a time: bounded, and over when the first one fails."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from checkdam.checkpoint.transfers import Transfers
from checkdam.core.errors import CheckpointError, StorageError

WAIT_S = 10


def test_results_come_in_the_order_of_the_batch() -> None:
    assert Transfers(3).run([lambda number=number: number for number in range(20)]) == list(range(20))
    assert Transfers().run([]) == []


def test_as_many_run_at_a_time_as_are_allowed_also_over_several_batches() -> None:
    transfers = Transfers(2)
    both, more = threading.Barrier(2), threading.Semaphore(2)

    def transfer() -> None:
        assert more.acquire(blocking=False), "more than two run"
        both.wait(WAIT_S)  # alone, it would wait in vain
        more.release()

    batches = [threading.Thread(target=lambda: transfers.run([transfer] * 4)) for _ in range(2)]
    for batch in batches:
        batch.start()
    for batch in batches:
        batch.join(WAIT_S)
    assert not both.broken


def test_the_first_error_keeps_further_transfers_from_beginning_and_waits_for_those_under_way() -> None:
    begun: list[str] = []
    failed, ended = threading.Event(), threading.Event()

    def fail() -> None:
        failed.set()
        raise StorageError("put_file", "a", "no space left")

    def slow() -> None:
        assert failed.wait(WAIT_S)
        ended.set()

    later: list[Callable[[], None]] = [lambda: begun.append("later")] * 50
    with pytest.raises(StorageError, match="no space left"):
        Transfers(2).run([slow, fail, slow, slow, *later])
    assert ended.is_set()
    assert len(begun) < 50


def test_a_batch_that_nobody_wants_any_more_ends_early() -> None:
    cancelled = threading.Event()
    begun: list[int] = []

    def transfer() -> None:
        begun.append(1)
        cancelled.set()

    with pytest.raises(CheckpointError, match="cancelled"):
        Transfers(1).run([transfer] * 10, cancelled)
    assert begun == [1]


def test_no_thread_starts_before_there_is_something_to_do() -> None:
    before = threading.active_count()
    transfers = Transfers(8)
    transfers.run([])
    assert threading.active_count() == before
    transfers.close()


def test_none_at_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Transfers(0)
