"""A few of the fault runs of `make faults`, chosen so that every mode, backend and kind of victim has its turn, and bad networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from s3_server import S3Server

sys.path.insert(0, str(Path(__file__).parent))

from chaos import run_scenario
from scenarios import scenario
from stores import Servers

SEEDS = (10, 11, 52, 56, 79)


@pytest.fixture
def servers(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Servers:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return Servers(s3_server)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_comes_twice(seed: int, servers: Servers, tmp_path: Path) -> None:
    plan = scenario(seed)

    outcome = run_scenario(plan, tmp_path / "run", servers, records=6_000)

    assert outcome.problems == [], f"{plan}; repeat with: make faults ARGS='--seed {seed}'; struck: {outcome.strikes}"
