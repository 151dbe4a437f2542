"""The images of the cluster: which there are, built where no container engine is, as archives for its nodes."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from parts_cache import cache_folder, installed

from cluster.image_archive import Image, ImageConfig, pack_images, pack_program
from cluster.image_definitions import PROJECT_IMAGES
from cluster.image_layers import PROJECT, project_layers
from cluster.programs import install

PAUSE: Final = "checkdam.local/pause:1"
DNS: Final = "checkdam.local/dns:1"
S3: Final = "checkdam.local/versitygw:1"
_PROGRAMS: Final = {PAUSE: "pause", DNS: "dns", S3: "versitygw"}
_REGISTRY: Final = "docker.io"
"""What container engines put before names that name no registry."""


def version() -> str:
    """The tag of the project's images: the one that the chart asks for."""
    chart = (PROJECT / "charts" / "checkdam" / "Chart.yaml").read_text()
    found = re.search(r"^appVersion: \"?([^\"\s]+)", chart, re.MULTILINE)
    if found is None:
        raise ValueError("charts/checkdam/Chart.yaml must have an appVersion")
    return found[1]


def image_archives() -> list[Path]:
    """All images that the cluster needs, built as far as they are not in the cache.

    The first archive changes rarely and is large. The second has the project alone, in images whose other layers are in the first.

    Raises:
        CommandError: One cannot be built; the message says why.
        RuntimeError: A program cannot be built.
    """
    stable = [
        Image(name, ImageConfig((f"/{program}",)), (_program_layer(program),)) for name, program in _PROGRAMS.items()
    ]
    project = []
    for image, layers in zip(PROJECT_IMAGES, project_layers(PROJECT_IMAGES), strict=True):
        *below, _ = archives = [layer.archive for layer in layers]
        stable.append(Image(f"checkdam.local/{image.name}-dependencies:1", image.config, tuple(below)))
        project.append(Image(f"{_REGISTRY}/{image.name}:{version()}", image.config, tuple(archives)))
    there = [layer for image in stable for layer in image.layers]
    return [_packed("stable", stable), _packed("project", project, there)]


def _packed(name: str, images: Sequence[Image], there: Sequence[Path] = ()) -> Path:
    """The archive of these images; earlier ones of the same name are forgotten."""
    key = hashlib.sha256(repr((images, there)).encode()).hexdigest()[:16]
    folder = installed(f"image-archive-{name}-{key}", lambda folder: pack_images(folder / "images.tar", images, there))
    for other in cache_folder().glob(f"image-archive-{name}-*"):
        if not other.name.startswith(folder.name):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return folder / "images.tar"


def _program_layer(program: str) -> Path:
    path = install(program)
    name = f"image-layer-{path.parent.name}"
    return installed(name, lambda folder: pack_program(path, folder / "layer.tar")) / "layer.tar"
