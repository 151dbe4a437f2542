"""Which pods a job is to have, and which of those it has are of no use any more.

Each slot holds one pod of the deployed revision. A pod that is being deleted, was evicted, has failed, whose container has ended a second time, or that
was lost with its node is replaced at once by one of another name, beside it if need be; the old one is deleted gracefully and may take as long as it likes.
That is safe because the journal and the attempts' numbers fence what is left of it. A container that ends for the first time is started
again by the kubelet, which is faster; what the kubelet would only do after a while (`CrashLoopBackOff`) is not waited for.

Pods that fail one after the other are a row, and after two of them the next ones wait. That somebody deletes a pod, drains its node, or needs the
room for another, says nothing about how its successor will do: it is replaced at once, and the row is what it was before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from checkdam_operator.decide.actions import Action, CreatePod, DeletePod
from checkdam_operator.observed import CoordinatorSeen, Pod, Situation, Slot
from checkdam_operator.resources.pods import Succession

QUIET_MS: Final = 600_000
"""A pod that has lived for so long is no part of a row of failures any more."""

FREE_REPLACEMENTS: Final = 2
"""So many replacements in a row are made at once; the next ones wait."""

FIRST_PAUSE_MS: Final = 2_000
LONGEST_PAUSE_MS: Final = 300_000
"""The pause between replacements doubles from the first to the longest, which is the kubelet's own for containers."""

YOUNG_MS: Final = 2_000
"""A pod that is ended from outside must have been there for so long before it is replaced: whoever deletes each one as it comes, such as a policy
that does not permit it, would otherwise keep the API server busy."""

CONNECT_PATIENCE_MS: Final = 120_000
"""How long after its container has started, for the first time or again, a worker may take to connect: it imports the user's modules."""

MISSING_PATIENCE_MS: Final = 3_000
"""How long a worker that was connected may be missing while its container runs. A supervisor whose connection broke connects again
within a second; the coordinator has already waited for a heartbeat before it calls a silent one lost."""

UNREACHABLE_PATIENCE_MS: Final = 15_000
"""How long a coordinator that Kubernetes does not call ready either may be out of reach while its container runs."""

START_PATIENCE_MS: Final = 120_000
"""How long a coordinator may take until it first answers: it imports the user's modules and takes the journal over."""


@dataclass(frozen=True)
class PodPlan:
    """What is to be done about pods.

    Attributes:
        actions: In order.
        pods: The pod that fills each slot that is to be filled, as far as there is one.
        again_ms: When a pause before a replacement is over, or a pod's patience; `None` if there is none.
    """

    actions: tuple[Action, ...] = ()
    pods: tuple[Pod, ...] = ()
    again_ms: int | None = None

    @property
    def coordinator(self) -> Pod | None:
        """The coordinator's pod."""
        return next((pod for pod in self.pods if pod.slot.role == "coordinator"), None)


def plan_pods(situation: Situation, revision: int, slots: Iterable[Slot], surplus: Collection[Slot] = ()) -> PodPlan:
    """What it takes to have one good pod of `revision` in each slot and no others.

    Args:
        situation: The job.
        revision: What is deployed.
        slots: Those that are to be filled.
        surplus: Those that need not be: a good pod stays in its place, and no other is made.
    """
    wanted = list(slots)
    actions: list[Action] = []
    filled: list[Pod] = []
    times: list[int] = []
    deleted: dict[str, DeletePod] = {}
    for slot in (*wanted, *surplus):
        own = [pod for pod in situation.pods if pod.slot == slot and pod.revision == revision]
        keeper, faults, again_ms = _best(own, situation)
        times.extend([again_ms] if again_ms is not None else [])
        if keeper is not None:
            filled.append(keeper)
            faults = {**faults, **{pod.uid: "Superseded" for pod in own if pod is not keeper}}
        elif slot not in surplus:
            gone = _vanished(situation, slot, own, revision)
            created, after_ms = _replacement(slot, [*own, *gone], faults, situation.now_ms)
            if created is None:
                times.append(after_ms)
                continue  # what is there stays until something takes its place, so that what happened to it stays known
            actions.append(created)
        deleted.update({pod.uid: DeletePod(pod.name, pod.uid, faults[pod.uid]) for pod in own if pod.uid in faults})
    known = {*wanted, *surplus}
    for pod in situation.pods:
        if pod.revision != revision or pod.slot not in known:
            deleted[pod.uid] = DeletePod(pod.name, pod.uid, "NotWanted")
    deleting = {pod.uid for pod in situation.pods if pod.deleting}
    actions += [action for uid, action in deleted.items() if uid not in deleting]
    fill = tuple(pod for pod in filled if pod.slot not in surplus)
    return PodPlan(tuple(actions), fill, min(times, default=None))


def _best(pods: list[Pod], situation: Situation) -> tuple[Pod | None, dict[str, str], int | None]:
    """The pod to keep, the others' faults by uid, and when to look again."""
    faults: dict[str, str] = {}
    good: list[Pod] = []
    times: list[int] = []
    replaced = {pod.replaces for pod in pods}
    for pod in pods:
        if pod.uid in replaced:
            faults[pod.uid] = "Superseded"
            continue
        fault, again_ms = fault_of(pod, situation.coordinator, situation.now_ms)
        if fault:
            faults[pod.uid] = fault
        else:
            good.append(pod)
            times.extend([again_ms] if again_ms is not None else [])
    keeper = max(good, key=lambda pod: (pod.created_ms, pod.name), default=None)
    return keeper, faults, min(times, default=None)


def fault_of(pod: Pod, coordinator: CoordinatorSeen, now_ms: int) -> tuple[str, int | None]:
    """Why a pod is of no use any more, in one word, empty if it is; and when it may become so without any sign."""
    if pod.deleting:
        return "Deleted", None
    if pod.phase in ("Failed", "Succeeded"):
        return pod.evicted or pod.phase, None
    again_and_again = pod.terminated is not None and pod.restart_count >= 1
    if again_and_again or pod.waiting_reason == "CrashLoopBackOff":
        return "Crashed", None
    if pod.slot.role == "coordinator" and coordinator.pod_uid == pod.uid and _may_start_again(coordinator):
        return "CannotStart", None
    if pod.running_since_ms is None:
        return "", None
    since_ms, patience_ms = _silent_since(pod, coordinator)
    if since_ms is None:
        return "", None
    if now_ms - since_ms >= patience_ms:
        return "Lost", None
    return "", since_ms + patience_ms


def _may_start_again(coordinator: CoordinatorSeen) -> bool:
    report = coordinator.report
    return report is not None and report.state == "FAILED" and report.retryable


def _silent_since(pod: Pod, coordinator: CoordinatorSeen) -> tuple[int | None, int]:
    """Since when a running pod has given no sign of life, and how long that may go on."""
    started_ms = pod.running_since_ms or 0
    if pod.slot.role == "coordinator":
        if pod.ready or coordinator.pod_uid != pod.uid or coordinator.unreachable_since_ms is None:
            return None, 0
        if coordinator.report is None:
            return max(started_ms, coordinator.unreachable_since_ms), START_PATIENCE_MS
        return max(started_ms, coordinator.unreachable_since_ms), UNREACHABLE_PATIENCE_MS
    report = coordinator.report
    if report is None or report.ended or coordinator.unreachable_since_ms is not None:
        return None, 0  # nobody knows
    missing_ms = coordinator.missing_since_ms.get(pod.slot.index)
    if missing_ms is None:
        return None, 0
    # Of a container that was started after the worker was gone nothing was heard yet. Kubernetes cuts times off to whole seconds.
    started_since = started_ms + 999 >= missing_ms
    was_connected = any(worker.index == pod.slot.index and worker.pod_name == pod.name for worker in report.workers)
    is_silent = was_connected and not started_since
    return max(started_ms, missing_ms), MISSING_PATIENCE_MS if is_silent else CONNECT_PATIENCE_MS


def _vanished(situation: Situation, slot: Slot, own: list[Pod], revision: int) -> list[Pod]:
    """The pod that was last in the slot, if it is gone. Its successor is named after it, and so never gets the name of another pod."""
    last = situation.last_pods.get(slot)
    if last is None or last.revision != revision or any(last.uid in (pod.uid, pod.replaces) for pod in own):
        return []
    return [last]


def _replacement(slot: Slot, pods: list[Pod], faults: dict[str, str], now_ms: int) -> tuple[CreatePod | None, int]:
    """The pod to create in place of those that have faults or are gone, or the time from which that may be done."""
    replaced = {pod.replaces for pod in pods}
    last = max(
        (pod for pod in pods if pod.uid not in replaced), key=lambda pod: (pod.created_ms, pod.name), default=None
    )
    if last is None:
        return CreatePod(slot), now_ms
    cause = faults.get(last.uid, "Deleted")
    row = last.replacements if now_ms - last.created_ms < QUIET_MS else 0
    pause_ms = YOUNG_MS
    if not _ended_from_outside(last, cause):
        row += 1
        pause_ms = replacement_pause_ms(row)
    if now_ms < last.created_ms + pause_ms:
        return None, last.created_ms + pause_ms
    # Kubernetes goes on giving pods to a node that hangs for 50 s.
    return CreatePod(slot, cause, Succession(last.uid, row, last.node if cause == "Lost" else "")), now_ms


def _ended_from_outside(pod: Pod, cause: str) -> bool:
    """Whether a pod that would have gone on was put an end to."""
    return cause == "Deleted" or (pod.phase == "Failed" and pod.disrupted)


def replacement_pause_ms(row: int) -> int:
    """How long after the creation of a pod the `row`-th replacement in a row may be created."""
    if row <= FREE_REPLACEMENTS:
        return 0
    return min(FIRST_PAUSE_MS << min(row - FREE_REPLACEMENTS - 1, 20), LONGEST_PAUSE_MS)


def slots_of(parallelism: int) -> Iterator[Slot]:
    """The slots of a job that runs."""
    yield Slot("coordinator")
    for index in range(parallelism):
        yield Slot("worker", index)
