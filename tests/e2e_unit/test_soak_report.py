"""The report of a soak."""

from __future__ import annotations

from leftovers import Stored
from soak_memory import Growth
from soak_report import Report, Struck


def report() -> Report:
    strikes = [Struck("kill a task process", 1010.0, "orders-w0-abcde"), Struck("scale", 1040.0, "2 → 3")]
    outputs_s = [1000.0, 1009.0, 1012.0, 1014.0, 1039.0, 1052.0, 1054.0]
    return Report(7, 2, 1000.0, strikes, outputs_s, [Growth("operator", "a", 100 << 20, 103 << 20, 300.0)], 12_345)


def test_a_pause_belongs_to_the_strike_before_it_up_to_the_next() -> None:
    assert report().pauses_s() == [25.0, 13.0]
    assert Report(7, 2).pauses_s() == []


def test_the_text_tells_what_is_needed_to_judge_and_to_repeat_a_soak() -> None:
    shown = report()
    shown.stored = Stored([], ["chk-9-1.1-0", "savepoint-3-1.1-0"], ["shared/1.1-x"])
    shown.problems = ["shared/1.1-x is an orphan"]
    text = shown.text()
    for words in (
        "seed 7",
        "scale",
        "2 → 3",
        "25.0",
        "103.0",
        "12,345 receipts",
        "1 checkpoints and 1 savepoints, and 1 files",
        "WRONG: shared/1.1-x is an orphan",
    ):
        assert words in text
