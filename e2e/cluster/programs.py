"""Which programs a Kubernetes is made of, in which versions, and how each is built.

Kubernetes replaces the modules of its own repository by folders in there. Each is published as well, under a version of its
own, so a module that replaces them by these builds the same programs. Its `go.mod` is written from the one of Kubernetes,
and so is the version of etcd: the one that Kubernetes is tested with.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import s3_server
from go_programs import described_module, go_build, go_install
from parts_cache import installed, is_installed

KUBERNETES_VERSION: Final = "v1.34.4"
HELM_VERSION: Final = "v3.22.0"
COREDNS_VERSION: Final = "v1.13.2"
"""One that uses the same libraries of Kubernetes, so that they are compiled once."""
KIND_VERSION: Final = "v0.30.0"
"""The one whose nodes are of Kubernetes 1.34."""
API_PROGRAMS: Final = ("kube-apiserver", "kube-controller-manager", "kubectl", "etcd", "helm")
"""What it takes to serve the API and to use it; the first is what the others have most in common with."""
NODE_PROGRAMS: Final = ("kube-scheduler", "kubelet", "kube-proxy", "dns", "pause", "versitygw")
"""What it takes beside to run pods, and what runs in the pods that every cluster has."""
DOCKER_PROGRAMS: Final = ("kind",)
"""What makes a cluster where a Docker engine answers."""
REMEDY: Final = "make parts-kubernetes"
"""The command that builds `API_PROGRAMS`."""

_KUBERNETES: Final = "k8s.io/kubernetes"
_COREDNS: Final = "github.com/coredns/coredns"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


_OWN: Final = {name: Path(__file__).parent / "go" / name / "main.go" for name in ("dns", "pause")}
"""Programs of which at least the beginning is ours."""
_VERSIONS: Final = {
    "helm": HELM_VERSION,
    "dns": f"{COREDNS_VERSION}-{_digest(_OWN['dns'])}",
    "kind": KIND_VERSION,
    "versitygw": s3_server.VERSION,
    "pause": _digest(_OWN["pause"]),
}
_PUBLISHED: Final = {
    "kind": "sigs.k8s.io/kind",
    "versitygw": s3_server.PACKAGE,
}
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
    known = (*API_PROGRAMS, *NODE_PROGRAMS, *DOCKER_PROGRAMS)
    if name not in known:
        raise ValueError(f"the program must be one of {', '.join(known)} (got {name!r})")
    return installed(_folder(name), lambda folder: _build(name, folder)) / name


def missing(names: Iterable[str]) -> list[str]:
    """Those of the programs that are not built yet."""
    return [name for name in names if not is_installed(_folder(name))]


def _folder(name: str) -> str:
    version = _VERSIONS.get(name)
    return f"{name}-{version}" if version else f"{name}-of-kubernetes-{KUBERNETES_VERSION}"


def _build(name: str, folder: Path) -> None:
    if name == "helm":
        go_install(folder, "helm.sh/helm/v3/cmd/helm", HELM_VERSION, _HELM_SETTINGS)
    elif name in _PUBLISHED:
        go_install(folder, _PUBLISHED[name], _VERSIONS[name])
    elif name in _OWN:
        shutil.copy(_OWN[name], folder)
        go_build(folder, name, ".", _go_mod(f"{_COREDNS} {COREDNS_VERSION}" if name == "dns" else ""))
    else:
        go_build(
            folder,
            name,
            _PACKAGES.get(name, f"{_KUBERNETES}/cmd/{name}"),
            _go_mod(f"{_KUBERNETES} {KUBERNETES_VERSION}"),
            _SETTINGS,
        )


def _go_mod(required: str) -> str:
    """A `go.mod` that requires one module in a version, and has the libraries of Kubernetes in ours; empty requires none."""
    described = described_module(_KUBERNETES, KUBERNETES_VERSION)
    published = KUBERNETES_VERSION.replace("v1.", "v0.", 1)
    replaced = [replacement["Old"]["Path"] for replacement in described["Replace"]]
    return "\n".join(
        [
            "module checkdam.dev/program",
            f"go {described['Go']}",
            *([f"require {required}"] if required else []),
            *(f"replace {module} => {module} {published}" for module in replaced),
            "",
        ]
    )
