"""Savepoint resources: those that were created, those that the schedule asks for, and those whose files go with them.

A resource without a `uri` is taken under a name made of its uid, so that it is taken once, whoever asks and however often. What has to be
deleted with a resource is noted in the StreamJob's status while the resource exists: deleting a resource then needs no finalizer, and waits for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from checkdam.spec import StreamJob
from checkdam.spec.savepoint import SavepointState, SavepointStatus
from checkdam.spec.status import READY, STALLED, Condition, Disposal, SavepointReference
from checkdam_operator.decide.actions import (
    Action,
    CreateSavepoint,
    DeleteSavepoint,
    DisposeSavepoint,
    Event,
    RequestSavepoint,
    WriteSavepointStatus,
)
from checkdam_operator.decide.conditions import set_condition
from checkdam_operator.observed import SavepointReport, SavepointSeen, Situation
from checkdam_operator.reasons import EventReason, SavepointReason
from checkdam_operator.times import iso, shown_size, time_ms

MOST_DISPOSALS: Final = 256
"""So many savepoints whose files go with them are remembered; the files of more are kept."""


@dataclass(frozen=True)
class SavepointPlan:
    """What is to be done about savepoints.

    Attributes:
        actions: In order.
        events: To be told.
        disposals: What the StreamJob's status is to remember.
        last: The newest completed savepoint, if one is newer than the status says.
        again_ms: When the next one by the clock is due.
    """

    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    disposals: tuple[Disposal, ...] = ()
    last: SavepointReference | None = None
    again_ms: int | None = None


def plan_savepoints(situation: Situation) -> SavepointPlan:
    """What is to be done about the Savepoint resources of a job."""
    actions: list[Action] = []
    events: list[Event] = []
    completed: list[SavepointReference] = []
    for savepoint in situation.savepoints:
        status, asked = _next_status(situation, savepoint)
        if asked is not None:
            actions.append(asked)
        if status != savepoint.status:
            actions.append(WriteSavepointStatus(savepoint.name, savepoint.resource_version, status))
            events += _told(savepoint, status)
        if status.state == "Completed":
            completed.append(SavepointReference(uri=status.uri, time=status.time, name=savepoint.name))
    disposals, dispose = _disposals(situation)
    scheduled, again_ms = _by_the_clock(situation)
    return SavepointPlan(
        (*actions, *dispose, *scheduled),
        tuple(events),
        disposals,
        max(completed, key=lambda reference: reference.time, default=None),
        again_ms,
    )


def request_name(savepoint: SavepointSeen) -> str:
    """The name under which the coordinator is asked for it."""
    return f"resource-{savepoint.uid}"


def status_without_job(savepoint: SavepointSeen, now_ms: int) -> SavepointStatus:
    """The status of a savepoint of a job that does not exist."""
    status = savepoint.status
    if savepoint.deleting or status.state in ("Completed", "Failed"):
        return status
    uri = savepoint.resource.spec.uri
    if uri:
        return _status(now_ms, savepoint, "Completed", SavepointReason.ADOPTED, uri=uri, time=iso(now_ms))
    message = (
        f"there is no StreamJob {savepoint.resource.spec.job} in this namespace; create it, or delete this Savepoint"
    )
    return _status(now_ms, savepoint, "Pending", SavepointReason.JOB_NOT_FOUND, message=message, request=status.request)


def _next_status(situation: Situation, savepoint: SavepointSeen) -> tuple[SavepointStatus, RequestSavepoint | None]:
    """The status of a savepoint as it is to be, and what to ask the coordinator for."""
    status, now_ms = savepoint.status, situation.now_ms
    if savepoint.deleting or status.state in ("Completed", "Failed"):
        return status, None
    uri = savepoint.resource.spec.uri
    if uri:
        return _status(now_ms, savepoint, "Completed", SavepointReason.ADOPTED, uri=uri, time=iso(now_ms)), None
    request = request_name(savepoint)
    account = situation.coordinator.savepoints.get(request)
    if account is not None and account.status == "COMPLETED":
        return _completed(now_ms, savepoint, account), None
    if account is not None and account.status == "FAILED":
        return _status(
            now_ms, savepoint, "Failed", SavepointReason.SAVEPOINT_FAILED, message=account.failure, request=request
        ), None
    if account is not None:
        return _status(
            now_ms, savepoint, "InProgress", SavepointReason.IN_PROGRESS, message="being taken", request=request
        ), None
    if situation.unheard:
        return status, None
    report = situation.report
    if report is None or report.state != "RUNNING":
        message = f"waits for the StreamJob {savepoint.resource.spec.job} to run"
        return _status(
            now_ms, savepoint, "Pending", SavepointReason.JOB_NOT_RUNNING, message=message, request=status.request
        ), None
    return (
        _status(now_ms, savepoint, "InProgress", SavepointReason.IN_PROGRESS, message="being taken", request=request),
        RequestSavepoint(request),
    )


def _completed(now_ms: int, savepoint: SavepointSeen, account: SavepointReport) -> SavepointStatus:
    return _status(
        now_ms,
        savepoint,
        "Completed",
        SavepointReason.COMPLETED,
        uri=account.uri,
        time=iso(account.requested_ms + (account.duration_ms or 0)),
        size=shown_size(account.size_bytes),
        id=account.id or 0,
        drained=account.drain,
        request=account.request,
    )


def _status(
    now_ms: int,
    savepoint: SavepointSeen,
    state: SavepointState,
    reason: SavepointReason,
    message: str = "",
    **fields: object,
) -> SavepointStatus:
    done, failed = state == "Completed", state == "Failed"
    conditions: list[Condition] = list(savepoint.status.conditions)
    generation = savepoint.generation
    set_condition(conditions, READY, "True" if done else "False", reason, message, generation, now_ms)
    set_condition(conditions, STALLED, "True" if failed else "False", reason, message, generation, now_ms)
    made = SavepointStatus(state=state, conditions=conditions, observed_generation=generation, message=message)
    return made.model_copy(update=fields)


def _told(savepoint: SavepointSeen, status: SavepointStatus) -> list[Event]:
    if status.state == "Completed" and not savepoint.resource.spec.uri:
        return [
            Event(EventReason.SAVEPOINT_COMPLETED, f"Savepoint {savepoint.name} is at {status.uri}", key=savepoint.uid)
        ]
    if status.state == "Failed":
        message = f"Savepoint {savepoint.name} failed: {status.message}; create another one to try again"
        return [Event(EventReason.SAVEPOINT_FAILED, message, warning=True, key=savepoint.uid)]
    return []


def _disposals(situation: Situation) -> tuple[tuple[Disposal, ...], list[Action]]:
    """What is to be remembered, and what to dispose of now."""
    alive = {savepoint.uid: savepoint for savepoint in situation.savepoints if not savepoint.deleting}
    remembered = {disposal.uid: disposal for disposal in situation.job.status.disposals}
    for uid, savepoint in alive.items():
        if savepoint.resource.spec.on_delete != "Delete":
            remembered.pop(uid, None)
        elif savepoint.status.state == "Completed":  # what is remembered already may be newer than what is seen of it
            remembered[uid] = Disposal(name=savepoint.name, uid=uid, uri=savepoint.status.uri)
    report = situation.report
    can_ask = report is not None and not report.ended and situation.coordinator.unreachable_since_ms is None
    kept: list[Disposal] = []
    actions: list[Action] = []
    for uid, disposal in remembered.items():
        if uid in situation.coordinator.disposed:
            continue
        kept.append(disposal)
        if uid not in alive and can_ask:
            actions.append(DisposeSavepoint(uid, disposal.uri))
    return tuple(kept[-MOST_DISPOSALS:]), actions


def _by_the_clock(situation: Situation) -> tuple[list[Action], int | None]:
    """Savepoints that the schedule asks for, and those that it no longer keeps."""
    spec = situation.job.spec
    if spec is None or situation.job.deleting:
        return [], None
    own = sorted(
        (savepoint for savepoint in situation.savepoints if savepoint.scheduled and not savepoint.deleting),
        key=lambda savepoint: (savepoint.created_ms, savepoint.name),
    )
    actions: list[Action] = []
    completed = [savepoint for savepoint in own if savepoint.status.state == "Completed"]
    surplus = completed[: max(0, len(completed) - spec.spec.savepoints.retain)]
    failed = [savepoint for savepoint in own if savepoint.status.state == "Failed"]
    actions += [DeleteSavepoint(savepoint.name, savepoint.uid) for savepoint in (*surplus, *failed[:-1])]
    due_ms = _due_ms(situation, spec, own)
    report = situation.report
    if due_ms is None or report is None or report.state != "RUNNING":
        return actions, None
    if situation.now_ms < due_ms:
        return actions, due_ms
    unfinished = any(savepoint.status.state not in ("Completed", "Failed") for savepoint in own)
    return (actions, None) if unfinished else ([*actions, CreateSavepoint(scheduled_name(spec, due_ms))], None)


def _due_ms(situation: Situation, spec: StreamJob, own: list[SavepointSeen]) -> int | None:
    """When the next one is due. Of those that were missed, only the last is made good."""
    deployment = situation.job.status.deployment
    begun_ms = (time_ms(deployment.time) if deployment is not None else None) or situation.now_ms
    last_ms = own[-1].created_ms if own else begun_ms
    due = spec.spec.savepoints.next_after(datetime.fromtimestamp(last_ms / 1000, UTC))
    return round(due.timestamp() * 1000) if due is not None else None


def scheduled_name(spec: StreamJob, due_ms: int) -> str:
    """Name of the savepoint that is due then: the same for whoever creates it."""
    return f"{spec.metadata.name}-{datetime.fromtimestamp(due_ms / 1000, UTC).strftime('%Y%m%d%H%M%S')}"
