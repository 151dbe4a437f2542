"""Makes the files that say the same as others in another form: what people who deploy by Helm, kustomize or Argo CD each expect.

`python deploy/make_manifests.py` writes them; a test holds them equal to what it makes.

* Copies of the CustomResourceDefinitions for the chart and for kustomize, which read no file outside of their folders.
* The chart's README.
* The operator for kustomize, rendered from the chart.
* `gitops/argocd/argocd-cm.yaml`: the scripts of `resource_customizations` in the form in which Argo CD is told of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "real_parts"))

import helm_docs

from cluster import programs

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "charts" / "checkdam"
KUSTOMIZE: Final = ROOT / "deploy" / "kustomize"
ARGO_CD: Final = ROOT / "gitops" / "argocd"
CRD_COPIES: Final = (CHART / "files" / "crds", KUSTOMIZE / "crds")
NAMESPACE: Final = "checkdam"
MADE: Final = "# Made by `make manifests` from {}; edit that.\n"
HELM_LABELS: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by")
"""They say that Helm manages an object, which is not so outside of it."""


def files() -> Iterator[tuple[Path, str]]:
    """All files and their texts; what is rendered depends on that the files before it are written."""
    for crd in sorted((ROOT / "crds").glob("*.yaml")):
        for folder in CRD_COPIES:
            yield folder / crd.name, crd.read_text()
    yield CHART / "README.md", chart_readme()
    yield KUSTOMIZE / "operator" / "operator.yaml", kustomize_operator()
    yield ARGO_CD / "argocd-cm.yaml", argo_cd_settings()


def chart_readme() -> str:
    """The chart's README, from its template and the comments of its values."""
    options = ("--sort-values-order=file", "--dry-run", "--log-level=error")
    return _output(helm_docs.install(), f"--chart-search-root={CHART}", *options)


def kustomize_operator() -> str:
    """What the chart renders, without what is Helm's own."""
    manifests = [_without_helm(manifest) for manifest in rendered(KUSTOMIZE / "values.yaml")]
    head = MADE.format("charts/checkdam and deploy/kustomize/values.yaml")
    return head + yaml.safe_dump_all(manifests, sort_keys=False, width=140)


def rendered(values: Path) -> list[dict[str, Any]]:
    """The objects that the chart renders to with a file of values."""
    text = _output(
        programs.install("helm"), "template", NAMESPACE, CHART, f"--namespace={NAMESPACE}", f"--values={values}"
    )
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def argo_cd_settings() -> str:
    """A ConfigMap that tells Argo CD how to judge our kinds, and what it may offer to do with them."""
    data = {}
    for folder in sorted((ARGO_CD / "resource_customizations").glob("*/*")):
        kind = f"{folder.parent.name}_{folder.name}"
        data[f"resource.customizations.health.{kind}"] = (folder / "health.lua").read_text()
        if (folder / "actions").exists():
            data[f"resource.customizations.actions.{kind}"] = _dump(_actions(folder / "actions"))
    metadata = {"name": "argocd-cm", "namespace": "argocd", "labels": {"app.kubernetes.io/part-of": "argocd"}}
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    return MADE.format("gitops/argocd/resource_customizations") + _dump(manifest)


def _actions(folder: Path) -> dict[str, Any]:
    definitions = [
        {"name": script.parent.name, "action.lua": script.read_text()} for script in sorted(folder.glob("*/action.lua"))
    ]
    return {"discovery.lua": (folder / "discovery.lua").read_text(), "definitions": definitions}


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that scripts stay readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _text)


def _dump(value: object) -> str:
    # Scripts are copied line by line, however long a line is.
    return yaml.dump(value, Dumper=_Blocks, sort_keys=False, width=1000)


def _without_helm(manifest: Mapping[str, Any]) -> dict[str, Any]:
    metadata = manifest["metadata"]
    labels = {name: value for name, value in metadata["labels"].items() if name not in HELM_LABELS}
    return {**manifest, "metadata": {**metadata, "labels": labels}}


def _output(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True).stdout


def written() -> Iterator[Path]:
    """Write all files; yields those that have changed."""
    for path, text in files():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            yield path


def main() -> None:
    """Write all files, and say which have changed."""
    for path in written():
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
