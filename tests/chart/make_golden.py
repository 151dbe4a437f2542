"""What the chart renders to for each file in `values`, as `golden` keeps it: `python tests/chart/make_golden.py` writes it.

A change of it is a change of what people run, and is to be read before it is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real_parts"))

import yaml
from chart_kit import Object, template

HERE: Final = Path(__file__).resolve().parent
VALUES: Final = sorted((HERE / "values").glob("*.yaml"))
RANDOM: Final = "cmFuZG9t"


def golden_text(values: Path) -> str:
    """What is kept for a file of values: all objects but the definitions, with a token that is always the same."""
    return yaml.safe_dump_all(
        [_steady(manifest) for manifest in template(yaml.safe_load(values.read_text())) if _is_kept(manifest)],
        sort_keys=False,
        width=120,
    )


def golden_file(values: Path) -> Path:
    """Where it is kept."""
    return HERE / "golden" / values.name


def _is_kept(manifest: Object) -> bool:
    return manifest["kind"] != "CustomResourceDefinition"


def _steady(manifest: Object) -> Object:
    if manifest["kind"] == "Secret":
        return {**manifest, "data": dict.fromkeys(manifest["data"], RANDOM)}
    if manifest["kind"] == "ConfigMap":
        # Dashboards are files of the chart, and are shown by their length.
        return {**manifest, "data": {name: f"{len(text)} characters" for name, text in manifest["data"].items()}}
    return manifest


def main() -> None:
    """Write all of it."""
    for values in VALUES:
        golden_file(values).write_text(golden_text(values))


if __name__ == "__main__":
    main()
