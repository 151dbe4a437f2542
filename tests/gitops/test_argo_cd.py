"""What Argo CD shows of our kinds, and what it can do with them: the tests that lie beside the scripts, in Argo CD's own form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from argo_cd import ARGO_CD, CUSTOMIZATIONS, LuaError, load, run

from checkdam.spec import parse_manifest, parse_savepoint
from checkdam.spec.savepoint import SavepointState
from checkdam.spec.status import State

FOLDERS = sorted(CUSTOMIZATIONS.glob("*/*"))
JOBS = CUSTOMIZATIONS / "checkdam.dev" / "StreamJob"


def cases(folder: Path, name: str, part: str) -> list[Any]:
    """The cases of a test file."""
    return list(yaml.safe_load((folder / name).read_text())[part])


HEALTH = [
    pytest.param(folder, case, id=f"{folder.name}-{Path(case['inputPath']).stem}")
    for folder in FOLDERS
    for case in cases(folder, "health_test.yaml", "tests")
]
ACTIONS = cases(JOBS / "actions", "action_test.yaml", "actionTests")
DISCOVERIES = cases(JOBS / "actions", "action_test.yaml", "discoveryTests")


@pytest.mark.parametrize(("folder", "case"), HEALTH)
def test_the_health_of_a_situation(folder: Path, case: dict[str, Any]) -> None:
    assert run((folder / "health.lua").read_text(), load(folder / case["inputPath"])) == case["healthStatus"]


@pytest.mark.parametrize("case", ACTIONS, ids=[case["action"] for case in ACTIONS])
def test_what_an_action_does(case: dict[str, Any]) -> None:
    folder = JOBS / "actions"
    script = (folder / case["action"] / "action.lua").read_text()
    assert run(script, load(folder / case["inputPath"])) == load(folder / case["expectedOutputPath"])


@pytest.mark.parametrize("case", DISCOVERIES, ids=[Path(case["inputPath"]).stem for case in DISCOVERIES])
def test_which_actions_are_offered(case: dict[str, Any]) -> None:
    folder = JOBS / "actions"
    offered = run((folder / "discovery.lua").read_text(), load(folder / case["inputPath"]))
    assert [{"name": name, **offered[name]} for name in sorted(offered)] == sorted(
        case["result"], key=lambda action: str(action["name"])
    )


def test_every_action_that_is_offered_exists_and_is_tested() -> None:
    folder = JOBS / "actions"
    offered = run((folder / "discovery.lua").read_text(), load(folder / "testdata" / "new.yaml"))
    assert set(offered) == {script.parent.name for script in folder.glob("*/action.lua")}
    assert set(offered) == {case["action"] for case in ACTIONS}


def test_every_situation_is_tested_and_all_states_occur() -> None:
    for folder in FOLDERS:
        tested = {Path(case["inputPath"]).name for case in cases(folder, "health_test.yaml", "tests")}
        assert tested == {file.name for file in (folder / "testdata").glob("*.yaml")}
        states = {(load(file).get("status") or {}).get("state") for file in (folder / "testdata").glob("*.yaml")}
        known = set(get_args(State)) if folder.name == "StreamJob" else set(get_args(SavepointState))
        assert states - {None} == known


def test_what_actions_make_is_a_valid_manifest() -> None:
    for case in ACTIONS:
        made = load(JOBS / "actions" / case["expectedOutputPath"])
        for manifest in [item["resource"] for item in made] if isinstance(made, list) else [made]:
            (parse_savepoint if manifest["kind"] == "Savepoint" else parse_manifest)(manifest)


def test_the_longest_name_of_a_job_leaves_room_for_that_of_a_savepoint() -> None:
    job = load(JOBS / "actions" / "testdata" / "running.yaml")
    job["metadata"]["name"] = "j" * 45
    [made] = run((JOBS / "actions" / "savepoint" / "action.lua").read_text(), job)
    assert len(made["resource"]["metadata"]["name"]) <= 63


def test_a_condition_that_is_missing_is_not_taken_for_health() -> None:
    job = load(JOBS / "testdata" / "healthy.yaml")
    job["status"]["conditions"] = []
    assert run((JOBS / "health.lua").read_text(), job)["status"] == "Progressing"


def test_the_scripts_are_run_without_what_argo_cd_withholds() -> None:
    with pytest.raises(LuaError):
        run('return string.format("%d", 1)', {})
    with pytest.raises(LuaError):
        run('return ("a"):upper()', {})


def test_the_settings_for_argo_cd_hold_these_very_scripts() -> None:
    data = yaml.safe_load((ARGO_CD / "argocd-cm.yaml").read_text())["data"]
    assert data["resource.customizations.health.checkdam.dev_StreamJob"] == (JOBS / "health.lua").read_text()
    actions = yaml.safe_load(data["resource.customizations.actions.checkdam.dev_StreamJob"])
    assert actions["discovery.lua"] == (JOBS / "actions" / "discovery.lua").read_text()
    assert {action["name"]: action["action.lua"] for action in actions["definitions"]} == {
        script.parent.name: script.read_text() for script in (JOBS / "actions").glob("*/action.lua")
    }
