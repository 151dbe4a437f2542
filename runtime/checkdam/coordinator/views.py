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


Refusal = Literal["", "NotResumed", "NewerCheckpoint", "Drained", "Incompatible", "Program", "Deposed"]
"""Why a coordinator did not begin, or was not let go on. NotResumed: the job was stopped, and nobody said that it is to go on. NewerCheckpoint:
the journal names another checkpoint than the one that was expected. Drained: the job was drained, which only `restoreFrom` goes on from.
Incompatible: the checkpoint does not fit the graph. Program: the program does not load, or gives no valid graph. Deposed: another
coordinator owns the job now."""


class WorkerPresence(msgspec.Struct, frozen=True, rename="camel"):
    """Whether one worker is there.

    Attributes:
        instance: Id of its supervisor process, the last one that was connected; in a pod it begins with the pod's name and `/`.
    """

    index: int
    connected: bool
    instance: str


class JobView(msgspec.Struct, frozen=True, rename="camel"):
    """The job.

    Attributes:
        parallelism: Workers of the attempt that runs, or ran last; before the first, of that.
        wanted_parallelism: How many workers the job is to have. If `parallelism` is another number it is rescaled as soon as as many are connected.
        workers_connected: Of those that are wanted.
        version: Changes with everything here but counters, times and checkpoints that complete; goes up, also from one coordinator to the next.
        restarts: Attempts of this epoch that were followed by another.
        last_failure: Of an attempt of this epoch.
        last_checkpoint: The last completed one.
        pending_checkpoint: Number of the one in flight.
        restored_from: Uri of the checkpoint that this epoch began with.
        stop_problem: Why the last stop that was tried did not succeed; while it is tried again, only if no checkpoint has completed since.
        rejected_peers: Connections that could not authenticate, here and at the workers.
        workers: Those that run and those that are wanted, by index.
        message: How the job has ended, or what it waits for before it begins; empty otherwise.
        stopped_with: Uri of the checkpoint or savepoint that the job was stopped with and goes on from; empty if it was not.
        drained: Whether that is a savepoint for which the job was drained.
        retryable: It has FAILED because of something outside of it, such as storage that cannot be reached: it may be started again.
        refusal: Why it has FAILED without having begun, or was not let go on; empty for other reasons.
        checkpoint_failures: Checkpoints that have failed one after another, whatever attempts there were meanwhile.
        checkpoint_problem: Why the last of them failed, or why it is not known yet whether the one in flight counts.
    """

    name: str
    job_id: str
    state: JobState
    mode: str
    parallelism: int
    wanted_parallelism: int
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
    version: int = 0
    workers: list[WorkerPresence] = []
    message: str = ""
    stopped_with: str = ""
    drained: bool = False
    retryable: bool = False
    refusal: Refusal = ""
    checkpoint_failures: int = 0
    checkpoint_problem: str = ""


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


class TriggerAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The checkpoint in flight, the newer one that there is already, or the one that will be taken next.

    Attributes:
        id: Its number.
        status: COMPLETED, IN_PROGRESS, or SCHEDULED where `minPause` does not allow it yet.
        last_completed: The last completed one, so that whoever triggers need not ask for what became of the one before.
    """

    id: int
    status: Literal["SCHEDULED"] | CheckpointStatus
    last_completed: CheckpointRecord | None = None


class StopRequest(msgspec.Struct, frozen=True):
    """Asks the job to stop, with a last checkpoint or at once."""

    checkpoint: bool = True


class StopAnswer(msgspec.Struct, frozen=True):
    """The stop was noted; `GET /v1/job` says what becomes of it."""

    state: JobState


class RescaleRequest(msgspec.Struct, frozen=True):
    """Asks for another number of workers."""

    parallelism: int


class RescaleAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """The wish was noted; `GET /v1/job` says what becomes of it.

    Attributes:
        parallelism: As in `JobView`.
        wanted_parallelism: As in `JobView`.
    """

    parallelism: int
    wanted_parallelism: int


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


class DisposeRequest(msgspec.Struct, frozen=True):
    """Asks to delete a savepoint.

    Attributes:
        uri: Of its folder, below the job's own.
    """

    uri: str


class DisposeAnswer(msgspec.Struct, frozen=True):
    """The savepoint is deleted, or was so before."""

    uri: str


class HealthView(msgspec.Struct, frozen=True):
    """The coordinator's event loop answers."""

    status: Literal["ok"] = "ok"


class ErrorView(msgspec.Struct, frozen=True):
    """What was wrong with a request."""

    error: str


__all__ = [
    "AttemptView",
    "DisposeAnswer",
    "DisposeRequest",
    "ErrorView",
    "FailureView",
    "HealthView",
    "JobState",
    "JobView",
    "OperatorView",
    "Refusal",
    "RescaleAnswer",
    "RescaleRequest",
    "SavepointRequest",
    "StopAnswer",
    "StopRequest",
    "TriggerAnswer",
    "TriggerRequest",
    "WorkerPresence",
    "WorkerView",
]
