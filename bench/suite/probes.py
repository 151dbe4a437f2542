"""Measurements of Checkdam that are not throughput: the pause for a snapshot, recovery, latency.

Each is one run of a job that makes its own input at a steady rate. What is measured follows from the coordinator's API
or from what the job's sink writes down.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from suite.stamps import OUT, read_stamps
from suite.systems import WORKERS, CheckdamRun, Place, RunFailed

POLL_S: Final = 0.1

PAUSE_KEYS: Final = 1_000_000
PAUSE_RATE: Final = 200_000
PAUSE_CHECKPOINTS: Final = 100

RECOVERY_KEYS: Final = 400_000
RECOVERY_RATE: Final = 100_000
RECOVERY_KILLS: Final = 10
RECOVERY_TIMEOUT_S: Final = 60.0

LATENCY_RATE: Final = 50_000
LATENCY_S: Final = 20.0
LATENCY_WARM_UP_SHARE: Final = 0.2


@dataclass(frozen=True)
class Probe:
    """A measurement.

    Attributes:
        name: For `--only`.
        title: For the table.
        limit_ms: The value is to stay below this; `None`: for information.
        take: Measures: (place, quick) → values in ms, of which `quantile` is the result.
        quantile: Which of the values counts.
    """

    name: str
    title: str
    limit_ms: float | None
    take: Callable[[Place, bool], list[float]]
    quantile: float


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def snapshot_pauses(place: Place, quick: bool) -> list[float]:
    """How long the task thread of a worker with a million hashmap entries stood still for each checkpoint."""
    keys, wanted = (20_000, 3) if quick else (PAUSE_KEYS, PAUSE_CHECKPOINTS)
    args = {"keys": keys, "rate": PAUSE_RATE}
    with CheckdamRun(place, "steady_counts", args, {"checkpoint.interval": "1s"}, workers=1) as run:
        run.until_running()
        _until(lambda: any(worker["stateEntries"] >= keys for worker in run.get("/v1/workers") or ()), 120)
        first = max((record["id"] for record in run.get("/v1/checkpoints") or ()), default=0) + 1
        pauses: dict[int, float] = {}

        def enough() -> bool:
            for record in run.get("/v1/checkpoints") or ():
                if record["id"] > first and record["status"] == "COMPLETED":
                    pauses[record["id"]] = float(record["pauseMs"])
            return len(pauses) >= wanted

        _until(enough, 60 + 10 * wanted)
    return list(pauses.values())


def recovery_times(place: Place, quick: bool) -> list[float]:
    """How long after SIGKILL of a task process the first result of the next attempt reached a sink."""
    keys, kills = (20_000, 2) if quick else (RECOVERY_KEYS, RECOVERY_KILLS)
    args = {"keys": keys, "rate": RECOVERY_RATE}
    settings = {
        "checkpoint.interval": "1s",
        "restart.strategy": "FixedDelay",
        "restart.delay": "0ms",
        "restart.attempts": str(2 * kills),
    }
    drawn = random.Random(kills)
    times: list[float] = []
    with CheckdamRun(place, "steady_counts", args, settings) as run:
        run.until_running()
        time.sleep(1.0 + 1.5 * keys / RECOVERY_RATE)
        while len(times) < kills:
            times.append(_recovery(run, place, drawn))
            # Checkpoints come each second: the next kill meets a job that has taken one.
            time.sleep(2.0 + drawn.random())
    return times


def latencies(place: Place, quick: bool) -> list[float]:
    """Milliseconds from a record's creation in the source to the sink, behind a shuffle, at 50,000 records a second."""
    with CheckdamRun(place, "latency", {"rate": LATENCY_RATE}, {"checkpoint.interval": "10s"}) as run:
        run.until_running()
        time.sleep(2.0 if quick else LATENCY_S)
    found = [float(value) for value in place.stamps.read_text().split()]
    return found[int(len(found) * LATENCY_WARM_UP_SHARE) :]


def _recovery(run: CheckdamRun, place: Place, drawn: random.Random) -> float:
    victims = [worker["taskPid"] for worker in run.get("/v1/workers") or () if worker["taskPid"]]
    if len(victims) != WORKERS:
        raise RunFailed(f"there must be {WORKERS} task processes before a kill (got {len(victims)})")
    before = {stamp.worker for stamp in read_stamps(place.stamps)}
    os.kill(drawn.choice(victims), signal.SIGKILL)
    killed_ms = time.time() * 1000
    first: list[int] = []

    def recovered() -> bool:
        first[:] = [s.time_ms for s in read_stamps(place.stamps) if s.kind == OUT and s.worker not in before][:1]
        return bool(first)

    _until(recovered, RECOVERY_TIMEOUT_S)
    return first[0] - killed_ms


def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RunFailed(f"what the measurement waits for did not come within {timeout_s:g} s")
        time.sleep(POLL_S)


PROBES: Final = (
    Probe(
        "pause", "pause of a task thread for a snapshot of 1,000,000 hashmap entries, p99", 50, snapshot_pauses, 0.99
    ),
    Probe(
        "recovery",
        "from SIGKILL of a task process to the next attempt's first result, slowest",
        1000,
        recovery_times,
        1.0,
    ),
    Probe("latency", "source to sink through a shuffle at 50,000 records/s, p99", 20, latencies, 0.99),
)
