"""What a person sees of a running job: live tables on a terminal, plain log lines elsewhere.

Everything shown comes from the coordinator's HTTP API, so it is what an operator or a dashboard would see, too.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from checkdam.core.batch import MAX_TIME
from checkdam.core.durations import format_ms
from checkdam.core.sizes import format_bytes
from checkdam.local.api import CoordinatorApi
from checkdam.spec.streamjob import StreamJob

PLAIN_EVERY_S: Final = 5.0
"""How often a plain line says how far the job is."""

CHECKPOINTS_SHOWN: Final = 3


class Display(Protocol):
    """Where a run is shown; a context manager for as long as the job runs."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...

    async def update(self, api: CoordinatorApi) -> None:
        """Ask the coordinator how things are, and show it."""
        ...

    def output(self, line: str) -> None:
        """A line that the job printed."""
        ...

    def say(self, text: str) -> None:
        """Tell the user something."""
        ...

    def finish(self, code: int, outcome: dict[str, Any], *, killed: bool) -> None:
        """Tell how the job ended."""
        ...


class Rates:
    """Records per second of each operator, smoothed, from counters that start anew with every attempt."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def update(self, operator: str, records: int, now_s: float) -> float:
        """Take a counter into account; returns the rate now."""
        before_s, before = self._last.get(operator, (now_s, records))
        if records < before:
            before = 0
        if now_s > before_s:
            rate = (records - before) / (now_s - before_s)
            self._rates[operator] = 0.5 * self._rates.get(operator, rate) + 0.5 * rate
        self._last[operator] = (now_s, records)
        return self._rates.get(operator, 0.0)


class _Base:
    """What both displays share: printing, and telling of failures once."""

    def __init__(self, job: StreamJob) -> None:
        self._job = job
        self._console = Console(stderr=True, highlight=False)
        self._failure_told = 0
        self._restored_told = False
        self._problem_told = False
        self._late = 0

    def _count_late(self, operators: list[dict[str, Any]]) -> None:
        """Remember how many records the running attempt has found late."""
        self._late = max(self._late, sum(operator["lateRecords"] for operator in operators))

    def output(self, line: str) -> None:
        # The job's own output goes to standard output, for pipes.
        print(line, flush=True)

    def say(self, text: str) -> None:
        self._console.print(f"checkdam: {text}", markup=False, soft_wrap=True)

    def finish(self, code: int, outcome: dict[str, Any], *, killed: bool) -> None:
        state = outcome.get("state", "")
        checkpoint = outcome.get("checkpoint", "")
        # A short run may end before anybody has asked how it began.
        self._tell_restored(outcome.get("restored_from", ""))
        if self._late:
            self.say(
                f"{self._late:,} records were late: no window took them any more; "
                "allow for more disorder or lateness, or look at the side output `late`"
            )
        if killed:
            self.say(f"{self._job.job_id} was killed; run the same command again to go on from the last checkpoint")
        elif code == 0 and state == "STOPPED":
            where = f" after {checkpoint}" if checkpoint else ""
            going_on = (
                "it was drained, so it goes on only from a savepoint that is named: `--restore-from`"
                if outcome.get("drained")
                else "run the same command again to go on"
            )
            self.say(f"{self._job.job_id} stopped{where}; {going_on}")
        elif state == "DEPOSED":
            self.say(f"{self._job.job_id} was taken over by another run of it, and goes on there")
        elif code == 0:
            self.say(outcome.get("message") or f"{self._job.job_id} finished")
        else:
            self.say(
                f"{self._job.job_id} failed: {outcome.get('message') or 'its coordinator could not begin; see its log'}"
            )

    def _tell_restored(self, uri: str) -> None:
        if uri and not self._restored_told:
            self._restored_told = True
            # Checkpoint 0 is the beginning.
            if "/chk-0-" not in f"/{uri}":
                self.say(f"going on from {uri}")

    async def _tell_news(self, job: dict[str, Any], api: CoordinatorApi) -> None:
        """Say once what happened since: a restored checkpoint, a failure, checkpoints that fail."""
        self._tell_restored(job["restoredFrom"])
        problem = job["checkpointProblem"]
        if problem and not self._problem_told:
            self.say(f"a checkpoint has failed, and is tried again: {problem}")
        self._problem_told = bool(problem)
        failure = job["lastFailure"]
        if failure and failure["timeMs"] != self._failure_told:
            self._failure_told = failure["timeMs"]
            worker = "" if failure["worker"] is None else f"worker {failure['worker']}: "
            # By now another attempt may be under way.
            failures = {
                item["failure"]["timeMs"]: item["id"] for item in await api.get("/v1/attempts") or () if item["failure"]
            }
            which = failures.get(failure["timeMs"], f"{job['epoch']}.{job['attempt']}")
            self.say(f"attempt {which} failed: {worker}{failure['error']}")


class PlainDisplay(_Base):
    """Log lines."""

    def __init__(self, job: StreamJob) -> None:
        super().__init__(job)
        self._rates = Rates()
        self._next_s = 0.0
        self._state = ""

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    async def update(self, api: CoordinatorApi) -> None:
        job = await api.get("/v1/job")
        if job is None:
            return
        await self._tell_news(job, api)
        now = time.monotonic()
        if job["state"] == self._state and now < self._next_s:
            return
        self._state, self._next_s = job["state"], now + PLAIN_EVERY_S
        operators = await api.get("/v1/operators") or []
        self._count_late(operators)
        read = sum(operator["recordsOut"] for operator in operators if operator["kind"] == "source")
        rate = self._rates.update("sources", read, now)
        last = job.get("lastCheckpoint")
        checkpoint = "none" if last is None else f"{last['id']} ({format_ms(last['durationMs'] or 0)})"
        self.say(
            f"{job['state']} attempt {job['epoch']}.{job['attempt']}, {read:,} records read, {rate:,.0f}/s, "
            f"checkpoint {checkpoint}, restarts {job['restarts']}"
        )


class LiveDisplay(_Base):
    """Tables that are redrawn in place."""

    def __init__(self, job: StreamJob) -> None:
        super().__init__(job)
        self._rates = Rates()
        self._live = Live(Text("starting"), console=self._console, refresh_per_second=4, redirect_stdout=False)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def output(self, line: str) -> None:
        if sys.stdout.isatty():
            self._console.print(line, markup=False, soft_wrap=True)
        else:
            super().output(line)

    async def update(self, api: CoordinatorApi) -> None:
        job = await api.get("/v1/job")
        if job is None:
            return
        await self._tell_news(job, api)
        operators = await api.get("/v1/operators") or []
        self._count_late(operators)
        checkpoints = await api.get("/v1/checkpoints") or []
        self._live.update(Group(self._headline(job), self._operators(operators), self._checkpoints(checkpoints)))

    def _headline(self, job: dict[str, Any]) -> Text:
        colour = {"RUNNING": "green", "FINISHED": "green", "FAILED": "red"}.get(job["state"], "yellow")
        line = Text(f"{job['jobId']}  ", style="bold")
        line.append(job["state"], style=colour)
        line.append(
            f"  attempt {job['epoch']}.{job['attempt']}  restarts {job['restarts']}  "
            f"workers {job['workersConnected']}/{job['parallelism']}  up {job['uptimeMs'] // 1000} s"
        )
        return line

    def _operators(self, operators: list[dict[str, Any]]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("operator", "in", "out", "out/s", "late", "watermark"):
            table.add_column(heading, justify="left" if heading in ("operator", "watermark") else "right")
        now = time.monotonic()
        for operator in operators:
            name, out = operator["id"], operator["recordsOut"]
            rate = self._rates.update(name, out or operator["recordsIn"], now)
            late = f"{operator['lateRecords']:,}" if operator["lateRecords"] else ""
            table.add_row(
                name, f"{operator['recordsIn']:,}", f"{out:,}", f"{rate:,.0f}", late, show_time(operator["watermarkMs"])
            )
        return table

    def _checkpoints(self, checkpoints: list[dict[str, Any]]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("checkpoint", "status", "duration", "size", "uploaded"):
            table.add_column(heading, justify="left" if heading == "status" else "right")
        newest = sorted(checkpoints, key=lambda checkpoint: checkpoint["id"])[-CHECKPOINTS_SHOWN:]
        for checkpoint in newest:
            duration_ms = checkpoint["durationMs"]
            table.add_row(
                str(checkpoint["id"]),
                str(checkpoint["status"]),
                "" if duration_ms is None else format_ms(duration_ms),
                format_bytes(checkpoint["sizeBytes"]),
                format_bytes(checkpoint["uploadedBytes"]),
            )
        return table


def make_display(job: StreamJob, live: bool) -> Display:
    """A live display on a terminal, a plain one elsewhere."""
    return LiveDisplay(job) if live else PlainDisplay(job)


def show_time(time_ms: int | None) -> str:
    """A watermark for people."""
    if time_ms is None:
        return ""
    if time_ms >= MAX_TIME:
        return "end of input"
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
