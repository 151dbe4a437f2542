"""What coordinator and workers say to each other.

Control to a worker is one ordered stream. The supervisor keeps the connection and acts on what concerns processes
(`Deploy`, `Drop`, `Shutdown`); everything else it hands on to the task process of that attempt, whose task thread
handles it between batches. Every message that belongs to an attempt names it, and whoever runs another one ignores it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from checkdam.checkpoint.manifest import CheckpointManifest, SubtaskSnapshot


class AttemptId(msgspec.Struct, frozen=True, order=True, array_like=True):
    """One deployment of all subtasks: number `attempt` within the life `epoch` of a coordinator."""

    epoch: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.attempt}"


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The base of all messages; the class name is the tag."""


# From workers to the coordinator


class Hello(Message, frozen=True):
    """A supervisor introduces itself: its worker index, an id that is new for every supervisor process, and the highest epoch
    that it has served (0: none), below which it obeys nobody."""

    job_id: str
    index: int
    instance: str
    pid: int
    epoch: int = 0


class Listening(Message, frozen=True):
    """A task process has built the graph and listens for its peers."""

    attempt: AttemptId
    host: str
    port: int
    fingerprint: str
    pid: int


class Ready(Message, frozen=True):
    """A task process has restored its state, committed what the checkpoint held, and is connected to all peers.

    Attributes:
        restored_bytes: Size of its part of the checkpoint.
        fetched_bytes: What had to be fetched of it from storage.
    """

    attempt: AttemptId
    restored_bytes: int = 0
    fetched_bytes: int = 0


class RequestSplits(Message, frozen=True):
    """A source subtask has read all it was given."""

    attempt: AttemptId
    source: str


class FinishedSplits(Message, frozen=True):
    """Splits read to their end, repeated until a checkpoint has completed since."""

    attempt: AttemptId
    source: str
    splits: list[str]


class Reserve(Message, frozen=True):
    """AtMostOnce: positions (split → position) up to which the worker wants to read."""

    attempt: AttemptId
    source: str
    positions: dict[str, Any]


class Ack(Message, frozen=True):
    """All subtasks of the worker have passed barrier `checkpoint` and their files are in storage."""

    attempt: AttemptId
    checkpoint: int
    snapshots: list[SubtaskSnapshot]
    processing_time_ms: int
    alignment_ms: int = 0
    pause_ms: int = 0
    uploaded_bytes: int = 0


class Decline(Message, frozen=True):
    """The worker could not take or store its part of a checkpoint."""

    attempt: AttemptId
    checkpoint: int
    error: str


class Committed(Message, frozen=True):
    """All sinks of the worker have committed everything up to `checkpoint`."""

    attempt: AttemptId
    checkpoint: int


class Ended(Message, frozen=True):
    """All input has ended and all subtasks of the worker are drained."""

    attempt: AttemptId


class OperatorStats(msgspec.Struct, frozen=True, array_like=True):
    """Counters of one operator in one worker since the attempt began."""

    operator: str
    records_in: int
    records_out: int
    late_records: int
    skipped_records: int
    busy_ms: int
    watermark_ms: int


class Stats(Message, frozen=True):
    """Sent about twice a second."""

    attempt: AttemptId
    operators: list[OperatorStats]
    rss_bytes: int
    state_entries: int
    rejected_peers: int = 0


class Failed(Message, frozen=True):
    """The attempt has failed in this worker: user code raised, a peer's connection broke, a process died."""

    attempt: AttemptId
    error: str
    kind: str = "error"
    """`error` | `user` (user code; message holds the traceback) | `peer` (a consequence of a failure elsewhere) | `process` (a task process died) | `fatal` (a restart cannot help)"""


class Leaving(Message, frozen=True):
    """The supervisor was told to end soon: a last checkpoint is welcome, and `Shutdown` when the worker is not needed any more."""


class Pong(Message, frozen=True):
    """The answer to `Ping`; by the task process if there is one, else by the supervisor."""

    sequence: int


# From the coordinator to workers


class Welcome(Message, frozen=True):
    """The answer to `Hello`. `refused` says why, if the worker must go away."""

    epoch: int
    heartbeat_timeout_ms: int
    refused: str = ""


class Deploy(Message, frozen=True):
    """Kill the task process of any earlier attempt and start one for `attempt`.

    `restore` holds this worker's part of the checkpoint to start from: the manifest with the other workers' subtasks removed.
    """

    attempt: AttemptId
    index: int
    parallelism: int
    restore: CheckpointManifest | None


class Peers(Message, frozen=True):
    """Addresses of all task processes of the attempt, by index: connect, restore, say `Ready`."""

    attempt: AttemptId
    addresses: list[tuple[str, int]]


class Start(Message, frozen=True):
    """All workers are ready: read."""

    attempt: AttemptId


class AssignSplits(Message, frozen=True):
    """Splits (id, payload, position) to read.

    `exhausted`: no split of this source is left with the coordinator. `more`: an unbounded source may still find some.
    """

    attempt: AttemptId
    source: str
    splits: list[tuple[str, Any, Any]]
    exhausted: bool
    more: bool


class Reserved(Message, frozen=True):
    """AtMostOnce: these positions are durable; reading up to them is allowed."""

    attempt: AttemptId
    source: str
    positions: dict[str, Any]


class Trigger(Message, frozen=True):
    """Take checkpoint `checkpoint`; files of its own go below `folder`.

    Attributes:
        base: The checkpoint whose files may be named again; −1 for none, which makes this one full.
        stop: Sources read nothing after this barrier.
        savepoint: Keyed state is written in the canonical format, self-contained; no sink commits when it has completed.
        drain: With `stop`: all event time passes before the barrier (watermark +∞), so that every window fires.
    """

    attempt: AttemptId
    checkpoint: int
    folder: str
    base: int
    stop: bool = False
    savepoint: bool = False
    drain: bool = False


class Prepare(Message, frozen=True):
    """Checkpoint `checkpoint` will be triggered soon: flush what can be flushed."""

    attempt: AttemptId
    checkpoint: int


class Abort(Message, frozen=True):
    """Ids ≤ `checkpoint` are void. `resume`: sources that had stopped at a barrier go on."""

    attempt: AttemptId
    checkpoint: int
    resume: bool = True


class Complete(Message, frozen=True):
    """The journal holds `checkpoint`: sinks commit everything up to it."""

    attempt: AttemptId
    checkpoint: int


class Drop(Message, frozen=True):
    """Kill the task process of `attempt`."""

    attempt: AttemptId


class Shutdown(Message, frozen=True):
    """The job has ended or was stopped, or the worker that is leaving may go."""

    reason: str


class Ping(Message, frozen=True):
    """Is anybody there? Answered by a `Pong` with the same number."""

    sequence: int


ToCoordinator = (
    Hello
    | Listening
    | Ready
    | RequestSplits
    | FinishedSplits
    | Reserve
    | Ack
    | Decline
    | Committed
    | Ended
    | Stats
    | Failed
    | Leaving
    | Pong
)
ToWorker = (
    Welcome
    | Deploy
    | Peers
    | Start
    | AssignSplits
    | Reserved
    | Trigger
    | Prepare
    | Abort
    | Complete
    | Drop
    | Shutdown
    | Ping
)

_encoder = msgspec.msgpack.Encoder()
_to_coordinator: msgspec.msgpack.Decoder[ToCoordinator] = msgspec.msgpack.Decoder(ToCoordinator)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


def encode(message: Message) -> bytes:
    """A message as the body of a frame."""
    return _encoder.encode(message)


def decode_to_coordinator(body: bytes | memoryview) -> ToCoordinator:
    """Raises: msgspec.DecodeError: not a message to a coordinator."""
    return _to_coordinator.decode(body)


def decode_to_worker(body: bytes | memoryview) -> ToWorker:
    """Raises: msgspec.DecodeError: not a message to a worker."""
    return _to_worker.decode(body)
