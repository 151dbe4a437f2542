"""Why a pod does not start, where its status does not say: a missing volume or Secret is told in Events alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from checkdam_operator.kube.errors import KubeError
from checkdam_operator.kube.kinds import EVENT
from checkdam_operator.kube.protocol import Cluster
from checkdam_operator.observed import Pod, Trouble
from checkdam_operator.reasons import StalledReason
from checkdam_operator.reconcile.memory import JobMemory

PATIENCE_MS: Final = 15_000
"""How long a pod may take from its node to its container before the API server is asked what is the matter, and from one question to the next.
Pulling a large image takes longer, and its Events are no warnings."""

_STARTING: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


def may_be_stuck(pods: Iterable[Pod]) -> list[Pod]:
    """The pods that are on a node, and whose container neither runs nor says what it waits for."""
    return [
        pod
        for pod in pods
        if pod.node
        and not pod.deleting
        and pod.phase == "Pending"
        and pod.waiting_reason in _STARTING
        and not pod.terminated
    ]


async def look_into_pods(cluster: Cluster, namespace: str, pods: Iterable[Pod], memory: JobMemory, now_ms: int) -> None:
    """Ask for the Events of a pod that has been starting for too long, now and then, and remember what they say."""
    stuck = [pod for pod in may_be_stuck(pods) if now_ms - pod.created_ms >= PATIENCE_MS]
    if not stuck:
        memory.pod_trouble = None
        return
    if now_ms - memory.pod_trouble_asked_ms < PATIENCE_MS:
        return
    memory.pod_trouble_asked_ms = now_ms
    pod = min(stuck, key=lambda found: found.created_ms)
    try:
        events, _ = await cluster.list(EVENT, namespace, fields=f"involvedObject.uid={pod.uid}")
    except KubeError:
        return  # nothing depends on it
    memory.pod_trouble = _trouble(pod, events)


def _trouble(pod: Pod, events: list[dict[str, Any]]) -> Trouble | None:
    warnings = [event for event in events if event.get("type") == "Warning" and event.get("reason") != "Unhealthy"]
    if not warnings:
        return None
    last = max(warnings, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    said = " ".join(str(last.get("message", "")).split()).rstrip(".")
    return Trouble(
        StalledReason.POD_CANNOT_START,
        f"pod {pod.name} cannot start: {last.get('reason', '')}: {said}; create what is missing, or correct its name in the spec",
        pod.created_ms,
    )
