"""Images as files, made without a container engine: layers are tar files, and an archive is layers with a description.

The form is the layout of the Open Container Initiative in a tar file, which containerd, kind and newer Dockers take. It may leave out
layers that whoever reads it has already, as far as containerd is concerned.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_OCI: Final = "application/vnd.oci"
_MANIFEST: Final = f"{_OCI}.image.manifest.v1+json"
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


def pack_images(file: Path, images: Sequence[Image], there: Collection[Path] = ()) -> None:
    """Write an archive of images, in which a layer that several of them have is once.

    Args:
        there: Layers to leave out.
    """
    index: list[dict[str, Any]] = []
    layers = {layer: _describe_layer(layer) for image in images for layer in image.layers}
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        for layer, described in layers.items():
            if layer not in there:
                archive.add(layer, _place(described["digest"]))
        for image in images:
            own = [layers[layer] for layer in image.layers]
            config = _add_blob(archive, f"{_OCI}.image.config.v1+json", _describe_config(image.config, own))
            content = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": own}
            manifest = _add_blob(archive, _MANIFEST, content)
            tag = image.name.rpartition(":")[2]
            names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag}
            index.append({**manifest, "annotations": names, "platform": _platform()})
        _add(archive, "index.json", {"schemaVersion": 2, "manifests": index})


def _describe_layer(layer: Path) -> dict[str, Any]:
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"mediaType": f"{_OCI}.image.layer.v1.tar", "digest": f"sha256:{digest}", "size": layer.stat().st_size}


def _describe_config(config: ImageConfig, layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **_platform(),
        "created": _EPOCH,
        "config": config.as_docker(),
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [{"created": _EPOCH, "created_by": "checkdam"} for _ in layers],
    }


def _platform() -> dict[str, str]:
    return {"architecture": architecture(), "os": "linux"}


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add_blob(archive: tarfile.TarFile, media_type: str, content: Any) -> dict[str, Any]:
    """Add a document under its digest; return what refers to it."""
    encoded = json.dumps(content).encode()
    digest = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
    _add(archive, _place(digest), content)
    return {"mediaType": media_type, "digest": digest, "size": len(encoded)}


def _add(archive: tarfile.TarFile, name: str, content: Any) -> None:
    encoded = json.dumps(content).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(encoded)
    archive.addfile(entry, io.BytesIO(encoded))


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Users of this computer mean nothing in an image; those of the image are numbers."""
    if entry.ischr() and (entry.devmajor, entry.devminor) == (0, 0):
        raise ValueError(f"a layer must not delete what is in one below it (it deletes {entry.name})")
    entry.uname = entry.gname = ""
    return entry
