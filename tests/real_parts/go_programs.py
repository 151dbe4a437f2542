"""Programs written in Go that tests use: built once, from modules of pinned versions, into the parts' cache.

A build can take minutes, so it says how far it is. One that was killed goes on from Go's own cache, and only a finished
program appears in ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from parts_cache import program

_REMEDY: Final = "take Go from go.dev, or on Debian: apt-get install golang-go"
_QUIET_S: Final = 15.0
_LAST_LINES: Final = 40


def go_install(folder: Path, package: str, version: str, settings: Mapping[str, str] | None = None) -> None:
    """Build the program of a module that names all it needs.

    Args:
        folder: Where the program goes, under the last part of the package's name.
        package: Path of the package with the program.
        version: Of the module that it is in.
        settings: Variables of Go packages that are set when it is linked, such as its version.

    Raises:
        RuntimeError: Go is not installed, or it cannot build the program.
    """
    arguments = ["install", "-v", *_flags(settings), f"{package}@{version}"]
    _run(folder, arguments, f"{package.rsplit('/', 1)[-1]} {version}", {"GOBIN": str(folder)})


def go_build(folder: Path, name: str, package: str, go_mod: str, settings: Mapping[str, str] | None = None) -> None:
    """Build the program `folder/name` from a package of a module that cannot be installed without help, such as versions for what it replaces.

    Args:
        folder: Where the program goes.
        name: Of the program.
        package: Path of the package with the program.
        go_mod: A `go.mod` that requires it; it is kept in the folder.
        settings: As for `go_install`.

    Raises:
        RuntimeError: Go is not installed, or it cannot build the program.
    """
    (folder / "go.mod").write_text(go_mod)
    # Checksums are written as they come; Go compares them with its public database of checksums.
    arguments = ["build", "-v", "-mod=mod", "-o", name, *_flags(settings), package]
    _run(folder, arguments, name, {})


def described_module(module: str, version: str) -> dict[str, Any]:
    """What `go mod edit -json` says of the `go.mod` of a published module.

    Raises:
        RuntimeError: Go is not installed, or the module cannot be had.
    """
    return dict(json.loads(_output("mod", "edit", "-json", str(downloaded_module(module, version) / "go.mod"))))


def downloaded_module(module: str, version: str) -> Path:
    """The folder with the files of a published module, which must not be changed.

    Raises:
        RuntimeError: Go is not installed, or the module cannot be had.
    """
    return Path(json.loads(_output("mod", "download", "-json", f"{module}@{version}"))["Dir"])


def _output(*arguments: str) -> str:
    done = subprocess.run([program("go", _REMEDY), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`go {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def _flags(settings: Mapping[str, str] | None) -> list[str]:
    linked = [f"-X {variable}={value}" for variable, value in (settings or {}).items()]
    return ["-trimpath", "-ldflags", " ".join(["-s", "-w", *linked])]


def _run(folder: Path, arguments: list[str], what: str, environment: Mapping[str, str]) -> None:
    """Run Go, which prints a line for each package that it begins with."""
    print(f"building {what} with Go", flush=True)
    last: deque[str] = deque(maxlen=_LAST_LINES)
    began_s = told_s = time.monotonic()
    packages = 0
    with subprocess.Popen(
        [program("go", _REMEDY), *arguments],
        env={**os.environ, **environment, "CGO_ENABLED": "0"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as go:
        assert go.stdout is not None
        for line in go.stdout:
            last.append(line)
            packages += not line.startswith("go: ")
            now_s = time.monotonic()
            if now_s - told_s > _QUIET_S:
                told_s = now_s
                print(f"building {what}: {packages} packages after {now_s - began_s:.0f} s", flush=True)
    if go.returncode:
        raise RuntimeError(f"Go cannot build {what}:\n{''.join(last)}")
