"""Archives of images, read by somebody else's rules: those that `docker load` goes by."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cluster.image_archive import Image, ImageConfig, pack_images, pack_layer, pack_program


def read(archive: Path) -> dict[str, bytes]:
    """All files of an archive."""
    with tarfile.open(archive) as content:
        files = {entry.name: content.extractfile(entry) for entry in content.getmembers() if entry.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


def layer(folder: Path, name: str, content: str) -> Path:
    root = folder / f"{name}-root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / name).write_text(content)
    pack_layer(root, folder / f"{name}.tar")
    return folder / f"{name}.tar"


def manifest(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return json.loads(files["manifest.json"])


def test_each_image_names_its_layers_by_their_digests_in_order(tmp_path: Path) -> None:
    lower, upper = layer(tmp_path, "lower", "1"), layer(tmp_path, "upper", "2")
    config = ImageConfig(("python", "-m", "job"), "65532:65532", "/app", ("A=b",), {"title": "Job"})
    pack_images(tmp_path / "images.tar", [Image("registry/job:1", config, (lower, upper))])
    files = read(tmp_path / "images.tar")
    [entry] = manifest(files)
    described = json.loads(files[entry["Config"]])
    assert entry["RepoTags"] == ["registry/job:1"]
    assert entry["Config"] == f"{hashlib.sha256(files[entry['Config']]).hexdigest()}.json"
    assert [files[name] for name in entry["Layers"]] == [lower.read_bytes(), upper.read_bytes()]
    digests = [f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in (lower, upper)]
    assert described["rootfs"] == {"type": "layers", "diff_ids": digests}
    assert described["config"] == {
        "Entrypoint": ["python", "-m", "job"],
        "User": "65532:65532",
        "WorkingDir": "/app",
        "Env": ["A=b"],
        "Labels": {"title": "Job"},
    }


def test_a_layer_that_two_images_share_is_there_once(tmp_path: Path) -> None:
    base, own = layer(tmp_path, "base", "1"), layer(tmp_path, "own", "2")
    config = ImageConfig(("/run",))
    pack_images(tmp_path / "images.tar", [Image("a:1", config, (base,)), Image("b:1", config, (base, own))])
    with tarfile.open(tmp_path / "images.tar") as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    one, two = manifest(read(tmp_path / "images.tar"))
    assert one["Layers"] == two["Layers"][:1]


def test_a_layer_keeps_times_and_modes_and_forgets_the_names_of_users(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    file = root / "program"
    file.write_text("x")
    file.chmod(0o751)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    pack_layer(root, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as packed:
        entry = packed.getmember("./program")
    assert (entry.mtime, entry.mode, entry.uname, entry.gname) == (1_000_000_000, 0o751, "", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_layer_that_deletes_from_one_below_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.mknod(root / "gone", 0o20644, os.makedev(0, 0))  # how overlayfs says that a file was deleted
    with pytest.raises(ValueError, match=r"must not delete what is in one below it \(it deletes \./gone\)"):
        pack_layer(root, tmp_path / "layer.tar")


def test_a_program_alone_is_in_the_root(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    pack_program(program, tmp_path / "layer.tar")
    assert read(tmp_path / "layer.tar") == {"server": b"\x7fELF"}
