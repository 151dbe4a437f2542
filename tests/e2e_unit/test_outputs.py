"""When output came, and how long there was none, by the files of a sink."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from outputs import Output, first_after, longest_pause_s, outputs, pause_after_s

_TICK_S = 0.02
"""By which the kernel's times of files may lag behind."""


def output(time_s: float, epoch: int, attempt: int) -> Output:
    return Output(time_s, (epoch, attempt), f"part-receipts-0-{epoch}.{attempt}-00000.jsonl")


def test_files_are_told_with_their_attempt_and_the_moment_at_which_they_got_their_name(tmp_path: Path) -> None:
    (tmp_path / ".pending").mkdir()
    for name in ("part-by-hand-1-12.3-00007.jsonl", "part-receipts-0-2.1-00000.jsonl"):
        hidden = tmp_path / ".pending" / name
        hidden.write_text("{}\n")
        os.utime(hidden, (0, 0))  # when it was written does not matter
        before_s = time.time()
        hidden.rename(tmp_path / name)
        after_s = time.time()
    (tmp_path / ".pending" / "part-receipts-0-2.1-00001.jsonl").write_text("{}\n")
    found = outputs(tmp_path)
    assert [(seen.name, seen.attempt) for seen in found] == [
        ("part-by-hand-1-12.3-00007.jsonl", (12, 3)),
        ("part-receipts-0-2.1-00000.jsonl", (2, 1)),
    ]
    assert before_s - _TICK_S <= found[1].time_s <= after_s


@pytest.mark.parametrize(
    ("start_s", "end_s", "pause_s"),
    [
        (0.0, 10.0, 5.0),  # all
        (0.0, 2.9, 1.0),
        (3.5, 9.0, 5.0),  # it has begun before
        (2.5, 7.0, 4.0),  # it goes on
        (3.5, 6.0, 3.0),  # both
        (10.0, 12.0, 0.0),  # nothing comes any more
    ],
)
def test_a_pause_counts_from_wherever_it_began_to_the_end_that_is_given(
    start_s: float, end_s: float, pause_s: float
) -> None:
    assert longest_pause_s([1.0, 2.0, 3.0, 8.0, 10.0], start_s, end_s) == pause_s


def test_the_first_output_after_an_attempt_is_one_of_a_later_attempt_although_older_ones_may_appear_meanwhile() -> None:
    before = [output(1.0, 1, 1), output(2.0, 1, 1)]
    late = output(3.5, 1, 1)  # it was finished before the failure, and is committed by the attempt after
    new = output(4.0, 1, 2)
    assert first_after([*before, late], (1, 1)) is None
    assert first_after([*before, late, new], (1, 1)) == new
    assert first_after([*before, late, new, output(5.0, 2, 1)], (1, 2)) == output(5.0, 2, 1)


def test_a_pause_ends_with_the_first_output_of_a_later_attempt() -> None:
    found = [output(1.0, 1, 1), output(2.0, 1, 1), output(4.5, 2, 1), output(4.6, 2, 1)]
    assert pause_after_s(found, (1, 1)) == 2.5


def test_a_pause_that_is_not_over_is_not_measured() -> None:
    with pytest.raises(ValueError, match="no attempt after"):
        pause_after_s([output(1.0, 1, 1)], (1, 1))
