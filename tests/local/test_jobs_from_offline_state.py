"""Real jobs start from savepoints that were made and corrected without one, and leave state that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import local_jobs
import pytest
from job_runs import JobFolder

from checkdam.offline import DELETE, new_savepoint, open_savepoint


@pytest.mark.parametrize("backend", ["hashmap", "rocksdb"])
def test_a_job_goes_on_from_state_that_was_made_and_corrected(backend: Any, tmp_path: Path) -> None:
    folder = JobFolder(tmp_path, spec={"stateBackend": {"type": backend}})
    folder.write("squares", count=1000)
    args = {"out": str(tmp_path / "out"), "count": 1000}
    made, corrected = tmp_path / "made", tmp_path / "corrected"
    with new_savepoint(
        str(made), pipeline=local_jobs.squares, args=args, job_id="default/job", parallelism=2
    ) as savepoint:
        savepoint.add("sums", [(0, 1_000_000), (1, 2_000_000), (2, -1)])
    open_savepoint(str(made)).rewrite(
        str(corrected), {("sums", "aggregate"): lambda row: DELETE if row.key == 2 else row.value // 2}
    )

    code, output = folder.run("--restore-from", corrected.as_uri())

    assert code == 0, output
    sums = {key: sum(range(key, 1000, 5)) for key in range(5)}
    sums[0] += 500_000
    sums[1] += 1_000_000
    last = dict(sorted((row["key"], row["value"]) if isinstance(row, dict) else tuple(row) for row in folder.rows()))
    assert last == sums
    left = open_savepoint(str(tmp_path / "state" / "default" / "job"))
    assert {row.key: row.value for row in left.read("sums")} == sums
    assert {split.progress for split in left.splits("numbers")} == {"finished"}
