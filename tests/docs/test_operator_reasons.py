"""The page on troubleshooting has every reason that the operator gives, and no others."""

from __future__ import annotations

import re

import pytest
from doc_blocks import ROOT
from operator_reasons import reasons

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
GIVEN = reasons()


def told(section: str) -> list[str]:
    """The reasons in the first column of the table in a section."""
    [text] = [part for part in PAGE.split("\n## ") if part.startswith(f"{section}\n")]
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return [reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize(
    ("section", "given"),
    [
        ("`Stalled`", GIVEN["Trouble"]),
        ("`Ready` and `Progressing`", GIVEN["Standing"] - GIVEN["Trouble"]),
        ("`CheckpointHealthy`", GIVEN["checkpoints"]),
        ("Events", GIVEN["Event"]),
        ("Savepoints", GIVEN["_status"]),
    ],
)
def test_a_table_has_each_reason_that_the_code_gives_once(section: str, given: set[str]) -> None:
    assert len(given) > 3
    assert sorted(told(section)) == sorted(given)


def test_the_reason_of_a_job_that_is_not_stalled_is_told() -> None:
    assert GIVEN["set_condition"] == {"Operating"}
    assert "`False` has the reason `Operating`" in PAGE
