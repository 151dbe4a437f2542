"""`python -m cluster`, with `e2e` on the path: a Kubernetes with nodes, its programs, or a control plane alone to try things out on."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "real_parts"))

from cluster.cgroups import CgroupError
from cluster.choice import chosen_cluster
from cluster.commands import CommandError
from cluster.control_plane import ControlPlane, run_control_plane
from cluster.programs import API_PROGRAMS, install
from cluster.requirements import EXIT_UNAVAILABLE, UnavailableError
from cluster.stub_kubelet import stub_kubelet
from turns import turn

_LAST_LINES: Final = 20

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def up() -> None:
    """Bring up a Kubernetes with two nodes; one that is up gets the current images."""
    began_s = time.monotonic()
    cluster = chosen_cluster()
    with turn(cluster.volumes.parent, alone=False):  # not in the middle of a test that breaks it
        cluster.up(lambda what: print(f"{time.monotonic() - began_s:5.1f} s  {what}", flush=True))
    print(f"{time.monotonic() - began_s:5.1f} s  up; `eval $(python -m cluster kubeconfig)` lets kubectl find it")


@app.command()
def down() -> None:
    """Remove it, or what is left of one that was killed; logs stay."""
    removed = chosen_cluster().down(lambda what: print(what, flush=True))
    print("removed" if removed else "there is no cluster")


@app.command()
def status() -> None:
    """Show what it is made of and what runs; ends with 1 if it is not up."""
    cluster = chosen_cluster()
    print("\n".join(cluster.status()))
    raise typer.Exit(0 if cluster.is_up() else 1)


@app.command()
def load_image(archive: Annotated[Path, typer.Argument(exists=True, help="As `docker save` makes it.")]) -> None:
    """Give images to all nodes."""
    chosen_cluster().load_image(archive)


@app.command()
def kubeconfig() -> None:
    """Print what a shell needs to use it."""
    plane = chosen_cluster().plane
    _print_exports(plane)


@app.command()
def logs(
    name: Annotated[
        str, typer.Argument(help="Part of the path of those to show whole; the end of all by default.")
    ] = "",
) -> None:
    """Show what its programs have printed."""
    for log in chosen_cluster().logs():
        if name in str(log):
            lines = log.read_text(errors="replace").splitlines()
            print(f"==> {log}", *(lines if name else lines[-_LAST_LINES:]), sep="\n")


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
                _print_exports(plane)
                asyncio.run(_until_interrupted(plane, kubelet))
        except KeyboardInterrupt:
            pass  # while it started


def _print_exports(plane: ControlPlane) -> None:
    path = ":".join(str(install(program).parent) for program in ("kubectl", "helm"))
    variables = {**plane.environment(), "PATH": f"{path}:$PATH"}
    print("export", *(f"{name}={value}" for name, value in variables.items()), flush=True)


async def _until_interrupted(plane: ControlPlane, kubelet: bool) -> None:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with AsyncExitStack() as stack:
        if kubelet:
            await stack.enter_async_context(stub_kubelet(plane))
        await over.wait()


def main() -> None:
    """Run the command line; what goes wrong is a sentence, and an exit code."""
    try:
        app()
    except UnavailableError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)
    except (CommandError, CgroupError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
