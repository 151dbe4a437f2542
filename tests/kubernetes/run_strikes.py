"""`make faults-kubernetes`: strike at whole jobs on a real API server, each from a seed (`job_strikes`), one after the other.

A failed run keeps its folder, with the logs of operator and pods, and `make faults-kubernetes ARGS="--seed N"` strikes by the same
seed again; the moments differ.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))
sys.path.insert(0, str(Path(__file__).parent.parent / "real_parts"))
sys.path.insert(0, str(Path(__file__).parent))

from job_scene import CRDS, job_scene
from job_strikes import play
from s3_server import S3Server, s3
from tcp_gate import tcp_gate

from cluster.control_plane import ControlPlane, run_control_plane


def main(
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seconds: Annotated[float, typer.Option(help="How long to strike at each job.")] = 60.0,
    runs: Annotated[int, typer.Option(help="How many seeds.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="Where runs work; failed ones stay there.")] = None,
) -> None:
    """Strike at pods, operators and storage of whole jobs, and check that they lose and double nothing."""
    base = Path(tempfile.mkdtemp(prefix="checkdam-faults-")) if folder is None else folder
    failed = []
    (base / "kubernetes").mkdir(parents=True)
    with s3(base / "s3") as server, run_control_plane(base / "kubernetes", *map(str, CRDS)) as plane:
        os.environ.update(server.environment())
        for number in range(seed, seed + runs):
            began = time.monotonic()
            try:
                strikes = asyncio.run(_run(plane, server, number, seconds, base / f"seed-{number}"))
                print(f"ok   {time.monotonic() - began:5.0f} s  seed {number}: {', '.join(strikes)}", flush=True)
                shutil.rmtree(base / f"seed-{number}", ignore_errors=True)
            except AssertionError as error:
                print(f"FAIL {time.monotonic() - began:5.0f} s  seed {number}: {error}", flush=True)
                failed.append(number)
    print(f"{runs - len(failed)} passed, {len(failed)} failed")
    for number in failed:
        print(f'repeat with: make faults-kubernetes ARGS="--seed {number}"; its files are in {base / f"seed-{number}"}')
    if not failed:
        shutil.rmtree(base, ignore_errors=True)
    raise typer.Exit(1 if failed else 0)


async def _run(plane: ControlPlane, server: S3Server, seed: int, seconds: float, folder: Path) -> list[str]:
    namespace = await asyncio.to_thread(plane.new_namespace)
    folder.mkdir(parents=True)
    async with (
        tcp_gate(server.endpoint) as gate,
        job_scene(plane, namespace, server.new_bucket(), folder) as scene,
    ):
        return await play(scene, gate, seed, seconds)


if __name__ == "__main__":
    typer.run(main)
