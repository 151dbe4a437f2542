"""A few of the fault runs of `make faults`, chosen so that every mode, backend and kind of victim has its turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chaos import run_scenario, scenario

SEEDS = (3, 5, 7, 12, 17, 29, 30, 40)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_comes_twice(seed: int, tmp_path: Path) -> None:
    plan = scenario(seed)

    outcome = run_scenario(plan, tmp_path / "run", records=6_000)

    assert outcome.problems == [], f"{plan}; repeat with: make faults ARGS='--seed {seed}'; struck: {outcome.strikes}"
