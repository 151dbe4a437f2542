"""What people should hear of, as Events: changes of a job's life, failures with cause and remedy, and what became of them.

An event is told when what it is about differs between the status that was written last and the one that is written now, or by something that can only
happen once, such as a failure at a certain time. Whoever decides the same again tells the same event, which is no second one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from checkdam.spec.pods import memory_remedy
from checkdam.spec.status import Deployment, StreamJobStatus
from checkdam_operator.decide.actions import Action, CreatePod, Event
from checkdam_operator.decide.rollout import Rollout
from checkdam_operator.decide.stopping import is_volatile
from checkdam_operator.decide.troubles import described_end, last_line
from checkdam_operator.observed import FailureReport, JobReport, Pod, Situation, Termination
from checkdam_operator.reasons import EventReason, StalledReason

_KINDS_OF_FAILURE = {
    "user": "the user's code raised",
    "process": "a task process died",
    "lost": "a worker was lost",
    "peer": "a connection between workers broke",
    "checkpoint": "checkpoints failed more often than `spec.checkpoint.tolerableFailures` allows",
    "timeout": "something took too long",
}


def tell(situation: Situation, status: StreamJobStatus) -> tuple[Event, ...]:
    """The events that go with writing `status`."""
    return tuple(_told(situation, status))


def tell_rollout(situation: Situation, rollout: Rollout) -> tuple[Event, ...]:
    """The events that go with writing a deployment ahead."""
    following = rollout.next
    if following is None:
        return ()
    key = f"r{following.revision}"
    if following.outcome == "Completed":
        return (Event(EventReason.COMPLETED, following.message, key=key),)
    if following.outcome:
        return (Event(StalledReason(f"Job{following.outcome}"), following.message, warning=True, key=key),)
    if rollout.rejected is not None:
        message = f"generation {rollout.rejected.generation} is rolled back to generation {following.generation}, because {rollout.rejected.message}"
        return (Event(EventReason.ROLLED_BACK, message, warning=True, key=key),)
    last = situation.job.status.deployment
    if last is not None and last.revision == following.revision:
        return _rescaled(last, following)
    if following.suspended:
        kept = (
            "its state was in memory alone"
            if is_volatile(situation)
            else f"its state is kept{_from(following, rollout)}"
        )
        return (Event(EventReason.SUSPENDED, f"the job is suspended; {kept}", key=key),)
    return (Event(EventReason.DEPLOYED, _deployed(situation, following, rollout), key=key),)


def _rescaled(last: Deployment, following: Deployment) -> tuple[Event, ...]:
    if last.parallelism == following.parallelism:
        return ()
    message = f"rescale from {last.parallelism} to {following.parallelism} workers (generation {following.generation})"
    return (Event(EventReason.RESCALED, message, key=f"g{following.generation}"),)


def tell_pods(situation: Situation, actions: tuple[Action, ...]) -> tuple[Event, ...]:
    """The events that go with replacing pods."""
    names = {pod.uid: pod for pod in situation.pods}
    events = []
    for action in actions:
        if not isinstance(action, CreatePod) or action.succession.replaces not in names or action.cause == "Deleted":
            continue
        old = names[action.succession.replaces]
        end = old.last_end
        said = f" ({end.reason}, exit code {end.exit_code})" if end is not None else ""
        message = f"pod {old.name} of {action.slot} is replaced: {action.cause}{said}"
        events.append(Event(EventReason.POD_REPLACED, message, warning=True, key=old.uid))
    return tuple(events)


def tell_ends(pods: Iterable[Pod]) -> tuple[Event, ...]:
    """The events that go with containers that Kubernetes starts again.

    Args:
        pods: Those that are kept.
    """
    return tuple(
        Event(EventReason.CONTAINER_ENDED, _ended(pod, end), warning=True, key=f"{pod.uid} {end.finished_ms}")
        for pod in pods
        if (end := pod.last_end) is not None
    )


def _ended(pod: Pod, end: Termination) -> str:
    what = f"the container of pod {pod.name} of {pod.slot}"
    if end.out_of_memory:
        return f"{what} was ended for using more memory than its limit, and is started again; {memory_remedy(pod.slot.role)}"
    return f"{what} has ended, and is started again: {described_end(end)}"


def _deployed(situation: Situation, following: Deployment, rollout: Rollout) -> str:
    what = f"revision {following.revision} (generation {following.generation}) with {following.parallelism} workers"
    wish = following.start
    if rollout.change == "Resume" and rollout.stopping is None:
        return f"{what}: the job was stopped at its coordinator, but it is to run; `spec.suspend: true` stops it"
    if wish.fresh:
        return f"{what}, starting over"
    if wish.restore_from:
        return f"{what}, starting from {wish.restore_from}"
    if situation.job.status.deployment is None:
        return f"{what}; it goes on from the job's journal if there is one"
    if is_volatile(situation):
        return f"{what}; its state was in memory alone, so it starts afresh"
    return f"{what}{_from(following, rollout)}"


def _from(following: Deployment, rollout: Rollout) -> str:
    savepoint = rollout.stopping.savepoint if rollout.stopping is not None else ""
    if savepoint:
        return f", from savepoint {savepoint}"
    return f", from checkpoint {following.base}" if following.base else ", from the job's last checkpoint"


def _told(situation: Situation, status: StreamJobStatus) -> Iterator[Event]:
    report, before = situation.report, situation.job.status
    if report is not None:
        if _starts_afresh(situation, report):
            message = "the job starts afresh, because its checkpoints were in the memory of its coordinator alone"
            yield Event(EventReason.STARTED_AFRESH, message, warning=True, key=str(report.epoch))
        if report.last_failure is not None:
            yield _failed(report.last_failure)
        if report.checkpoint_failures and report.checkpoint_problem:
            message = f"a checkpoint failed: {report.checkpoint_problem}; the job goes on, and the last good checkpoint is kept"
            yield Event(
                EventReason.CHECKPOINT_FAILED, message, warning=True, key=f"{report.epoch}.{report.checkpoint_failures}"
            )
        if status.state == "Running" and before.state == "Restarting":
            message = f"attempt {report.epoch}.{report.attempt} processes records again"
            yield Event(EventReason.RECOVERED, message, key=f"{report.epoch}.{report.attempt}")
    yield from _scaled(before.last_working, status.last_working)
    stalled, was = status.condition("Stalled"), before.condition("Stalled")
    if stalled is not None and stalled.status == "True":
        if was is None or was.status != "True" or was.reason != stalled.reason:
            key = f"g{status.observed_generation} {stalled.last_transition_time}"
            yield Event(StalledReason(stalled.reason), stalled.message, warning=True, key=key)
    elif was is not None and was.status == "True":
        yield Event(EventReason.RESOLVED, f"{was.reason} is over", key=was.last_transition_time)


def _scaled(before: Deployment | None, now: Deployment | None) -> Iterator[Event]:
    """That the same revision has worked with another number of workers."""
    if before is None or now is None or before.revision != now.revision or before.parallelism == now.parallelism:
        return
    message = f"the job runs with {now.parallelism} workers, and has completed a checkpoint with them"
    yield Event(EventReason.RESCALED, message, key=f"g{now.generation} done")


def _starts_afresh(situation: Situation, report: JobReport) -> bool:
    before = situation.job.status
    first = before.deployment.epoch if before.deployment is not None else 0
    # The first epoch of a revision is no surprise; it is told when it is deployed.
    return is_volatile(situation) and first > 0 and max(first, before.epoch) < report.epoch


def _failed(failure: FailureReport) -> Event:
    where = f" at worker {failure.worker}" if failure.worker is not None else ""
    kind = _KINDS_OF_FAILURE.get(failure.kind, "the attempt failed")
    return Event(
        EventReason.ATTEMPT_FAILED, f"{kind}{where}: {last_line(failure.error)}", warning=True, key=str(failure.time_ms)
    )
