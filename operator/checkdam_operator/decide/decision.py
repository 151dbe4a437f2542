"""The decision: from a situation to what is to be done, without doing it.

`decide` is a pure function, and all of the operator's judgement is in it and what it calls. It is *level-based*: it looks at how things are and not at what
happened, so it does not matter which event was missed or seen twice, or which operator decides. The one thing it remembers is the deployment in the
status, which it writes ahead (`Decision.ahead`); what it then asks for follows from there, however often it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from checkdam.spec import StreamJob
from checkdam.spec.status import Deployment, StreamJobStatus
from checkdam_operator.decide.actions import Action, ApplyServices, CreatePod, Decision, ForgetManifest, KeepManifest
from checkdam_operator.decide.checkpoints import plan_checkpoint
from checkdam_operator.decide.pods import PodPlan, plan_pods, slots_of
from checkdam_operator.decide.rescale import is_wanted, plan_rescale, surplus_slots
from checkdam_operator.decide.rollout import Rollout, deadline_of, plan_rollout
from checkdam_operator.decide.savepoints import SavepointPlan, plan_savepoints
from checkdam_operator.decide.standing import SETTLED_MS, newest, stand, write_status
from checkdam_operator.decide.telling import tell, tell_ends, tell_pods, tell_rollout
from checkdam_operator.decide.troubles import find_trouble
from checkdam_operator.observed import JobReport, Pod, Situation, Trouble
from checkdam_operator.reasons import StalledReason
from checkdam_operator.resources.config import config_map
from checkdam_operator.resources.names import pod_hash

CHECKPOINT_NEWS_MS: Final = 30_000
"""How often a status is written of which only `lastCheckpoint` is new. With a checkpoint each 10 s, writing each one would take more of the API
server than everything else that the operator does."""

MANIFEST_RETRY_MS: Final = 8_000
"""So long after the ConfigMap of a deployment could not be stored, so that it cannot begin, this is told and not tried again."""


def decide(situation: Situation) -> Decision:
    """What is to be done about a job now."""
    job = situation.job
    if job.deleting:
        return Decision()  # owned objects go by themselves, and nothing may be made any more
    rollout = plan_rollout(situation, job.spec) if job.spec is not None else Rollout()
    if rollout.next is not None:
        refused = _manifest_refused(situation, rollout)
        if refused is None:
            return _ahead(situation, rollout, rollout.next)
        rollout = replace(rollout, next=None, trouble=refused)
    deployment = _noted(situation)
    pods = _plan_pods(situation, deployment)
    savepoints = plan_savepoints(situation)
    checkpoint, checkpoint_ms = plan_checkpoint(situation) if not rollout.change else (None, None)
    rescale, rescale_ms = plan_rescale(situation, deployment) if rollout.stopping is None else (None, None)
    kept, lost = _lost_manifest(situation, deployment)
    trouble, trouble_ms = find_trouble(situation, _candidates(situation, deployment, pods))
    trouble = lost or trouble
    standing = stand(situation, rollout, trouble)
    working = deployment if _works(situation.report, deployment) else job.status.last_working
    status = write_status(
        situation,
        standing,
        pods.pods,
        deployment,
        last_savepoint=newest(job.status.last_savepoint, savepoints.last),
        disposals=list(savepoints.disposals),
        last_working=working,
    )
    if situation.unheard and job.status.state == "Running":
        status = job.status  # that another operator leads is no reason to call a job that runs anything else
    written, news_ms = _worth_writing(situation, status)
    if news_ms is not None and checkpoint_ms is not None and checkpoint_ms <= news_ms + CHECKPOINT_NEWS_MS:
        news_ms = None  # the look at the next checkpoint writes it: with many jobs each look counts
    actions: tuple[Action, ...] = (
        *kept,
        *_services(situation, deployment, pods),
        *((rescale,) if rescale is not None else ()),
        *pods.actions,
        *_stop_actions(rollout),
        *((checkpoint,) if checkpoint is not None else ()),
        *savepoints.actions,
        *_forget(job.status, deployment, working),
    )
    ends = tell_ends(pods.pods)
    events = (*tell(situation, status), *ends, *tell_pods(situation, pods.actions), *savepoints.events)
    times = _times(situation, rollout, deployment, pods, savepoints)
    return Decision(
        status=status if written else None,
        actions=actions,
        events=events,
        again_ms=_soonest(checkpoint_ms, rescale_ms, trouble_ms, news_ms, *times),
    )


def _ahead(situation: Situation, rollout: Rollout, following: Deployment) -> Decision:
    """Write a deployment ahead, after the manifest that it names and before anything that it asks for.

    The generation that the status is about stays what it was, since the conditions do: a job would count as well with a spec that is
    not deployed yet.
    """
    status = situation.job.status
    rejected = rollout.rejected if rollout.rejected is not None else status.rejected
    if rollout.change == "Rescale" or (rollout.manifest is not None and rollout.change not in ("", "RollBack")):
        rejected = None  # the spec has changed since
    changed = status.model_copy(update={"deployment": following, "rejected": rejected})
    stopped = rollout.stopping
    if stopped is not None and stopped.savepoint:
        from_stop = stopped.reference(situation.now_ms)
        changed = changed.model_copy(update={"last_savepoint": newest(status.last_savepoint, from_stop)})
    keep = (KeepManifest(rollout.manifest),) if rollout.manifest is not None else ()
    cause = rollout.change or following.outcome or "Noted"
    return Decision(status=changed, ahead=True, before=keep, events=tell_rollout(situation, rollout), cause=cause)


def _manifest_refused(situation: Situation, rollout: Rollout) -> Trouble | None:
    """Why the manifest of the next deployment could not be stored just now; after a while it is tried again."""
    trouble = situation.trouble
    if rollout.manifest is None or trouble is None or trouble.reason != StalledReason.MANIFEST_REFUSED:
        return None
    return trouble if situation.now_ms - trouble.since_ms < MANIFEST_RETRY_MS else None


def _noted(situation: Situation) -> Deployment | None:
    """The deployment, with its first epoch once that is known."""
    deployment, report = situation.job.status.deployment, situation.report
    if deployment is not None and deployment.epoch == 0 and report is not None and report.epoch > 0:
        return deployment.model_copy(update={"epoch": report.epoch})
    return deployment


def _lost_manifest(
    situation: Situation, deployment: Deployment | None
) -> tuple[tuple[KeepManifest, ...], Trouble | None]:
    """What to do where the ConfigMap of the deployment is gone: it is made again from the spec, if that has not changed since."""
    spec = situation.job.spec
    if deployment is None or not deployment.config_map or deployment.outcome or situation.deployed is not None:
        return (), None
    if spec is not None:
        body = config_map(spec, deployment.revision, spec.spec.image or situation.default_image)
        if body["metadata"]["name"] == deployment.config_map:
            return (KeepManifest(body),), None
    return (), Trouble(
        StalledReason.MANIFEST_LOST,
        f"the ConfigMap {deployment.config_map}, which the job's pods read, is gone, and the spec has changed since it was made; "
        "the pods that run go on, but none can be replaced; change `spec.restartNonce` to deploy the spec as it is now",
    )


def _plan_pods(situation: Situation, deployment: Deployment | None) -> PodPlan:
    if deployment is None or deployment.suspended or deployment.outcome:
        return plan_pods(situation, deployment.revision if deployment is not None else 0, ())
    if situation.deployed is None:
        return PodPlan()  # the manifest is lost; what runs goes on
    surplus = surplus_slots(situation, deployment)
    return plan_pods(situation, deployment.revision, slots_of(deployment.parallelism), surplus)


def _candidates(situation: Situation, deployment: Deployment | None, plan: PodPlan) -> Iterable[Pod]:
    """The pods whose troubles are the job's: those that fill slots, and the last of each slot that waits for a replacement."""
    if deployment is None or deployment.suspended or deployment.outcome:
        return ()
    filled = {pod.slot for pod in plan.pods}
    waiting: dict[object, Pod] = {}
    for pod in sorted(situation.pods, key=lambda pod: pod.created_ms):
        ours = pod.revision == deployment.revision and is_wanted(pod.slot, deployment)
        if ours and pod.slot not in filled and not pod.deleting:
            waiting[pod.slot] = pod
    return (*plan.pods, *waiting.values())


def _services(situation: Situation, deployment: Deployment | None, pods: PodPlan) -> tuple[ApplyServices, ...]:
    """The objects beside the pods, with the Service leading to the coordinator that there is, or is about to be."""
    if deployment is None or deployment.suspended or deployment.outcome or situation.deployed is None:
        return ()
    coordinator = pods.coordinator
    if coordinator is not None:
        return (ApplyServices(coordinator.pod_hash),)
    for action in pods.actions:
        if isinstance(action, CreatePod) and action.slot.role == "coordinator":
            replaces = action.succession.replaces
            return (ApplyServices(pod_hash(situation.job.uid, "coordinator", 0, deployment.revision, replaces)),)
    # A replacement has to wait. Workers may not: their pods name the Service's address, which a new operator does not know.
    before = [pod for pod in situation.pods if pod.slot.role == "coordinator" and pod.revision == deployment.revision]
    last = max(before, key=lambda pod: (pod.created_ms, pod.name), default=None)
    return (ApplyServices(last.pod_hash),) if last is not None else ()


def _stop_actions(rollout: Rollout) -> tuple[Action, ...]:
    stopping = rollout.stopping
    return (stopping.action,) if stopping is not None and stopping.action is not None else ()


def _works(report: JobReport | None, deployment: Deployment | None) -> bool:
    """Whether the deployment, with as many workers as it is to have, has completed a checkpoint in the attempt that runs."""
    if report is None or deployment is None or not deployment.epoch or report.last_checkpoint is None:
        return False
    attempts = {report.attempt}
    if report.attempt == 1:
        attempts.add(0)  # what the coordinator itself has written to begin with
    of_this_attempt = report.last_checkpoint.attempt in {f"{report.epoch}.{attempt}" for attempt in attempts}
    is_ours = report.epoch >= deployment.epoch and report.parallelism == deployment.parallelism
    return report.running and is_ours and of_this_attempt


def _forget(
    status: StreamJobStatus, deployment: Deployment | None, working: Deployment | None
) -> tuple[ForgetManifest, ...]:
    """The manifest of the version that worked last, once nothing goes back to it."""
    last = status.last_working
    if last is None or working is None or deployment is None or working.revision == last.revision:
        return ()
    kept = {deployment.config_map, working.config_map}
    return (ForgetManifest(last.config_map),) if last.config_map not in kept else ()


def _worth_writing(situation: Situation, status: StreamJobStatus) -> tuple[bool, int | None]:
    """Whether to write the status now, and if not, when it may be time for what is new in it."""
    before = situation.job.status
    if status == before:
        return False, None
    if status.model_copy(update={"last_checkpoint": before.last_checkpoint}) != before:
        return True, None
    due_ms = situation.status_written_ms + CHECKPOINT_NEWS_MS
    return (True, None) if situation.now_ms >= due_ms else (False, due_ms)


def _times(
    situation: Situation, rollout: Rollout, deployment: Deployment | None, pods: PodPlan, savepoints: SavepointPlan
) -> Iterable[int | None]:
    if rollout.trouble is not None and rollout.trouble.reason == StalledReason.MANIFEST_REFUSED:
        yield rollout.trouble.since_ms + MANIFEST_RETRY_MS
    yield pods.again_ms
    yield savepoints.again_ms
    if rollout.stopping is not None:
        yield rollout.stopping.again_ms
    spec: StreamJob | None = situation.job.spec
    report = situation.report
    if spec is not None and deployment is not None and not (report is not None and report.running):
        deadline_ms = deadline_of(situation, spec, deployment)
        yield deadline_ms if deadline_ms > situation.now_ms else None
    running_since_ms = situation.coordinator.running_since_ms
    if running_since_ms is not None and situation.now_ms < running_since_ms + SETTLED_MS:
        yield running_since_ms + SETTLED_MS


def _soonest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)
