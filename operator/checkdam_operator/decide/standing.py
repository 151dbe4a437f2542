"""Where a job stands: the status that people, `kubectl wait` and GitOps tools read, made from what is so and not from what was said before.

`Ready` says whether the job does what its spec asks for, so it is true as well for a job that is suspended or completed as it should be. `Progressing` is
true while something is under way, `Stalled` when nothing will change by itself or soon, and its message names the remedy. It goes when the cause goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from checkdam.spec.status import (
    CHECKPOINT_HEALTHY,
    PROGRESSING,
    READY,
    STALLED,
    CheckpointStatus,
    Condition,
    ConditionStatus,
    Deployment,
    SavepointReference,
    State,
    StreamJobStatus,
    Workers,
)
from checkdam_operator.decide.conditions import set_condition
from checkdam_operator.decide.rescale import is_under_way, runs_on, what_is_under_way
from checkdam_operator.decide.rollout import Rollout, deadline_of, is_rejected
from checkdam_operator.decide.stopping import is_volatile
from checkdam_operator.decide.troubles import last_line, what_is_missing
from checkdam_operator.observed import JobReport, Pod, Situation, Trouble
from checkdam_operator.reasons import CheckpointReason, NotStalledReason, ReadyReason, StalledReason
from checkdam_operator.resources.names import WORKER, selector
from checkdam_operator.times import iso, shown_duration, shown_size

FAILING_RESTARTS: Final = 3
"""After so many restarts of one life of the coordinator, an attempt that fails is no accident."""

SETTLED_MS: Final = 15_000
"""How long an attempt must run before a job whose attempts failed counts as well again."""


@dataclass(frozen=True)
class Standing:
    """Where a job stands.

    Attributes:
        state: In one word.
        ready: Of the condition `Ready`.
        reason: Of the conditions.
        message: For people.
        progressing: Whether something is under way.
        trouble: Why it does not go on.
    """

    state: State
    ready: bool
    reason: StalledReason | ReadyReason
    message: str
    progressing: bool = False
    trouble: Trouble | None = field(default=None)


def stand(situation: Situation, rollout: Rollout, trouble: Trouble | None) -> Standing:
    """Where the job stands.

    Args:
        situation: The job.
        rollout: What becomes of its deployment.
        trouble: What keeps its pods from running.
    """
    job = situation.job
    deployment = job.status.deployment
    if job.problems:
        return _invalid(situation, trouble)
    if deployment is None:
        reason = rollout.trouble
        return Standing(
            "Pending",
            False,
            reason.reason if reason else ReadyReason.PENDING,
            reason.message if reason else "about to be deployed",
            reason is None,
            reason,
        )
    if rollout.change not in ("", "Deploy"):
        return _changing(situation, rollout)
    if deployment.outcome or deployment.suspended:
        return _at_rest(situation, deployment)
    return _running(situation, deployment, trouble)


def _invalid(situation: Situation, trouble: Trouble | None) -> Standing:
    message = "; ".join(situation.job.problems)
    stalled = Trouble(StalledReason.INVALID_SPEC, f"{message}; correct the spec")
    if situation.job.status.deployment is None:
        return Standing("Invalid", False, StalledReason.INVALID_SPEC, message, trouble=stalled)
    running = situation.report is not None and situation.report.running and trouble is None
    note = " (the version before runs on)" if running else ""
    return Standing("Invalid", False, StalledReason.INVALID_SPEC, f"{message}{note}", trouble=stalled)


def _changing(situation: Situation, rollout: Rollout) -> Standing:
    stopping = rollout.stopping
    message = f"{rollout.change.lower()} is under way"
    if stopping is not None and stopping.waiting_for:
        failure = f"; the last try to stop the job failed: {stopping.failure}" if stopping.failure else ""
        message = f"waits for {stopping.waiting_for}{failure}"
    state: State = "Stopping" if rollout.change == "Suspend" else "Upgrading"
    if rollout.trouble is not None:
        report = situation.report
        note = "; the version before runs on" if report is not None and report.running else ""
        trouble = Trouble(rollout.trouble.reason, f"{rollout.trouble.message}{note}")
        return Standing(state, False, trouble.reason, trouble.message, trouble=trouble)
    return Standing(state, False, ReadyReason(rollout.change), message, progressing=True)


def _at_rest(situation: Situation, deployment: Deployment) -> Standing:
    if deployment.suspended:
        kept = (
            "; its state was in memory alone, and it will start afresh"
            if is_volatile(situation)
            else " with its state kept"
        )
        return Standing("Suspended", True, ReadyReason.SUSPENDED, f"stopped as the spec says{kept}")
    if deployment.outcome == "Completed":
        return Standing("Completed", True, ReadyReason.COMPLETED, deployment.message)
    rejection = _rejection(situation)
    note = f"; before that, {rejection.message}" if rejection is not None else ""
    trouble = Trouble(StalledReason(f"Job{deployment.outcome}"), f"{deployment.message}{note}")
    return Standing("Failed", False, trouble.reason, trouble.message, trouble=trouble)


def _running(situation: Situation, deployment: Deployment, trouble: Trouble | None) -> Standing:
    report = situation.report
    rejection = _rejection(situation)
    if report is not None and report.running and situation.coordinator.unreachable_since_ms is None:
        failing = _still_failing(situation)
        if failing is not None:
            return Standing("Restarting", False, failing.reason, failing.message, trouble=failing)
        if is_under_way(report, deployment):
            return _rescaling(report, deployment, trouble)
        message = f"revision {deployment.revision} runs with {deployment.parallelism} workers"
        if rejection is not None:
            return Standing("Running", False, rejection.reason, rejection.message, trouble=rejection)
        # What is in the way of something else does not make a job that runs less ready.
        return Standing("Running", True, ReadyReason.RUNNING, message, trouble=trouble)
    state: State = "Restarting" if _has_run(situation, deployment) else "Starting"
    if trouble is None and report is not None and report.state == "FAILED":
        trouble = Trouble(StalledReason.CANNOT_START, f"{report.message}; it is tried again")
    if trouble is None:
        trouble = _lasting(situation, report) or _failing(report) or _overdue(situation, deployment)
    if trouble is not None:
        return Standing(state, False, trouble.reason, trouble.message, trouble=trouble)
    message = what_is_missing(report, deployment)
    ready = situation.job.status.condition(READY)
    if ready is not None and ready.reason == ReadyReason.RESCALE:
        # The attempt with more or fewer workers begins: nothing has failed, and nothing has to recover.
        return Standing("Upgrading", False, ReadyReason.RESCALE, message, True, rejection)
    return Standing(state, False, ReadyReason(state), message, True, rejection)


def _rescaling(report: JobReport, deployment: Deployment, trouble: Trouble | None) -> Standing:
    """A job that runs is not ready with another number of workers than it is to have, so that whoever changes it can wait for that."""
    if trouble is not None:
        stalled = runs_on(trouble, report)
        return Standing("Upgrading", False, stalled.reason, stalled.message, trouble=stalled)
    message = what_is_under_way(report, deployment)
    return Standing("Upgrading", False, ReadyReason.RESCALE, message, progressing=True)


def _has_run(situation: Situation, deployment: Deployment) -> bool:
    """Whether the job has run before, as far as known: after that a start is a restart."""
    status = situation.job.status
    return status.last_working is not None or (status.deployment == deployment and status.attempt > 1)


def _lasting(situation: Situation, report: JobReport | None) -> Trouble | None:
    """The trouble that a coordinator had told of before it was started again, until the new one has come further."""
    last = situation.job.status.condition(STALLED)
    if report is None and last is not None and last.status == "True" and last.reason == StalledReason.CANNOT_START:
        return Trouble(StalledReason.CANNOT_START, last.message)
    return None


def _failing(report: JobReport | None) -> Trouble | None:
    """Attempts that fail one after the other: each is followed by another, but none will do better."""
    failure = report.last_failure if report is not None else None
    if report is None or failure is None or report.restarts < FAILING_RESTARTS:
        return None
    return Trouble(
        StalledReason.ATTEMPTS_FAIL,
        f"attempts fail again and again, the last one because {last_line(failure.error)}; correct the cause; "
        "until then it is tried again as `spec.restart` says",
        failure.time_ms,
    )


def _still_failing(situation: Situation) -> Trouble | None:
    """A job whose attempts failed is not called well as soon as the next one runs, but when that has lasted a while."""
    last, since_ms = situation.job.status.condition(STALLED), situation.coordinator.running_since_ms
    if last is None or last.status != "True" or last.reason != StalledReason.ATTEMPTS_FAIL or since_ms is None:
        return None
    return Trouble(StalledReason.ATTEMPTS_FAIL, last.message) if situation.now_ms - since_ms < SETTLED_MS else None


def _overdue(situation: Situation, deployment: Deployment) -> Trouble | None:
    """A version that has not come to run for too long, without saying why."""
    spec = situation.job.spec
    if spec is None or situation.now_ms < deadline_of(situation, spec, deployment) or _has_run(situation, deployment):
        return None
    missing = what_is_missing(situation.report, deployment)
    return Trouble(
        StalledReason.PROGRESS_DEADLINE_EXCEEDED,
        f"the job has not come to run within {spec.spec.upgrade.progress_deadline}: it {missing}; "
        "`kubectl describe` and the logs of its pods may say more",
    )


def _rejection(situation: Situation) -> Trouble | None:
    spec, rejected = situation.job.spec, situation.job.status.rejected
    if spec is None or rejected is None or not is_rejected(situation, spec):
        return None
    return Trouble(
        StalledReason.ROLLED_BACK,
        f"generation {rejected.generation} was rolled back to the version before, because {rejected.message}; change the spec to try again",
    )


def write_status(
    situation: Situation, standing: Standing, pods: tuple[Pod, ...], deployment: Deployment | None, **changes: object
) -> StreamJobStatus:
    """The whole status.

    Args:
        situation: The job.
        standing: Where it stands.
        pods: The pods that fill its slots.
        deployment: As it is to be from now on.
        changes: Fields that other parts of the decision determine.
    """
    job, report = situation.job, situation.report
    status = job.status
    now_ms, generation = situation.now_ms, job.generation
    conditions: list[Condition] = list(status.conditions)
    ready: ConditionStatus = "True" if standing.ready else "False"
    set_condition(conditions, READY, ready, standing.reason, standing.message, generation, now_ms)
    progressing: ConditionStatus = "True" if standing.progressing else "False"
    set_condition(conditions, PROGRESSING, progressing, standing.reason, standing.message, generation, now_ms)
    if standing.trouble is not None:
        trouble = standing.trouble
        set_condition(conditions, STALLED, "True", trouble.reason, trouble.message, generation, now_ms)
    else:
        set_condition(conditions, STALLED, "False", NotStalledReason.OPERATING, "", generation, now_ms)
    healthy, reason, message = _checkpoint_health(report, standing)
    set_condition(conditions, CHECKPOINT_HEALTHY, healthy, reason, message, generation, now_ms)
    active = deployment is not None and not deployment.suspended and not deployment.outcome
    desired = deployment.parallelism if deployment is not None and active else 0
    ready_workers = report.workers_connected if report is not None and active else 0
    begun = report if report is not None and report.attempt else None
    made = StreamJobStatus(
        conditions=conditions,
        state=standing.state,
        observed_generation=generation,
        epoch=begun.epoch if begun is not None else status.epoch,
        attempt=begun.attempt if begun is not None else status.attempt,
        restarts=_restarts(situation),
        workers=Workers(ready=ready_workers, desired=desired),
        workers_text=f"{ready_workers}/{desired}",
        replicas=sum(pod.slot.role == WORKER for pod in pods),
        selector=selector(job.uid, WORKER),
        last_checkpoint=_last_checkpoint(situation),
        last_savepoint=status.last_savepoint,
        restored_from=_uri(situation, report.restored_from) if report is not None else status.restored_from,
        deployment=deployment,
        last_working=status.last_working,
        rejected=status.rejected,
        disposals=status.disposals,
        image=situation.image or status.image,
    )
    return made.model_copy(update=changes)


def _checkpoint_health(report: JobReport | None, standing: Standing) -> tuple[ConditionStatus, CheckpointReason, str]:
    if report is None or not report.running:
        return "Unknown", CheckpointReason.NOT_RUNNING, f"the job is {standing.state.lower()}"
    if report.checkpoint_failures or report.checkpoint_problem:
        number = report.checkpoint_failures
        what = {
            0: "it is not known yet whether the last checkpoint counts, and no other is taken until it is",
            1: "the last checkpoint failed",
        }.get(number, f"the last {number} checkpoints failed")
        return (
            "False",
            CheckpointReason.CHECKPOINTS_FAIL,
            f"{what}: {report.checkpoint_problem}; after a failure the job would go back to the last good one",
        )
    if report.last_checkpoint is None:
        return "Unknown", CheckpointReason.NONE_YET, "no checkpoint has completed yet"
    return "True", CheckpointReason.CHECKPOINTS_SUCCEED, ""


def _restarts(situation: Situation) -> int:
    """Attempts that followed another since the job was created; the first one of a revision follows none."""
    report, status = situation.report, situation.job.status
    if report is None or not report.attempt:
        return status.restarts
    if report.epoch == status.epoch:
        return status.restarts + max(0, report.attempt - status.attempt)
    # Nothing is known yet of an attempt of this revision: the first epoch of a revision is noted before its first attempt begins.
    began = status.deployment is None or status.deployment.epoch == 0 or status.epoch < status.deployment.epoch
    return status.restarts + report.attempt - (1 if began else 0)


def _last_checkpoint(situation: Situation) -> CheckpointStatus | None:
    report = situation.report
    last = report.last_checkpoint if report is not None else None
    if last is None or not last.folder:
        return situation.job.status.last_checkpoint
    return CheckpointStatus(
        id=last.id,
        uri=_uri(situation, last.folder),
        time=iso(last.triggered_ms),
        duration=shown_duration(last.duration_ms or 0),
        size=shown_size(last.size_bytes),
    )


def _uri(situation: Situation, folder: str) -> str:
    """Uri of a checkpoint's folder below the job's own; what is a uri already stays one."""
    deployed = situation.deployed
    if deployed is None or not folder or "://" in folder:
        return folder
    return f"{deployed.spec.checkpoint.storage.uri_of(deployed.job_id)}/{folder}"


def newest(one: SavepointReference | None, other: SavepointReference | None) -> SavepointReference | None:
    """The later of two savepoints."""
    found = [reference for reference in (one, other) if reference is not None]
    return max(found, key=lambda reference: reference.time, default=None)
