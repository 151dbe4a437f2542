"""`python -m cluster`, with `e2e` on the path: builds the programs of Kubernetes, and runs a control plane to try things out on."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "real_parts"))

from cluster.control_plane import ControlPlane, run_control_plane
from cluster.programs import API_PROGRAMS, install
from cluster.stub_kubelet import stub_kubelet

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("install")
def install_programs(
    programs: Annotated[list[str] | None, typer.Argument(help="Which; those that serve the API by default.")] = None,
) -> None:
    """Build programs into the cache; those that are there are left alone."""
    for name in programs or API_PROGRAMS:
        print(f"ready: {install(name)}", flush=True)


@app.command("control-plane")
def serve(
    crd: Annotated[list[Path] | None, typer.Option(help="A file of CustomResourceDefinitions to create.")] = None,
    kubelet: Annotated[bool, typer.Option(help="Play the nodes, so that pods become Ready.")] = True,
) -> None:
    """Serve the Kubernetes API until Ctrl-C, and print the kubeconfig to use."""
    with tempfile.TemporaryDirectory(prefix="checkdam-kubernetes-") as folder:
        try:
            with run_control_plane(Path(folder), *map(str, crd or ())) as plane:
                variables = {**plane.environment(), "PATH": f"{install('kubectl').parent}:$PATH"}
                print("export", *(f"{name}={value}" for name, value in variables.items()), flush=True)
                asyncio.run(_until_interrupted(plane, kubelet))
        except KeyboardInterrupt:
            pass  # while it started


async def _until_interrupted(plane: ControlPlane, kubelet: bool) -> None:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with AsyncExitStack() as stack:
        if kubelet:
            await stack.enter_async_context(stub_kubelet(plane))
        await over.wait()


if __name__ == "__main__":
    app()
