"""What is deployed without Helm is what the chart deploys, and copies are equal to what they are copies of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import make_manifests
import yaml
from chart_kit import Object, container, one, template

from cluster.programs import install


def built(folder: Path) -> list[Object]:
    """What kustomize makes of a folder."""
    text = subprocess.run(
        [str(install("kubectl")), "kustomize", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]


def test_made_files_are_what_would_be_made_now() -> None:
    stale = [
        str(path.relative_to(make_manifests.ROOT))
        for path, text in make_manifests.files()
        if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "run `make manifests`"


def test_kustomize_deploys_what_helm_deploys_into_a_namespace_of_its_own() -> None:
    ours = {_key(manifest): manifest for manifest in built(make_manifests.KUSTOMIZE)}
    assert (
        ours.pop(("Namespace", "checkdam"))["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )
    theirs = {_key(manifest): manifest for manifest in template() if manifest["kind"] != "Secret"}
    assert ours.keys() == theirs.keys()
    for key, manifest in ours.items():
        assert {name: part for name, part in manifest.items() if name != "metadata"} == {
            name: part for name, part in theirs[key].items() if name != "metadata"
        }


def test_nothing_of_helm_is_in_what_kustomize_deploys() -> None:
    for manifest in built(make_manifests.KUSTOMIZE):
        text = yaml.safe_dump(manifest["metadata"])
        assert "helm" not in text.lower()


def test_kustomize_names_every_definition() -> None:
    names = yaml.safe_load((make_manifests.KUSTOMIZE / "crds" / "kustomization.yaml").read_text())["resources"]
    assert names == [file.name for file in sorted((make_manifests.ROOT / "crds").glob("*.yaml"))]


def test_the_operator_can_be_taken_away_without_the_definitions() -> None:
    kinds = {manifest["kind"] for manifest in built(make_manifests.KUSTOMIZE / "operator")}
    assert "Deployment" in kinds
    assert "CustomResourceDefinition" not in kinds


def test_an_overlay_moves_everything_to_another_namespace_and_image(tmp_path: Path) -> None:
    base = make_manifests.KUSTOMIZE / "operator"
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [os.path.relpath(base, overlay)],
                "namespace": "streams",
                "images": [{"name": "checkdam/operator", "newName": "registry.example/operator", "newTag": "2"}],
            }
        )
    )
    manifests = built(overlay)
    assert container(manifests)["image"] == "registry.example/operator:2"
    assert one(manifests, "ClusterRoleBinding")["subjects"][0]["namespace"] == "streams"
    namespaced = {manifest["metadata"].get("namespace") for manifest in manifests}
    assert namespaced == {None, "streams"}


def _key(manifest: Object) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]
