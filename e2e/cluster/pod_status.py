"""What a kubelet writes into the status of a pod: pure functions from a pod to the next status.

A status is written whole, so each of them says everything that it wants kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Pod = dict[str, Any]
Status = dict[str, Any]


def unschedulable(pod: Pod, now: str) -> Status:
    """No node takes the pod."""
    message = "0/1 nodes are available: 1 Insufficient cpu."
    scheduled = _condition("PodScheduled", False, now, "Unschedulable", message)
    return {"phase": "Pending", "conditions": [scheduled]}


def running(pod: Pod, now: str, ip: str, ready: bool, restarts: int = 0) -> Status:
    """All containers run.

    Args:
        restarts: How often each of them has started again.
    """

    def container(name: str, image: str) -> dict[str, Any]:
        before = _container_before(pod, name)
        return {
            **_container(name, image, {"running": {"startedAt": now}}, ready, restarts),
            "started": True,
            "lastState": before.get("state", {}) if "terminated" in before.get("state", {}) else {},
        }

    return _status(pod, now, "Running", ip, ready, container)


def image_pull_error(pod: Pod, now: str, ip: str) -> Status:
    """No image of the pod can be had."""

    def container(name: str, image: str) -> dict[str, Any]:
        reason = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
        return _container(name, image, {"waiting": reason}, False, 0)

    return _status(pod, now, "Pending", ip, False, container)


def crashed(pod: Pod, now: str, exit_code: int, reason: str, message: str) -> Status:
    """All containers of a running pod have ended.

    Args:
        message: What they left in their termination log.
    """

    def container(name: str, image: str) -> dict[str, Any]:
        began = _container_before(pod, name).get("state", {}).get("running", {}).get("startedAt", now)
        end = {"exitCode": exit_code, "reason": reason, "message": message, "startedAt": began, "finishedAt": now}
        return _container(name, image, {"terminated": end}, False, restarts_of(pod))

    return _status(pod, now, "Running", ip_of(pod), False, container)


def failed(pod: Pod, now: str, reason: str, message: str) -> Status:
    """The pod is over, as after an eviction by the kubelet; its containers are not told of."""
    status = _status(pod, now, "Failed", pod["status"].get("podIP", ""), False, lambda name, image: {})
    return {**status, "containerStatuses": [], "reason": reason, "message": message}


def ip_of(pod: Pod) -> str:
    """The address of a pod that runs.

    Raises:
        ValueError: It does not.
    """
    if pod["status"]["phase"] != "Running":
        name, phase = pod["metadata"]["name"], pod["status"]["phase"]
        raise ValueError(f"the pod {name} must be Running (got {phase}); wait until it is")
    return str(pod["status"]["podIP"])


def restarts_of(pod: Pod) -> int:
    """How often the containers of the pod have started again."""
    return max((found["restartCount"] for found in pod["status"].get("containerStatuses", [])), default=0)


def _status(
    pod: Pod, now: str, phase: str, ip: str, ready: bool, container: Callable[[str, str], dict[str, Any]]
) -> Status:
    why = "" if ready else "ContainersNotReady"
    return {
        "phase": phase,
        "startTime": pod["status"].get("startTime", now),
        "hostIP": "127.0.0.1",
        "podIP": ip,
        "podIPs": [{"ip": ip}] if ip else [],
        "conditions": [
            _condition("PodScheduled", True, now),
            _condition("Initialized", True, now),
            _condition("ContainersReady", ready, now, why),
            _condition("Ready", ready, now, why),
        ],
        "containerStatuses": [container(found["name"], found["image"]) for found in pod["spec"]["containers"]],
    }


def _container(name: str, image: str, state: dict[str, Any], ready: bool, restarts: int) -> dict[str, Any]:
    return {"name": name, "image": image, "imageID": "", "ready": ready, "restartCount": restarts, "state": state}


def _container_before(pod: Pod, name: str) -> dict[str, Any]:
    found = (known for known in pod["status"].get("containerStatuses", []) if known["name"] == name)
    return next(found, {})


def _condition(kind: str, holds: bool, now: str, reason: str = "", message: str = "") -> dict[str, Any]:
    said = {"reason": reason, "message": message} if reason else {}
    return {"type": kind, "status": "True" if holds else "False", "lastTransitionTime": now, **said}
