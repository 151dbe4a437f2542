"""`checkdam validate`: is a manifest right, and does its pipeline build?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from checkdam.cli.console import say
from checkdam.cli.exits import USAGE
from checkdam.core.errors import CheckdamError

ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, such as job.yaml.")]
Build = Annotated[
    bool,
    typer.Option(
        "--build/--no-build", help="Also import the entrypoint and build the pipeline, which runs the job's own code."
    ),
]


def validate(manifest: ManifestPath, build: Build = True) -> None:
    """Check a manifest and list every problem.

    Nothing is read, written or started; the entrypoint is imported and called to build the pipeline, unless --no-build is given.
    """
    try:
        say(_verdict(manifest, build))
    except CheckdamError as error:
        # Whatever its kind: here it is always the manifest, or the pipeline that it names, which is wrong.
        say(str(error), error=True)
        raise typer.Exit(USAGE) from error


def _verdict(manifest: Path, build: bool) -> str:
    from checkdam.spec import load_manifest

    job = load_manifest(manifest)
    described = f"{manifest} is valid: job {job.job_id}, entrypoint {job.spec.program.entrypoint}"
    if not build:
        return described
    from checkdam.api.entrypoint import load_graph

    with tempfile.TemporaryDirectory(prefix="checkdam-validate-") as folder:
        graph = load_graph(job, manifest.resolve().parent, Path(folder))
    return f"{described}, {len(graph.nodes)} operators"
