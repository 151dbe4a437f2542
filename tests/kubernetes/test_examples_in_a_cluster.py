"""The examples as a cluster is given them: accepted by the API server, and nothing that they name is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from checkdam.spec import StreamJob, parse_manifest
from checkdam_operator.resources.pods import pod_problems
from cluster.control_plane import ControlPlane

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BACKENDS = EXAMPLES / "state-backends"
KUSTOMIZED = sorted(path.parent.name for path in EXAMPLES.glob("*/kustomization.yaml"))
BACKEND_JOBS = sorted(path.name for path in BACKENDS.glob("*-state-backend*.yaml"))
MADE_BY_HAND = {"s3-keys"}
"""Secrets that the pages tell the user to make."""


def manifests_of(example: str, plane: ControlPlane) -> list[dict[str, Any]]:
    """All objects of an example: what kustomize makes, or for a state backend what its page says."""
    if example in KUSTOMIZED:
        return list(yaml.safe_load_all(plane.kubectl("kustomize", str(EXAMPLES / example))))
    code = plane.kubectl(
        "create",
        "configmap",
        "accounts",
        f"--from-file={BACKENDS / 'accounts.py'}",
        "--dry-run=client",
        "--output=yaml",
    )
    files = [(BACKENDS / name).read_text() for name in ("claims.yaml", example)]
    return [manifest for text in (code, *files) for manifest in yaml.safe_load_all(text)]


def names(manifests: list[dict[str, Any]], kind: str) -> set[str]:
    return {made["metadata"]["name"] for made in manifests if made["kind"] == kind}


def claims_of(job: StreamJob) -> set[str]:
    """The claims that a job's pods mount."""
    storage = job.spec.checkpoint.storage.persistent_volume_claim
    volumes = job.spec.worker.pod_template.get("spec", {}).get("volumes", [])
    mounted = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes}
    return mounted | ({storage.claim_name} if storage else set())


@pytest.mark.parametrize("example", [*KUSTOMIZED, *BACKEND_JOBS])
def test_an_example_is_accepted_and_complete(control_plane: ControlPlane, namespace: str, example: str) -> None:
    manifests = manifests_of(example, control_plane)
    [found] = [made for made in manifests if made["kind"] == "StreamJob"]
    job = parse_manifest(found, example)

    created = control_plane.kubectl(
        *("--namespace", namespace, "create", "--dry-run=server", "--validate=strict", "--filename=-"),
        stdin=yaml.safe_dump_all(manifests),
    )

    assert created.count("created") == len(manifests)
    assert pod_problems(job) == []
    assert claims_of(job)
    assert claims_of(job) <= names(manifests, "PersistentVolumeClaim")
    s3 = job.spec.checkpoint.storage.s3
    assert {s3.credentials_secret if s3 else "s3-keys"} <= MADE_BY_HAND


@pytest.mark.parametrize("example", [*KUSTOMIZED, *BACKEND_JOBS])
def test_the_program_is_in_the_config_map_that_the_job_names_or_in_its_image(
    control_plane: ControlPlane, example: str
) -> None:
    manifests = manifests_of(example, control_plane)
    job = parse_manifest(next(made for made in manifests if made["kind"] == "StreamJob"), example)
    file = f"{job.spec.program.module}.py"

    if job.spec.program.config_map:
        code = next(made for made in manifests if made["metadata"]["name"] == job.spec.program.config_map)
        assert file in code["data"]
    else:
        assert f"COPY {file} /app/" in (EXAMPLES / example / "Dockerfile").read_text()
        assert job.spec.image


def test_other_code_is_a_change_of_the_job(control_plane: ControlPlane, tmp_path: Path) -> None:
    for file in (EXAMPLES / "orders").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_text(file.read_text())

    def named() -> str:
        built = yaml.safe_load_all(control_plane.kubectl("kustomize", str(tmp_path)))
        job = next(made for made in built if made["kind"] == "StreamJob")
        return str(job["spec"]["program"]["configMap"])

    before = named()
    with (tmp_path / "orders.py").open("a") as code:
        code.write("# another version\n")
    assert before.startswith("orders-")
    assert named() != before
