"""What the API speaks for: a coordinator from its start to the end of its process, whether or not there is a job to ask.

Before the journal is fenced there is no job yet, and when a job could not begin there never is one; after the end there is one that
does nothing any more. Whoever asks gets an answer all the same, which says what is so and why.

The version of the answer is found by comparing: each look at the job tells whether it has changed since the last one. So nobody who
changes something has to remember to say so, and a job that nobody watches costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from checkdam.coordinator.ending import Ending
from checkdam.coordinator.job import Job, NotNowError
from checkdam.coordinator.views import JobState, JobView
from checkdam.core.clock import Clock
from checkdam.spec import StreamJob

_LOOK_EVERY_S: Final = 0.05
_ALMOST: Final[dict[JobState, JobState]] = {"FINISHED": "FINISHING", "STOPPED": "STOPPING", "FAILED": "STOPPING"}


@dataclass(frozen=True)
class Identity:
    """What is known of a job without its program."""

    name: str
    job_id: str
    mode: str
    parallelism: int

    @classmethod
    def of(cls, job: StreamJob) -> Identity:
        """The identity of a job."""
        spec = job.spec
        return cls(job.metadata.name, job.job_id, spec.checkpoint.mode, spec.parallelism)

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Identity:
        """As far as a manifest that is wrong tells."""
        metadata = manifest.get("metadata")
        name = str(metadata.get("name", "")) if isinstance(metadata, Mapping) else ""
        return cls(name, "", "", 0)


class Front:
    """What the API speaks for.

    Args:
        identity: Of the job.
        clock: Wall and monotonic time.

    Attributes:
        identity: The same.
        job: The job, once the journal is fenced.
        ended: How it has ended, once it has.
        waiting_for: What it waits for before it begins, for people.
    """

    def __init__(self, identity: Identity, clock: Clock) -> None:
        self.identity = identity
        self.job: Job | None = None
        self.ended: Ending | None = None
        self.waiting_for = ""
        self._clock = clock
        self._started_ms = clock.now_ms()
        self._started_monotonic_ms = clock.monotonic_ms()
        # Above all numbers of an earlier coordinator, or whoever knows one of those would wait for a change that has been.
        self._version = self._started_ms
        self._seen: JobView | None = None
        self._closing = False

    def view(self) -> JobView:
        """The job as of now."""
        view = self.job.view() if self.job is not None else self._without_job()
        if self.ended is not None:
            view = _at_the_end(view, self.ended)
        elif view.state in _ALMOST:
            # How it ended is told with why, and never before.
            view = msgspec.structs.replace(view, state=_ALMOST[view.state])
        lasting = msgspec.structs.replace(
            view, uptime_ms=0, last_checkpoint=None, pending_checkpoint=None, rejected_peers=0
        )
        if lasting != self._seen:
            self._seen = lasting
            self._version += 1
        return msgspec.structs.replace(view, version=self._version)

    async def changed(self, version: int, timeout_s: float) -> JobView:
        """The job as soon as its version is not `version`, or after `timeout_s`."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while (view := self.view()).version == version and not self._closing:
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            await asyncio.sleep(min(_LOOK_EVERY_S, left_s))
        return view

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closing = True

    def asked(self) -> Job:
        """The job, for something that only one that has begun can do.

        Raises:
            NotNowError: There is none.
        """
        if self.job is None:
            raise NotNowError(f"the job has not begun (it is {self.view().state})")
        return self.job

    def _without_job(self) -> JobView:
        identity = self.identity
        return JobView(
            name=identity.name,
            job_id=identity.job_id,
            state="STARTING",
            mode=identity.mode,
            parallelism=identity.parallelism,
            wanted_parallelism=identity.parallelism,
            epoch=0,
            attempt=0,
            restarts=0,
            started_ms=self._started_ms,
            uptime_ms=self._clock.monotonic_ms() - self._started_monotonic_ms,
            workers_connected=0,
            last_failure=None,
            last_checkpoint=None,
            pending_checkpoint=None,
            restored_from="",
            stop_problem="",
            rejected_peers=0,
            message=self.waiting_for,
        )


def _at_the_end(view: JobView, ended: Ending) -> JobView:
    return msgspec.structs.replace(
        view,
        state=ended.job_state,
        message=ended.message,
        refusal=ended.refusal,
        retryable=ended.retryable,
        stopped_with=ended.stopped_with,
        drained=ended.drained and bool(ended.stopped_with),
        epoch=view.epoch or ended.epoch,
        last_checkpoint=view.last_checkpoint or ended.record,
        restored_from=view.restored_from or ended.restored_from,
    )


__all__ = ["Front", "Identity"]
