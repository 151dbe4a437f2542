"""Builds the layers of the project's images: a Debian by debootstrap, and what is installed into it step by step.

A step runs in a root that is a stack of the layers below and an empty one on top: what it leaves there is the layer. It runs
in namespaces of its own, without a network, so nothing is mounted that outlives it, and everything it installs has
come from the lock before. Each layer is kept in the parts' cache under the hash of what it is made from.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from parts_cache import cache_folder, installed

from cluster.commands import run
from cluster.image_archive import pack_layer
from cluster.image_definitions import USER_ID, USER_NAME, ProjectImage

PROJECT: Final = Path(__file__).resolve().parents[2]
_SUITE: Final = "bookworm"
_PYTHON: Final = "3.11"
"""The one of that suite."""
_GLIBC_MINORS: Final = range(36, 4, -1)
"""Whose programs run on it: wheels are chosen for the image, not for this computer."""
_ABIS: Final = ("cp311", "abi3", "none")
_PACKAGES: Final = ("ca-certificates", "python3", "python3-venv")
_UNNEEDED: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "var/log",
)
_LOCKS: Final = PROJECT / "images" / "requirements"
_SOURCES: Final = ("LICENSE", "README.md", "pyproject.toml", "runtime", "operator")
_KEY_LENGTH: Final = 16
_STACK: Final = """
set -e
mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" overlay "$4"
mkdir "$4/input"
mount --bind "$5" "$4/input"
status=0
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore chroot "$4" sh -ec "$6" || status=$?
umount "$4/input"
rmdir "$4/input"
exit $status
"""
USERS: Final = f"""
groupadd --gid {USER_ID} {USER_NAME}
useradd --uid {USER_ID} --gid {USER_ID} --no-create-home --home-dir /tmp --shell /usr/sbin/nologin {USER_NAME}
mkdir /app
"""
_FROM_LOCK: Final = "install --no-index --find-links /input --require-hashes -r /input/lock.txt"
_MAKE_TOOLS: Final = f"python3 -m venv /opt/build && /opt/build/bin/pip {_FROM_LOCK}"
_MAKE_WHEEL: Final = """
cp -r /input /src
/opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels /src
"""
_PIP: Final = "/opt/build/bin/pip --python /opt/checkdam/bin/python"
_INSTALL_WHEEL: Final = f"{_PIP} install --no-index --no-deps /input/*.whl"


@dataclass(frozen=True)
class Layer:
    """A layer in the cache.

    Attributes:
        key: Of what it is made from, the layers below included.
        folder: Where it is.
    """

    key: str
    folder: Path

    @property
    def root(self) -> Path:
        """What the layer adds to those below."""
        return self.folder / "root"

    @property
    def archive(self) -> Path:
        """The same as a tar file."""
        return self.folder / "layer.tar"


def project_layers(images: Sequence[ProjectImage]) -> list[tuple[Layer, ...]]:
    """The layers of each image, lowest first; those that are in the cache are not built again.

    Raises:
        CommandError: A package cannot be had, does not have the hash of the lock, or cannot be installed.
    """
    base = _base()
    tools = _step("build-tools", [base], _MAKE_TOOLS, _lock("build.txt"))
    wheel = _step("wheel", [tools, base], _MAKE_WHEEL, _sources())
    made = _Input(wheel.key, lambda folder: _copy(wheel.root / "wheels", folder))
    stacks: list[tuple[Layer, ...]] = []
    for image in images:
        name = image.lock.removesuffix(".txt")
        pip = "" if image.installs_pip else "--without-pip"
        script = f"python3 -m venv {pip} /opt/checkdam && {_PIP} {_FROM_LOCK}"
        dependencies = _step(f"{name}-dependencies", [tools, base], script, _lock(image.lock))
        project = _step(f"{name}-project", [dependencies, tools, base], _INSTALL_WHEEL, made)
        stacks.append((base, dependencies, project))
    return stacks


@dataclass(frozen=True)
class _Input:
    """What a step finds in `/input`.

    Attributes:
        key: Of its content.
        fill: Puts it into an empty folder.
    """

    key: str
    fill: Callable[[Path], None]


def _base() -> Layer:
    """Debian with Python, and the user that images run as."""

    def build(folder: Path) -> None:
        root = folder / "root"
        print(f"making a Debian {_SUITE}", flush=True)
        run("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root))
        for unneeded in _UNNEEDED:
            shutil.rmtree(root / unneeded)
            (root / unneeded).mkdir()
        run("chroot", str(root), "sh", "-ec", USERS)
        pack_layer(root, folder / "layer.tar")

    return _kept("base", _hash(_SUITE, *_PACKAGES, *_UNNEEDED, USERS), build)


def _step(name: str, below: Sequence[Layer], script: str, given: _Input) -> Layer:
    """Run a script in the root that these layers make, topmost first, and keep what it leaves."""

    def build(folder: Path) -> None:
        print(f"making the layer {name}", flush=True)
        with TemporaryDirectory(dir=folder) as scratch:
            work, merged, inputs = (Path(scratch) / part for part in ("work", "merged", "input"))
            for made in (work, merged, inputs, folder / "root"):
                made.mkdir()
            given.fill(inputs)
            stack = ":".join(str(layer.root) for layer in below)
            arguments = (stack, str(folder / "root"), str(work), str(merged), str(inputs), script)
            run("unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", _STACK, "sh", *arguments)
        pack_layer(folder / "root", folder / "layer.tar")

    return _kept(name, _hash(script, given.key, *(layer.key for layer in below)), build)


def _kept(name: str, key: str, build: Callable[[Path], None]) -> Layer:
    """The layer with this key; earlier ones of the same name are forgotten."""
    prefix = f"image-layer-{name}"
    folder = installed(f"{prefix}-{key}", build)
    for other in cache_folder().glob(f"{prefix}-{'?' * _KEY_LENGTH}*"):
        if not other.name.startswith(folder.name):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return Layer(key, folder)


def _lock(name: str) -> _Input:
    """The lock and all packages that it names."""
    lock = _LOCKS / name

    def fill(folder: Path) -> None:
        shutil.copy(lock, folder / "lock.txt")
        machine = platform.machine()
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS]
        chosen = [f"--platform={name}" for name in (*platforms, f"manylinux2014_{machine}")]
        python = [f"--python-version={_PYTHON}", "--implementation=cp", *(f"--abi={abi}" for abi in _ABIS)]
        exactly = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(lock), "-d", str(folder)]
        run(sys.executable, "-m", "pip", "download", "--quiet", *python, *chosen, *exactly)

    return _Input(_hash(lock.read_text()), fill)


def _sources() -> _Input:
    """What the wheel is made from."""
    found = (file for name in _SOURCES for file in _files(PROJECT / name))
    # Read once: what was hashed is what is built, whoever writes meanwhile.
    contents = {file.relative_to(PROJECT): file.read_bytes() for file in sorted(found)}

    def fill(folder: Path) -> None:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    parts = (part for name, content in contents.items() for part in (str(name), hashlib.sha256(content).hexdigest()))
    return _Input(_hash(*parts), fill)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for below in path.rglob("*"):
        if below.is_file() and "__pycache__" not in below.parts:
            yield below


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:_KEY_LENGTH]
