"""The benchmark of the operator runs: five jobs on a real API server, and not a word on speed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.programs import API_PROGRAMS, REMEDY, missing

BENCH = Path(__file__).resolve().parents[2] / "bench"

pytestmark = pytest.mark.skipif(
    bool(missing(API_PROGRAMS)) and not os.environ.get("CHECKDAM_ALL_TESTS"),
    reason=f"`{REMEDY}` must build {', '.join(missing(API_PROGRAMS))} first",
)


@pytest.mark.long
def test_the_benchmark_of_the_operator_brings_jobs_up_and_watches_them_at_rest(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "operator_scale.py"), "--quick", "--build", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("until all jobs are Ready", "15 pods", "40 objects", "CPU until then", "at rest: one look at a job"):
        assert what in done.stdout
    # Secret, ConfigMap, three pods and an Event; how often the status is written depends on what is seen at once.
    assert "create 6.00" in done.stdout
