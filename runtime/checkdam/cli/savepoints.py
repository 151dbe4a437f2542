"""`checkdam savepoint`: take one of a job that runs, copy one elsewhere, delete one."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import typer.core

from checkdam.cli.console import say, say_json
from checkdam.cli.values import storage_uri
from checkdam.core.durations import format_ms
from checkdam.core.errors import CheckdamError
from checkdam.core.sizes import format_bytes

if TYPE_CHECKING:
    from checkdam.cli.coordinators import Coordinator, Place
    from checkdam.spec.checkpoint import CheckpointStorage

POLL_MS: Final = 10_000
"""How long one request waits for the savepoint; the next follows at once."""

STOP_PATIENCE_S: Final = 90.0
"""How long a job may take to end once its savepoint is complete: its sinks commit."""


class _TakeByDefault(typer.core.TyperGroup):
    """`checkdam savepoint TARGET` is short for `checkdam savepoint take TARGET`."""

    # The context is of click's type, or of the copy of click that newer releases of typer carry.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["take", *args]
        return super().parse_args(ctx, args)


savepoint = typer.Typer(
    cls=_TakeByDefault,
    help="Take, copy and delete savepoints. `checkdam savepoint TARGET` is short for `checkdam savepoint take TARGET`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TargetName = Annotated[
    str | None,
    typer.Argument(metavar="TARGET", help="A job that runs on this machine: its manifest, entrypoint, id or name."),
]
Stop = Annotated[bool, typer.Option("--stop", help="Stop the job with the savepoint; sources read nothing after it.")]
Drain = Annotated[
    bool,
    typer.Option(
        "--drain", help="With --stop: let all event time pass before, so that every window and event timer fires."
    ),
]
CopyTo = Annotated[
    str | None,
    typer.Option("--to", metavar="URI", help="Also copy it into this folder, of any storage, when it is complete."),
]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait until the savepoint is complete, and the job has stopped.")
]
Url = Annotated[str | None, typer.Option(metavar="URL", help="Of the coordinator, instead of TARGET.")]
TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Holds the token of the coordinator that --url names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
SavepointUri = Annotated[str, typer.Argument(metavar="URI", help="A savepoint's folder, as a uri or a path.")]
SourceUri = Annotated[
    str,
    typer.Argument(
        metavar="URI", help="A savepoint's or checkpoint's folder, or a job's for its latest one, as a uri or a path."
    ),
]
FolderUri = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Where the copy goes, in a folder of its own name there.")
]


@savepoint.command("take")
def take(
    target: TargetName = None,
    stop: Stop = False,
    drain: Drain = False,
    to: CopyTo = None,
    wait: Wait = True,
    url: Url = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Take a savepoint of a job that runs, or stop the job with one.

    The job goes on as if nothing had been, unless it is to stop. The savepoint is put beside the job's checkpoints and belongs to you:
    nothing deletes it unasked.
    """
    from checkdam.cli.coordinators import find_place

    if drain and not stop:
        raise typer.BadParameter("`--drain` needs `--stop`: a job whose event time has come to its end cannot go on")
    if to is not None and not wait:
        raise typer.BadParameter("`--to` needs `--wait`: what is not complete cannot be copied")
    cwd = Path.cwd()
    target_uri = None if to is None else storage_uri(to, cwd)
    place = find_place(target, url, token_file, cwd)
    record = asyncio.run(_take(place, {"stop": stop, "drain": drain}, wait))
    if as_json and target_uri is None:
        say_json(record)
    elif not as_json:
        say(_told(record))
    if target_uri is not None:
        copied = _copy(record["uri"], target_uri, place.storage)
        if as_json:
            say_json({**record, "copy": copied})
        else:
            say(f"copied to {copied}")


@savepoint.command("copy")
def copy(uri: SourceUri, folder: FolderUri) -> None:
    """Copy a savepoint or a checkpoint to any storage; the copy needs nothing else.

    Each file is verified. The copy is restored like the original: by its uri.
    """
    cwd = Path.cwd()
    say(f"copied to {_copy(storage_uri(uri, cwd), storage_uri(folder, cwd), None)}")


@savepoint.command("dispose")
def dispose(uri: SavepointUri) -> None:
    """Delete a savepoint for good.

    Refused as long as its job restores from it, or may come to.
    """
    from checkdam.checkpoint.copies import dispose_savepoint
    from checkdam.checkpoint.opening import open_checkpoint

    store, folder = open_checkpoint(storage_uri(uri, Path.cwd()))
    dispose_savepoint(store, folder)
    say(f"{store.storage.uri}/{folder} is deleted")


async def _take(place: Place, wish: dict[str, bool], wait: bool) -> dict[str, Any]:
    """Ask for a savepoint and, with `wait`, for what becomes of it.

    Raises:
        CheckdamError: It was refused, or failed.
    """
    from checkdam.cli.coordinators import asking

    async with asking(place) as coordinator:
        record: dict[str, Any] = await coordinator.ask(
            "POST", "/v1/savepoints", {"request": secrets.token_hex(8), **wish}
        )
        if not wait:
            return record
        record = await _ended(coordinator, record["request"])
        if record["status"] == "FAILED":
            raise CheckdamError(f"the savepoint failed: {record['failure']}")
        if wish["stop"] and not await coordinator.until_ended(STOP_PATIENCE_S):
            say(f"{place.name} has not ended within {STOP_PATIENCE_S:g} s after its savepoint", error=True)
        return record


async def _ended(coordinator: Coordinator, request: str) -> dict[str, Any]:
    from checkdam.cli.coordinators import RefusedError, UnreachableError

    look = "whether the savepoint is complete tells `checkdam checkpoints list` with the job's folder in storage"
    while True:
        try:
            record: dict[str, Any] = await coordinator.ask("GET", f"/v1/savepoints/{request}?waitMs={POLL_MS}")
        except UnreachableError as error:
            raise CheckdamError(f"{error}\n{look}") from error
        except RefusedError as error:
            if error.status == 404:
                raise CheckdamError(f"the coordinator was replaced in the meantime; {look}") from error
            raise
        if record["status"] != "IN_PROGRESS":
            return record


def _told(record: dict[str, Any]) -> str:
    if record["status"] == "IN_PROGRESS":
        return (
            f"asked for savepoint {record['request']}; GET /v1/savepoints/{record['request']} tells what becomes of it"
        )
    stopped = "; the job has stopped with it" if record["stop"] else ""
    size, took = format_bytes(record["sizeBytes"]), format_ms(record["durationMs"])
    return f"savepoint {record['id']} is complete: {record['uri']} ({size}, {took}){stopped}"


def _copy(uri: str, folder_uri: str, options: CheckpointStorage | None) -> str:
    """Copy what is at `uri` into the folder `folder_uri`; returns where it is."""
    from checkdam.checkpoint.copies import copy_checkpoint
    from checkdam.checkpoint.opening import open_checkpoint
    from checkdam.checkpoint.storage.locate import open_folder

    store, folder = open_checkpoint(uri, options=options)
    return copy_checkpoint(store, folder, open_folder(folder_uri, options=options))
