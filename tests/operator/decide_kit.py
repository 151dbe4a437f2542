"""Situations for tests of decisions, written down in a few words: a job that runs well, from which each test changes what it is about."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from checkdam.spec import StreamJob, parse_manifest
from checkdam.spec.savepoint import SavepointStatus
from checkdam.spec.status import Condition, Deployment, StreamJobStatus
from checkdam_operator.decide import Decision, decide
from checkdam_operator.decide.actions import RequestSavepoint, RequestStop
from checkdam_operator.observed import (
    CheckpointReport,
    CoordinatorSeen,
    Job,
    JobReport,
    Pod,
    SavepointSeen,
    Situation,
    Slot,
    WorkerReport,
    savepoint_of,
)
from checkdam_operator.resources.config import config_map
from checkdam_operator.resources.hashes import deploy_hash
from checkdam_operator.resources.names import pod_hash, pod_name
from checkdam_operator.times import iso

UID = "uid-1"
NOW_MS = 1_800_000_000_000
IMAGE = "runtime:1"
COORDINATOR = Slot("coordinator")
STOPPED_WITH = "s3://bucket/jobs/team/words/savepoint-8-5.1-0"


def manifest(**spec: Any) -> StreamJob:
    """The job `words` with two workers, checkpoints to S3 every 10 s, and `spec` laid over that."""
    whole: dict[str, Any] = {
        "program": {"entrypoint": "words:build"},
        "parallelism": 2,
        "checkpoint": {"interval": "10s", "storage": {"uri": "s3://bucket/jobs"}},
    }
    _lay_over(whole, spec)
    return parse_manifest(
        {
            "apiVersion": "checkdam.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "words", "namespace": "team", "uid": UID},
            "spec": whole,
        }
    )


def _lay_over(base: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _lay_over(base[name], value)
        else:
            base[name] = copy.deepcopy(value)


def deployment(job: StreamJob, revision: int = 1, **changes: Any) -> Deployment:
    """The deployment of a manifest, decided an hour ago."""
    made = Deployment(
        revision=revision,
        generation=1,
        hash=deploy_hash(job),
        parallelism=job.spec.parallelism,
        config_map=config_map(job, revision, job.spec.image or IMAGE)["metadata"]["name"],
        epoch=5,
        time=iso(NOW_MS - 3_600_000),
    )
    return made.model_copy(update=changes)


def pod(slot: Slot, revision: int = 1, replaces: str = "", **changes: Any) -> Pod:
    """A pod that runs well since half an hour."""
    hashed = pod_hash(UID, slot.role, slot.index, revision, replaces)
    name = pod_name("words", UID, slot.role, slot.index, revision, replaces)
    made = Pod(
        name=name,
        uid=f"uid-{name}",
        slot=slot,
        revision=revision,
        pod_hash=hashed,
        replaces=replaces,
        created_ms=NOW_MS - 1_800_000,
        phase="Running",
        ip="10.0.0.9",
        node="node-1",
        ready=True,
        running_since_ms=NOW_MS - 1_799_000,
    )
    return replace(made, **changes)


def worker(index: int, revision: int = 1, replaces: str = "", **changes: Any) -> Pod:
    """A worker's pod."""
    return pod(Slot("worker", index), revision, replaces, **changes)


def report(**changes: Any) -> JobReport:
    """A job that runs and completed checkpoint 7 a second ago, in this epoch."""
    fields: dict[str, Any] = {
        "state": "RUNNING",
        "version": 3,
        "epoch": 5,
        "attempt": 1,
        "parallelism": 2,
        "wanted_parallelism": 2,
        "workers_connected": 2,
        "workers": [WorkerReport(0, True, worker(0).name + "/a"), WorkerReport(1, True, worker(1).name + "/b")],
        "last_checkpoint": CheckpointReport(
            7, "COMPLETED", "interval", "5.1", NOW_MS - 1_000, "chk-7-5.1-0", 300, 2**20
        ),
    }
    return JobReport(**{**fields, **changes})


def running(job: StreamJob | None = None, *, spec: StreamJob | None = None, revision: int = 1) -> Situation:
    """A job that runs as `job` says, whose resource says `spec` by now."""
    job = job or manifest()
    spec = spec or job
    deployed = deployment(job, revision)
    coordinator = pod(COORDINATOR, revision)
    workers = tuple(worker(index, revision) for index in range(job.spec.parallelism))
    situation = Situation(
        job=Job(
            namespace="team",
            name="words",
            uid=UID,
            generation=1 if spec is job else 2,
            resource_version="100",
            spec=spec,
            status=StreamJobStatus(deployment=deployed, last_working=deployed, epoch=5, attempt=1),
        ),
        now_ms=NOW_MS,
        pods=(coordinator, *workers),
        deployed=job,
        image=job.spec.image or IMAGE,
        coordinator=CoordinatorSeen(
            coordinator.uid, report=report(), running_since_ms=NOW_MS - 1_790_000, last_trigger_ms=NOW_MS - 1_000
        ),
        default_image=IMAGE,
    )
    if spec is not job:
        return situation
    settled = decide(situation)
    status = settled.status or situation.job.status
    return with_status(
        replace(situation, status_written_ms=NOW_MS),
        **{name: getattr(status, name) for name in StreamJobStatus.model_fields},
    )


def with_status(situation: Situation, **changes: Any) -> Situation:
    """The same with other fields in the status."""
    return replace(situation, job=replace(situation.job, status=situation.job.status.model_copy(update=changes)))


def with_deployment(situation: Situation, **changes: Any) -> Situation:
    """The same with another deployment in the status."""
    last = situation.job.status.deployment
    assert last is not None
    return with_status(situation, deployment=last.model_copy(update=changes))


def with_report(situation: Situation, **changes: Any) -> Situation:
    """The same with another report of the coordinator."""
    return with_coordinator(situation, report=report(**changes))


def with_coordinator(situation: Situation, **changes: Any) -> Situation:
    """The same with something else known of the coordinator."""
    return replace(situation, coordinator=replace(situation.coordinator, **changes))


def with_pod(situation: Situation, old: Pod, **changes: Any) -> Situation:
    """The same with a pod changed."""
    return replace(
        situation, pods=tuple(replace(found, **changes) if found.uid == old.uid else found for found in situation.pods)
    )


def without_coordinator(situation: Situation) -> Situation:
    """The same before anything was heard of the coordinator."""
    return replace(situation, coordinator=CoordinatorSeen())


def new_job(spec: StreamJob | None = None) -> Situation:
    """A job that was just created."""
    job = Job("team", "words", UID, generation=1, resource_version="1", spec=spec or manifest())
    return Situation(job=job, now_ms=NOW_MS, default_image=IMAGE)


def after(situation: Situation, decision: Decision) -> Situation:
    """The situation once the status of a decision was written, and its manifest stored."""
    assert decision.status is not None
    kept = decision.status.deployment
    changed = with_status(situation, **{name: getattr(decision.status, name) for name in StreamJobStatus.model_fields})
    if decision.before and kept is not None:
        return replace(changed, deployed=situation.job.spec)
    return changed


def savepoint(
    name: str, *, job: str = "words", status: SavepointStatus | None = None, scheduled: bool = False, **spec: Any
) -> SavepointSeen:
    """A Savepoint resource, created a minute ago."""
    body = {
        "apiVersion": "checkdam.dev/v1alpha1",
        "kind": "Savepoint",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": iso(NOW_MS - 60_000),
            "labels": {"scheduled": "true"} if scheduled else {},
        },
        "spec": {"job": job, **spec},
        "status": (status or SavepointStatus()).model_dump(mode="json", by_alias=True),
    }
    seen = savepoint_of(body, "scheduled")
    assert seen is not None
    return seen


def condition(decision: Decision, kind: str) -> Condition:
    """A condition that a decision writes."""
    assert decision.status is not None
    found = decision.status.condition(kind)
    assert found is not None
    return found


def reasons(decision: Decision) -> list[str]:
    """The reasons of the events that a decision tells."""
    return [event.reason for event in decision.events]


def asked_to_stop(decision: Decision) -> list[object]:
    """What a decision asks the coordinator for, to stop the job."""
    return [action for action in decision.actions if isinstance(action, RequestSavepoint | RequestStop)]


def stopped(situation: Situation, uri: str = STOPPED_WITH) -> Situation:
    """The job was stopped, with what lies at `uri`."""
    return with_report(situation, state="STOPPED", stopped_with=uri, message="stopped with checkpoint 8")
