"""helm-docs, which makes the table of values in the README of the Helm chart out of the comments of `values.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from go_programs import go_install
from parts_cache import installed

VERSION: Final = "v1.14.2"
_PACKAGE: Final = "github.com/norwoodj/helm-docs/cmd/helm-docs"


def install() -> Path:
    """The program, built on first use.

    Raises:
        RuntimeError: Go is not installed, or it cannot build the program.
    """
    return installed(f"helm-docs-{VERSION}", lambda folder: go_install(folder, _PACKAGE, VERSION)) / "helm-docs"
