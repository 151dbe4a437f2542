"""What is in each image that is built without a container engine; the Dockerfiles in `images/` say the same where there is one.

An image is a Debian, the dependencies that its lock names, and the project, in layers that change ever more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cluster.image_archive import ImageConfig

USER_ID: Final = 65532
USER_NAME: Final = "checkdam"
ENVIRONMENT: Final = (
    "PATH=/opt/checkdam/bin:/usr/local/bin:/usr/bin:/bin",
    "PYTHONUNBUFFERED=1",
    "PYTHONDONTWRITEBYTECODE=1",
)


@dataclass(frozen=True)
class ProjectImage:
    """An image with Python and the project.

    Attributes:
        name: Without a tag.
        lock: File of pinned requirements, in `images/requirements`.
        installs_pip: Images of jobs install what they need beside.
        config: What the process is.
    """

    name: str
    lock: str
    installs_pip: bool
    config: ImageConfig


def _config(title: str, module: str) -> ImageConfig:
    return ImageConfig(
        entrypoint=("python", "-m", module),
        user=f"{USER_ID}:{USER_ID}",
        workdir="/app",
        env=ENVIRONMENT,
        labels={"org.opencontainers.image.title": title, "org.opencontainers.image.licenses": "Apache-2.0"},
    )


RUNTIME: Final = ProjectImage(
    "checkdam/runtime", "runtime.txt", installs_pip=True, config=_config("Checkdam runtime", "checkdam.pod")
)
OPERATOR: Final = ProjectImage(
    "checkdam/operator", "operator.txt", installs_pip=False, config=_config("Checkdam operator", "checkdam_operator")
)
PROJECT_IMAGES: Final = (RUNTIME, OPERATOR)
