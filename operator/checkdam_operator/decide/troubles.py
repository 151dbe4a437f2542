"""What keeps a job from running, in words that name the thing and the remedy.

A pod that does not start says why in its status, in Kubernetes' words. Here they become a reason for programs and a sentence for people. What may
pass by itself within moments is not called trouble before it has lasted a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from checkdam.spec.pods import memory_remedy
from checkdam.spec.status import Deployment
from checkdam_operator.decide.pods import FREE_REPLACEMENTS
from checkdam_operator.observed import JobReport, Pod, Situation, Termination, Trouble
from checkdam_operator.reasons import StalledReason

UNSCHEDULABLE_PATIENCE_MS: Final = 20_000
"""A node may be about to come, or room about to be made by pods that are ending."""

_CONFIG_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_PULL_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
"""The first two take turns while the kubelet tries again and again."""


def find_trouble(situation: Situation, pods: Iterable[Pod]) -> tuple[Trouble | None, int | None]:
    """What is the matter with the pods of a job that should run, the gravest first; and when to look again without any change.

    Args:
        situation: The job.
        pods: The pods that fill its slots, or would.
    """
    pods = list(pods)
    for look in _LOOKS:
        for pod in pods:
            trouble = look(pod)
            if trouble is not None:
                return trouble, None
    if situation.trouble is not None:
        return situation.trouble, None
    waiting = [pod for pod in pods if pod.unschedulable]
    for pod in waiting:
        if situation.now_ms - pod.created_ms >= UNSCHEDULABLE_PATIENCE_MS:
            return _unschedulable(pod), None
    return None, min((pod.created_ms + UNSCHEDULABLE_PATIENCE_MS for pod in waiting), default=None)


def what_is_missing(report: JobReport | None, deployment: Deployment) -> str:
    """What a version that is to run waits for, where nothing is the matter with its pods; a predicate of a sentence."""
    if report is None:
        return "waits for the coordinator"
    failure = report.last_failure
    cause = f"; the last attempt failed: {_first_line(failure.error)}" if failure is not None else ""
    if report.workers_connected < deployment.parallelism:
        return f"waits for workers ({report.workers_connected} of {deployment.parallelism} are connected){cause}"
    return f"attempt {report.attempt} restores its state{cause}"


def last_line(text: str) -> str:
    """What an error says at its end: a traceback is for logs."""
    return text.strip().rpartition("\n")[2]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _image(pod: Pod) -> Trouble | None:
    if pod.waiting_reason not in _PULL_REASONS:
        return None
    return Trouble(
        StalledReason.IMAGE_PULL_FAILED,
        f"the image of pod {pod.name} cannot be pulled: {_sentence(pod.waiting_message, pod.waiting_reason)}; correct `spec.image`, or give "
        "the registry's credentials in `imagePullSecrets` of `spec.worker.podTemplate` and `spec.coordinator.podTemplate`",
        pod.created_ms,
    )


def _configuration(pod: Pod) -> Trouble | None:
    if pod.waiting_reason not in _CONFIG_REASONS:
        return None
    return Trouble(
        StalledReason.CONTAINER_CANNOT_START,
        f"the container of pod {pod.name} cannot be started: {_sentence(pod.waiting_message, pod.waiting_reason)}; create what it names, or "
        "correct the name in the spec",
        pod.created_ms,
    )


def _crash(pod: Pod) -> Trouble | None:
    end = pod.last_end
    if end is None or pod.running_since_ms is not None or pod.replacements < FREE_REPLACEMENTS:
        return None
    if end.out_of_memory:
        return Trouble(
            StalledReason.OUT_OF_MEMORY,
            f"pod {pod.name} was ended again and again for using more memory than its limit; {memory_remedy(pod.slot.role)}",
            end.finished_ms,
        )
    return Trouble(
        StalledReason.CRASH_LOOP,
        f"pod {pod.name} ends again and again: {described_end(end)}; correct the image or the program; "
        f"`kubectl logs {pod.name} --previous` may say more",
        end.finished_ms,
    )


def _unschedulable(pod: Pod) -> Trouble:
    return Trouble(
        StalledReason.UNSCHEDULABLE,
        f"no node can take pod {pod.name}: {_sentence(pod.unschedulable, 'the scheduler does not say why')}; add nodes or claims, or ask for less in "
        f"`spec.{pod.slot.role}`",
        pod.created_ms,
    )


def described_end(end: Termination) -> str:
    """How a container ended, with what it left to say."""
    said = " ".join(end.message.split())
    return f"{end.reason or 'ended'} with exit code {end.exit_code}{f': {said}' if said else ''}"


def _sentence(text: str, otherwise: str) -> str:
    return " ".join(text.split()).rstrip(".") or otherwise


_LOOKS: Final[tuple[Callable[[Pod], Trouble | None], ...]] = (_image, _configuration, _crash)
