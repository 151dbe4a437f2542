"""The program `checkdam`: its commands, and how errors reach the user.

An error that Checkdam raises on purpose is one clear message, with the user's own traceback where it carries one; any other is a bug
and keeps its traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from checkdam.cli.checkpoints import checkpoints
from checkdam.cli.console import say
from checkdam.cli.exits import exit_code
from checkdam.cli.run import run
from checkdam.cli.savepoints import savepoint
from checkdam.cli.state import state
from checkdam.cli.validate import validate
from checkdam.core.errors import CheckdamError

app = typer.Typer(
    name="checkdam",
    help="Run stateful stream jobs, with checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run)
app.command()(validate)
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(savepoint, name="savepoint")
app.add_typer(state, name="state")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"checkdam {version('checkdam')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit code of an error that Checkdam raised. Everything else, success too, ends in `SystemExit`.
    """
    try:
        app(args=arguments, prog_name="checkdam")
    except CheckdamError as error:
        sys.stdout.flush()
        say(str(error), error=True)
        return exit_code(error)
    return 0
