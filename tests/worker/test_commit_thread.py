"""Commits run one after another, are tried again while storage fails, and end the attempt if that does not help."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from worker_kit import poll_until

from checkdam.core.errors import StorageError
from checkdam.testing.loopback import ImmediateExecutor
from checkdam.worker.commits import CommitThread, run_with_retries


class Flaky:
    """Work that fails so many times."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error or StorageError("commit", "a file", "slow down")

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error


def test_work_runs_in_order_and_what_follows_it_in_the_task_thread() -> None:
    posted: list[Callable[[], None]] = []
    seen: list[str] = []
    commits = CommitThread(posted.append, lambda error: None)
    try:
        for name in "abc":
            commits.submit(lambda name=name: seen.append(name), lambda name=name: seen.append(name.upper()))  # type: ignore[misc]
        poll_until(lambda: len(posted) == 3)
        assert seen == ["a", "b", "c"]
        for done in posted:
            done()
        assert seen == ["a", "b", "c", "A", "B", "C"]
    finally:
        commits.close()


def test_storage_that_fails_for_a_while_is_tried_again() -> None:
    done: list[str] = []
    commits = CommitThread(lambda work: work(), lambda error: None, ImmediateExecutor(), pauses_s=(0, 0))
    flaky = Flaky(2)

    commits.submit(flaky, lambda: done.append("done"))

    assert flaky.calls == 3
    assert done == ["done"]


@pytest.mark.parametrize("error", [None, ValueError("a bug")])
def test_a_failure_for_good_is_reported_once_and_nothing_behind_it_begins(error: Exception | None) -> None:
    failures: list[BaseException] = []
    commits = CommitThread(lambda work: work(), failures.append, ImmediateExecutor(), pauses_s=(0, 0))
    flaky, later = Flaky(100, error), Flaky(0)

    commits.submit(flaky, lambda: None)
    commits.submit(later, lambda: None)

    assert len(failures) == 1
    assert flaky.calls == (3 if error is None else 1)
    assert later.calls == 0


def test_closing_ends_the_waiting_between_tries() -> None:
    failures: list[BaseException] = []
    tried = threading.Event()

    def work() -> None:
        tried.set()
        raise StorageError("commit", "a file", "slow down")

    before = threading.active_count()
    commits = CommitThread(lambda work: work(), failures.append, pauses_s=(60.0,))
    commits.submit(work, lambda: None)
    assert tried.wait(10)
    commits.close()

    poll_until(lambda: threading.active_count() <= before)
    assert failures == [], "the attempt has ended already"


def test_restored_work_raises_after_the_last_try() -> None:
    flaky = Flaky(100)

    with pytest.raises(StorageError, match="slow down"):
        run_with_retries(flaky, pauses_s=(0, 0, 0))
    assert flaky.calls == 4
