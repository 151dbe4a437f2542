"""What a seed stands for: a job, where its state goes, what strikes it, and what becomes of its savepoints.

Every dimension turns with a period of its own, or is drawn by a generator of its own, so that each value of one meets each
value of the others sooner or later, and a new dimension leaves the old ones of a seed as they were.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

MODES = ("ExactlyOnce", "AtLeastOnce", "AtMostOnce")
BACKENDS = ("hashmap", "rocksdb")
WINDOWS = ("tumbling", "history", "sliding", "session", "process", "history", "counts")
STORES = ("file", "faulty", "s3", "file", "faulty", "s3", "hdfs", "faulty", "file", "s3", "faulty")
"""`faulty`: an S3 server behind a bad network."""

POINTS = (
    "",
    "before-manifest",
    "after-manifest",
    "before-journal",
    "journal-written",
    "complete-sent",
    "final-checkpoint",
    "deploying",
    "supervisor-fork",
    "worker-restored",
    "worker-ready",
    "worker-snapshot",
    "worker-ack",
)
"""Named places in coordinator, supervisor and task process; empty for none."""

SAVEPOINT_POINTS = ("before-savepoint", "after-savepoint")
"""The same, where nothing but a savepoint comes by."""

HEARTBEAT_S = 1.5

SavepointUse = Literal["", "kept", "restored", "stopped"]
"""What becomes of a savepoint that is taken in the middle: it is only kept; the job ends without warning and another one starts
from it, with another backend; or the job stops with it and goes on with another backend."""


@dataclass(frozen=True)
class Scenario:
    """What a seed stands for; the defaults are those of a job that nobody has configured."""

    seed: int
    mode: str
    backend: str
    parallelism: int
    windows: str
    point: str = ""
    point_count: int = 1
    strikes: int = 0
    stops: bool = False
    rescales: tuple[int, ...] = ()
    store: str = "file"
    incremental: bool = True
    full_every: int = 0
    retain: int = 3
    local_recovery: bool = True
    savepoint: SavepointUse = ""

    def __str__(self) -> str:
        parts = [
            f"seed {self.seed}: {self.mode} {self.backend} x{self.parallelism} {self.windows} on {self.store}",
            f"retain={self.retain}",
            "" if self.incremental else "full",
            f"fullEvery={self.full_every}" if self.full_every else "",
            "" if self.local_recovery else "nothing-local",
            f"point={self.point}:{self.point_count}" if self.point else "",
            f"strikes={self.strikes}",
            "with stops" if self.stops else "",
            f"savepoint-{self.savepoint}" if self.savepoint else "",
            *(f"then x{parallelism}" for parallelism in self.rescales),
        ]
        return " ".join(filter(None, parts))


def scenario(seed: int) -> Scenario:
    """Modes, backends, parallelism, windows, stores and fault points in turn by the seed; the rest at random by it."""
    rng, rescaling, keeping = random.Random(seed), random.Random(seed * 29 + 5), random.Random(seed * 31 + 11)
    mode = MODES[seed % 3] if seed % 2 else "ExactlyOnce"
    windows = "records" if mode == "AtMostOnce" else WINDOWS[(seed // 2) % len(WINDOWS)]
    if mode == "AtLeastOnce" and windows in ("history", "process", "counts"):
        windows = "tumbling"
    point, point_count = POINTS[seed % len(POINTS)], rng.choice((1, 1, 2, 3, 5))
    strikes, stops = rng.randint(1, 4), rng.random() < 0.35
    rescales = tuple(rescaling.choices(range(1, 5), k=rescaling.randint(1, 2))) if rescaling.random() < 0.3 else ()
    savepoint: SavepointUse = keeping.choice(("", "", "", "kept", "restored", "stopped"))
    if savepoint in ("kept", "restored") and keeping.random() < 0.4:
        point, point_count = keeping.choice(SAVEPOINT_POINTS), 1
    if savepoint == "stopped" and not rescales:
        rescales = (1 + seed % 3,)
    return Scenario(
        seed=seed,
        mode=mode,
        backend=BACKENDS[(seed // 3) % 2],
        parallelism=1 + seed % 3,
        windows=windows,
        point=point,
        point_count=point_count,
        strikes=strikes,
        stops=stops,
        rescales=rescales,
        store=STORES[seed % len(STORES)],
        incremental=keeping.random() < 0.85,
        full_every=keeping.choice((0, 0, 3)),
        retain=keeping.choice((1, 1, 3)),
        local_recovery=keeping.random() < 0.5,
        savepoint=savepoint,
    )


def other(backend: str) -> str:
    """The other state backend."""
    return BACKENDS[1 - BACKENDS.index(backend)]


def manifest_of(plan: Scenario, out: Path, storage: dict[str, Any], records: int, rate: float) -> str:
    """The StreamJob of a run, as YAML: it writes to `out` and keeps its state in `storage`."""
    args = {
        "windows": plan.windows,
        "records": records,
        "splits": plan.parallelism + 1,
        "rate": rate,
        "out": str(out),
    }
    manifest = {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": f"fault-{plan.seed}"},
        "spec": {
            "program": {"entrypoint": "fault_jobs:build", "args": args},
            "parallelism": plan.parallelism,
            # So little that most of the state is in the database's files, however short the run.
            "stateBackend": {"type": plan.backend, "rocksdb": {"memory": "256Ki"}},
            "checkpoint": {
                "interval": "250ms",
                "mode": plan.mode,
                "tolerableFailures": 3,
                "timeout": "5s",
                "incremental": plan.incremental,
                "fullEvery": plan.full_every,
                "retain": plan.retain,
                "localRecovery": plan.local_recovery,
                "storage": storage,
            },
            "restart": {"strategy": "ExponentialDelay", "initialDelay": "50ms", "maxDelay": "500ms"},
            "runtime": {"heartbeatTimeout": f"{int(HEARTBEAT_S * 1000)}ms", "batchSize": 256},
        },
    }
    return yaml.safe_dump(manifest)
