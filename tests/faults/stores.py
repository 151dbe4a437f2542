"""Where the jobs of fault runs keep their state: a folder, real servers, and a bad network in front of one of them."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulty_proxy import Fault, Refusal, Request, faulty_proxy
from hdfs_server import HdfsServer
from s3_server import S3Server
from scenarios import Scenario

from checkdam.spec.checkpoint import CheckpointStorage

_FAULTS: tuple[Fault | Refusal, ...] = (
    Refusal(503, "SlowDown"),
    Refusal(500, "InternalError"),
    Fault.RESET_BEFORE,
    Fault.RESET_AFTER,
    Fault.TRUNCATED,
    Fault.SILENT,
    Fault.LATE,
)
_WEIGHTS = (4, 1, 4, 4, 4, 1, 1)
_RATES = (0.02, 0.05, 0.1)
"""How many requests go wrong; a client makes four attempts at each."""

_OUTAGE_FAULTS = (Fault.RESET_BEFORE, Refusal(503, "SlowDown"))
_FAIR_COMMITS = 2
"""So many writes to the journal are seen before an outage: a run that cannot even begin says so and ends, as it should."""


@dataclass(frozen=True)
class Servers:
    """The servers that fault runs share; `None` where no run needs one. S3's keys are in the environment."""

    s3: S3Server | None = None
    hdfs: HdfsServer | None = None


@dataclass(frozen=True)
class Place:
    """Where one run keeps its state.

    Attributes:
        storage: `spec.checkpoint.storage` for its jobs.
        direct: The same without a bad network, to look at it afterwards.
        change_weather: Called with a number when the processes of a run begin: other things go wrong from now on.
    """

    storage: dict[str, Any]
    direct: dict[str, Any]
    change_weather: Callable[[int], None] = lambda number: None

    @property
    def options(self) -> CheckpointStorage:
        """`direct`, for functions that open storage."""
        return CheckpointStorage.model_validate(self.direct)

    def below(self, name: str) -> Place:
        """A folder in the place."""
        return Place(_below(self.storage, name), _below(self.direct, name), self.change_weather)


@contextmanager
def place_of(plan: Scenario, folder: Path, servers: Servers) -> Iterator[Place]:
    """An empty place for the scenario, for as long as the context is open."""
    if plan.store in ("s3", "faulty"):
        assert servers.s3 is not None
        direct = servers.s3.new_bucket().storage("jobs")
        if plan.store == "s3":
            yield Place(direct, direct)
            return
        with faulty_proxy(servers.s3.endpoint) as proxy:

            def change(number: int) -> None:
                proxy.plan = Weather(random.Random(plan.seed * 37 + number))

            yield Place({**direct, "s3": {"endpoint": proxy.endpoint}}, direct, change)
        return
    if plan.store == "hdfs":
        assert servers.hdfs is not None
        storage = {"uri": f"{servers.hdfs.uri}/faults/{uuid.uuid4().hex}"}
    else:
        storage = {"uri": f"file://{folder / 'storage'}"}
    yield Place(storage, storage)


def _below(storage: dict[str, Any], name: str) -> dict[str, Any]:
    return {**storage, "uri": f"{storage['uri']}/{name}"}


class Weather:
    """What happens to each request: faults one by one, at a rate, and outages of some seconds, all by `rng`.

    At most one request in a leg is left without an answer, because the client waits for ten seconds then.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._rate = rng.choice(_RATES)
        self._silences = 1
        self._commits = 0
        self._began_s = 0.0
        begin_s = rng.uniform(0.0, 3.0)
        self._outages = [(begin_s, begin_s + rng.uniform(0.5, 3.0))] if rng.random() < 0.5 else []

    def __call__(self, request: Request) -> Fault | Refusal:
        now_s = time.monotonic()
        if request.method == "PUT" and "/journal/" in request.path:
            self._commits += 1
            if self._commits == _FAIR_COMMITS + 1:
                self._began_s = now_s
        if self._commits > _FAIR_COMMITS:
            past_s = now_s - self._began_s
            if any(begin_s <= past_s < end_s for begin_s, end_s in self._outages):
                return self._rng.choice(_OUTAGE_FAULTS)
        if self._rng.random() >= self._rate:
            return Fault.NONE
        [fault] = self._rng.choices(_FAULTS, _WEIGHTS)
        if fault in (Fault.SILENT, Fault.LATE):
            # Downloads are waited for longer than a run lasts.
            if request.method != "PUT" or not self._silences:
                return Fault.RESET_BEFORE
            self._silences -= 1
        return fault
