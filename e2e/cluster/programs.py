"""Which programs a Kubernetes is made of, in which versions, and how each is built.

Kubernetes replaces the modules of its own repository by folders in there. Each is published as well, under a version of its
own, so a module that replaces them by these builds the same programs. Its `go.mod` is written from the one of Kubernetes,
and so is the version of etcd: the one that Kubernetes is tested with.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from go_programs import described_module, go_build, go_install
from parts_cache import installed, is_installed

KUBERNETES_VERSION: Final = "v1.34.4"
HELM_VERSION: Final = "v3.22.0"
API_PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager", "kubectl", "etcd", "helm")
"""What it takes to serve the API and to use it; the first is what the others have most in common with."""
NODE_PROGRAMS: Final = ("kube-scheduler", "kubelet", "kube-proxy")
"""What it takes beside to run pods."""
REMEDY: Final = "make parts-kubernetes"
"""The command that builds `API_PROGRAMS`."""

_KUBERNETES: Final = "k8s.io/kubernetes"
_MINOR: Final = KUBERNETES_VERSION.split(".")[1]
_PACKAGES: Final = {"etcd": "go.etcd.io/etcd/server/v3"}
_SETTINGS: Final = {
    "k8s.io/component-base/version.gitVersion": KUBERNETES_VERSION,
    "k8s.io/component-base/version.gitMajor": "1",
    "k8s.io/component-base/version.gitMinor": _MINOR,
}
_HELM_SETTINGS: Final = {
    "helm.sh/helm/v3/internal/version.version": HELM_VERSION,
    "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": "1",
    "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": _MINOR,
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": "1",
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": _MINOR,
}


def install(name: str) -> Path:
    """The program of this name, built on first use, which takes minutes.

    Raises:
        RuntimeError: Go is not installed, or it cannot build the program.
        ValueError: There is no such program.
    """
    known = (*API_PROGRAMS, *NODE_PROGRAMS)
    if name not in known:
        raise ValueError(f"the program must be one of {', '.join(known)} (got {name!r})")
    return installed(_folder(name), lambda folder: _build(name, folder)) / name


def missing(names: Iterable[str]) -> list[str]:
    """Those of the programs that are not built yet."""
    return [name for name in names if not is_installed(_folder(name))]


def _folder(name: str) -> str:
    return f"helm-{HELM_VERSION}" if name == "helm" else f"{name}-of-kubernetes-{KUBERNETES_VERSION}"


def _build(name: str, folder: Path) -> None:
    if name == "helm":
        go_install(folder, "helm.sh/helm/v3/cmd/helm", HELM_VERSION, _HELM_SETTINGS)
    else:
        go_build(folder, name, _PACKAGES.get(name, f"{_KUBERNETES}/cmd/{name}"), _go_mod(), _SETTINGS)


def _go_mod() -> str:
    described = described_module(_KUBERNETES, KUBERNETES_VERSION)
    published = KUBERNETES_VERSION.replace("v1.", "v0.", 1)
    replaced = [replacement["Old"]["Path"] for replacement in described["Replace"]]
    return "\n".join(
        [
            "module checkdam.dev/kubernetes-programs",
            f"go {described['Go']}",
            f"require {_KUBERNETES} {KUBERNETES_VERSION}",
            *(f"replace {module} => {module} {published}" for module in replaced),
            "",
        ]
    )
