"""Gets the systems that Checkdam is measured beside: from PyPI, once, under `build/peers`.

Flink's jars come with the package `apache-flink-libraries`; the programs are compiled against them with `javac`. Bytewax
gets an environment of its own, so that its pins clash with nothing. Whatever is missing costs a system its place in the
table, with a word on why, never the run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FLINK_VERSION: Final = "2.2.1"
BYTEWAX_VERSION: Final = "0.21.1"

PROGRAMS: Final = Path(__file__).resolve().parent.parent / "programs"


class PeerMissing(Exception):
    """The system cannot be measured on this machine; says why."""


@dataclass(frozen=True)
class Peers:
    """What was found of the peers.

    Attributes:
        flink_class_path: Flink's jars and the compiled programs; empty if there is no Flink.
        bytewax_python: The interpreter of Bytewax's environment; `None` if there is no Bytewax.
        missing: System → why it is left out.
    """

    flink_class_path: str
    bytewax_python: Path | None
    missing: dict[str, str]


def find_peers(folder: Path, wanted: set[str]) -> Peers:
    """Install what is wanted and not there yet.

    Args:
        folder: Where it is kept.
        wanted: `flink`, `bytewax`.
    """
    missing: dict[str, str] = {}
    class_path = ""
    python: Path | None = None
    if "flink" in wanted:
        try:
            class_path = _flink(folder)
        except PeerMissing as error:
            missing["flink"] = str(error)
    if "bytewax" in wanted:
        try:
            python = _bytewax(folder)
        except PeerMissing as error:
            missing["bytewax"] = str(error)
    return Peers(class_path, python, missing)


def _flink(folder: Path) -> str:
    javac = shutil.which("javac")
    if javac is None or shutil.which("java") is None:
        raise PeerMissing("there is no JDK: install one, with `java` and `javac` on the PATH, to measure beside Flink")
    home = folder / f"flink-{FLINK_VERSION}"
    if not home.exists():
        making = home.with_name(home.name + ".tmp")
        package = f"apache-flink-libraries=={FLINK_VERSION}"
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(making), package])
        making.rename(home)
    class_path = f"{home}/pyflink/lib/*"
    classes = folder / "classes"
    source = PROGRAMS / "FlinkJobs.java"
    compiled = classes / "FlinkJobs.class"
    if not compiled.exists() or compiled.stat().st_mtime < source.stat().st_mtime:
        classes.mkdir(parents=True, exist_ok=True)
        _run([javac, "-d", str(classes), "-cp", class_path, str(source)])
    return f"{classes}:{class_path}"


def _bytewax(folder: Path) -> Path:
    home = folder / f"bytewax-{BYTEWAX_VERSION}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", f"bytewax=={BYTEWAX_VERSION}", "msgspec"])
        (home / "complete").touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise PeerMissing(f"`{' '.join(command[:4])} …` failed: {last}")
