"""What Flux waits for: its health expressions, evaluated as it evaluates them, on the same situations as the scripts for Argo CD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from argo_cd import CUSTOMIZATIONS, ROOT, load, run

FLUX = ROOT / "gitops" / "flux"
SITUATIONS = sorted(CUSTOMIZATIONS.glob("*/*/testdata/*.yaml"))


def expressions() -> dict[str, dict[str, str]]:
    """Kind → the expressions for it."""
    [kustomization] = yaml.safe_load_all((FLUX / "jobs.yaml").read_text())
    return {check["kind"]: check for check in kustomization["spec"]["healthCheckExprs"]}


def judged(checks: dict[str, str], obj: dict[str, Any]) -> str:
    """What Flux makes of an object: first the generation, then the expressions in this order; it waits where one has no answer."""
    status = obj.get("status", {})
    if status.get("observedGeneration", obj["metadata"]["generation"]) != obj["metadata"]["generation"]:
        return "InProgress"
    variables = {name: celpy.json_to_cel(value) for name, value in obj.items()}
    environment = celpy.Environment()
    for name, verdict in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        if name in checks:
            try:
                answer = environment.program(environment.compile(checks[name])).evaluate(variables)
            except celpy.CELEvalError:
                return "InProgress"
            if answer:
                return verdict
    return "InProgress"


SAME_AS = {"Healthy": "Current", "Suspended": "Current", "Progressing": "InProgress", "Degraded": "Failed"}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_flux_judges_as_argo_cd_does(situation: Path) -> None:
    obj = load(situation)
    health = run((situation.parents[1] / "health.lua").read_text(), obj)["status"]
    verdict = judged(expressions()[obj["kind"]], obj)
    if situation.stem == "checkpoints_failing":
        # It may still get well, so Flux waits until its own timeout.
        assert (health, verdict) == ("Degraded", "InProgress")
    elif situation.stem == "deleting":
        # Flux does not look at what it has deleted.
        assert health == "Progressing"
    else:
        assert verdict == SAME_AS[health]


def test_both_kinds_are_judged() -> None:
    assert set(expressions()) == {"StreamJob", "Savepoint"}
    assert {load(situation)["kind"] for situation in SITUATIONS} == {"StreamJob", "Savepoint"}
