"""Giving a job that runs another number of workers, while its pods stay.

The number that is wanted is in the deployment. The job runs on with the one that it has until as many workers are connected as are wanted: then the
coordinator ends the attempt with a checkpoint and begins another, and only after that go the pods that it does without. So a
worker that finds no node, or an operator that dies in the middle, costs the job nothing. All that is known of it is what the deployment
says and what the coordinator reports.
"""

from __future__ import annotations

from typing import Final

from checkdam.spec.status import Deployment
from checkdam_operator.decide.actions import Rescale
from checkdam_operator.observed import JobReport, Situation, Slot, Trouble
from checkdam_operator.times import iso

RETRY_PAUSE_MS: Final = 2_000
"""From one time that the coordinator is told to the next: it may not be able to rescale yet."""


def rescaled(situation: Situation, deployment: Deployment, parallelism: int) -> Deployment:
    """The same revision, with another number of workers."""
    job = situation.job
    changes = {
        "parallelism": parallelism,
        "generation": job.generation,
        "hash": job.spec_hash,
        "time": iso(situation.now_ms),
    }
    return deployment.model_copy(update=changes)


def plan_rescale(situation: Situation, deployment: Deployment | None) -> tuple[Rescale | None, int | None]:
    """What to tell the coordinator now, if it does not know how many workers are wanted; and when to look again."""
    report = _current_report(situation)
    if deployment is None or deployment.suspended or deployment.outcome or report is None or report.ended:
        return None, None
    if report.epoch == 0 or report.wanted_parallelism == deployment.parallelism:
        return None, None  # before it begins it refuses, and its pod may have been made for that number
    next_ms = situation.coordinator.last_rescale_ms + RETRY_PAUSE_MS
    if situation.now_ms < next_ms:
        return None, next_ms
    return Rescale(deployment.parallelism), situation.now_ms + RETRY_PAUSE_MS


def surplus_slots(situation: Situation, deployment: Deployment) -> tuple[Slot, ...]:
    """The places that are not wanted any more, but whose pods the attempt that runs may need, or the coordinator may believe to be wanted."""
    report = _current_report(situation)
    if report is not None and report.parallelism <= deployment.parallelism == report.wanted_parallelism:
        return ()
    found = {pod.slot for pod in situation.pods if pod.revision == deployment.revision and pod.slot.role == "worker"}
    return tuple(sorted(slot for slot in found if slot.index >= deployment.parallelism))


def is_wanted(slot: Slot, deployment: Deployment) -> bool:
    """Whether the deployment has this place."""
    return slot.role == "coordinator" or slot.index < deployment.parallelism


def is_under_way(report: JobReport, deployment: Deployment) -> bool:
    """Whether a job that runs does so with another number of workers than it is to have, or may be about to."""
    return not report.parallelism == report.wanted_parallelism == deployment.parallelism


def what_is_under_way(report: JobReport, deployment: Deployment) -> str:
    """What a job that runs waits for before it is rescaled: a sentence for people."""
    wanted, connected = deployment.parallelism, report.workers_connected
    if report.parallelism == wanted:
        return f"the job runs with {wanted} workers, and its coordinator is told to stay with as many"
    begun = f"rescale from {report.parallelism} to {wanted} workers is under way"
    if connected >= wanted:
        return begun
    return f"{begun}; the job runs with {report.parallelism} until {wanted} are connected ({connected} of {wanted} are)"


def runs_on(trouble: Trouble, report: JobReport) -> Trouble:
    """What keeps new workers from coming, with the comfort that the job does without."""
    return Trouble(
        trouble.reason, f"{trouble.message}; the job runs on with {report.parallelism} workers", trouble.since_ms
    )


def _current_report(situation: Situation) -> JobReport | None:
    """What the coordinator says now; what it said before it went out of reach may be over."""
    return situation.report if situation.coordinator.unreachable_since_ms is None else None
