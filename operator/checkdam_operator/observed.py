"""What the operator sees of one job: the whole input of a decision, as data.

The API server's objects are read into small frozen classes that hold what decisions depend on and nothing else, so a test can write a
situation down in a few lines, and a decision cannot hang on what nobody meant it to. Times are milliseconds since the epoch by the wall clock;
those that come from the API server have whole seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

import msgspec

from checkdam.spec import ManifestError, Savepoint, StreamJob, parse_manifest, parse_savepoint
from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import StreamJobStatus
from checkdam_operator.reasons import StalledReason
from checkdam_operator.resources.hashes import deploy_hash
from checkdam_operator.resources.names import (
    COMPONENT_LABEL,
    INDEX_LABEL,
    POD_HASH_LABEL,
    REPLACEMENTS_ANNOTATION,
    REPLACES_ANNOTATION,
    REVISION_LABEL,
)
from checkdam_operator.times import time_ms

Role = Literal["coordinator", "worker"]

CONTAINER: Final = "checkdam"
"""The container of a pod that runs Checkdam; others are sidecars."""


_METADATA_OF_SPEC: Final = frozenset({"name", "namespace", "uid", "labels", "annotations"})
"""What a StreamJob reads of its metadata."""


@dataclass(frozen=True, order=True)
class Slot:
    """A place in a job that one pod fills.

    Attributes:
        role: `coordinator` or `worker`.
        index: Of the worker; 0 for the coordinator.
    """

    role: Role
    index: int = 0

    def __str__(self) -> str:
        return self.role if self.role == "coordinator" else f"worker {self.index}"


@dataclass(frozen=True)
class Termination:
    """How a container ended.

    Attributes:
        reason: Kubernetes' word, such as `OOMKilled` or `Error`.
        exit_code: Of its process.
        message: What it left in its termination log.
        finished_ms: When.
    """

    reason: str = ""
    exit_code: int = 0
    message: str = ""
    finished_ms: int = 0

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel ended it for using more memory than its limit."""
        return self.reason == "OOMKilled"


@dataclass(frozen=True)
class Pod:
    """One pod of the job.

    Attributes:
        name: Its name.
        uid: Its uid.
        slot: The place that it fills.
        revision: The deployment that it belongs to.
        pod_hash: The hash in its name, which the coordinator's Service selects.
        replaces: Uid of the pod that it took the place of; empty for the first.
        replacements: How many pods in a row were replaced before it.
        created_ms: When it was created.
        deleting: Whether it is being deleted.
        phase: Kubernetes' phase.
        ip: Its address; empty before it has one.
        node: Where it runs; empty before it is scheduled.
        ready: Whether Kubernetes calls it ready.
        running_since_ms: When the container was started, if it runs.
        restart_count: How often the kubelet has started the container again.
        waiting_reason: Why the container does not run, such as `ImagePullBackOff`; empty if it does.
        waiting_message: The same for people.
        terminated: How the container ended, where it has ended and was not started again yet.
        last_terminated: How it ended before it was started again.
        unschedulable: The scheduler's message, if it finds no node.
        evicted: Why Kubernetes ends the pod, if it does: the reason of the pod itself.
        disrupted: Whether Kubernetes says that it ends the pod for a reason that lies outside of it (`DisruptionTarget`): a drain, a node
            that is short of something or shuts down, a pod that is more important. One that exceeds its own limit for local storage is not.
    """

    name: str
    uid: str
    slot: Slot
    revision: int
    pod_hash: str = ""
    replaces: str = ""
    replacements: int = 0
    created_ms: int = 0
    deleting: bool = False
    phase: str = "Pending"
    ip: str = ""
    node: str = ""
    ready: bool = False
    running_since_ms: int | None = None
    restart_count: int = 0
    waiting_reason: str = ""
    waiting_message: str = ""
    terminated: Termination | None = None
    last_terminated: Termination | None = None
    unschedulable: str = ""
    evicted: str = ""
    disrupted: bool = False

    @property
    def last_end(self) -> Termination | None:
        """How its container ended last, whether it was started again or not; `None` if it never has."""
        return self.terminated or self.last_terminated


class CheckpointReport(msgspec.Struct, frozen=True, rename="camel"):
    """A checkpoint, as the coordinator shows it."""

    id: int
    status: str = ""
    cause: str = ""
    attempt: str = ""
    triggered_ms: int = 0
    folder: str = ""
    duration_ms: int | None = None
    size_bytes: int = 0
    failure: str = ""


class FailureReport(msgspec.Struct, frozen=True, rename="camel"):
    """Why an attempt failed, as the coordinator shows it."""

    kind: str = ""
    error: str = ""
    worker: int | None = None
    time_ms: int = 0


class WorkerReport(msgspec.Struct, frozen=True, rename="camel"):
    """A worker, as the coordinator sees it; `instance` begins with the pod's name."""

    index: int
    connected: bool = False
    instance: str = ""

    @property
    def pod_name(self) -> str:
        """The pod that was connected last; empty if none was."""
        return self.instance.partition("/")[0]


class JobReport(msgspec.Struct, frozen=True, rename="camel"):
    """The coordinator's answer to `GET /v1/job`: what an operator needs of it; other fields are skipped.

    `parallelism` is the number of workers of the attempt that runs, or ran last; `wanted_parallelism` is the one that the coordinator was told last.
    """

    state: str
    version: int = 0
    epoch: int = 0
    attempt: int = 0
    restarts: int = 0
    parallelism: int = 0
    wanted_parallelism: int = 0
    workers_connected: int = 0
    workers: list[WorkerReport] = []
    last_failure: FailureReport | None = None
    last_checkpoint: CheckpointReport | None = None
    restored_from: str = ""
    stop_problem: str = ""
    message: str = ""
    stopped_with: str = ""
    drained: bool = False
    retryable: bool = False
    refusal: str = ""
    checkpoint_failures: int = 0
    checkpoint_problem: str = ""

    @property
    def running(self) -> bool:
        """Whether records are being processed."""
        return self.state in ("RUNNING", "FINISHING")

    @property
    def ended(self) -> bool:
        """Whether the coordinator has nothing left to do."""
        return self.state in ("FINISHED", "STOPPED", "FAILED")


class SavepointReport(msgspec.Struct, frozen=True, rename="camel"):
    """The coordinator's account of a savepoint that was asked for."""

    request: str
    status: str = "IN_PROGRESS"
    id: int | None = None
    uri: str = ""
    size_bytes: int = 0
    duration_ms: int | None = None
    failure: str = ""
    requested_ms: int = 0
    drain: bool = False


@dataclass(frozen=True)
class CoordinatorSeen:
    """What is known of the coordinator.

    Attributes:
        pod_uid: The pod that all this is about.
        followed_since_ms: Since when it has been asked; 0 if it is not.
        report: The newest report; `None` before the first.
        unreachable_since_ms: Since when it has not answered; `None` while it does.
        not_running_since_ms: Since when its reports have said that no records are processed; `None` while they are.
        missing_since_ms: worker index → since when it has not been connected.
        savepoints: request → the newest account of the savepoints that were asked for here.
        disposed: Uids of Savepoint resources whose files the coordinator has deleted, or never will.
        last_trigger_ms: When a checkpoint was last asked for.
        last_stop_ms: When the job was last asked to stop, other than with a savepoint; 0 if it was not.
        last_rescale_ms: When it was last told how many workers the job is to have; 0 if it was not.
        running_since_ms: Since when its reports have said that records are processed; `None` while they do not.
    """

    pod_uid: str = ""
    followed_since_ms: int = 0
    report: JobReport | None = None
    unreachable_since_ms: int | None = None
    not_running_since_ms: int | None = None
    missing_since_ms: Mapping[int, int] = field(default_factory=dict)
    savepoints: Mapping[str, SavepointReport] = field(default_factory=dict)
    disposed: frozenset[str] = frozenset()
    last_trigger_ms: int = 0
    last_stop_ms: int = 0
    last_rescale_ms: int = 0
    running_since_ms: int | None = None


@dataclass(frozen=True)
class Trouble:
    """Something that keeps a job from going on, and what to do about it.

    Attributes:
        reason: One word for programs.
        message: What is so, naming the thing, and the remedy.
        since_ms: Since when, as far as known.
    """

    reason: StalledReason
    message: str
    since_ms: int = 0


@dataclass(frozen=True)
class Job:
    """The StreamJob resource.

    Attributes:
        namespace: Its namespace.
        name: Its name.
        uid: Its uid.
        generation: Of the spec.
        resource_version: Of the whole object.
        deleting: Whether it is being deleted.
        spec: What the spec says; `None` if it is wrong.
        problems: What is wrong with the spec, one sentence each.
        status: What was last written.
    """

    namespace: str
    name: str
    uid: str
    generation: int = 1
    resource_version: str = ""
    deleting: bool = False
    spec: StreamJob | None = None
    problems: tuple[str, ...] = ()
    status: StreamJobStatus = field(default_factory=StreamJobStatus)

    @cached_property
    def spec_hash(self) -> str:
        """Hash over the deployed part of the spec; empty if the spec is wrong."""
        return deploy_hash(self.spec) if self.spec is not None else ""


@dataclass(frozen=True)
class SavepointSeen:
    """A Savepoint resource of the job."""

    name: str
    uid: str
    created_ms: int
    resource: Savepoint
    status: SavepointStatus = field(default_factory=SavepointStatus)
    generation: int = 1
    resource_version: str = ""
    scheduled: bool = False
    deleting: bool = False


@dataclass(frozen=True)
class Situation:
    """Everything that a decision about one job depends on.

    Attributes:
        job: The resource.
        now_ms: The time.
        pods: All pods of the job, of whatever revision.
        deployed: The manifest of `job.status.deployment`, as its pods read it; `None` if there is none or it is lost.
        image: What the deployed pods run.
        coordinator: What is known of the coordinator.
        savepoints: The job's Savepoint resources.
        restore_source: The Savepoint resource that `spec.restoreFrom` names, of whatever job, if it names one that exists.
        trouble: What the API server refused when it was last asked for something, or what it tells of pods that do not start.
        default_image: What pods run where `spec.image` is empty.
        status_written_ms: When the status was last written by this operator; 0 if it was not.
        last_pods: Slot → the pod that this operator knew in it last, there or gone.
    """

    job: Job
    now_ms: int
    pods: tuple[Pod, ...] = ()
    deployed: StreamJob | None = None
    image: str = ""
    coordinator: CoordinatorSeen = CoordinatorSeen()
    savepoints: tuple[SavepointSeen, ...] = ()
    restore_source: SavepointSeen | None = None
    trouble: Trouble | None = None
    default_image: str = ""
    status_written_ms: int = 0
    last_pods: Mapping[Slot, Pod] = field(default_factory=dict)

    @property
    def report(self) -> JobReport | None:
        """The coordinator's report, if it is of a pod of the deployment that exists."""
        deployment = self.job.status.deployment
        if deployment is None:
            return None
        ours = {pod.uid for pod in self.pods if pod.revision == deployment.revision}
        return self.coordinator.report if self.coordinator.pod_uid in ours else None

    @property
    def unheard(self) -> bool:
        """Whether this operator has just begun to ask the coordinator: what the operator before has written is the newest that is known."""
        seen = self.coordinator
        asking = bool(seen.pod_uid) and seen.report is None and seen.unreachable_since_ms is None
        return asking and not self.status_written_ms


def job_of(resource: Mapping[str, Any]) -> Job:
    """A StreamJob as the API server holds it."""
    metadata = resource["metadata"]
    spec, problems = _spec_of(resource)
    return Job(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        resource_version=metadata.get("resourceVersion", ""),
        deleting="deletionTimestamp" in metadata,
        spec=spec,
        problems=problems,
        status=_status(resource.get("status") or {}),
    )


def _spec_of(resource: Mapping[str, Any]) -> tuple[StreamJob | None, tuple[str, ...]]:
    """What a StreamJob is to be, and what is wrong with that."""
    metadata = {name: value for name, value in resource["metadata"].items() if name in _METADATA_OF_SPEC}
    given = {name: value for name, value in resource.items() if name not in ("metadata", "status")}
    return _parsed(msgspec.json.encode({**given, "metadata": metadata}))


@lru_cache(maxsize=4096)
def _parsed(text: bytes) -> tuple[StreamJob | None, tuple[str, ...]]:
    # A status is written more often than a spec, and what has not changed need not be parsed again.
    try:
        return parse_manifest(msgspec.json.decode(text)), ()
    except ManifestError as error:
        return None, tuple(error.problems)


def _status(data: Mapping[str, Any]) -> StreamJobStatus:
    # Written by us alone; what another version wrote differently is observed again.
    try:
        return StreamJobStatus.model_validate(dict(data))
    except ValueError:
        kept = {name: value for name, value in data.items() if name in ("deployment", "lastWorking")}
        return StreamJobStatus.model_validate(kept)


def savepoint_of(resource: Mapping[str, Any], scheduled_label: str) -> SavepointSeen | None:
    """A Savepoint as the API server holds it; `None` if it is wrong."""
    metadata = resource["metadata"]
    try:
        parsed = parse_savepoint(resource)
    except ManifestError:
        return None
    return SavepointSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        created_ms=time_ms(metadata.get("creationTimestamp")) or 0,
        resource=parsed,
        status=SavepointStatus.model_validate(parsed.status),
        generation=metadata.get("generation", 1),
        resource_version=metadata.get("resourceVersion", ""),
        scheduled=scheduled_label in metadata.get("labels", {}),
        deleting="deletionTimestamp" in metadata,
    )


def pod_of(resource: Mapping[str, Any]) -> Pod | None:
    """A pod as the API server holds it; `None` if its labels are not those of a job's pod."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    role, revision = labels.get(COMPONENT_LABEL), labels.get(REVISION_LABEL, "")
    index = labels.get(INDEX_LABEL, "0")
    if role not in ("coordinator", "worker") or not revision.isdecimal() or not index.isdecimal():
        return None
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    statuses: list[Mapping[str, Any]] = status.get("containerStatuses") or []
    container = next((found for found in statuses if found["name"] == CONTAINER), {})
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    replacements = annotations.get(REPLACEMENTS_ANNOTATION, "0")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        slot=Slot(role, int(index)),
        revision=int(revision),
        pod_hash=labels.get(POD_HASH_LABEL, ""),
        replaces=annotations.get(REPLACES_ANNOTATION, ""),
        replacements=int(replacements) if replacements.isdecimal() else 0,
        created_ms=time_ms(metadata.get("creationTimestamp")) or 0,
        deleting="deletionTimestamp" in metadata,
        phase=status.get("phase", "Pending"),
        ip=status.get("podIP", ""),
        node=(resource.get("spec") or {}).get("nodeName", ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        running_since_ms=time_ms((state.get("running") or {}).get("startedAt")),
        restart_count=container.get("restartCount", 0),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        terminated=_termination(state.get("terminated")),
        last_terminated=_termination((container.get("lastState") or {}).get("terminated")),
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
        evicted=status.get("reason", "") if status.get("phase") == "Failed" else "",
        disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
    )


def _termination(data: Mapping[str, Any] | None) -> Termination | None:
    if data is None:
        return None
    return Termination(
        data.get("reason", ""), data.get("exitCode", 0), data.get("message", ""), time_ms(data.get("finishedAt")) or 0
    )
