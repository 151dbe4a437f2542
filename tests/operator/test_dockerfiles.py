"""The images are what pods expect: their user, entry point and packages, pinned and without complaints of a linter. Building them needs Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from resource_jobs import container, coordinator, job

from checkdam_operator.resources.pods import USER_ID

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("operator", "runtime")
REQUIREMENTS = ROOT / "images" / "requirements"
PINNED = re.compile(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)

WHAT_THE_OPERATOR_IMPORTS = """
import importlib, json, pkgutil, sys
from importlib.metadata import packages_distributions
import checkdam_operator

for module in pkgutil.walk_packages(checkdam_operator.__path__, "checkdam_operator."):
    importlib.import_module(module.name)
distributions = packages_distributions()
imported = {name.partition(".")[0] for name, module in sys.modules.items() if getattr(module, "__file__", None)}
print(json.dumps(sorted({found for name in imported for found in distributions.get(name, ())})))
"""


def instructions(image: str) -> list[dict[str, Any]]:
    """The instructions of an image's Dockerfile, without comments."""
    with (ROOT / "images" / image / "Dockerfile").open("rb") as file:
        found = DockerfileParser(fileobj=file).structure
    return [each for each in found if each["instruction"] != "COMMENT"]


def last(image: str, instruction: str) -> str:
    """The value of an instruction in the last stage, which is the image."""
    values = [str(each["value"]) for each in instructions(image) if each["instruction"] == instruction]
    return values[-1]


def pinned(name: str) -> dict[str, str]:
    """Package → the version that a lock names."""
    text = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    found = {canonicalize_name(package): version for package, version, _ in PINNED.findall(text)}
    assert len(found) == text.count("==")
    return found


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("image", IMAGES)
def test_the_linter_has_nothing_to_say(image: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, ROOT / "images" / image / "Dockerfile"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_begins_from_an_exact_version(image: str) -> None:
    [base] = [each["value"] for each in instructions(image) if each["instruction"] == "ARG"]
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    stages = [each["value"] for each in instructions(image) if each["instruction"] == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_the_user_of_the_pods_by_number(image: str) -> None:
    """Kubernetes cannot tell whether a user with a name is root."""
    assert last(image, "USER") == f"{USER_ID}:{USER_ID}"


def test_the_entry_point_of_the_operator_is_there() -> None:
    assert json.loads(last("operator", "ENTRYPOINT")) == ["python", "-m", "checkdam_operator"]
    assert find_spec("checkdam_operator.__main__") is not None


def test_the_entry_point_of_the_runtime_is_the_command_of_the_pods() -> None:
    *entry_point, role = container(coordinator(job()))["command"]
    assert json.loads(last("runtime", "ENTRYPOINT")) == entry_point
    assert role == "coordinator"


@pytest.mark.parametrize("image", IMAGES)
def test_everything_that_an_image_copies_exists(image: str) -> None:
    for each in instructions(image):
        sources = str(each["value"]).split()[:-1]
        if each["instruction"] == "COPY" and not sources[0].startswith("--from="):
            assert all((ROOT / source).exists() for source in sources)


def test_the_images_differ_in_packages_and_entry_point_alone() -> None:
    one, two = (
        [each["content"] for each in instructions(image) if each["instruction"] in ("ARG", "ENV", "USER", "WORKDIR")]
        for image in IMAGES
    )
    assert one == two


def test_the_lock_of_the_runtime_is_what_the_project_asks_for() -> None:
    found, metadata = pinned("runtime"), project()["project"]
    extras = metadata["optional-dependencies"]
    for text in (*metadata["dependencies"], *extras["hdfs"], *extras["fsspec"]):
        wanted = Requirement(text)
        assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), text


def test_the_lock_of_the_operator_is_what_the_project_asks_for() -> None:
    found, metadata = pinned("operator"), project()["project"]
    extra = metadata["optional-dependencies"]["operator"]
    known = {canonicalize_name(wanted.name): wanted for wanted in map(Requirement, [*metadata["dependencies"], *extra])}
    asked = (REQUIREMENTS / "operator.in").read_text(encoding="utf-8").splitlines()
    names = {canonicalize_name(line) for line in asked if not line.startswith("#")}
    assert names <= known.keys()
    assert {canonicalize_name(Requirement(text).name) for text in extra} <= names
    for name in names:
        assert known[name].specifier.contains(found[name]), name


def test_both_images_have_the_same_version_of_what_is_in_both() -> None:
    one, two = pinned("operator"), pinned("runtime")
    assert {name: one[name] for name in one.keys() & two.keys()} == {
        name: two[name] for name in one.keys() & two.keys()
    }


def test_the_lock_of_the_build_is_what_the_project_asks_for() -> None:
    for text in project()["build-system"]["requires"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned("build")[canonicalize_name(wanted.name)])


def test_the_operator_imports_nothing_that_its_image_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHAT_THE_OPERATOR_IMPORTS], check=True, capture_output=True, text=True, cwd=ROOT
    )
    imported = {canonicalize_name(name) for name in json.loads(done.stdout)}
    assert "kopf" in imported
    # Of the environment rather than of an image.
    assert imported - {"checkdam", "setuptools", "pip"} <= pinned("operator").keys()
