"""The answers and requests of the HTTP API, as types: the OpenAPI document is generated from them.

Times are ms since the epoch by the coordinator's wall clock, durations are ms.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from checkdam.coordinator.checkpoints import CheckpointRecord, CheckpointStatus

JobState = Literal[
    "STARTING", "DEPLOYING", "RUNNING", "RESTARTING", "FINISHING", "FINISHED", "STOPPING", "STOPPED", "FAILED"
]
"""STARTING: before the first attempt. DEPLOYING: processes start and restore. RESTARTING: the same, after a failure. FINISHING:
all input has ended. STOPPING: a stop was asked for."""


class FailureView(msgspec.Struct, frozen=True, rename="camel"):
    """Why an attempt failed.

    Attributes:
        kind: `user`, `process`, `lost`, `error`, `peer`, `checkpoint`, `timeout` or `fatal`.
        error: For people; with the user's traceback where user code raised.
        worker: Index of the worker, if it was one.
        time_ms: When.
    """

    kind: str
    error: str
    worker: int | None
    time_ms: int


class JobView(msgspec.Struct, frozen=True, rename="camel"):
    """The job.

    Attributes:
        restarts: Attempts of this epoch that were followed by another.
        last_failure: Of an attempt of this epoch.
        last_checkpoint: The last completed one.
        pending_checkpoint: Number of the one in flight.
        restored_from: Folder of the checkpoint that this epoch began with.
        stop_problem: Why the last stop that was asked for did not succeed.
        rejected_peers: Connections that could not authenticate, here and at the workers.
    """

    name: str
    job_id: str
    state: JobState
    mode: str
    parallelism: int
    epoch: int
    attempt: int
    restarts: int
    started_ms: int
    uptime_ms: int
    workers_connected: int
    last_failure: FailureView | None
    last_checkpoint: CheckpointRecord | None
    pending_checkpoint: int | None
    restored_from: str
    stop_problem: str
    rejected_peers: int


class AttemptView(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt of this epoch.

    Attributes:
        id: `<epoch>.<attempt>`.
        state: DEPLOYING, RESTORING, RUNNING, FINISHING, FAILED, FINISHED or STOPPED.
        restored_checkpoint: Number of the checkpoint that it started from.
        restored_bytes: Size of that checkpoint, as far as its workers are ready.
        fetched_bytes: What they had to fetch of it from storage; the rest was in `_metadata` or on their own disks.
        running_ms: When it began to read.
    """

    id: str
    state: str
    started_ms: int
    running_ms: int | None
    ended_ms: int | None
    restored_checkpoint: int
    restored_bytes: int
    fetched_bytes: int
    failure: FailureView | None


class WorkerView(msgspec.Struct, frozen=True, rename="camel"):
    """One worker, connected or not.

    Attributes:
        instance: Id of its supervisor process.
        pid: Of the supervisor.
        task_pid: Of the task process of the running attempt.
        silent_ms: For how long nothing has been heard of it.
    """

    index: int
    connected: bool
    instance: str = ""
    pid: int = 0
    task_pid: int = 0
    address: str = ""
    connected_ms: int = 0
    silent_ms: int = 0
    rss_bytes: int = 0
    state_entries: int = 0
    rejected_peers: int = 0


class OperatorView(msgspec.Struct, frozen=True, rename="camel"):
    """One operator, over all workers; counters since the running attempt began.

    Attributes:
        watermark_ms: The least of all workers; `None` before there is one.
    """

    id: str
    kind: str
    records_in: int = 0
    records_out: int = 0
    late_records: int = 0
    skipped_records: int = 0
    busy_ms: int = 0
    watermark_ms: int | None = None


class TriggerRequest(msgspec.Struct, frozen=True):
    """Asks for a checkpoint newer than `after`; without it, newer than the last completed one.

    Attributes:
        full: It must name no file of an older one.
    """

    after: int | None = None
    full: bool = False


class TriggerAnswer(msgspec.Struct, frozen=True):
    """The checkpoint in flight, the newer one that there is already, or the one that will be taken next.

    Attributes:
        id: Its number.
        status: COMPLETED, IN_PROGRESS, or SCHEDULED where `minPause` does not allow it yet.
    """

    id: int
    status: Literal["SCHEDULED"] | CheckpointStatus


class StopRequest(msgspec.Struct, frozen=True):
    """Asks the job to stop, with a last checkpoint or at once."""

    checkpoint: bool = True


class StopAnswer(msgspec.Struct, frozen=True):
    """The stop was noted; `GET /v1/job` says what becomes of it."""

    state: JobState


class SavepointRequest(msgspec.Struct, frozen=True):
    """Asks for a savepoint.

    Attributes:
        request: A name for this wish, of the client's choice and new for every savepoint: asking again under it answers with the
            same savepoint. The coordinator makes one up where it is empty.
        stop: Stop the job with it.
        drain: Only with `stop`: let all event time pass before, so that every window and event timer fires.
    """

    request: str = ""
    stop: bool = False
    drain: bool = False


class HealthView(msgspec.Struct, frozen=True):
    """The coordinator's event loop answers."""

    status: Literal["ok"] = "ok"


class ErrorView(msgspec.Struct, frozen=True):
    """What was wrong with a request."""

    error: str


__all__ = [
    "AttemptView",
    "ErrorView",
    "FailureView",
    "HealthView",
    "JobState",
    "JobView",
    "OperatorView",
    "SavepointRequest",
    "StopAnswer",
    "StopRequest",
    "TriggerAnswer",
    "TriggerRequest",
    "WorkerView",
]
