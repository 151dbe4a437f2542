"""The rules of Kubernetes' Pod Security Standard `restricted`, as far as a pod without host features can break them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: Mapping[str, Any]) -> list[str]:
    """What of `restricted` a pod breaks, a word for each."""
    return list(_violations(pod["spec"]))


def _violations(spec: Mapping[str, Any]) -> Iterator[str]:
    shared = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec["volumes"]:
        if not volume.keys() - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']}"
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        own = container.get("securityContext") or {}
        capabilities = own.get("capabilities") or {}
        if own.get("privileged"):
            yield "privileged"
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if "ALL" not in capabilities.get("drop", []) or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield "capabilities"
        if not own.get("runAsNonRoot", shared.get("runAsNonRoot")):
            yield "runAsNonRoot"
        if own.get("runAsUser", shared.get("runAsUser")) == 0:
            yield "runAsUser"
        profile = own.get("seccompProfile") or shared.get("seccompProfile") or {}
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccompProfile"
