"""Bringing the running version of a job to its end, before another takes its place or the job is suspended.

A job that runs is stopped with a savepoint or a checkpoint, so that nothing is read or written twice. A job that does not run has nothing newer
than the tail of its journal, from which the next version begins in any case, so a broken version never stands in the way of its own repair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from checkdam.spec.status import Deployment, SavepointReference
from checkdam_operator.decide.actions import Action, RequestSavepoint, RequestStop
from checkdam_operator.decide.troubles import last_line
from checkdam_operator.observed import JobReport, SavepointReport, Situation
from checkdam_operator.times import iso

NOT_RUNNING_PATIENCE_MS: Final = 20_000
"""A job that has not processed records for so long is not waited for: its last checkpoint is what the next version begins with."""

FAILED_TRIES: Final = 3
"""After so many savepoints or checkpoints in a row that failed, the job counts as stalled; the old version runs on, and it is tried again."""

RETRY_PAUSE_MS: Final = 10_000
"""From a savepoint that failed to the next try, and from one last checkpoint that is asked for to the next: each try holds up the job."""

How = Literal["Savepoint", "Checkpoint"]


@dataclass(frozen=True)
class Stopping:
    """How far the stop has come.

    Attributes:
        done: The version does not run any more, and nothing newer than the journal's tail will come of it.
        base: Folder of the checkpoint at the journal's tail, where that is known.
        savepoint: Uri of the savepoint that it was stopped with; empty if it was none.
        drained: Whether event time has come to its end.
        action: What to ask for now.
        waiting_for: What is under way, for people.
        failure: Why the last try failed, while another is under way or to come; empty if none has.
        problem: Why it does not come to an end, and the remedy; empty if it may still.
        again_ms: When to look again at the latest.
    """

    done: bool = False
    base: str = ""
    savepoint: str = ""
    drained: bool = False
    action: Action | None = None
    waiting_for: str = ""
    failure: str = ""
    problem: str = ""
    again_ms: int | None = None

    def reference(self, now_ms: int) -> SavepointReference:
        """The savepoint that it was stopped with."""
        return SavepointReference(uri=self.savepoint, time=iso(now_ms))


def stop_running(situation: Situation, deployment: Deployment, how: How) -> Stopping:
    """What to do next to stop `deployment`."""
    report = situation.report
    if deployment.suspended or deployment.outcome:
        return Stopping(done=True, base=deployment.base)
    if report is not None and report.ended:
        return _ended(report)
    if report is not None and situation.coordinator.unreachable_since_ms is None:
        if report.running:
            return _next_try(situation, report, deployment, how)
        if report.state == "STOPPING":
            # What the tries before have told still holds: a job is not well each time that it is tried again.
            under_way = _next_try(situation, report, deployment, how)
            return replace(under_way, action=None, waiting_for="the job to stop")
    since_ms = not_running_since_ms(situation, deployment)
    if situation.now_ms - since_ms < NOT_RUNNING_PATIENCE_MS:
        return Stopping(
            waiting_for="the job to run, so that it can be stopped with its latest state",
            failure=last_line(report.stop_problem) if report is not None else "",
            again_ms=since_ms + NOT_RUNNING_PATIENCE_MS,
        )
    return Stopping(done=True, base=_last_known(report))


def _ended(report: JobReport) -> Stopping:
    uri = report.stopped_with
    is_savepoint = "/savepoint-" in uri
    return Stopping(
        done=True,
        base=folder_of(uri) or _last_known(report),
        savepoint=uri if is_savepoint else "",
        drained=report.drained,
    )


def _last_known(report: JobReport | None) -> str:
    return report.last_checkpoint.folder if report is not None and report.last_checkpoint is not None else ""


def folder_of(uri: str) -> str:
    """Name of the folder that a checkpoint's or savepoint's uri ends with; empty for an empty one."""
    return uri.rstrip("/").rpartition("/")[2]


def is_volatile(situation: Situation) -> bool:
    """Whether the checkpoints of what is deployed are in the memory of its coordinator alone."""
    return situation.deployed is not None and situation.deployed.spec.checkpoint.storage.scheme == "memory"


def not_running_since_ms(situation: Situation, deployment: Deployment) -> int:
    """Since when no records are processed, as far as this operator knows."""
    seen = situation.coordinator
    known = [time for time in (seen.not_running_since_ms, seen.unreachable_since_ms) if time is not None]
    if known:
        return min(known)
    # Nothing was heard of this coordinator yet. An operator that has just begun to ask must not take that for a bad sign.
    created_ms = max((pod.created_ms for pod in situation.pods if pod.revision == deployment.revision), default=0)
    return max(created_ms, seen.followed_since_ms)


def _next_try(situation: Situation, report: JobReport, deployment: Deployment, how: How) -> Stopping:
    """What to ask of a job that runs."""
    if is_volatile(situation):
        again_ms = situation.now_ms + RETRY_PAUSE_MS
        return Stopping(action=RequestStop(checkpoint=False), waiting_for="the job to stop", again_ms=again_ms)
    return _with_checkpoint(situation, report) if how == "Checkpoint" else _with_savepoint(situation, deployment)


def _with_checkpoint(situation: Situation, report: JobReport) -> Stopping:
    """Ask for a last checkpoint."""
    failure, problem = last_line(report.stop_problem), ""
    if failure and report.checkpoint_failures >= FAILED_TRIES:
        problem = (
            f"the job is to stop with a checkpoint, and the last {report.checkpoint_failures} have failed, so the running version goes on: "
            f"{failure}; correct the cause"
        )
    next_ms = situation.coordinator.last_stop_ms + RETRY_PAUSE_MS
    if failure and situation.now_ms < next_ms:
        return Stopping(
            waiting_for="another try of a last checkpoint", failure=failure, problem=problem, again_ms=next_ms
        )
    return Stopping(
        action=RequestStop(checkpoint=True),
        waiting_for="the job's last checkpoint",
        failure=failure,
        problem=problem,
        again_ms=situation.now_ms + RETRY_PAUSE_MS,
    )


def _with_savepoint(situation: Situation, deployment: Deployment) -> Stopping:
    """Ask for a savepoint, under a name that this operator's successor would use, too."""
    stem = f"stop-r{deployment.revision}-g{situation.job.generation}"
    failed: list[SavepointReport] = []
    while (asked := situation.coordinator.savepoints.get(f"{stem}-{len(failed)}")) and asked.status == "FAILED":
        failed.append(asked)
    request = RequestSavepoint(f"{stem}-{len(failed)}", stop=True)
    failure, problem = "", ""
    if failed:
        last = failed[-1]
        failure = last.failure
        next_ms = last.requested_ms + (last.duration_ms or 0) + RETRY_PAUSE_MS
        if len(failed) >= FAILED_TRIES:
            problem = (
                f"the savepoint to stop the job with has failed {len(failed)} times, and the running version goes on: {failure}; correct the cause, "
                "or set `spec.upgrade.mode: LastState` to stop with a checkpoint"
            )
        if situation.now_ms < next_ms:
            return Stopping(
                waiting_for="another try of a savepoint", failure=failure, problem=problem, again_ms=next_ms
            )
    return Stopping(
        action=None if asked is not None else request,
        waiting_for="the savepoint that the job stops with",
        failure=failure,
        problem=problem,
        again_ms=situation.now_ms + RETRY_PAUSE_MS,
    )
