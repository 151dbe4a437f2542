"""What must hold when a fault run is over: of what its jobs have written, and of what they have left in storage.

Each function returns what is wrong, a sentence each.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from fault_jobs import expected, key_of
from scenarios import Scenario
from stores import Place

from checkdam.checkpoint.folders import writer_of
from checkdam.checkpoint.opening import open_job
from checkdam.checkpoint.verification import verify_job
from checkdam.core.errors import CheckpointError

Rows = Counter[tuple[Any, ...]]

_RUNS = re.compile(r"^(\S+ \S+) coordinator INFO attempt (\d+)\.(\d+) runs")
_CANNOT_CLEAN = ("cleaning up has to wait", "nothing is committed or deleted until storage answers")
_LISTED_TO_MS = 1000
"""Storage says to the second when a file was written."""


def rows_in(out: Path) -> Rows:
    """All committed rows."""
    files = out.glob("*.json*")
    return Counter(tuple(json.loads(line)) for file in files for line in file.read_text().splitlines() if line)


# Output


def check_output(plan: Scenario, rows: Rows, records: int, before: Rows | None = None) -> list[str]:
    """What is wrong with the rows of a job.

    Args:
        plan: Says what the job computes, and what it promises.
        rows: What it has committed.
        records: How many it was to read.
        before: The rows of another job, if this one has started from a savepoint of it. Together they must have all of the truth:
            what the other had computed at its savepoint, it has committed. Rows that both have are right.
    """
    both = rows if before is None else rows | before
    if plan.windows == "process":
        return _check_batches(rows, both, records)
    if plan.windows == "counts":
        return _check_counts(rows, both, records)
    truth = expected(plan.windows, records)
    if plan.mode == "AtMostOnce":
        return _some("records twice", _twice(rows)) + _some("unknown", [row for row in rows if row not in truth])
    if plan.mode == "AtLeastOnce":
        return _check_at_least(both, truth)
    return _some("rows are missing", (truth - both).elements()) + _some("rows are too many", (rows - truth).elements())


def _check_at_least(rows: Rows, truth: Rows) -> list[str]:
    """Per key and window the largest count and total must be at least the true ones."""
    best: dict[tuple[Any, ...], tuple[int, int]] = {}
    for key, start, _, n, total in rows:
        before = best.get((key, start), (0, 0))
        best[key, start] = (max(before[0], n), max(before[1], total))
    low = [row for row in truth if best.get((row[0], row[1]), (0, 0)) < (row[3], row[4])]
    return _some("windows have less than the true value", low)


def _check_counts(rows: Rows, both: Rows, records: int) -> list[str]:
    """Every key's count ends at the true one, and no update came twice."""
    truth = Counter(key_of(index) for index in range(records))
    last = {key: max(n for other, n in both if other == key) for key, _ in both}
    problems = [] if last == truth else [f"the counts end at {sorted(last.items())}, not {sorted(truth.items())}"]
    return problems + _some("updates twice", _twice(rows))


def _check_batches(rows: Rows, both: Rows, records: int) -> list[str]:
    """Every record is in exactly one batch of the process function: the sizes add up, and no batch came twice.

    Where to cut batches depends on when watermarks come. So those of two jobs may overlap.
    """
    total = sum(row[3] * count for row, count in both.items())
    right = total == records if both is rows else total >= records
    problems = [] if right else [f"the batches hold {total} records, not {records}"]
    return problems + _some("batches twice", _twice(rows))


def _twice(rows: Rows) -> list[tuple[Any, ...]]:
    return [row for row, count in rows.items() if count > 1]


def _some(what: str, rows: Any) -> list[str]:
    """A sentence about rows that are wrong; nothing if there are none."""
    wrong = sorted(rows, key=repr)
    return [f"{what}: {len(wrong)}, such as {wrong[:3]}"] if wrong else []


# Storage


def check_storage(plan: Scenario, place: Place, run_folder: Path, *, ended: bool) -> list[str]:
    """What is wrong with what a job has left in storage: everything that counts must verify, and nothing must lie about.

    Args:
        plan: Names the job.
        place: Where it kept its state.
        run_folder: Of its last run, for the coordinators' log.
        ended: The job has come to its end; if it was killed, the sweep that clears up after that was never due.
    """
    uri = f"{place.direct['uri']}/default/fault-{plan.seed}"
    try:
        store = open_job(uri, options=place.options)
        found = verify_job(store)
    except CheckpointError as error:
        return [f"{uri} cannot be verified: {error}"]
    problems = [*found.journal, *(problem for each in found.checkpoints.values() for problem in each)]
    if not found.checkpoints:
        problems.append(f"{uri} holds no checkpoint")
    swept = _last_sweep(run_folder / "logs" / "coordinator.log") if ended else None
    if swept is not None:
        time_ms, attempt = swept
        lying = [
            file.path
            for file in found.orphans
            if (writer_of(file.path) or attempt) < attempt and file.modified_ms < time_ms - _LISTED_TO_MS
        ]
        problems += _some("files that were not swept", lying)
    return problems


def check_savepoint(uri: str, place: Place) -> list[str]:
    """What is wrong with a savepoint that a coordinator has called complete."""
    job_uri, _, folder = uri.rpartition("/")
    checkpoints = verify_job(open_job(job_uri, options=place.options)).checkpoints
    return checkpoints.get(folder, [f"the savepoint {uri} is not there"])


def _last_sweep(log: Path) -> tuple[int, tuple[int, int]] | None:
    """When the last attempt began to run, and which it was: it sweeps then. `None` if it could not."""
    found: tuple[int, tuple[int, int]] | None = None
    for line in log.read_text(errors="replace").splitlines():
        if match := _RUNS.match(line):
            time = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").astimezone()
            found = int(time.timestamp() * 1000), (int(match[2]), int(match[3]))
        elif any(sentence in line for sentence in _CANNOT_CLEAN):
            found = None
    return found
