"""Images are built from Dockerfiles where there is Docker, and by `e2e/cluster` elsewhere: both are the same to whoever runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from cluster.image_definitions import PROJECT_IMAGES, USER_ID, USER_NAME, ProjectImage
from cluster.image_layers import USERS

PROJECT = Path(__file__).resolve().parents[2]


def dockerfile(image: ProjectImage) -> DockerfileParser:
    folder = image.name.rpartition("/")[2]
    return DockerfileParser(str(PROJECT / "images" / folder / "Dockerfile"))


def last_stage(image: ProjectImage, instruction: str) -> list[str]:
    """The values of an instruction in the stage that becomes the image."""
    structure = dockerfile(image).structure
    start = max(number for number, step in enumerate(structure) if step["instruction"] == "FROM")
    return [step["value"] for step in structure[start:] if step["instruction"] == instruction]


def pairs(values: list[str]) -> dict[str, str]:
    """Of instructions such as ENV: `name=value`, quoted or not."""
    return {
        name: quoted or plain
        for value in values
        for name, quoted, plain in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S+))', value)
    }


@pytest.fixture(params=PROJECT_IMAGES, ids=lambda image: image.name)
def image(request: pytest.FixtureRequest) -> ProjectImage:
    return request.param


def test_process_user_folder_and_environment_are_those_of_the_dockerfile(image: ProjectImage) -> None:
    config = image.config
    assert [list(config.entrypoint)] == [json.loads(value) for value in last_stage(image, "ENTRYPOINT")]
    assert [config.user] == last_stage(image, "USER")
    assert [config.workdir] == last_stage(image, "WORKDIR")
    assert dict(entry.split("=", 1) for entry in config.env) == pairs(last_stage(image, "ENV"))
    assert config.labels == pairs(last_stage(image, "LABEL"))
    assert not last_stage(image, "CMD")
    assert not last_stage(image, "EXPOSE")


def test_users_are_made_by_the_same_commands(image: ProjectImage) -> None:
    [made] = last_stage(image, "RUN")
    ours = [line for line in USERS.split("\n") if line.startswith(("groupadd", "useradd"))]
    assert [" ".join(part.split()) for part in made.split("&&")] == ours
    assert image.config.user == f"{USER_ID}:{USER_ID}"
    assert ours[0] == f"groupadd --gid {USER_ID} {USER_NAME}"


def test_dependencies_are_those_of_the_same_lock_and_go_to_the_same_place(image: ProjectImage) -> None:
    steps = " ".join(step["value"] for step in dockerfile(image).structure)
    assert f"--require-hashes -r /requirements/{image.lock}" in steps
    assert (
        "python -m venv /opt/checkdam" in steps if image.installs_pip else "venv --without-pip /opt/checkdam" in steps
    )
    assert last_stage(image, "COPY") == ["--from=build /opt/checkdam /opt/checkdam"]
