"""Archives of images, read by the rules of the Open Container Initiative."""

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


def blob(files: dict[str, bytes], reference: dict[str, Any]) -> bytes:
    """What a reference means; it must be true."""
    content = files[f"blobs/{reference['digest'].replace(':', '/')}"]
    assert reference["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert reference["size"] == len(content)
    return content


def manifests(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Name of an image → its manifest."""
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])["manifests"]
    return {entry["annotations"]["io.containerd.image.name"]: json.loads(blob(files, entry)) for entry in index}


def test_each_image_has_its_layers_in_order_and_says_what_its_process_is(tmp_path: Path) -> None:
    lower, upper = layer(tmp_path, "lower", "1"), layer(tmp_path, "upper", "2")
    config = ImageConfig(("python", "-m", "job"), "65532:65532", "/app", ("A=b",), {"title": "Job"})
    pack_images(tmp_path / "images.tar", [Image("registry/job:1", config, (lower, upper))])
    files = read(tmp_path / "images.tar")
    manifest = manifests(files)["registry/job:1"]
    described = json.loads(blob(files, manifest["config"]))
    assert [blob(files, reference) for reference in manifest["layers"]] == [lower.read_bytes(), upper.read_bytes()]
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
    found = manifests(read(tmp_path / "images.tar"))
    assert found["a:1"]["layers"] == found["b:1"]["layers"][:1]


def test_a_layer_that_is_there_already_is_named_and_left_out(tmp_path: Path) -> None:
    base, own = layer(tmp_path, "base", "1"), layer(tmp_path, "own", "2")
    pack_images(tmp_path / "images.tar", [Image("b:1", ImageConfig(("/run",)), (base, own))], there=[base])
    files = read(tmp_path / "images.tar")
    lower, upper = manifests(files)["b:1"]["layers"]
    assert lower["digest"] == f"sha256:{hashlib.sha256(base.read_bytes()).hexdigest()}"
    assert f"blobs/{lower['digest'].replace(':', '/')}" not in files
    assert blob(files, upper) == own.read_bytes()


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
