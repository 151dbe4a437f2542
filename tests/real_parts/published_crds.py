"""CustomResourceDefinitions of others, out of the Go modules that they publish: what the Prometheus operator, Flux and Argo CD accept.

A module says `go 1.27` where its authors use that, and an older Go then will not load it, so the versions here are ones that
today's Go of distributions reads.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from go_programs import downloaded_module
from parts_cache import installed

MODULES: Final = {
    "github.com/prometheus-operator/prometheus-operator": (
        "v0.85.0",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml"),
    ),
    "github.com/fluxcd/kustomize-controller": (
        "v1.7.3",
        "config/crd/bases",
        ("kustomize.toolkit.fluxcd.io_kustomizations.yaml",),
    ),
    "github.com/fluxcd/helm-controller": ("v1.4.0", "config/crd/bases", ("helm.toolkit.fluxcd.io_helmreleases.yaml",)),
    "github.com/fluxcd/source-controller": (
        "v1.7.0",
        "config/crd/bases",
        ("source.toolkit.fluxcd.io_gitrepositories.yaml",),
    ),
    "github.com/argoproj/argo-cd/v3": ("v3.1.8", "manifests/crds", ("application-crd.yaml",)),
}
"""Module → version, folder in it, files."""


def install() -> Path:
    """The folder with all of them, fetched on first use.

    Raises:
        RuntimeError: Go is not installed, or a module cannot be had.
    """
    versions = "-".join(version for version, _, _ in MODULES.values())
    return installed(f"published-crds-{versions}", _fetch)


def _fetch(folder: Path) -> None:
    for module, (version, below, files) in MODULES.items():
        print(f"getting the definitions of {module} {version}", flush=True)
        source = downloaded_module(module, version) / below
        for file in files:
            shutil.copyfile(source / file, folder / file)
