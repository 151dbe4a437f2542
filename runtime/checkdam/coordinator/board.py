"""What the coordinator knows about the run, for people: attempts, failures, and what workers report of themselves.

Nothing here decides anything. Counters come from the workers' `Stats` and count since the running attempt began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from checkdam.checkpoint.manifest import CheckpointManifest
from checkdam.coordinator.attempt import Attempt, AttemptEnd, Failure, Finished
from checkdam.coordinator.control import WorkerLink
from checkdam.coordinator.views import AttemptView, FailureView, OperatorView, WorkerView
from checkdam.core.batch import MIN_TIME
from checkdam.core.clock import Clock
from checkdam.graph.model import Graph
from checkdam.wire.messages import OperatorStats, Stats

ATTEMPTS_SHOWN: Final = 50
"""How many attempts the API remembers."""


@dataclass
class _Run:
    """An attempt and when what happened to it."""

    attempt: Attempt
    restored_checkpoint: int
    started_ms: int
    running_ms: int | None = None
    ended_ms: int | None = None
    state: str = ""
    failure: FailureView | None = None


class Board:
    """Collects what the API shows.

    Args:
        graph: For the operators' kinds and order.
        clock: Wall and monotonic time.
    """

    def __init__(self, graph: Graph, clock: Clock) -> None:
        self.started_ms = clock.now_ms()
        self.restarts = 0
        self.last_failure: FailureView | None = None
        self._started_monotonic_ms = clock.monotonic_ms()
        self._graph = graph
        self._clock = clock
        self._runs: deque[_Run] = deque(maxlen=ATTEMPTS_SHOWN)
        self._stats: dict[int, Stats] = {}

    @property
    def uptime_ms(self) -> int:
        """How long the coordinator has been running."""
        return self._clock.monotonic_ms() - self._started_monotonic_ms

    @property
    def rejected_by_workers(self) -> int:
        """Connections that could not authenticate at the workers of the running attempt."""
        return sum(stats.rejected_peers for stats in self._stats.values())

    def attempt_begins(self, attempt: Attempt, base: CheckpointManifest) -> None:
        """An attempt is being deployed from `base`."""
        self._stats.clear()
        self._runs.append(_Run(attempt, base.id, self._clock.now_ms()))

    def attempt_runs(self) -> None:
        """The latest attempt reads."""
        self._runs[-1].running_ms = self._clock.now_ms()

    def attempt_ends(self, end: AttemptEnd) -> None:
        """The latest attempt is over."""
        run = self._runs[-1]
        run.ended_ms = self._clock.now_ms()
        if isinstance(end, Failure):
            run.state = "FAILED"
            run.failure = FailureView(end.kind, end.error, end.worker, run.ended_ms)
            self.last_failure = run.failure
        else:
            run.state = "FINISHED" if isinstance(end, Finished) else "STOPPED"

    def on_stats(self, index: int, stats: Stats) -> None:
        """Worker `index` reports."""
        self._stats[index] = stats

    def attempts(self) -> list[AttemptView]:
        """The latest attempts, oldest first."""
        return [
            AttemptView(
                id=str(run.attempt.id),
                state=run.state or str(run.attempt.phase),
                started_ms=run.started_ms,
                running_ms=run.running_ms,
                ended_ms=run.ended_ms,
                restored_checkpoint=run.restored_checkpoint,
                restored_bytes=run.attempt.restored_bytes,
                fetched_bytes=run.attempt.fetched_bytes,
                failure=run.failure,
            )
            for run in self._runs
        ]

    def workers(self, number: int, links: Mapping[int, WorkerLink]) -> list[WorkerView]:
        """The workers below `number`, by index."""
        return [self._worker(index, links.get(index)) for index in range(number)]

    def operators(self) -> list[OperatorView]:
        """All operators, in the graph's order."""
        reported: dict[str, list[OperatorStats]] = {}
        for stats in self._stats.values():
            for operator in stats.operators:
                reported.setdefault(operator.operator, []).append(operator)
        parallelism = self._runs[-1].attempt.parallelism if self._runs else 0
        return [
            _operator(node.id, node.kind, reported.get(node.id, []), parallelism) for node in self._graph.nodes.values()
        ]

    def _worker(self, index: int, link: WorkerLink | None) -> WorkerView:
        stats = self._stats.get(index)
        pids = self._runs[-1].attempt.pids if self._runs else {}
        return WorkerView(
            index=index,
            connected=link is not None,
            instance=link.instance if link else "",
            pid=link.pid if link else 0,
            task_pid=pids.get(index, 0),
            address=link.address if link else "",
            connected_ms=link.connected_ms if link else 0,
            silent_ms=self._clock.monotonic_ms() - link.last_heard_ms if link else 0,
            rss_bytes=stats.rss_bytes if stats else 0,
            state_entries=stats.state_entries if stats else 0,
            rejected_peers=stats.rejected_peers if stats else 0,
        )


def _operator(operator_id: str, kind: str, reported: Iterable[OperatorStats], parallelism: int) -> OperatorView:
    found = list(reported)
    watermark_ms = min((stats.watermark_ms for stats in found), default=MIN_TIME)
    return OperatorView(
        id=operator_id,
        kind=kind,
        records_in=sum(stats.records_in for stats in found),
        records_out=sum(stats.records_out for stats in found),
        late_records=sum(stats.late_records for stats in found),
        skipped_records=sum(stats.skipped_records for stats in found),
        busy_ms=sum(stats.busy_ms for stats in found),
        watermark_ms=watermark_ms if len(found) == parallelism and watermark_ms > MIN_TIME else None,
    )


__all__ = ["ATTEMPTS_SHOWN", "Board"]
