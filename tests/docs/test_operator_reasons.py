"""The page on troubleshooting has every reason that the operator gives and no others, in the operator's own words."""

from __future__ import annotations

import re

import pytest
from doc_blocks import ROOT

from checkdam_operator.reasons import (
    CheckpointReason,
    EventReason,
    NotStalledReason,
    ReadyReason,
    Reason,
    SavepointReason,
    StalledReason,
)

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()

TABLES: list[tuple[str, type[Reason]]] = [
    ("`Stalled`", StalledReason),
    ("`Ready` and `Progressing`", ReadyReason),
    ("`CheckpointHealthy`", CheckpointReason),
    ("Events", EventReason),
    ("Savepoints", SavepointReason),
]


def rows(section: str) -> list[tuple[str, list[str]]]:
    """Each reason in the table of a section, with the other cells of its row."""
    [text] = [part for part in PAGE.split("\n## ") if part.startswith(f"{section}\n")]
    table = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:3] == "| `"
    ]
    return [(reason, cells) for first, *cells in table for reason in re.findall(r"`(\w+)`", first)]


@pytest.mark.parametrize(("section", "reasons"), TABLES)
def test_a_table_has_each_reason_once(section: str, reasons: type[Reason]) -> None:
    given = {str(reason) for reason in reasons}
    if reasons is EventReason:
        given |= {
            "JobFailed",
            "JobStopped",
            "JobTakenOver",
        }  # of `Stalled`; they are told again because a job ends with them
    assert sorted(reason for reason, _ in rows(section)) == sorted(given)


@pytest.mark.parametrize(("section", "reasons"), TABLES)
def test_a_table_says_what_the_code_says_and_only_adds_links(section: str, reasons: type[Reason]) -> None:
    told = dict(rows(section))
    for reason in reasons:
        meaning, *remedy = told[reason] if reasons is StalledReason else told[reason][1:]
        for cell, text in zip([meaning, *remedy], (reason.when, reason.remedy), strict=False):
            assert cell.startswith(text), reason
            rest = cell.removeprefix(text)
            assert not rest or re.fullmatch(r" [^.]*\[[^]]+\]\([^)]+\)\.?", rest), f"{reason}: {rest}"


def test_whatever_stalls_a_job_has_a_remedy() -> None:
    assert all(reason.when and reason.remedy for reason in StalledReason)


def test_the_reason_of_a_job_that_is_not_stalled_is_told() -> None:
    assert f"`False` has the reason `{NotStalledReason.OPERATING}`" in PAGE
