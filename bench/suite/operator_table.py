"""The rows and notes about the operator, one group for each limit of writes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from suite.operator_bare import BareLoop
from suite.operator_run import OperatorRun, Phase
from suite.report import Row

LIFTED_PER_S: Final = 10_000.0
"""A limit that is none."""

_REST_TARGET: Final = 0.25


@dataclass
class Measured:
    """What was measured with one limit of writes, run by run.

    Attributes:
        jobs: How many StreamJobs.
        pods: Loops that created their pods.
        objects: Loops that created all of their objects.
    """

    writes_per_s: float
    jobs: int
    pods: list[BareLoop] = field(default_factory=list)
    objects: list[BareLoop] = field(default_factory=list)
    operator: list[OperatorRun] = field(default_factory=list)

    @property
    def limit(self) -> str:
        """The limit, for people."""
        return f"{self.writes_per_s:g} writes/s" if self.writes_per_s < LIFTED_PER_S else "no limit of writes"

    def rows(self) -> list[Row]:
        """The medians of all runs."""
        return [*self._until_ready(), *self._at_rest()]

    def notes(self) -> list[str]:
        """What the last run did in detail."""
        ramp, rest = self.operator[-1].ramp, self.operator[-1].rest
        return [
            f"{self.limit}, requests a job until Ready: {_by_verb(ramp, self.jobs)}; {ramp.refused() / self.jobs:.2f} of them were not "
            f"answered with success; {ramp.looks() / self.jobs:.1f} looks and {ramp.watched() / self.jobs:.1f} watched changes a job; the "
            f"API server and etcd used {ramp.server_cpu_s / self.jobs * 1000:.0f} ms of CPU a job.",
            f"{self.limit}, at rest, each second: {_by_verb(rest, rest.wall_s)}; {rest.looks() / rest.wall_s:.0f} looks, "
            f"{rest.watched() / rest.wall_s:.0f} watched changes; {rest.resyncs():.0f} lists of everything fell into it; the API server and "
            f"etcd used {rest.server_cpu_s / rest.wall_s:.0%} of a core.",
        ]

    def _until_ready(self) -> list[Row]:
        ready_s = self._median(lambda run: run.ramp.wall_s)
        cpu_ms = self._median(lambda run: run.ramp.cpu_s) / self.jobs * 1000
        requests = self._median(lambda run: run.ramp.requests()) / self.jobs
        look_ms = self._median(lambda run: run.ramp.look_s(0.99)) * 1000
        first = self._row("until all jobs are Ready", f"{ready_s:.1f} s")
        rows = []
        for loops, kind in ((self.pods, "pods"), (self.objects, "objects")):
            if loops:
                theirs_s = statistics.median(loop.wall_s for loop in loops)
                rows.append(_beside(first, loops, kind, f"{theirs_s:.1f} s", ratio=f"{theirs_s / ready_s:.2f}"))
        cpu = self._row("operator's CPU until then, each job", f"{cpu_ms:.1f} ms")
        if self.objects:
            theirs_ms = statistics.median(loop.cpu_s for loop in self.objects) / self.jobs * 1000
            cpu = _beside(cpu, self.objects, "objects", f"{theirs_ms:.1f} ms", cpu_ratio=f"{theirs_ms / cpu_ms:.2f}")
        return [
            *(rows or [first]),
            cpu,
            self._row("requests to the API server until then, each job", f"{requests:.1f}"),
            self._row("one look at a job until then, p99", f"{look_ms:.0f} ms"),
        ]

    def _at_rest(self) -> list[Row]:
        share = self._median(lambda run: run.rest.cpu_s / run.rest.wall_s)
        requests = self._median(lambda run: run.rest.requests() / run.rest.wall_s)
        look_ms = self._median(lambda run: run.rest.look_s(0.99)) * 1000
        memory = self._median(lambda run: run.rest.end.rss_bytes) / 2**20
        cpu = self._row("at rest, a checkpoint each 10 s: CPU of one core", f"{share:.1%}")
        return [
            replace(cpu, target=f"< {_REST_TARGET:.0%}", reached=share < _REST_TARGET),
            self._row("at rest: requests to the API server", f"{requests:.1f}/s"),
            self._row("at rest: one look at a job, p99", f"{look_ms:.1f} ms"),
            self._row("at rest: operator's resident memory", f"{memory:.0f} MiB"),
        ]

    def _row(self, what: str, ours: str) -> Row:
        return Row(f"{self.limit}: {what}", ours)

    def _median(self, of: Callable[[OperatorRun], float]) -> float:
        return statistics.median(of(run) for run in self.operator)


def _beside(row: Row, loops: list[BareLoop], kind: str, theirs: str, **ratios: str) -> Row:
    return replace(row, beside=f"bare loop, {loops[0].objects:,} {kind}", theirs=theirs, **ratios)


def _by_verb(phase: Phase, share: float) -> str:
    return ", ".join(f"{verb} {requests / share:.2f}" for verb, requests in phase.verbs().items()) or "none"
