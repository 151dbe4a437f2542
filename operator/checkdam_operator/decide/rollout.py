"""Which version of a job is to be deployed next, and whether its time has come.

What is deployed is a `Deployment` in the status, written before it is acted on. It is followed by another when the spec asks for something else (another image,
suspension, a savepoint to begin with) and the running version has been stopped, or when the running version has failed and
the one before is to come back. There is no phase to remember in between: whether the job still has to be stopped is seen from the job.
Another parallelism alone stops nothing: the revision stays (see `rescale`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from checkdam.spec import FRESH, StreamJob
from checkdam.spec.status import Deployment, Outcome, Rejected, StartWish
from checkdam_operator.decide.rescale import rescaled
from checkdam_operator.decide.stopping import How, Stopping, folder_of, not_running_since_ms, stop_running
from checkdam_operator.decide.troubles import find_trouble, what_is_missing
from checkdam_operator.observed import JobReport, Situation, Trouble
from checkdam_operator.reasons import StalledReason
from checkdam_operator.resources.config import config_map
from checkdam_operator.resources.hashes import deploy_hash, only_rescaled
from checkdam_operator.resources.pods import pod_problems
from checkdam_operator.times import iso, time_ms

Change = Literal["", "Deploy", "Suspend", "Resume", "Upgrade", "Rescale", "Restore", "RollBack"]


@dataclass(frozen=True)
class Rollout:
    """What becomes of the deployment.

    Attributes:
        change: What is under way; empty if the deployment is what it is to be.
        next: The deployment to write ahead now; `None` if it is not time for it, or if nothing changes.
        manifest: The ConfigMap with what its pods are to read, where it may not be stored yet.
        rejected: The version that is rolled back by `next`.
        stopping: How far the stop of the running version has come, if one is needed.
        trouble: Why the change cannot take place.
    """

    change: Change = ""
    next: Deployment | None = None
    manifest: dict[str, Any] | None = None
    rejected: Rejected | None = None
    stopping: Stopping | None = None
    trouble: Trouble | None = None


def plan_rollout(situation: Situation, spec: StreamJob) -> Rollout:
    """What is to become of the deployment of a job whose spec is right."""
    deployment = situation.job.status.deployment
    if deployment is None:
        return _begin(situation, spec)
    change = _wanted_change(situation, spec, deployment)
    if change:
        return _change(situation, spec, deployment, change)
    ends = not deployment.outcome and not deployment.suspended
    if ends and _may_resume(situation.report):
        return Rollout("Resume", _resumed(situation, deployment))
    outcome = _outcome(situation.report) if ends else None
    if outcome is not None:
        name, message = outcome
        return Rollout(next=deployment.model_copy(update={"outcome": name, "message": message}))
    failure = _failure(situation, spec, deployment)
    if failure:
        return _roll_back(situation, deployment, failure)
    if spec.spec.restore_from != deployment.restore_from and not deployment.suspended:
        # No wish any more; the same value, given again later, is a new one.
        return Rollout(next=deployment.model_copy(update={"restore_from": spec.spec.restore_from}))
    return Rollout()


def is_rejected(situation: Situation, spec: StreamJob) -> bool:
    """Whether the spec is one that was rolled back."""
    rejected = situation.job.status.rejected
    return rejected is not None and rejected.hash == deploy_hash(spec)


def _begin(situation: Situation, spec: StreamJob) -> Rollout:
    if spec.spec.suspend:
        return Rollout("Deploy", _suspended(situation, spec))
    wish, trouble = _start_wish(situation, spec, None)
    if wish is None:
        return Rollout("Deploy", trouble=trouble)
    deployment, manifest = _deployment(situation, spec, wish, "")
    return Rollout("Deploy", deployment, manifest)


def _wanted_change(situation: Situation, spec: StreamJob, deployment: Deployment) -> Change:
    wanted = spec.spec
    if wanted.suspend:
        return "Suspend" if not deployment.suspended and deployment.outcome != "Completed" else ""
    if deployment.suspended:
        return "Resume"
    if wanted.restore_from and wanted.restore_from != deployment.restore_from:
        return "Restore"
    if situation.job.spec_hash == deployment.hash or is_rejected(situation, spec):
        return ""
    if situation.deployed is not None and only_rescaled(situation.deployed, deployment.parallelism, spec):
        return "Rescale"
    return "Upgrade"


def _change(situation: Situation, spec: StreamJob, deployment: Deployment, change: Change) -> Rollout:
    if change == "Suspend":
        return _suspend(situation, spec, deployment)
    has_ended = deployment.outcome or (situation.report is not None and situation.report.ended)
    if change == "Rescale" and not has_ended:
        return Rollout(change, rescaled(situation, deployment, spec.spec.parallelism))
    wish, trouble = _start_wish(situation, spec, deployment)
    if wish is None:
        return Rollout(change, trouble=trouble)
    if change == "Upgrade" and spec.spec.upgrade.mode == "Stateless":
        # Also where `restoreFrom` still names what a version that came to nothing was to begin with: a wish of this edit would be a `Restore`.
        wish = StartWish(fresh=True, request=_request(situation))
    stopping = stop_running(situation, deployment, _how(change, spec))
    if not stopping.done:
        return _waiting(change, stopping)
    following, manifest = _deployment(situation, spec, wish, stopping.base or _last_base(situation))
    return Rollout(change, following, manifest, stopping=stopping)


def _suspend(situation: Situation, spec: StreamJob, deployment: Deployment) -> Rollout:
    stopping = stop_running(situation, deployment, _how("Suspend", spec))
    if not stopping.done:
        return _waiting("Suspend", stopping)
    changes = {
        "revision": deployment.revision + 1,
        "suspended": True,
        "base": stopping.base or _last_base(situation),
        "outcome": "",
        "message": "",
        "time": iso(situation.now_ms),
    }
    return Rollout("Suspend", deployment.model_copy(update=changes), stopping=stopping)


def _waiting(change: Change, stopping: Stopping) -> Rollout:
    trouble = Trouble(StalledReason.STOP_FAILED, stopping.problem) if stopping.problem else None
    return Rollout(change, stopping=stopping, trouble=trouble)


def _how(change: Change, spec: StreamJob) -> How:
    if change in ("Suspend", "Resume"):
        return "Checkpoint" if spec.spec.upgrade.mode == "LastState" else "Savepoint"
    return "Savepoint" if change == "Upgrade" and spec.spec.upgrade.mode == "Savepoint" else "Checkpoint"


def _deployment(situation: Situation, spec: StreamJob, wish: StartWish, base: str) -> tuple[Deployment, dict[str, Any]]:
    """The deployment of the spec as it is now, and its ConfigMap."""
    job, last = situation.job, situation.job.status.deployment
    revision = last.revision + 1 if last is not None else 1
    manifest = config_map(spec, revision, spec.spec.image or situation.default_image)
    deployment = Deployment(
        revision=revision,
        generation=job.generation,
        hash=deploy_hash(spec),
        parallelism=spec.spec.parallelism,
        config_map=manifest["metadata"]["name"],
        restore_from=spec.spec.restore_from,
        start=wish,
        base=base,
        time=iso(situation.now_ms),
    )
    return deployment, manifest


def _suspended(situation: Situation, spec: StreamJob) -> Deployment:
    """What is deployed of a job that was suspended from the beginning: nothing, and no wish is fulfilled yet."""
    return Deployment(
        revision=1,
        generation=situation.job.generation,
        hash=deploy_hash(spec),
        parallelism=spec.spec.parallelism,
        suspended=True,
        time=iso(situation.now_ms),
    )


def _start_wish(
    situation: Situation, spec: StreamJob, last: Deployment | None
) -> tuple[StartWish | None, Trouble | None]:
    """How a coordinator is to begin; or what is in the way of that. To be known before anything that runs is stopped.

    Args:
        last: The deployment before, if there is one.
    """
    problems = pod_problems(spec)
    if problems:
        return None, Trouble(StalledReason.INVALID_SPEC, f"{'; '.join(problems)}; correct the spec")
    origin = spec.spec.restore_from
    if not origin:
        return StartWish(resume=True), None
    if last is not None and origin == last.restore_from:
        return _known_wish(situation, last), None
    if origin == FRESH:
        return StartWish(fresh=True, request=_request(situation)), None
    if "://" in origin:
        return StartWish(restore_from=origin, request=_request(situation)), None
    source = situation.restore_source
    if source is None:
        return None, Trouble(
            StalledReason.SAVEPOINT_NOT_FOUND,
            f"`spec.restoreFrom` names the Savepoint '{origin}', which is not in the namespace {situation.job.namespace}; create it, or give a "
            "savepoint's uri",
        )
    status = source.status
    if status.state == "Failed":
        return None, Trouble(
            StalledReason.SAVEPOINT_FAILED,
            f"`spec.restoreFrom` names the Savepoint '{origin}', which has failed: {status.message}",
        )
    if not status.uri or status.state != "Completed":
        return None, Trouble(
            StalledReason.SAVEPOINT_NOT_READY,
            f"`spec.restoreFrom` names the Savepoint '{origin}', which is not completed",
        )
    return StartWish(restore_from=status.uri, request=_request(situation)), None


def _known_wish(situation: Situation, last: Deployment) -> StartWish:
    """How to begin where `restoreFrom` is what it was: by the same wish once more if no version that had it is known to have worked.

    It may have failed before it began, or after. The coordinator can tell by the wish's name, which the journal has once it is fulfilled.
    """
    start, working = last.start, situation.job.status.last_working
    fulfilled = working is not None and working.start.request == start.request
    wished = start.fresh if last.restore_from == FRESH else bool(start.restore_from)
    return start.model_copy(update={"resume": True}) if wished and not fulfilled else StartWish(resume=True)


def _request(situation: Situation) -> str:
    return f"{situation.job.uid}-g{situation.job.generation}"


def _last_base(situation: Situation) -> str:
    last = situation.job.status.last_checkpoint
    return folder_of(last.uri) if last is not None else ""


def _may_resume(report: JobReport | None) -> bool:
    """Whether the job was stopped though it is to run: by somebody at its coordinator, or for a change that was taken back meanwhile."""
    stopped = report is not None and (report.state == "STOPPED" or report.refusal == "NotResumed")
    return stopped and report is not None and not report.drained


def _resumed(situation: Situation, deployment: Deployment) -> Deployment:
    """The same version once more, going on from where it was stopped."""
    changes = {
        "revision": deployment.revision + 1,
        "start": StartWish(resume=True),
        "epoch": 0,
        "base": _last_known_base(situation),
        "time": iso(situation.now_ms),
    }
    return deployment.model_copy(update=changes)


def _last_known_base(situation: Situation) -> str:
    report = situation.report
    return (folder_of(report.stopped_with) if report is not None else "") or _last_base(situation)


def _outcome(report: JobReport | None) -> tuple[Outcome, str] | None:
    """How the running revision has ended, if it has."""
    if report is None or not report.ended or report.retryable:
        return None
    if report.state == "FINISHED":
        return "Completed", report.message
    if report.refusal == "Deposed":
        return "TakenOver", (
            "another coordinator has taken the job over, such as that of a StreamJob with the same job id and storage elsewhere; "
            "delete one of the two, or change `spec.restartNonce` to take it back"
        )
    if report.drained:
        return "Stopped", (
            f"the job was drained and stopped at its coordinator, so that all its windows have fired ({report.message}); set "
            "`spec.restoreFrom: Fresh` to start it over"
        )
    if report.refusal == "NewerCheckpoint":
        return "Failed", (
            "the version before cannot be put back, because the failed one has completed a checkpoint and its output may be out; "
            f"correct the spec to go on from there ({report.message})"
        )
    return "Failed", f"{report.message}; correct the cause and change the spec, if only `spec.restartNonce`"


def _failure(situation: Situation, spec: StreamJob, deployment: Deployment) -> str:
    """Why the deployment is to be rolled back; empty if it is not."""
    working = situation.job.status.last_working
    if (
        working is None
        or not spec.spec.upgrade.rollback
        or deployment.suspended
        or not (_is_rescaled(working, deployment) or _has_way_back(working, deployment))
    ):
        return ""
    if deployment.outcome:
        return deployment.message if deployment.outcome == "Failed" else ""
    report = situation.report
    deadline_ms = deadline_of(situation, spec, deployment)
    if situation.now_ms >= deadline_ms and not (report is not None and report.running):
        return (
            f"it has not come to run within {spec.spec.upgrade.progress_deadline}: {_hindrance(situation, deployment)}"
        )
    return ""


def _is_rescaled(working: Deployment | None, deployment: Deployment) -> bool:
    """Whether the revision has worked, but not yet with as many workers as it is to have now."""
    same = working is not None and working.revision == deployment.revision
    return same and working is not None and working.parallelism != deployment.parallelism


def _has_way_back(working: Deployment, deployment: Deployment) -> bool:
    """Whether a revision that is another one than the one that has worked begins where that one can go on."""
    another = working.revision != deployment.revision and working.hash != deployment.hash
    # Whoever starts over, or from elsewhere, has left the way back.
    goes_on = not deployment.start.fresh and not deployment.start.restore_from
    return another and goes_on and bool(deployment.base)


def _hindrance(situation: Situation, deployment: Deployment) -> str:
    """Why a version that is to run does not; after the rollback its pods, which say it, are gone."""
    pods = [pod for pod in situation.pods if pod.revision == deployment.revision and not pod.deleting]
    trouble, _ = find_trouble(situation, pods)
    if trouble is not None:
        return trouble.message
    report = situation.report
    return report.message if report is not None and report.message else f"it {what_is_missing(report, deployment)}"


def deadline_of(situation: Situation, spec: StreamJob, deployment: Deployment) -> int:
    """Until when a new version, or a job that is rescaled, must have come to run, in ms since the epoch.

    New workers may take their time while the job runs on, so for a job that is rescaled what counts is how long it has not run.
    """
    since_ms = time_ms(deployment.time) or 0
    if _is_rescaled(situation.job.status.last_working, deployment):
        since_ms = max(since_ms, not_running_since_ms(situation, deployment))
    return since_ms + spec.spec.upgrade.progress_deadline_ms


def _roll_back(situation: Situation, deployment: Deployment, failure: str) -> Rollout:
    working = situation.job.status.last_working
    assert working is not None  # noqa: S101 - `_failure` has looked
    start, base = StartWish(resume=True, expected_checkpoint=deployment.base), deployment.base
    if _is_rescaled(working, deployment):
        # The code is the same, and goes on from any checkpoint with any number of workers: nothing is taken back.
        start, base = StartWish(resume=True), _last_base(situation)
    back = working.model_copy(
        update={
            "revision": deployment.revision + 1,
            "restore_from": deployment.restore_from,
            "start": start,
            "base": base,
            "epoch": 0,
            "outcome": "",
            "message": "",
            "time": iso(situation.now_ms),
        }
    )
    return Rollout(
        "RollBack", back, rejected=Rejected(hash=deployment.hash, generation=deployment.generation, message=failure)
    )
