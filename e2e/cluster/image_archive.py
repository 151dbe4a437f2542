"""Images as files, made without a container engine: layers are tar files, and an archive is layers with a description.

The form is the one of `docker save`, which containerd, Docker and kind take.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_EPOCH: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True)
class ImageConfig:
    """What an image says about the process that it is for; fields are named as in a Dockerfile."""

    entrypoint: tuple[str, ...]
    user: str = ""
    workdir: str = "/"
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None

    def as_docker(self) -> dict[str, Any]:
        """As the description in an image has it."""
        return {
            "Entrypoint": list(self.entrypoint),
            "User": self.user,
            "WorkingDir": self.workdir,
            "Env": list(self.env),
            "Labels": dict(self.labels or {}),
        }


def architecture() -> str:
    """Of this computer, as images call it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def pack_layer(folder: Path, file: Path) -> None:
    """Write all that is in a folder as a layer; times stay, for Python's compiled files go by them.

    Raises:
        ValueError: Something was deleted from a layer below, which this form would have to say in another way.
    """
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as layer:
        layer.add(folder, ".", filter=_as_root)


def pack_program(program: Path, file: Path) -> None:
    """Write a layer with nothing but one program, in `/`."""
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as layer:
        layer.add(program, program.name, filter=_as_root)


@dataclass(frozen=True)
class Image:
    """An image to be packed.

    Attributes:
        name: With registry and tag.
        layers: Archives, lowest first.
    """

    name: str
    config: ImageConfig
    layers: tuple[Path, ...]


def pack_images(file: Path, images: Sequence[Image]) -> None:
    """Write an archive of images, in which a layer that several of them have is once."""
    digests = {layer: _sha256(layer) for image in images for layer in image.layers}
    manifest = []
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        for layer, digest in digests.items():
            archive.add(layer, _place(digest))
        for image in images:
            own = [digests[layer] for layer in image.layers]
            described = _describe(image.config, own)
            description = f"{hashlib.sha256(described).hexdigest()}.json"
            _add(archive, description, described)
            manifest.append({"Config": description, "RepoTags": [image.name], "Layers": list(map(_place, own))})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _describe(config: ImageConfig, digests: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "created": _EPOCH,
            "config": config.as_docker(),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": _EPOCH, "created_by": "checkdam"} for _ in digests],
        }
    ).encode()


def _place(digest: str) -> str:
    return f"{digest}/layer.tar"


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Users of this computer mean nothing in an image; those of the image are numbers."""
    if entry.ischr() and (entry.devmajor, entry.devminor) == (0, 0):
        raise ValueError(f"a layer must not delete what is in one below it (it deletes {entry.name})")
    entry.uname = entry.gname = ""
    return entry


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
