"""`checkdam validate`: are the resources of a manifest right, and does the pipeline build?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from checkdam.cli.console import say
from checkdam.cli.exits import USAGE
from checkdam.core.errors import CheckdamError

if TYPE_CHECKING:
    from checkdam.spec import StreamJob

ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, such as job.yaml.")]
Build = Annotated[
    bool,
    typer.Option(
        "--build/--no-build", help="Also import the entrypoint and build the pipeline, which runs the job's own code."
    ),
]


def validate(manifest: ManifestPath, build: Build = True) -> None:
    """Check the StreamJobs and Savepoints of a manifest and list every problem.

    Nothing is read, written or started; the entrypoint is imported and called to build the pipeline, unless --no-build is given.
    """
    try:
        for verdict in _verdicts(manifest, build):
            say(verdict)
    except CheckdamError as error:
        # Whatever its kind: here it is always the manifest, or the pipeline that it names, which is wrong.
        say(str(error), error=True)
        raise typer.Exit(USAGE) from error


def _verdicts(manifest: Path, build: bool) -> Iterator[str]:
    from checkdam.spec import Savepoint, load_resources

    for resource in load_resources(manifest):
        if isinstance(resource, Savepoint):
            yield f"{manifest} is valid: Savepoint {resource.metadata.name} of job {resource.spec.job}"
        else:
            yield f"{manifest} is valid: {_description(resource, manifest.resolve().parent, build)}"


def _description(job: StreamJob, folder: Path, build: bool) -> str:
    described = f"job {job.job_id}, entrypoint {job.spec.program.entrypoint}"
    if not build:
        return described
    from checkdam.api.entrypoint import load_graph

    with tempfile.TemporaryDirectory(prefix="checkdam-validate-") as unpacked:
        graph = load_graph(job, folder, Path(unpacked))
    return f"{described}, {len(graph.nodes)} operators"
